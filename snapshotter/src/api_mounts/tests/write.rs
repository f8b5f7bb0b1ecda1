//! Every shape of a snapshot and its mounts, in both profiles.

use super::*;
use crate::MountError;
use crate::store::Labels;

const PLAIN_HEAD: [&str; 4] = ["redirect_dir=nofollow", "metacopy=off", "index=off", "xino=off"];
const UPPER_OF_9: [&str; 2] = ["workdir=/r/9/work", "upperdir=/r/9/fs"];

fn shape(kind: Kind, applied: bool, parents: &[u64]) -> SnapshotShape<'_> {
    SnapshotShape {
        kind,
        id: 9,
        applied,
        beside: false,
        upper: Upper::Directory,
        parents,
        maps: None,
    }
}

fn places(options: &[String]) -> Places<'_> {
    static NONE: BTreeSet<u64> = BTreeSet::new();
    let (snapshots, lowers, uppers) = ("/r", "/s/l", "/s/w");
    let nothing = "/s/empty";
    Places { snapshots, lowers, uppers, nothing, overlay_options: options, verity: &NONE }
}

fn mount(fs_type: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        fs_type: fs_type.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|&o| o.to_owned()).collect(),
    }
}

#[test]
fn plain_mounts_by_shape() {
    use Kind::{Active, View};
    let upper = [&PLAIN_HEAD[..], &UPPER_OF_9].concat();
    let overlay = |head: &[&str], lowers: &str| {
        let lowers = format!("lowerdir={lowers}");
        mount("overlay", "overlay", &[head, &[lowers.as_str(), "volatile"]].concat())
    };
    let bind = |source: &str, access: &str| mount("bind", source, &[access, "rbind"]);
    let lowers_of = |ids: &[u64], bare| -> Vec<LowerId> {
        ids.iter().map(|&id| LowerId { id, bare }).collect()
    };
    type Row<'a> = (Kind, bool, &'a [u64], Mount, &'a [u64], bool);
    let table: [Row<'_>; 9] = [
        (Active, false, &[], bind("/r/9/fs", "rw"), &[], false),
        (View, false, &[], bind("/r/9/fs", "ro"), &[], false),
        (Active, false, &[3], overlay(&upper, "/s/l/3"), &[3], false),
        (Active, false, &[5, 3], overlay(&upper, "/s/l/5:/s/l/3"), &[5, 3], false),
        (View, false, &[3], bind("/s/l/3v", "ro"), &[3], true),
        (View, false, &[5, 3], overlay(&PLAIN_HEAD, "/s/l/5:/s/l/3"), &[5, 3], false),
        (Active, true, &[], bind("/s/l/9v", "ro"), &[9], true),
        (Active, true, &[3], overlay(&PLAIN_HEAD, "/s/l/9:/s/l/3"), &[9, 3], false),
        (Active, true, &[5, 3], overlay(&PLAIN_HEAD, "/s/l/9:/s/l/5:/s/l/3"), &[9, 5, 3], false),
    ];
    let options = ["volatile".to_owned()];
    for (kind, applied, parents, want, lowers, bare) in table {
        let planned = plain(&shape(kind, applied, parents), &places(&options)).unwrap();
        assert_eq!(planned.mounts, [want], "{kind:?} {applied} {parents:?}");
        assert_eq!(planned.lowers, lowers_of(lowers, bare));
    }
}

#[test]
fn layers_with_sidecars_say_so_to_the_mount_manager() {
    let verity = BTreeSet::from([5, 9]);
    let places = Places { verity: &verity, ..places(&[]) };
    let image = |id: u64, has: bool| {
        let sidecar = format!("X-containerd.dmverity=/r/{id}/layer.erofs.dmverity");
        let options = ["ro", "loop", &sidecar];
        mount("erofs", &format!("/r/{id}/layer.erofs"), &options[..if has { 3 } else { 2 }])
    };
    let mounts = managed(&shape(Kind::Active, false, &[5, 3]), &places).unwrap();
    assert_eq!(mounts[..2], [image(5, true), image(3, false)]);
    assert_eq!(managed(&shape(Kind::Active, true, &[]), &places).unwrap(), [image(9, true)]);
    // Others never see that option.
    let planned = plain(&shape(Kind::Active, false, &[5, 3]), &places).unwrap();
    assert!(planned.mounts[0].options.iter().all(|option| !option.starts_with("X-")));
}

