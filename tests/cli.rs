//! The program as its users meet it: exit codes, output for people and for machines, pipes, and nothing left behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use erolith_tests::layout::Layout;
use erolith_tests::mount;
use erolith_tests::need;
use erolith_tests::program::{Program, text};
use erolith_tests::tarball::{Header, Tarball, record};

const EROLITH: Program = Program(env!("CARGO_BIN_EXE_erolith"));

/// The exit code and the message of a command that fails. The message is one line, perhaps with a hint.
fn refused(args: &[&str]) -> (i32, String) {
    let out = EROLITH.run(args);
    let message = text(&out.stderr);
    assert!(!out.status.success(), "{args:?} succeeds");
    assert!(out.stdout.is_empty(), "{args:?} prints {}", text(&out.stdout));
    assert!(!message.contains("panicked"), "{message}");
    (out.status.code().unwrap(), message)
}

/// A directory with an archive and the image made of it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let tar = Tarball::new()
            .dir("etc")
            .file("etc/hosts", b"127.0.0.1 localhost\n")
            .symlink("etc/link", "hosts")
            .hardlink("etc/again", "etc/hosts")
            .file("evil\x1b[31m\n", b"x")
            .file("big", vec![7; 300_000])
            .end();
        fs::write(bench.path("layer.tar"), tar).unwrap();
        EROLITH.printed(&["mkfs", "--quiet", "--tar", &bench.at("image"), &bench.at("layer.tar")]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

#[test]
fn exit_codes_are_what_the_manual_says() {
    let bench = Bench::new();
    let (image, at) = (bench.at("image"), |name| bench.at(name));
    let mut damaged = fs::read(bench.path("image")).unwrap();
    damaged[1030] ^= 0xff;
    fs::write(bench.path("damaged"), damaged).unwrap();
    fs::write(bench.path("noise"), vec![0x55; 10_000]).unwrap();
    let tar = fs::read(bench.path("layer.tar")).unwrap();
    fs::write(bench.path("cut.tar"), &tar[..tar.len() / 2]).unwrap();
    let table: [(&[&str], i32, &str); 15] = [
        (&["no-such-command"], 2, "unrecognized subcommand"),
        (&["mkfs", &at("out"), "-"], 2, "add --tar"),
        (&["mkfs", "-b", "1000", "--tar", &at("out"), &at("layer.tar")], 2, "block"),
        (&["convert", "nonsense:x", &format!("oci:{}", at("out"))], 2, "nonsense"),
        (&["mkfs", "--tar", &at("out"), &at("cut.tar")], 3, "cut.tar"),
        (&["mkfs", "--tar", &at("out"), &at("noise")], 3, "noise"),
        (&["ls", &at("noise")], 3, "noise"),
        (&["cat", &image, "/etc"], 1, "/etc"),
        (&["ls", &at("missing")], 5, "missing"),
        (
            &["convert", &format!("oci:{}", at("missing")), &format!("oci:{}", at("out"))],
            5,
            "missing",
        ),
        (&["umount", &at(".")], 2, "not"),
        (&["commit", "container"], 2, "IMAGE"),
        (&["commit", "container", "not a name"], 2, "no name of an image"),
        (&["commit", "--change", "RUN x", "container", "image"], 2, "none of CMD"),
        (&["commit", "--address", &at("nobody"), "container", "image"], 4, "--address"),
    ];
    for (args, code, word) in table {
        let (found, message) = refused(args);
        assert!(message.contains(word), "{args:?}: no {word:?} in {message}");
        assert_eq!(found, code, "{args:?}: {message}");
        assert!(!bench.path("out").exists(), "{args:?} leaves its output");
    }
    assert_eq!(EROLITH.run(&["fsck", &image]).status.code(), Some(0));
    let broken = EROLITH.run(&["fsck", &at("damaged")]);
    assert_eq!(broken.status.code(), Some(1), "{}", text(&broken.stdout));
}

#[test]
fn an_image_is_shown_and_taken_apart() {
    let bench = Bench::new();
    let image = bench.at("image");
    assert_eq!(EROLITH.printed(&["cat", &image, "/etc/hosts"]), "127.0.0.1 localhost\n");
    assert_eq!(EROLITH.printed(&["cat", "-L", &image, "/etc/link"]), "127.0.0.1 localhost\n");
    let list = EROLITH.printed(&["ls", "-lR", &image]);
    for word in ["-> hosts", "300000", "evil\\033[31m\\n"] {
        assert!(list.contains(word), "no {word:?} in\n{list}");
    }
    assert!(!list.contains('\x1b'), "a name reaches the terminal as it is");
    EROLITH.printed(&["extract", "--no-owner", &image, &bench.at("tree")]);
    assert_eq!(fs::read(bench.path("tree/big")).unwrap(), vec![7; 300_000]);
    // The archive of the tree makes the same image.
    EROLITH.printed(&["export", "-o", &bench.at("again.tar"), &image]);
    let mkfs =
        |to: &str, from: &str| EROLITH.printed(&["mkfs", "--quiet", "--tar", "-Uclear", to, from]);
    mkfs(&bench.at("first"), &bench.at("layer.tar"));
    mkfs(&bench.at("second"), &bench.at("again.tar"));
    let list = |name: &str| EROLITH.printed(&["ls", "-lR", &bench.at(name)]);
    assert_eq!(list("first"), list("second"));
}

/// Attributes of macOS, on two files.
fn of_macos() -> Vec<u8> {
    let record = [("SCHILY.xattr.com.apple.provenance", "v"), ("SCHILY.xattr.user.k", "v")];
    Tarball::new().pax(&record).file("a", b"1").pax(&record).file("b", b"2").end()
}

#[test]
fn attributes_that_are_dropped_are_named_once_for_each_layer() {
    let bench = Bench::new();
    fs::write(bench.path("mac.tar"), of_macos()).unwrap();
    Layout::create(&bench.path("mac"), &[of_macos(), Tarball::new().file("c", b"3").end()])
        .unwrap();
    let (image, tar) = (bench.at("mac.erofs"), bench.at("mac.tar"));
    let (source, to) =
        (format!("oci:{}", bench.at("mac")), |n| format!("oci:{}{n}", bench.at("to")));
    for args in [
        &["mkfs", "--quiet", "--tar", &image, &tar][..],
        &["mkfs", "--json", "--tar", &image, &tar],
        &["convert", "--quiet", &source, &to(1)],
        &["convert", "--quiet", "--sandbox", &source, &to(2)],
    ] {
        let out = EROLITH.run(args);
        let message = text(&out.stderr);
        assert!(out.status.success(), "{args:?}: {message}");
        let found: Vec<&str> = message.lines().filter(|line| line.contains("dropped")).collect();
        assert_eq!(found.len(), 1, "{args:?}: {message}");
        assert!(found[0].contains("warning: "), "{args:?}: {message}");
        assert!(found[0].contains(" 2 extended attributes dropped"), "{args:?}: {message}");
        assert!(found[0].ends_with(": com.apple.provenance"), "{args:?}: {message}");
    }
    let stat = EROLITH.printed(&["stat", "--json", &image, "/a"]);
    assert!(stat.contains("user.k") && !stat.contains("com.apple"), "{stat}");
}

/// An access list of a file with mode 0674: owner, user 5, group, mask, others.
const ACCESS: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 5, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

#[test]
fn an_exported_archive_keeps_access_lists_for_other_programs() {
    let bench = Bench::new();
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    let of = |name: &str| record(format!("SCHILY.xattr.{name}"), ACCESS);
    let header = |kind, name| Header::new(kind, name).mode(0o674);
    let archive = Tarball::new()
        .pax_raw([of(access), of(default)].concat())
        .header(&header(b'5', "d"))
        .pax_raw(of(access))
        .member(header(b'0', "f"), b"data")
        .end();
    fs::write(bench.path("acl.tar"), archive).unwrap();
    let (image, exported) = (bench.at("acl.erofs"), bench.at("exported.tar"));
    EROLITH.printed(&["mkfs", "--quiet", "--tar", &image, &bench.at("acl.tar")]);
    EROLITH.printed(&["export", "-o", &exported, &image]);
    for (program, options) in [("tar", &["--acls", "-xf"][..]), ("bsdtar", &["-xpf"])] {
        let tree = bench.path(program);
        fs::create_dir(&tree).unwrap();
        let mut command = Command::new(program);
        let ran = command.args(options).arg(&exported).arg("-C").arg(&tree).output();
        let out = need!(ran.map_err(|error| format!("{program}: {error}")));
        assert!(out.status.success(), "{program}: {}", text(&out.stderr));
        for (file, name) in [("d", access), ("d", default), ("f", access)] {
            let mut value = [0; 64];
            let len = rustix::fs::getxattr(tree.join(file), name, &mut value);
            let len = len.unwrap_or_else(|error| panic!("{program}: {name} of {file}: {error}"));
            assert_eq!(value[..len], ACCESS, "{program}: {name} of {file}");
        }
    }
}

#[test]
fn what_machines_read_is_json() {
    let bench = Bench::new();
    let (image, out) = (bench.at("image"), bench.at("json-image"));
    let tar = bench.at("layer.tar");
    let commands: [&[&str]; 6] = [
        &["mkfs", "--json", "--tar", &out, &tar],
        &["ls", "-R", "--json", &image],
        &["stat", "--json", &image, "/etc/hosts", "/big"],
        &["fsck", "--json", &image],
        &["inspect", "--json", "--duplicates", &image],
        &["doctor", "--json"],
    ];
    for args in commands {
        let out = EROLITH.run(args);
        let text = text(&out.stdout);
        let values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        let values: Vec<_> =
            values.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"));
        assert!(
            !values.is_empty() && values.iter().all(serde_json::Value::is_object),
            "{args:?}: {text}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bench = Bench::new();
    let names = (0..50_000).fold(Tarball::new(), |tar, i| tar.file(format!("file-{i}"), b""));
    fs::write(bench.path("many.tar"), names.end()).unwrap();
    EROLITH.printed(&["mkfs", "--quiet", "--tar", &bench.at("many"), &bench.at("many.tar")]);
    let mut child = EROLITH
        .command()
        .args(["ls", "-l", &bench.at("many")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut few = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut few).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(
        out.status.success() && out.stderr.is_empty(),
        "{:?}: {}",
        out.status,
        text(&out.stderr)
    );
}

#[test]
fn completions_and_manuals_know_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    EROLITH.printed(&["man", &at]);
    let commands = [
        "mkfs", "convert", "commit", "ls", "cat", "stat", "inspect", "fsck", "extract", "export",
        "mount", "umount", "doctor",
    ];
    let bash = EROLITH.printed(&["completions", "bash"]);
    for command in commands {
        assert!(bash.contains(command), "{command} is not completed");
        let page = fs::read_to_string(dir.path().join(format!("erolith-{command}.1")));
        assert!(page.unwrap().contains(".SH"), "{command} has no manual page");
    }
}

/// An upper directory over an image with `etc/hosts`, `etc/gone` and `etc/kept`: something new, something changed, something
/// gone, and something copied up that is as it was.
fn upper(place: &Path) -> PathBuf {
    let upper = place.join("upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/hosts"), "upper").unwrap();
    fs::write(upper.join("new"), "new").unwrap();
    fs::write(upper.join("etc/kept"), "kept").unwrap();
    let made = Command::new("mknod").arg(upper.join("etc/gone")).args(["c", "0", "0"]).status();
    assert!(made.unwrap().success());
    // As copying up does: the time of the lower one.
    let kept = upper.join("etc/kept");
    let touched = Command::new("touch").args(["-d", "@1700000000"]).arg(kept).status();
    assert!(touched.unwrap().success());
    upper
}

#[test]
fn what_an_upper_directory_has_becomes_a_layer_and_an_image() {
    need!(mount::available());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let lower = Tarball::new()
        .dir("etc")
        .file("etc/hosts", b"lower")
        .file("etc/gone", b"x")
        .file("etc/kept", b"kept")
        .end();
    Layout::create(&scratch.path().join("docker"), std::slice::from_ref(&lower)).unwrap();
    fs::write(scratch.path().join("lower.tar"), lower).unwrap();
    EROLITH.printed(&["mkfs", "--quiet", "--tar", &at("lower"), &at("lower.tar")]);
    let upper = upper(scratch.path()).display().to_string();
    let layer = |to: &str| {
        let form = ["--compression", "none", "--source-date-epoch", "1700000000"];
        let sides = ["--upper", &upper, "--lower", &at("lower"), "-o", &at(to)];
        EROLITH.printed(&[&["commit"][..], &form, &sides].concat())
    };
    let printed = layer("a.tar");
    layer("b.tar");
    assert!(printed.contains("sha256:"), "{printed}");
    assert_eq!(fs::read(at("a.tar")).unwrap(), fs::read(at("b.tar")).unwrap());
    let list = Command::new("tar").args(["-tf", &at("a.tar")]).output().unwrap();
    let list = text(&list.stdout);
    let mut names: Vec<_> = list.lines().filter(|name| !name.ends_with('/')).collect();
    names.sort_unstable();
    assert_eq!(names, ["etc/.wh.gone", "etc/hosts", "new"]);

    let (docker, base, new) = (
        format!("oci:{}", at("docker")),
        format!("oci:{}", at("base")),
        format!("oci:{}:new", at("new")),
    );
    let commit = |base: &str, to: &str| {
        let how = ["commit", "--upper", &upper, "--format", "erofs", "-m", "why"];
        EROLITH.printed(&[&how[..], &["--base", base, to]].concat());
    };
    EROLITH.printed(&["convert", "--quiet", &docker, &base]);
    commit(&base, &new);
    let layout = Layout(scratch.path().join("new"));
    // What the layers below are stored as makes no difference.
    commit(&docker, &format!("oci:{}:new", at("mixed")));
    let mixed = Layout(scratch.path().join("mixed"));
    let last = |layout: &Layout| layout.layers(&layout.manifest("new").unwrap().unwrap()).pop();
    let digest = |layer: Option<PathBuf>| layer.unwrap().file_name().unwrap().to_owned();
    assert_eq!(digest(last(&mixed)), digest(last(&layout)));
    let manifest = layout.manifest("new").unwrap().unwrap();
    layout.verify(&manifest).unwrap();
    assert_eq!(layout.layers(&manifest).len(), 2);
    let place = scratch.path().join("mnt");
    fs::create_dir(&place).unwrap();
    EROLITH.printed(&["mount", &new, &at("mnt")]);
    let read = |name: &str| fs::read_to_string(place.join(name)).ok();
    let shown = ["etc/hosts", "etc/gone", "etc/kept", "new"].map(read);
    EROLITH.printed(&["umount", &at("mnt")]);
    let want = [Some("upper"), None, Some("kept"), Some("new")];
    assert_eq!(shown, want.map(|text| text.map(str::to_owned)));
}

#[test]
fn owners_in_a_layer_are_those_inside_the_user_namespace() {
    need!(mount::available());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let upper = scratch.path().join("upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/theirs"), "x").unwrap();
    let own = |name: &str, user, group| {
        std::os::unix::fs::chown(upper.join(name), Some(user), Some(group)).unwrap();
    };
    own("", 100_000, 200_000);
    own("etc", 100_000, 200_000);
    own("etc/theirs", 100_033, 200_007);
    let sides = ["commit", "--upper", &at("upper")];
    let maps =
        ["--uid-map", "0:100000:30", "--uid-map", "30:100030:70", "--gid-map", "0:200000:100"];
    let layer = |form: &[&str]| EROLITH.printed(&[&sides[..], &maps, form].concat());
    layer(&["--compression", "none", "-o", &at("layer.tar")]);
    let list = Command::new("tar").args(["--numeric-owner", "-tvf", &at("layer.tar")]).output();
    let list = text(&list.unwrap().stdout);
    let owner_and_name = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        format!("{} {}", words[1], words[5])
    };
    let owners: Vec<_> = list.lines().map(owner_and_name).collect();
    assert_eq!(owners, ["0/0 etc/", "33/7 etc/theirs"]);
    layer(&["--format", "erofs", "-o", &at("layer")]);
    for (path, ids) in [("/", [0, 0]), ("/etc", [0, 0]), ("/etc/theirs", [33, 7])] {
        let stat = EROLITH.printed(&["stat", "--json", &at("layer"), path]);
        let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
        assert_eq!([&stat["uid"], &stat["gid"]], ids, "{path}: {stat}");
    }
    // An owner that no mapping contains has no number inside.
    own("etc/theirs", 100_033, 7);
    let (code, said) = refused(&[&sides[..], &maps, &["-o", &at("none")]].concat());
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("etc/theirs") && said.contains("group 7"), "{said}");
    let twice = ["--uid-map", "5:0:1"];
    let (code, said) = refused(&[&sides[..], &maps, &twice, &["-o", &at("none")]].concat());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--uid-map: ranges overlap"), "{said}");
    assert!(!Path::new(&at("none")).exists());
}

