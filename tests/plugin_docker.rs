//! A real Docker Engine on erolith: `docker load`, `run`, `commit`, `build`, `save`, `push` and `pull`, with containerd's image
//! store.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use erolith_tests::layout::Layout;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::need;
use erolith_tests::node::{Docker, isolated};
use serde_json::Value;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// The name of the real image after [`Docker::load`].
const IMAGE: &str = "image:latest";

/// A Docker with the real image.
fn docker() -> Result<Docker, String> {
    let image = Layout::real_image()?;
    let docker = Docker::start(EROLITH)?;
    docker.load(&image);
    Ok(docker)
}

/// What a shell in a new container of an image prints.
fn run(docker: &Docker, image: &str, shell: &str) -> String {
    docker.exec(&["run", "--rm", "--network", "none", image, "sh", "-c", shell])
}

/// A container that stays.
fn start(docker: &Docker, name: &str, image: &str) {
    docker.exec(&["run", "-d", "--name", name, "--network", "none", image, "sleep", "600"]);
}

fn exec(docker: &Docker, name: &str, shell: &str) -> String {
    docker.exec(&["exec", name, "sh", "-c", shell])
}

/// The digests of an image's layers, the lowest first.
fn layers(docker: &Docker, image: &str) -> Vec<String> {
    let manifest = docker.manifest(image);
    let layers = manifest["layers"].as_array().unwrap();
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    assert!(layers.iter().all(|layer| layer["mediaType"] == gzip), "{manifest}");
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// The names in a layer, as GNU tar reads it.
fn names(docker: &Docker, layer: &str) -> Vec<String> {
    let blob = docker.content().blob(layer);
    let out = Command::new("tar").arg("-tzf").arg(blob).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Whether erolith's Diff made this layer.
fn is_ours(docker: &Docker, layer: &str) -> bool {
    docker.node.log().contains(&format!("compared blob={layer}"))
}

/// How often erolith's Apply unpacked this layer.
fn unpacked(docker: &Docker, layer: &str) -> usize {
    docker.node.log().matches(&format!("applied blob={layer}")).count()
}

/// Everything that a layer can say: something new, linked and with attributes; something changed in content, and in nothing
/// but its capabilities; something gone; a directory that is another one, and one that is a file now.
const CHANGES: &str = "
    echo new >/root/new && ln /root/new /root/again && chown 7:8 /root/new && chmod 4755 /root/new
    echo more >>/etc/issue && rm /etc/debian_version
    rm -r /srv/data && mkdir /srv/data && ln -s ../new /srv/data/link && mkfifo /srv/data/pipe
    rm -r /usr/share/base-files && echo file >/usr/share/base-files
    python3 -Bc 'import os
os.setxattr(\"/root/new\", \"user.note\", b\"bit\\0by bit\")
value = bytes.fromhex(\"0100000200200000\" + \"00\" * 12)
os.setxattr(\"/usr/bin/env-again\", \"security.capability\", value)'";

/// What shows all of that.
const SHOW: &str = "
    cat /root/new; stat -c '%a %u %g %h' /root/new; [ /root/new -ef /root/again ] && echo linked
    tail -n 1 /etc/issue; [ -e /etc/debian_version ] || echo gone
    ls /srv/data; readlink /srv/data/link; cat /usr/share/base-files
    python3 -Bc 'import os, numpy
print(os.getxattr(\"/root/new\", \"user.note\"), numpy.arange(9).sum())
print(os.getxattr(\"/usr/bin/env-again\", \"security.capability\")[:8].hex())'";

const SHOWN: &str = "new\n4755 7 8 2\nlinked\nmore\ngone\nlink\npipe\n../new\nfile\n\
                     b'bit\\x00by bit' 36\n0100000200200000\n";

/// The names in the layer that [`CHANGES`] makes.
const COMMITTED: [&str; 16] = [
    "etc/",
    "etc/.wh.debian_version",
    "etc/issue",
    "root/",
    "root/again",
    "root/new",
    "srv/",
    "srv/data/",
    "srv/data/.wh..wh..opq",
    "srv/data/link",
    "srv/data/pipe",
    "usr/",
    "usr/bin/",
    "usr/bin/env-again",
    "usr/share/",
    "usr/share/base-files",
];

#[test]
fn containers_become_images_and_containers_again() {
    isolated(|| {
        let docker = need!(docker());
        let base = layers(&docker, IMAGE);
        assert!(base.iter().all(|layer| unpacked(&docker, layer) == 1), "{}", docker.node.log());
        start(&docker, "one", IMAGE);
        exec(&docker, "one", CHANGES);
        assert_eq!(exec(&docker, "one", SHOW), SHOWN);
        let said = docker.exec(&["diff", "one"]);
        for line in ["A /root/new", "C /etc/issue", "C /srv/data", "D /etc/debian_version"] {
            assert!(said.lines().any(|said| said == line), "no {line} in {said}");
        }
        docker.exec(&["commit", "one", "made:1"]);
        let made = layers(&docker, "made:1");
        assert_eq!(made[..made.len() - 1], base);
        assert!(is_ours(&docker, &made[4]), "{}", docker.node.log());
        assert_eq!(names(&docker, &made[4]), COMMITTED);
        assert_eq!(run(&docker, "made:1", SHOW), SHOWN);
        is_the_same_tree(&docker, "one", "made:1");
        saved(&docker);
        not_by_us(&docker, "one");
        // And once more on top of that.
        start(&docker, "two", "made:1");
        exec(&docker, "two", "rm -r /root/new /srv/data && mv /usr/share/base-files /root/moved");
        docker.exec(&["commit", "two", "made:2"]);
        let again = layers(&docker, "made:2");
        assert_eq!(again[..again.len() - 1], made);
        let show = "cat /root/again; ls /srv/data /root/new 2>&-; cat /root/moved";
        assert_eq!(run(&docker, "made:2", show), "new\nfile\n");
        is_the_same_tree(&docker, "two", "made:2");
        docker.leaves_nothing();
    });
}

/// Holds what a container shows against what containers of the image show that was made of it.
fn is_the_same_tree(docker: &Docker, container: &str, image: &str) {
    // overlayfs counts no sub-directories, and a lower file keeps the links of names that upper layers hide.
    let blind = [Blind::Root, Blind::DirLinks, Blind::Links, Blind::OverlayXattrs];
    let tree = |dir: &Path| {
        let mut tree = Listing::from_dir(dir).unwrap().blind(&blind);
        // Docker makes them below each container, and they are part of none.
        let made =
            [".dockerenv", "dev", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"];
        tree.nodes.retain(|path, _| !made.iter().any(|made| made.as_bytes() == path.as_slice()));
        tree.nodes.retain(|path, _| !path.starts_with(b"dev/"));
        tree
    };
    let theirs = tree(&docker.mounted(container));
    let at = format!("/{container}");
    docker.node.exec(&["mkdir", &at]);
    let reference = format!("docker.io/library/{image}");
    docker.ctr(&["images", "mount", "--snapshotter", "erolith", &reference, &at]);
    let ours = tree(&docker.node.inside(&at));
    docker.ctr(&["images", "unmount", "--rm", "--snapshotter", "erolith", &at]);
    assert!(ours.nodes.len() > 3000, "{} names", ours.nodes.len());
    ours.assert_eq(&theirs, ("image", "container"), image);
}

/// `docker save` writes what other tools read; ours tell what was committed.
fn saved(docker: &Docker) {
    let archive = |image: &str| {
        let path = docker.node.place().join(image.replace(':', "-")).display().to_string();
        docker.exec(&["save", "--output", &path, image]);
        path
    };
    let (old, new) = (archive(IMAGE), archive("made:1"));
    for kind in ["docker-archive", "oci-archive"] {
        let (old, new) = (format!("{kind}:{old}"), format!("{kind}:{new}"));
        let said = docker.node.exec(&[EROLITH, "diff", "--ignore-times", "--json", &old, &new]);
        let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let paths: Vec<_> = lines.map(|line| line["path"].as_str().unwrap().to_owned()).collect();
        for path in ["/etc/debian_version", "/etc/issue", "/root/again", "/usr/bin/env-again"] {
            assert!(paths.iter().any(|said| said == path), "{kind}: no {path} in {said}");
        }
        assert!(paths.len() < 20, "{kind}: {said}");
    }
    fs::remove_file(old).and_then(|()| fs::remove_file(new)).unwrap();
}

/// Docker tells containerd of no snapshot, so `erolith commit` says who commits its containers.
fn not_by_us(docker: &Docker, container: &str) {
    let id = docker.exec(&["inspect", "--format", "{{.Id}}", container]);
    let socket = docker.node.place().join("sock").display().to_string();
    let words = ["commit", "--address", &socket, "--namespace", "moby", id.trim(), "ours:1"];
    let error = docker.node.try_exec(&[&[EROLITH], &words[..]].concat()).unwrap_err();
    for word in ["exit status: 3", "`docker commit`"] {
        assert!(error.contains(word), "no {word} in {error}");
    }
}

const DOCKERFILE: &str = r#"
FROM image:latest AS base
RUN echo one >/root/one && rm -r /srv/data && mkdir /srv/data && echo replaced >/srv/data/who
COPY file /root/copied

FROM base
RUN rm /root/one /etc/debian_version && ln /root/copied /root/linked && echo more >>/etc/issue
COPY --from=base --chown=7:8 /root/one /root/from-base
COPY tree /srv/tree
ENV WORD=said
CMD ["sh", "-c", "echo $WORD; cat /root/copied"]
"#;

/// What a container of it shows.
const SHOW_BUILT: &str = "
    ls /root /srv/data; cat /srv/data/who; [ /root/copied -ef /root/linked ] && echo linked
    stat -c '%u %g' /root/from-base; tail -n 1 /etc/issue; [ -e /etc/debian_version ] || echo gone
    cat /srv/tree/deep/file";

const SHOWN_BUILT: &str = "/root:\ncopied\nfrom-base\nlinked\n\n/srv/data:\nwho\nreplaced\nlinked\n\
                           7 8\nmore\ngone\ndeep\n";

/// A context for builds.
fn context(docker: &Docker) -> PathBuf {
    let context = docker.node.place().join("context");
    fs::create_dir_all(context.join("tree/deep")).unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    fs::write(context.join("file"), "copied\n").unwrap();
    fs::write(context.join("tree/deep/file"), "deep\n").unwrap();
    context
}

/// `docker build`. Returns how many steps were taken from the cache.
fn build(docker: &Docker, context: &Path, name: &str) -> usize {
    let context = context.display().to_string();
    // All that it says it says as a complaint.
    let shell = "exec 2>&1; exec \"$@\"";
    let host = format!("unix://{}", docker.node.place().join("d/sock").display());
    let words = ["build", "--progress", "plain", "--network", "none", "--tag", name, &context];
    let words = [&["sh", "-c", shell, "sh", "docker", "--host", &host][..], &words].concat();
    let said = docker.node.exec(&words);
    said.lines().filter(|line| line.ends_with(" CACHED")).count()
}

#[test]
fn what_is_built_runs_and_is_built_once() {
    isolated(|| {
        let docker = need!(docker());
        let base = layers(&docker, IMAGE);
        let context = context(&docker);
        assert_eq!(build(&docker, &context, "built:1"), 0);
        assert_eq!(docker.exec(&["run", "--rm", "--network", "none", "built:1"]), "said\ncopied\n");
        assert_eq!(run(&docker, "built:1", SHOW_BUILT), SHOWN_BUILT);
        let built = layers(&docker, "built:1");
        assert_eq!(built[..base.len()], base);
        let added = &built[base.len()..];
        for layer in added {
            assert!(is_ours(&docker, layer), "{layer}:\n{}", docker.node.log());
        }
        let added: Vec<_> = added.iter().map(|layer| names(&docker, layer)).collect();
        // The longest name there is was in that directory, and its whiteout has a longer one.
        let longest = format!("srv/data/.wh.{}", "n".repeat(255));
        for name in [&longest, "srv/data/who", "root/one"] {
            assert!(added[0].iter().any(|added| added == name), "no {name} in {:?}", added[0]);
        }
        assert_eq!(added[1], ["root/", "root/copied"]);
        let removed = ["etc/.wh.debian_version", "etc/issue"];
        let linked = ["root/", "root/copied", "root/linked", "root/.wh.one"];
        assert_eq!(added[2], [&["etc/"], &removed[..], &linked].concat());
        assert_eq!(added[3], ["root/", "root/from-base"]);
        assert_eq!(added[4], ["srv/", "srv/tree/", "srv/tree/deep/", "srv/tree/deep/file"]);
        // Nothing changed: all five steps are there. Then the last one is another.
        assert_eq!(build(&docker, &context, "built:2"), 5);
        assert_eq!(layers(&docker, "built:2"), built);
        fs::write(context.join("tree/deep/file"), "other\n").unwrap();
        assert_eq!(build(&docker, &context, "built:3"), 4);
        assert_eq!(run(&docker, "built:3", "cat /srv/tree/deep/file"), "other\n");
        let rebuilt = layers(&docker, "built:3");
        assert_eq!(rebuilt[..built.len() - 1], built[..built.len() - 1]);
        assert_ne!(rebuilt[built.len() - 1..], built[built.len() - 1..]);
        docker.leaves_nothing();
    });
}

#[test]
fn images_go_to_a_registry_and_come_from_there() {
    isolated(|| {
        let mut docker = need!(docker());
        let name = format!("{}/made:1", docker.start_registry());
        start(&docker, "one", IMAGE);
        exec(&docker, "one", CHANGES);
        docker.exec(&["commit", "one", &name]);
        let made = layers(&docker, &name);
        docker.exec(&["push", "--quiet", &name]);
        docker.exec(&["rm", "--force", "one"]);
        docker.exec(&["image", "rm", &name, IMAGE]);
        docker.collected();
        docker.exec(&["pull", "--quiet", &name]);
        assert_eq!(layers(&docker, &name), made);
        // Once for the load or the commit, and once more for the pull.
        assert!(made.iter().all(|layer| unpacked(&docker, layer) == 2), "{}", docker.node.log());
        assert_eq!(run(&docker, &name, SHOW), SHOWN);
        docker.leaves_nothing();
    });
}

/// Containers go on without the daemon, and are committed when it is back.
#[test]
fn containers_outlive_the_daemon() {
    isolated(|| {
        let mut docker = need!(docker());
        start(&docker, "one", IMAGE);
        docker.node.kill_daemon();
        assert_eq!(exec(&docker, "one", "echo x >/root/x; cat /root/x"), "x\n");
        docker.node.start_daemon();
        docker.node.reconnected();
        docker.exec(&["commit", "one", "made:1"]);
        docker.exec(&["restart", "--time", "0", "one"]);
        assert_eq!(exec(&docker, "one", "cat /root/x"), "x\n");
        assert_eq!(run(&docker, "made:1", "cat /root/x"), "x\n");
        docker.leaves_nothing();
    });
}