#[test]
fn managed_mounts_are_those_of_containerd() {
    use Kind::{Active, View};
    let image = |id: u64| mount("erofs", &format!("/r/{id}/layer.erofs"), &["ro", "loop"]);
    let overlay = |options: &[&str]| mount("format/mkdir/overlay", "overlay", options);
    let upper = |lowers: &str| overlay(&[&UPPER_OF_9[..], &[lowers]].concat());
    let table: [(Kind, bool, &[u64], Vec<Mount>); 9] = [
        (Active, false, &[], vec![mount("bind", "/r/9/fs", &["rw", "rbind"])]),
        (View, false, &[], vec![mount("bind", "/r/9/fs", &["ro", "rbind"])]),
        (Active, true, &[], vec![image(9)]),
        (View, false, &[3], vec![image(3)]),
        (Active, false, &[3], vec![image(3), upper("lowerdir={{ mount 0 }}")]),
        (Active, true, &[3], vec![image(9), image(3), overlay(&["lowerdir={{ overlay 0 1 }}"])]),
        (Active, false, &[5, 3], vec![image(5), image(3), upper("lowerdir={{ overlay 0 1 }}")]),
        (View, false, &[5, 3], vec![image(5), image(3), overlay(&["lowerdir={{ overlay 0 1 }}"])]),
        (
            View,
            false,
            &[7, 5, 3],
            vec![image(7), image(5), image(3), overlay(&["lowerdir={{ overlay 0 2 }}"])],
        ),
    ];
    for (kind, applied, parents, want) in table {
        let mounts = managed(&shape(kind, applied, parents), &places(&[])).unwrap();
        assert_eq!(mounts, want, "{kind:?} {applied} {parents:?}");
    }
    let options = ["index=off".to_owned()];
    let mounts = managed(&shape(View, false, &[2, 1]), &places(&options)).unwrap();
    assert_eq!(mounts[2].options, ["lowerdir={{ overlay 0 1 }}", "index=off"]);
}

#[test]
fn a_layer_beside_those_below_it_is_over_nothing() {
    let beside =
        |applied, parents| SnapshotShape { beside: true, ..shape(Kind::Active, applied, parents) };
    let options = [&UPPER_OF_9[..], &["lowerdir=/s/empty"]].concat();
    let want = [mount("overlay", "overlay", &options)];
    assert_eq!(plain(&beside(false, &[]), &places(&[])).unwrap().mounts, want);
    assert_eq!(managed(&beside(false, &[]), &places(&[])).unwrap(), want);
    // Once it is there, it is shown like any other.
    for parents in [&[][..], &[3]] {
        let shown = shape(Kind::Active, true, parents);
        let plains = [beside(true, parents), shown].map(|s| plain(&s, &places(&[])).unwrap());
        assert_eq!(plains[0], plains[1]);
        let all = [beside(true, parents), shown].map(|s| managed(&s, &places(&[])).unwrap());
        assert_eq!(all[0], all[1]);
    }
}

const WRITABLE: Upper = Upper::Image(64 << 20);

#[test]
fn plain_mounts_over_an_image_are_in_its_place() {
    let limited =
        |parents| SnapshotShape { upper: WRITABLE, ..shape(Kind::Active, false, parents) };
    let bare = plain(&limited(&[]), &places(&[])).unwrap();
    assert_eq!(bare.mounts, [mount("bind", "/s/w/9/upper", &["rw", "rbind"])]);
    let planned = plain(&limited(&[5, 3]), &places(&[])).unwrap();
    let over = ["workdir=/s/w/9/work", "upperdir=/s/w/9/upper", "lowerdir=/s/l/5:/s/l/3"];
    let options = [&PLAIN_HEAD[..], &over].concat();
    assert_eq!(planned.mounts, [mount("overlay", "overlay", &options)]);
    // Without an upper directory.
    let sealed = SnapshotShape { upper: Upper::None, ..shape(Kind::Active, true, &[3]) };
    let unlimited = SnapshotShape { upper: Upper::Directory, ..sealed };
    assert_eq!(plain(&sealed, &places(&[])).unwrap(), plain(&unlimited, &places(&[])).unwrap());
}