/// Mount points, and loop devices over files below `place`: others belong to what else runs here at the same time.
fn mounted(place: &Path) -> (String, Vec<String>) {
    let loops = Command::new("losetup").args(["--list", "--noheadings"]).output().unwrap();
    let (loops, place) = (text(&loops.stdout), place.display().to_string());
    let ours = loops.lines().filter(|line| line.contains(&place)).map(str::to_owned);
    (fs::read_to_string("/proc/self/mountinfo").unwrap(), ours.collect())
}

#[test]
fn an_image_is_converted_mounted_and_unmounted() {
    need!(mount::available());
    let scratch = tempfile::tempdir().unwrap();
    let lower = Tarball::new().dir("etc").file("etc/hosts", b"lower").file("etc/gone", b"x").end();
    let upper = Tarball::new().file("etc/hosts", b"upper").file("etc/.wh.gone", b"").end();
    Layout::create(&scratch.path().join("docker"), &[lower, upper]).unwrap();
    let at = |name: &str| format!("oci:{}:latest", scratch.path().join(name).display());
    let place = scratch.path().join("mnt");
    fs::create_dir(&place).unwrap();
    let place = place.display().to_string();
    let before = mounted(scratch.path());
    EROLITH.printed(&["convert", &at("docker"), &at("native")]);
    EROLITH.printed(&["mount", &at("native"), &place]);
    assert_eq!(fs::read(Path::new(&place).join("etc/hosts")).unwrap(), b"upper");
    assert!(!Path::new(&place).join("etc/gone").exists());
    assert!(fs::write(Path::new(&place).join("new"), b"").is_err(), "it can be written");
    EROLITH.printed(&["umount", &place]);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    assert_eq!(mounted(scratch.path()), before, "something is left mounted");
}

