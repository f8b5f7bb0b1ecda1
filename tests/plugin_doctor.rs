//! `erolith doctor --config` on a node with a real containerd.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, disk, isolated};
use erolith_tests::tools::{cached, program};
use serde_json::Value;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// Exit code, what is said of the daemon as a whole, and the states by check.
fn doctor(node: &Node) -> (Option<i32>, Value, BTreeMap<String, String>) {
    let config = node.place().join("e/erolith.toml").display().to_string();
    let theirs = node.place().join("config.toml").display().to_string();
    let words = ["--json", "--config", &config, "--containerd-config", &theirs];
    let out = node.run(&[&[EROLITH, "doctor"], &words[..]].concat());
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    let daemon = value["daemon"].clone();
    let checks = daemon["checks"].as_array().unwrap().iter();
    let states = checks.map(|check| {
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        (text("check"), text("state"))
    });
    let states = states.collect();
    (out.status.code(), daemon, states)
}

#[test]
fn a_node_that_works_is_told_from_one_that_does_not() {
    isolated(|| {
        for containerd in [Containerd::Sid, Containerd::Trixie] {
            let mut node = need!(Node::start_as_printed(EROLITH, containerd));
            let (code, daemon, states) = doctor(&node);
            // These nodes have no mkfs.ext4, no systemd and no CRI, and limits are not asked for.
            let without = ["size-limits", "socket-unit", "cri-snapshotter"];
            let needed = states.iter().filter(|(check, _)| !without.contains(&check.as_str()));
            assert_eq!([&states["socket-unit"], &states["cri-snapshotter"]], ["untried"; 2]);
            assert!(needed.map(|(_, state)| state).all(|state| state == "ok"), "{daemon:#}");
            assert_eq!((code, &daemon["ready"]), (Some(0), &Value::Bool(true)));
            if containerd == Containerd::Sid {
                assert!(
                    daemon.to_string().contains("rebase remap-ids only-remap-ids"),
                    "{daemon:#}"
                );
            }
            node.stop_daemon();
            let (code, daemon, states) = doctor(&node);
            assert_eq!((code, &daemon["ready"]), (Some(1), &Value::Bool(false)));
            assert_eq!(states["daemon"], "missing", "{daemon:#}");
            assert_eq!(states["containerd"], "ok", "{daemon:#}");
            node.start_daemon();
        }
    });
}

#[test]
fn a_containerd_that_knows_nothing_of_us_is_told() {
    isolated(|| {
        let node = need!(Node::start(EROLITH, Containerd::Sid, &[("overlayfs", "walking")], ""));
        // It has our plugins, and uses them for nothing.
        let (code, daemon, states) = doctor(&node);
        assert_eq!((code, &daemon["ready"]), (Some(1), &Value::Bool(false)));
        for check in ["capabilities", "differ-order", "unpack-config"] {
            assert_eq!(states[check], "missing", "{daemon:#}");
        }
        for check in ["snapshotter-plugin", "differ-plugin", "containerd-config"] {
            assert_eq!(states[check], "ok", "{daemon:#}");
        }
        let config = node.place().join("e/erolith.toml").display().to_string();
        let other = node.place().join("other.toml").display().to_string();
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.replace("/run/e\"", "/var/run-e\"").replace("c/sock\"", "c/nobody\"");
        std::fs::write(&other, text).unwrap();
        let out = node.run(&[EROLITH, "doctor", "--config", &other]);
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        let verdict = out.lines().next().unwrap();
        assert!(verdict.starts_with("Not ready: containerd, snapshotter-plugin, "), "{out}");
        assert!(out.contains("-> keep it on a tmpfs"), "{out}");
    });
}

