//! What is measured, what the documentation says is, and what the dashboard asks for.

use std::collections::{BTreeMap, BTreeSet};

use super::diff::{TAR, describe, layer};
use super::*;
use crate::proto::diff::DiffRequest;

/// What is exposed after a call of each kind.
async fn exposed() -> String {
    let node = Node::with(|config| config.differ.keep_images = true).await;
    let data = layer();
    node.containerd.put(&data);
    let mounts = node.prepare("layer").await;
    node.apply(&describe(&data, TAR), &mounts).await.unwrap();
    let (left, right) = node.changed().await;
    node.compare(DiffRequest { left, right, ..Default::default() }).await.unwrap();
    node.stat("absent").await.unwrap_err();
    node.daemon.diff.settled().await;
    // A layer loses its image, and gets it again.
    let service = &node.daemon.snapshotter;
    service.commit("default/1/layer", "layer", "", &BTreeMap::new()).unwrap();
    let id = service.store().snapshot("default/1/layer").unwrap().id;
    let image = node.dir.path().join(format!("root/snapshots/{id}/layer.erofs"));
    std::fs::remove_file(&image).unwrap();
    service.store().set_damaged(id, "on purpose").unwrap();
    assert_eq!(node.daemon.diff.heal(id).await, crate::serve::diff::Outcome::Whole);
    assert!(service.store().damaged().unwrap().is_empty() && image.is_file());
    node.daemon.metrics.disk_used(service.disk_use().unwrap());
    node.daemon.clone().text().await.unwrap()
}

fn words(text: &str) -> BTreeSet<&str> {
    let part = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let words = text.split(part);
    words.filter(|word| word.starts_with("erolith_") && *word != "erolith_").collect()
}

/// `Some(name)` for each metric: as it is declared, with `_total` behind counters, as Prometheus stores it.
fn declared(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_documented_is_measured_and_the_other_way_round() {
    let text = exposed().await;
    let documented = include_str!("../../../docs/metrics.md");
    let documented: BTreeSet<_> = words(documented).into_iter().map(str::to_owned).collect();
    assert_eq!(declared(&text), documented, "\n{text}");
    // Nothing is declared that no call moves.
    for name in &documented {
        let samples = text.lines().filter(|line| line.starts_with(name.as_str()));
        assert!(samples.count() > 0, "{name} has no sample in\n{text}");
    }
    for label in [
        r#"how="converted""#,
        r#"stage="wait""#,
        r#"stage="read""#,
        r#"stage="build""#,
        r#"stage="publish""#,
        r#"result="kept""#,
        r#"code="NotFound""#,
        r#"kind="active""#,
        r#"result="healed""#,
        r#"of="layers""#,
    ] {
        assert!(text.contains(label), "{label} is missing in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_asks_for_what_there_is() {
    let dashboard = include_str!("../../../dist/grafana.json");
    serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
    let text = exposed().await;
    let there: BTreeSet<_> =
        text.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let asked = words(dashboard);
    assert!(asked.len() >= 8, "{asked:?}");
    for name in asked {
        assert!(there.contains(name), "{name} is asked for, and not in\n{text}");
    }
}