/// An interrupted run leaves nothing.
#[test]
fn an_image_in_the_making_is_called_off() {
    use std::io::Write as _;
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = scratch.path().join("image");
    let mut command = EROLITH.command();
    command.args(["mkfs", "--tar", &image.display().to_string(), "-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // More than a pipe holds: what is here has been taken, so the program waits for the rest.
    let archive = Tarball::new().file("big", vec![7; 4 << 20]).file("more", vec![8; 4 << 20]).end();
    input.write_all(&archive[..6 << 20]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // It may be asked when the next piece comes.
    let _ = input.write_all(&archive[6 << 20..]);
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr).trim()), (Some(130), "erolith: cancelled"));
    drop(input);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// Documents hold four digits for the year: a time in milliseconds would make images that no other program can read.
#[test]
fn times_that_no_document_holds_are_refused_wherever_they_are_read() {
    let bench = Bench::new();
    let layer = fs::read(bench.path("layer.tar")).unwrap();
    Layout::create(&bench.path("docker"), &[layer]).unwrap();
    fs::create_dir(bench.path("upper")).unwrap();
    let oci = |name: &str| format!("oci:{}", bench.at(name));
    let commit = ["commit", "--upper", &bench.at("upper"), "--base", &oci("docker"), &oci("new")];
    let (mkfs, convert) = (
        ["mkfs", "--tar", &bench.at("timed"), &bench.at("layer.tar")],
        ["convert", &oci("docker"), &oci("converted")],
    );
    for args in [&commit[..], &mkfs, &convert] {
        let mut command = EROLITH.command();
        let out = command.args(args).env("SOURCE_DATE_EPOCH", "1764547200000").output().unwrap();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        for word in ["SOURCE_DATE_EPOCH: ", "year 57886", "not milliseconds"] {
            assert!(said.contains(word), "no {word} in {said}");
        }
    }
    let (code, said) = refused(&[&commit[..], &["--source-date-epoch", "253402300800"]].concat());
    assert!(code == 2 && said.contains("year 10000"), "{code} {said}");
    for name in ["new", "timed", "converted"] {
        assert!(!bench.path(name).exists(), "{name}");
    }
    EROLITH.printed(&[&commit[..], &["--source-date-epoch", "253402300799"]].concat());
    let layout = Layout(bench.path("new"));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("new/index.json")).unwrap()).unwrap();
    let manifest = layout.document(index["manifests"][0]["digest"].as_str().unwrap()).unwrap();
    let config = layout.document(manifest["config"]["digest"].as_str().unwrap()).unwrap();
    assert_eq!(config["created"], "9999-12-31T23:59:59Z");
}