/// A Debian that is installed on, without a running systemd: files and containerd's reading of them are what is tested.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new(suite: &str) -> Result<Self, String> {
        let lower = cached(&format!("{suite}/usr/bin/containerd"), "testdata/sid-root.sh")?;
        let lower = lower.ancestors().nth(3).unwrap().to_owned();
        let dir = disk()?;
        for name in ["upper", "work", "root", "source"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (upper, work) = (at("upper"), at("work"));
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", lower.display());
        succeeds(Command::new("mount").args([
            "-t",
            "overlay",
            "-o",
            &options,
            "overlay",
            &at("root"),
        ]));
        for name in ["proc", "sys", "dev"] {
            let target = at("root") + "/" + name;
            succeeds(Command::new("mount").args(["--rbind", &format!("/{name}"), &target]));
        }
        fs::hard_link(EROLITH, dir.path().join("source/erolith"))
            .or_else(|_| fs::copy(EROLITH, dir.path().join("source/erolith")).map(|_| ()))
            .unwrap();
        for file in ["config.toml", "erolith.service", "erolith.socket"] {
            fs::copy(Path::new("dist").join(file), dir.path().join("source").join(file)).unwrap();
        }
        Ok(Self { dir })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// The configuration that containerd finds; nothing for none.
    fn configure(&self, text: Option<&str>) {
        let _ = fs::remove_dir_all(self.path("/etc/containerd"));
        fs::create_dir(self.path("/etc/containerd")).unwrap();
        if let Some(text) = text {
            fs::write(self.path("/etc/containerd/config.toml"), text).unwrap();
        }
    }

    fn script(&self, word: &str) -> Output {
        let mut command = Command::new("dist/kubernetes/node.sh");
        let source = self.dir.path().join("source");
        command.arg(word).env("ROOT", self.path("/")).env("SOURCE", source).output().unwrap()
    }

    fn runs(&self, words: &[&str]) -> String {
        let mut command = Command::new("chroot");
        succeeds(
            command.arg(self.path("/")).args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        )
    }
}

fn succeeds(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{command:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat()).into_owned()
}

/// Of the checks that need no running containerd, those that are not as they should be.
fn wrong(machine: &Machine) -> Vec<String> {
    let words =
        ["/usr/local/bin/erolith", "doctor", "--json", "--config", "/etc/erolith/config.toml"];
    let mut command = Command::new("chroot");
    let out = command.arg(machine.path("/")).args(words).output().unwrap();
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = value["daemon"]["checks"].as_array().unwrap().iter();
    let ours = ["containerd-config", "differ-order", "unpack-config", "cri-snapshotter"];
    let checks = checks.filter(|check| ours.contains(&check["check"].as_str().unwrap()));
    checks.filter(|check| check["state"] != "ok").map(ToString::to_string).collect()
}

#[test]
fn a_node_is_installed_upgraded_and_taken_back_by_the_script() {
    isolated(|| {
        let machine = need!(Machine::new("sid"));
        let full = machine.runs(&["containerd", "config", "default"]);
        let debian = machine.read("/etc/containerd/config.toml");
        for text in [None, Some(full.as_str()), Some(debian.as_str())] {
            machine.configure(text);
            let out = machine.script("install");
            assert!(out.status.success(), "{}", said(&out));
            let dump = machine.runs(&["containerd", "config", "dump"]);
            for line in ["snapshotter = 'erolith'", "default = ['erolith-diff', 'walking']"] {
                assert!(dump.contains(line), "{line}: {dump}");
            }
            // What the node had set is still there.
            let network = "bin_dirs = ['/usr/lib/cni']";
            assert_eq!(dump.contains(network), text == Some(&debian), "{dump}");
            assert_eq!(wrong(&machine), [""; 0]);
            let (config, inode) = (machine.read("/etc/containerd/config.toml"), inode(&machine));
            let out = machine.script("install");
            assert!(said(&out).contains("nothing to change"), "{}", said(&out));
            assert_eq!(
                (machine.read("/etc/containerd/config.toml"), self::inode(&machine)),
                (config, inode)
            );
        }
        // A configuration of one's own stays over an upgrade, and the binary does not.
        fs::write(machine.path("/etc/erolith/config.toml"), "[log]\nlevel = \"warn\"\n").unwrap();
        fs::write(machine.path("/usr/local/bin/erolith"), "old").unwrap();
        assert!(machine.script("install").status.success());
        assert!(machine.read("/etc/erolith/config.toml").contains("warn"));
        assert!(machine.runs(&["/usr/local/bin/erolith", "--version"]).starts_with("erolith "));
        assert!(machine.script("uninstall").status.success());
        for gone in [
            "/usr/local/bin/erolith",
            "/etc/containerd/conf.d/erolith.toml",
            "/etc/systemd/system/erolith.socket",
        ] {
            assert!(!machine.path(gone).exists(), "{gone}");
        }
        assert!(!machine.runs(&["containerd", "config", "dump"]).contains("erolith"));
    });
}

