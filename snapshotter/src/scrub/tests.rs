//! Layers that are damaged in every way a disk or a hand can damage them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::service::Snapshotter;
use crate::service::tests::Site;
use crate::store::Labels;

/// A layer with one file of some blocks; its image.
fn layer(site: &Site, service: &Snapshotter, name: &str) -> PathBuf {
    service.prepare("key", "", &Labels::new()).unwrap();
    let id = service.store().snapshot("key").unwrap().id;
    let dir = site.root().join("snapshots").join(id.to_string());
    let file = File::create(dir.join("fs").join(name)).unwrap();
    file.write_all_at(&[7; 50_000], 0).unwrap();
    service.commit(name, "key", "", &Labels::new()).unwrap();
    dir.join(IMAGE)
}

/// What is found, by name.
fn scrubbed(site: &Site) -> Vec<(String, Verdict)> {
    let scrub = Scrub::open(&site.root()).unwrap();
    let (mut read, mut found) = (0, Vec::new());
    let mut each = |layer: Scrubbed| {
        found.push((layer.name, layer.verdict));
        Ok(())
    };
    scrub.run(&mut |n| read += n, &mut each).unwrap();
    assert!(read <= scrub.bytes());
    found
}

fn replace(image: &Path, change: impl FnOnce(&File)) {
    let copy = image.with_extension("copy");
    std::fs::copy(image, &copy).unwrap();
    change(&File::options().read(true).write(true).open(&copy).unwrap());
    std::fs::rename(copy, image).unwrap();
}

#[test]
fn every_damage_is_found_and_named_and_nothing_else() {
    let site = Site::new();
    let service = site.open();
    type Damage = (&'static str, &'static str, fn(&Path));
    // Where fs-verity was enforced, the verdict names the missing fs-verity of the copy.
    let damages: [Damage; 5] = [
        ("bit", "", |image| {
            replace(image, |file| {
                let size = file.metadata().unwrap().size();
                // In the content of the file, which no structure knows of.
                assert!(size > 20_000);
                file.write_all_at(&[6], 10_000).unwrap();
            });
        }),
        ("short", "truncated", |image| replace(image, |file| file.set_len(30_000).unwrap())),
        ("empty", "no EROFS image", |image| replace(image, |file| file.set_len(0).unwrap())),
        ("none", "is gone", |image| std::fs::remove_file(image).unwrap()),
        ("noise", "no EROFS image", |image| {
            replace(image, |file| file.write_all_at(&[1; 4096], 0).unwrap());
        }),
    ];
    let good = layer(&site, &service, "good");
    let images: Vec<_> = damages.iter().map(|(name, ..)| layer(&site, &service, name)).collect();
    let proof = match FsVerityState::of(&File::open(&good).unwrap(), &good).unwrap().measured {
        Some(_) => Proof::Verity,
        None => Proof::Digest,
    };
    assert!(scrubbed(&site).iter().all(|(_, verdict)| *verdict == Verdict::Sound(proof)));
    for ((_, _, damage), image) in damages.iter().zip(&images) {
        damage(image);
    }
    let found = scrubbed(&site);
    assert_eq!(found.first(), Some(&("good".to_owned(), Verdict::Sound(proof))));
    for ((name, said, _), (found, verdict)) in damages.iter().zip(found.iter().skip(1)) {
        let Verdict::Damaged(reason) = verdict else { panic!("{name}: {verdict:?}") };
        assert!(found == name && reason.contains(said), "{name}: {reason}");
    }
}

#[test]
fn a_quarantined_layer_is_no_parent_for_the_daemon() {
    let site = Site::new();
    let service = site.open();
    let image = layer(&site, &service, "layer");
    let scrub = Scrub::open(&site.root()).unwrap();
    assert!(scrub.quarantine(1, "found by scrub").unwrap());
    assert!(!scrub.quarantine(99, "no such layer").unwrap());
    assert!(!image.exists());
    let error = service.view("v", "layer", &Labels::new()).unwrap_err();
    assert_eq!(error.code(), "layer-damaged");
    let quarantine = Verdict::Quarantined("found by scrub".to_owned());
    assert_eq!(scrubbed(&site), [("layer".to_owned(), quarantine)]);
}

#[test]
fn a_root_that_is_not_there_is_refused_and_not_made() {
    let site = Site::new();
    assert_eq!(Scrub::open(&site.root()).unwrap_err().code(), "config");
    assert!(!site.root().exists());
    let service = site.open();
    layer(&site, &service, "layer");
    drop(service);
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(site.root().join(name)).ok();
    }
    assert_eq!(Scrub::open(&site.root()).unwrap_err().code(), "database-missing");
}