#[test]
fn images_that_old_versions_do_not_run_are_announced_in_one_line() {
    let bench = Bench::new();
    let layer = fs::read(bench.path("layer.tar")).unwrap();
    Layout::create(&bench.path("docker"), &[layer]).unwrap();
    fs::create_dir(bench.path("upper")).unwrap();
    let oci = |name: &str| format!("oci:{}", bench.at(name));
    let (docker, upper) = (oci("docker"), bench.at("upper"));
    let commit = |to: &str, more: &[&str]| {
        let to = oci(to);
        EROLITH.run(&[&["commit", "--upper", &upper, "--base", &docker, &to][..], more].concat())
    };
    let convert = |to: &str, more: &[&str]| {
        EROLITH.run(&[&["convert", &docker, &oci(to)][..], more].concat())
    };
    for (out, lines) in [
        (convert("a", &[]), 1),
        (convert("b", &["--json"]), 1),
        (convert("c", &["--quiet"]), 0),
        (convert("d", &["--keep-original"]), 0),
        (commit("e", &["--format", "erofs"]), 1),
        (commit("f", &["--format", "erofs", "--quiet"]), 0),
        (commit("g", &[]), 0),
    ] {
        let said = text(&out.stderr);
        assert!(out.status.success(), "{said}");
        assert_eq!(said.lines().count(), lines, "{said}");
        assert!(lines == 0 || said.contains("containerd 2.3 and later"), "{said}");
    }
}