fn inode(machine: &Machine) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(machine.path("/usr/local/bin/erolith")).unwrap().ino()
}

#[test]
fn the_script_refuses_what_it_cannot_do_right() {
    isolated(|| {
        let machine = need!(Machine::new("trixie"));
        let debian = machine.read("/etc/containerd/config.toml");
        let out = machine.script("install");
        assert!(
            !out.status.success() && said(&out).contains("containerd 1.7: set snapshotter"),
            "{}",
            said(&out)
        );
        assert!(!machine.path("/usr/local/bin/erolith").exists());
        let own = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"erolith\"\n";
        machine.configure(Some(&format!("{debian}\n{own}")));
        let out = machine.script("install");
        assert!(out.status.success(), "{}", said(&out));
        let dump = machine.runs(&["containerd", "config", "dump"]);
        for line in [
            "snapshotter = \"erolith\"",
            "default = [\"erolith-diff\", \"walking\"]",
            "\"remap-ids\"",
        ] {
            assert!(dump.contains(line), "{line}: {dump}");
        }
        assert_eq!(wrong(&machine), [""; 0]);
        // Other files are imported: whose they are only the operator knows.
        machine.configure(Some(&format!("version = 2\nimports = [\"/etc/other.toml\"]\n{own}")));
        let out = machine.script("install");
        assert!(
            !out.status.success() && said(&out).contains("imports other files"),
            "{}",
            said(&out)
        );
    });
}

#[test]
fn the_manifest_is_what_kubernetes_takes() {
    use std::io::Write as _;
    let check =
        need!(program("manifest-check").map_err(|why| why.replace("sid-root", "manifest-check")));
    let text = fs::read_to_string("dist/kubernetes/erolith.yaml").unwrap();
    let decode = |text: &str| {
        let mut command = Command::new(&check);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(said(&decode(&text)), "Namespace erolith\nDaemonSet erolith\n");
    assert!(!decode(&text.replace("hostPID", "hostPids")).status.success());
    // What it runs is what the image has.
    let image = fs::read_to_string("dist/kubernetes/Dockerfile").unwrap();
    for file in image.lines().find(|line| line.starts_with("COPY ")).unwrap().split(' ').skip(2) {
        let made = file.ends_with('/') || file.starts_with("target/");
        assert!(made || Path::new(file).exists(), "{file}");
    }
}

/// Steps 1 and 2 of `docs/install.md`, where there is nothing yet.
#[test]
fn what_is_not_there_yet_is_judged_by_what_is() {
    isolated(|| {
        let dir = need!(disk());
        let missing = dir.path().join("lib/containerd").display().to_string();
        let text = succeeds(Command::new(EROLITH).args(["doctor", &missing]));
        assert!(text.starts_with("Images can be mounted here: "), "{text}");
        // The default file may be left out; others may not.
        let node = need!(Node::start_as_printed(EROLITH, Containerd::Sid));
        let out = node.run(&[EROLITH, "doctor", "--config", "/etc/erolith/config.toml"]);
        assert!(said(&out).starts_with("Not ready: "), "{}", said(&out));
        let out = node.run(&[EROLITH, "doctor", "--config", "/etc/erolith/other.toml"]);
        assert!(said(&out).contains("reading /etc/erolith/other.toml"), "{}", said(&out));
    });
}
