//! `erolith doctor --config` on a node with a real containerd.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;

use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, isolated};
use serde_json::Value;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");

/// Exit code, what is said of the daemon as a whole, and the states by check.
fn doctor(node: &Node) -> (Option<i32>, Value, BTreeMap<String, String>) {
    let config = node.place().join("e/erolith.toml").display().to_string();
    let out = node.run(&[EROLITH, "doctor", "--json", "--config", &config]);
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
            // These nodes have no mkfs.ext4, and limits are not asked for.
            let needed = states.iter().filter(|(check, _)| *check != "size-limits");
            assert!(needed.map(|(_, state)| state).all(|state| state == "ok"), "{daemon:#}");
            assert_eq!((code, &daemon["ready"]), (Some(0), &Value::Bool(true)));
            if containerd == Containerd::Sid {
                assert!(daemon.to_string().contains("capabilities: rebase"), "{daemon:#}");
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
        let config = node.place().join("e/erolith.toml").display().to_string();
        let other = node.place().join("other.toml").display().to_string();
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.replace("/run/e\"", "/var/run-e\"").replace("c/sock\"", "c/nobody\"");
        std::fs::write(&other, text).unwrap();
        let out = node.run(&[EROLITH, "doctor", "--config", &other]);
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        let end = out.lines().last().unwrap();
        assert_eq!(end, "Not ready: containerd, snapshotter-plugin, differ-plugin.", "{out}");
        assert!(out.contains("-> keep it on a tmpfs"), "{out}");
    });
}