/// The layers of a cache by what became of them, their paths and root hashes.
fn filled(cache: &str, more: &[&str]) -> Vec<(String, String, serde_json::Value)> {
    let args = [&["cache", "fill", "--json", cache][..], more].concat();
    let report: serde_json::Value = serde_json::from_str(&EROLITH.printed(&args)).unwrap();
    let row = |layer: &serde_json::Value| {
        let text = |key: &str| layer[key].as_str().unwrap_or_default().to_owned();
        (text("outcome"), text("path"), layer["dm_verity"].clone())
    };
    report["layers"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_cache_is_filled_with_what_is_missing_in_it() {
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let base = Tarball::new().dir("etc").file("etc/hosts", b"base").end();
    let top = Tarball::new().dir("etc").file("etc/.wh.hosts", b"").file("new", b"top").end();
    let needy = Tarball::new().file("etc/deep/file", b"its directories are described below").end();
    let name = |layer: &[u8]| {
        let hex = erolith_tests::layout::sha256(layer).replace("sha256:", "");
        at(&format!("cache/sha256/{}/{hex}.erofs", &hex[..2]))
    };
    Layout::create(&scratch.path().join("one"), &[base.clone(), top.clone()]).unwrap();
    Layout::create(&scratch.path().join("two"), &[base.clone(), needy]).unwrap();
    let (cache, one, two) =
        (at("cache"), format!("oci:{}", at("one")), format!("oci:{}", at("two")));
    let outcomes = |more: &[&str]| -> Vec<_> {
        filled(&cache, more).into_iter().map(|(outcome, path, _)| (outcome, path)).collect()
    };
    let pair = |outcome: &str, path: String| (outcome.to_owned(), path);
    let (base, top) = (name(&base), name(&top));
    // A layer that two images have is one layer; one that needs those below is in no cache.
    assert_eq!(
        outcomes(&["--jobs", "2", &one, &two]),
        [pair("made", base.clone()), pair("made", top.clone()), pair("left_out", String::new())]
    );
    for image in [&base, &top] {
        EROLITH.printed(&["fsck", image]);
    }
    // The directory of the one that is left out may stay, empty.
    let dirs = fs::read_dir(at("cache/sha256")).unwrap();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    assert_eq!(files.count(), 2);
    let before = fs::metadata(&base).unwrap().modified().unwrap();
    // What is damaged is made again, and nothing else is.
    fs::write(&top, b"cut short").unwrap();
    assert_eq!(outcomes(&[&one]), [pair("present", base.clone()), pair("made", top.clone())]);
    assert_eq!(fs::metadata(&base).unwrap().modified().unwrap(), before);
    // With a tree and without: those that have one are not made again.
    let trees = filled(&cache, &["--dm-verity", &one]);
    assert!(trees.iter().all(|(outcome, _, tree)| outcome == "made" && !tree.is_null()));
    assert!(Path::new(&format!("{base}.dmverity")).exists());
    for more in [&["--dm-verity", one.as_str()][..], &[&one]] {
        let again = filled(&cache, more);
        assert!(again.iter().all(|(outcome, _, tree)| outcome == "present" && !tree.is_null()));
    }
    // A block that the tree covers.
    let mut bytes = fs::read(&base).unwrap();
    bytes[2000] ^= 1;
    fs::write(&base, bytes).unwrap();
    let again = filled(&cache, &["--sandbox", &one]);
    assert_eq!(again[0].0, "made");
    assert_eq!(again[1].0, "present");
    let printed = EROLITH.printed(&["cache", "fill", &cache, &one]);
    assert_eq!(printed.matches("(was there)").count(), 2, "{printed}");
    let (code, said) = refused(&["cache", "fill", &cache, &format!("oci:{}", at("none"))]);
    assert!(code != 0 && said.contains("source oci:"), "{said}");
}

/// Two layers in a layout, and the same as EROFS images in another one.
fn layered(bench: &Bench) -> (String, String) {
    let lower = Tarball::new()
        .dir("etc")
        .file("etc/gone", b"gone")
        .file("etc/hosts", b"lower\n")
        .hardlink("etc/again", "etc/hosts")
        .symlink("link", "etc/hosts")
        .end();
    let upper = Tarball::new().file("etc/.wh.gone", b"").file("etc/new", b"new\n").end();
    Layout::create(&bench.path("layout"), &[lower, upper]).unwrap();
    let (tar, native) = (format!("oci:{}", bench.at("layout")), format!("oci:{}:n", bench.at("n")));
    EROLITH.printed(&["convert", "--quiet", &tar, &native]);
    (tar, native)
}

#[test]
fn commands_read_images_layers_and_archives() {
    let bench = Bench::new();
    let (tar, native) = layered(&bench);
    let packed = bench.at("packed.tar");
    let made = Command::new("tar").args(["-C", &bench.at("layout"), "-cf", &packed, "."]).status();
    assert!(made.unwrap().success());
    let archive = format!("oci-archive:{packed}:latest");
    let mut exported = Vec::new();
    for (number, source) in [&tar, &native, &archive].into_iter().enumerate() {
        assert_eq!(EROLITH.printed(&["ls", source, "/etc"]), "again\nhosts\nnew\n", "{source}");
        assert_eq!(EROLITH.printed(&["cat", "-L", source, "/link", "/etc/new"]), "lower\nnew\n");
        assert_eq!(EROLITH.run(&["cat", source, "/etc/gone"]).status.code(), Some(1));
        // A layer by itself is what it is, whiteouts and all.
        let layer = |name: &str| format!("{source}#{name}");
        assert_eq!(EROLITH.printed(&["ls", &layer("1"), "/etc"]), "gone\nnew\n");
        assert_eq!(EROLITH.printed(&["cat", &layer("0"), "/etc/gone"]), "gone");
        let (code, message) = refused(&["ls", &layer("2")]);
        assert_eq!(code, 2, "{message}");
        let stat = EROLITH.printed(&["stat", "--json", source, "/etc/new", "/etc/hosts"]);
        let layers: Vec<serde_json::Value> = stat
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["layer"].clone())
            .collect();
        assert_eq!(layers, [1, 0], "{source}");
        let fsck = EROLITH.printed(&["fsck", "--json", "--data", source]);
        let fsck: serde_json::Value = serde_json::from_str(&fsck).unwrap();
        assert_eq!((&fsck["clean"], fsck["layers"].as_array().unwrap().len()), (&true.into(), 2));
        assert_eq!(EROLITH.printed(&["inspect", "--json", source]).lines().count(), 2);
        let out = bench.at(&format!("exported-{number}"));
        EROLITH.printed(&["export", "-o", &out, source]);
        exported.push(fs::read(out).unwrap());
        let dir = bench.path(&format!("tree-{number}"));
        EROLITH.printed(&["extract", "--no-owner", source, &dir.display().to_string()]);
        assert!(!dir.join("etc/gone").exists());
        let inode = |name: &str| {
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.join(name)).unwrap())
        };
        assert_eq!(inode("etc/hosts"), inode("etc/again"), "{source}");
        assert_eq!(EROLITH.printed(&["diff", source, &tar]), "");
    }
    assert!(exported.iter().all(|other| *other == exported[0]));
    // A layer by its digest, also shortened.
    let index = Layout(bench.path("layout")).manifest("latest").unwrap().unwrap();
    let digest = index["layers"][1]["digest"].as_str().unwrap();
    for name in [digest, &digest[..20]] {
        assert_eq!(EROLITH.printed(&["ls", &format!("{tar}#{name}"), "/etc"]), "gone\nnew\n");
    }
}