#[test]
fn managed_mounts_over_an_image_are_those_of_containerds_block_mode() {
    let image = |id: u64| mount("erofs", &format!("/r/{id}/layer.erofs"), &["ro", "loop"]);
    let make = ["X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.size=67108864", "rw", "loop"];
    let filesystem = || mount("mkfs/ext4", "/r/9/rwlayer.img", &make);
    let limited =
        |parents| SnapshotShape { upper: WRITABLE, ..shape(Kind::Active, false, parents) };
    let make_upper = "X-containerd.mkdir.path={{ mount 0 }}/upper:0755";
    let bind = mount("format/mkdir/bind", "{{ mount 0 }}/upper", &[make_upper, "rw", "rbind"]);
    assert_eq!(managed(&limited(&[]), &places(&[])).unwrap(), [filesystem(), bind]);
    let overlay = |lowers| {
        let options = [
            make_upper,
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
            "workdir={{ mount 0 }}/work",
            "upperdir={{ mount 0 }}/upper",
            lowers,
        ];
        mount("format/mkdir/overlay", "overlay", &options)
    };
    let one = managed(&limited(&[3]), &places(&[])).unwrap();
    assert_eq!(one, [filesystem(), image(3), overlay("lowerdir={{ mount 1 }}")]);
    let two = managed(&limited(&[5, 3]), &places(&[])).unwrap();
    assert_eq!(two, [filesystem(), image(5), image(3), overlay("lowerdir={{ overlay 1 2 }}")]);
    let sealed =
        |parents| SnapshotShape { upper: Upper::None, ..shape(Kind::Active, true, parents) };
    let over = mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"]);
    assert_eq!(managed(&sealed(&[3]), &places(&[])).unwrap(), [image(9), image(3), over]);
    assert_eq!(managed(&sealed(&[]), &places(&[])).unwrap(), [image(9)]);
    let parents: Vec<u64> = (1..=254).collect();
    match managed(&limited(&parents), &places(&[])).unwrap_err() {
        Error::Mount(MountError::TooManyLayers { count: 254, limit: 253 }) => {}
        other => panic!("{other}"),
    }
}

#[test]
fn maps_are_left_to_the_mount_manager_and_done_by_us_in_plain() {
    let labels = ["uidmapping", "gidmapping"]
        .map(|kind| (format!("containerd.io/snapshot/{kind}"), "0:1000:10".to_owned()));
    let maps = IdMaps::from_labels(&Labels::from(labels)).unwrap();
    let shape = SnapshotShape { maps: maps.as_ref(), ..shape(Kind::Active, false, &[3]) };
    let managed = managed(&shape, &places(&[])).unwrap();
    let want =
        [&UPPER_OF_9[..], &["uidmap=0:1000:10", "gidmap=0:1000:10", "lowerdir={{ mount 0 }}"]];
    assert_eq!(managed[1].options, want.concat());
    let plain = plain(&shape, &Places { lowers: "/s/mabc", ..places(&[]) }).unwrap();
    assert_eq!(plain.mounts[0].options.last().unwrap(), "lowerdir=/s/mabc/3");
}

#[test]
fn options_are_whole_or_refused_with_numbers() {
    let places = Places {
        snapshots: "/var/lib/containerd/io.containerd.snapshotter.v1.erolith/snapshots",
        lowers: "/run/erolith/mabc",
        uppers: "/run/erolith/w",
        ..places(&[])
    };
    let parents: Vec<u64> = (0..600).map(|i| 999_999 - i).collect();
    let plan = |kind, count: usize| {
        plain(&SnapshotShape { id: 999_999, ..shape(kind, false, &parents[..count]) }, &places)
    };
    // 128 layers with the default paths, numbers of six digits, mapped owners and an upper directory.
    for kind in [Kind::View, Kind::Active] {
        let options = plan(kind, 128).unwrap().mounts.remove(0).options.join(",");
        assert!(options.len() < MAX_API_OPTION_BYTES, "{}", options.len());
        match plan(kind, 150).unwrap_err() {
            Error::Mount(MountError::OptionsTooLong { layers: 150, bytes, limit: 3584 }) => {
                assert!(bytes > 3584)
            }
            other => panic!("{other}"),
        }
        match plan(kind, 501).unwrap_err() {
            Error::Mount(MountError::TooManyLayers { count: 501, limit: 500 }) => {}
            other => panic!("{other}"),
        }
    }
    let many = |count| managed(&shape(Kind::View, false, &parents[..count]), &places);
    assert_eq!(many(254).unwrap().len(), 255);
    match many(255).unwrap_err() {
        Error::Mount(MountError::TooManyLayers { count: 255, limit: 254 }) => {}
        other => panic!("{other}"),
    }
}