#[test]
fn a_wrong_name_of_a_source_is_answered_with_a_right_one() {
    let bench = Bench::new();
    let (tar, _) = layered(&bench);
    let (layout, target) = (bench.at("layout"), format!("oci:{}", bench.at("out")));
    let table: [(&[&str], i32, &str); 8] = [
        (&["ls", "alpine:latest"], 5, "skopeo copy docker://alpine:latest oci:DIR:TAG"),
        (&["ls", "docker://alpine"], 2, "skopeo copy docker://alpine oci:DIR:TAG"),
        (&["ls", &layout], 3, &format!("oci:{layout}")),
        (&["convert", "alpine:latest", &target], 2, "skopeo copy docker://alpine:latest"),
        (&["convert", &layout, &target], 2, &format!("oci:{layout}")),
        (&["ls", &format!("{tar}:other")], 2, "latest"),
        (&["ls", "--platform", "linux/s390x", &tar], 3, "there are: linux/"),
        (&["ls", "--device", "x", &tar], 2, "--device"),
    ];
    for (args, code, word) in table {
        let (found, message) = refused(args);
        assert!(message.contains(word), "{args:?}: no {word:?} in {message}");
        assert_eq!(found, code, "{args:?}: {message}");
    }
}

#[test]
fn a_conversion_does_not_replace_its_source_unasked() {
    let bench = Bench::new();
    let (tar, _) = layered(&bench);
    let named = format!("{tar}:latest");
    let before = fs::read(bench.path("layout/index.json")).unwrap();
    for source in [&tar, &named] {
        let (code, message) = refused(&["convert", "--quiet", source, &named]);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains("--replace"), "{message}");
    }
    assert_eq!(fs::read(bench.path("layout/index.json")).unwrap(), before);
    EROLITH.printed(&["convert", "--quiet", &named, &format!("{tar}:other")]);
    EROLITH.printed(&["convert", "--quiet", "--replace", &named, &named]);
    let image = Layout(bench.path("layout")).manifest("latest").unwrap().unwrap();
    assert_eq!(image["layers"][0]["mediaType"], "application/vnd.erofs.layer.v1");
    let packed = format!("oci-archive:{}", bench.at("a.tar"));
    EROLITH.printed(&["convert", "--quiet", &named, &packed]);
    assert_eq!(refused(&["convert", "--quiet", &packed, &format!("{packed}:new")]).0, 2);
    EROLITH.printed(&["convert", "--quiet", "--replace", &packed, &format!("{packed}:new")]);
}

#[test]
fn a_damaged_layer_is_reported_by_its_digests() {
    let bench = Bench::new();
    let (_, native) = layered(&bench);
    let manifest = Layout(bench.path("n")).manifest("n").unwrap().unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let path = Layout(bench.path("n")).blob(digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1024 + 20] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    fs::create_dir(bench.path("mnt")).unwrap();
    for args in [
        &["ls", &native][..],
        &["mount", &native, &bench.at("mnt")],
        &["convert", "--quiet", &native, &format!("oci:{}", bench.at("again"))],
    ] {
        let (code, message) = refused(args);
        assert_eq!(code, 3, "{message}");
        assert!(message.contains(digest), "{message}");
        assert!(message.contains("its bytes have digest sha256:"), "{message}");
    }
    let fsck = EROLITH.run(&["fsck", &native]);
    assert_eq!(fsck.status.code(), Some(1));
    assert!(text(&fsck.stdout).contains("error[blob-digest-mismatch]"), "{}", text(&fsck.stdout));
}
