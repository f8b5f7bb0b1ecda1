//! `erolith doctor`: what this kernel and a filesystem can do, and what to do about what is missing.

mod daemon;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use erolith_snapshotter::kernel::{Explanation, Feature, KernelCaps, State};
use serde_json::json;

use crate::exit;
use crate::serve::config::Config;

/// Show what this kernel can do with EROFS images, found by trying; and whether the daemon and containerd work together.
///
/// Exits with 0 when images can be mounted here, else with 1. With --config the daemon and containerd must answer too, and
/// the root must be able to hold what containers write. As root everything is tried; without rights to mount most of it
/// cannot be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory where images are kept; what is possible depends on its filesystem [default: ., or the daemon's root].
    dir: Option<PathBuf>,
    /// The daemon's configuration: look at its places, ask it, and ask containerd whether it knows it.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Something about the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: &'static str,
    /// As those of features.
    state: &'static str,
    evidence: String,
    advice: Option<&'static str>,
    required: bool,
}

impl Row {
    /// Found to be as it should, or not; then `advice` helps.
    fn found(name: &'static str, ok: bool, evidence: String, advice: &'static str) -> Self {
        let state = state_name(if ok { State::Present } else { State::Missing });
        Self { name, state, evidence, advice: (!ok).then_some(advice), required: false }
    }

    fn untried(name: &'static str, evidence: &str) -> Self {
        let (state, evidence) = (state_name(State::Untried), evidence.to_owned());
        Self { name, state, evidence, advice: None, required: false }
    }

    fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Is this, by itself, a reason why containers cannot start?
    fn is_in_the_way(&self) -> bool {
        self.required && self.state != state_name(State::Present)
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().map(|path| Config::read(Some(path))).transpose()?;
    config.as_ref().map_or(Ok(()), Config::validate)?;
    let dir = match &config {
        Some(config) => daemon::existing(&config.root).to_owned(),
        None => args.dir.clone().unwrap_or_else(|| ".".into()),
    };
    let caps = KernelCaps::probe(&dir)?;
    let rows = config.as_ref().map(|config| daemon::rows(config, &caps));
    if args.json {
        writeln!(out, "{}", as_json(&caps, rows.as_deref()))?;
    } else {
        out.write_all(as_text(&caps, rows.as_deref()).as_bytes())?;
    }
    let ok = caps.can_mount() && !rows.iter().flatten().any(Row::is_in_the_way);
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn as_json(caps: &KernelCaps, daemon: Option<&[Row]>) -> serde_json::Value {
    let rows = caps.explain();
    let features = rows.iter().map(|row| {
        json!({
            "feature": row.feature.name(),
            "state": state_name(row.state),
            "evidence": row.evidence,
            "required": row.feature.is_required(),
            "advice": row.advice,
        })
    });
    let daemon = daemon.map(|rows| {
        let ready = caps.can_mount() && !rows.iter().any(Row::is_in_the_way);
        let checks = rows.iter().map(|row| {
            let Row { name, state, evidence, advice, required } = row;
            json!({
                "check": name,
                "state": state,
                "evidence": evidence,
                "required": required,
                "advice": advice,
            })
        });
        json!({ "ready": ready, "checks": checks.collect::<Vec<_>>() })
    });
    json!({
        "kernel": caps.place().release,
        "directory": caps.place().dir.to_string_lossy(),
        "filesystem": caps.place().fs_type,
        "inflater": erolith_differ::inflater(),
        "can_mount": caps.can_mount(),
        "features": features.collect::<Vec<_>>(),
        "daemon": daemon,
    })
}

fn as_text(caps: &KernelCaps, daemon: Option<&[Row]>) -> String {
    let place = caps.place();
    let rows: Vec<_> = caps.explain().into_iter().map(Row::from).collect();
    let daemon_rows = daemon.unwrap_or_default();
    let width = rows.iter().chain(daemon_rows).map(|row| row.name.len()).max().unwrap_or(0);
    let dir = place.dir.display();
    let mut text = format!("Linux {}, {dir} on {}\n", place.release, place.fs_type);
    text.push_str(&format!("gzip is inflated by {}\n\n", erolith_differ::inflater()));
    for row in &rows {
        text.push_str(&row_text(row, width));
    }
    text.push('\n');
    text.push_str(&verdict(caps));
    text.push('\n');
    if let Some(rows) = daemon {
        text.push('\n');
        rows.iter().for_each(|row| text.push_str(&row_text(row, width)));
        text.push('\n');
        text.push_str(&daemon_verdict(rows));
        text.push('\n');
    }
    text
}

impl From<Explanation> for Row {
    fn from(row: Explanation) -> Self {
        let Explanation { feature, state, evidence, advice } = row;
        let (name, required) = (feature.name(), feature.is_required());
        Self { name, state: state_name(state), evidence, advice, required }
    }
}

/// The answer about the daemon in one line.
fn daemon_verdict(rows: &[Row]) -> String {
    let names: Vec<_> = rows.iter().filter(|row| row.is_in_the_way()).map(|row| row.name).collect();
    match names.as_slice() {
        [] => "The daemon and containerd are ready.".to_owned(),
        names => format!("Not ready: {}.", names.join(", ")),
    }
}

fn row_text(row: &Row, width: usize) -> String {
    let Row { name, state, evidence, .. } = row;
    let mut text = format!("{name:width$}  {state:8}  {evidence}\n");
    if let Some(advice) = row.advice {
        // Under the evidence: behind the name, the state and the two gaps.
        text.push_str(&format!("{:indent$}-> {advice}\n", "", indent = width + 12));
    }
    text
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Present => "ok",
        State::Missing => "missing",
        State::Denied => "denied",
        State::Untried => "untried",
    }
}

/// The answer in one line.
fn verdict(caps: &KernelCaps) -> String {
    if !caps.can_mount() {
        let missing = caps.explain().into_iter().filter(|row| {
            row.state != State::Present && (row.feature.is_required() || is_way(caps, row.feature))
        });
        let names: Vec<_> = missing.map(|row| row.feature.name()).collect();
        return format!("Images cannot be mounted here: {}.", names.join(", "));
    }
    let images = match caps.has(Feature::FileBacked) {
        true => "straight from their files",
        false => "through loop devices",
    };
    let layers = match caps.has(Feature::DetachedLayers) {
        true => "as detached mounts",
        false => "in a short-lived mount namespace",
    };
    format!("Images can be mounted here: {images}, layers joined {layers}.")
}

/// Whether `feature` is one of the two ways to an image while neither is there.
fn is_way(caps: &KernelCaps, feature: Feature) -> bool {
    let ways = [Feature::FileBacked, Feature::Loop];
    ways.contains(&feature) && !ways.iter().any(|&way| caps.has(way))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use erolith_snapshotter::kernel::{Finding, Place};

    use super::*;

    fn place() -> Place {
        Place {
            release: "6.1.0".to_owned(),
            dir: Path::new("/images").to_owned(),
            fs_type: "ext4".to_owned(),
        }
    }

    fn present(features: &[Feature]) -> Vec<(Feature, Finding)> {
        let found = |&f: &Feature| (f, Finding { state: State::Present, evidence: "did".into() });
        features.iter().map(found).collect()
    }

    fn caps(features: &[Feature]) -> KernelCaps {
        KernelCaps::from_parts(place(), present(features))
    }

    const ENOUGH: [Feature; 4] =
        [Feature::Erofs, Feature::Overlay, Feature::Block(12), Feature::Loop];

    #[test]
    fn columns_align_and_what_is_missing_comes_with_advice() {
        let mut found = present(&ENOUGH);
        let evidence = "EOPNOTSUPP".to_owned();
        found.push((Feature::Lz4, Finding { state: State::Missing, evidence }));
        let text = as_text(&KernelCaps::from_parts(place(), found), None);
        let rows: Vec<_> = text.lines().skip(3).take_while(|line| !line.is_empty()).collect();
        let column = rows[0].find("ok").unwrap();
        for row in rows {
            match row.trim_start().strip_prefix("-> ") {
                Some(advice) => assert_eq!(row.find("->"), Some(column + 10), "{advice}"),
                None => {
                    let state = row.get(column..).unwrap();
                    assert!(["ok ", "missing ", "untried "].iter().any(|s| state.starts_with(s)));
                }
            }
        }
        assert!(text.contains("missing   EOPNOTSUPP\n"));
        assert!(text.contains("untried   not tried\n"));
    }

    #[test]
    fn the_verdict_names_the_way_or_what_is_missing() {
        assert!(verdict(&caps(&ENOUGH)).contains("through loop devices"));
        let none = verdict(&caps(&ENOUGH[..2]));
        assert!(none.ends_with(": erofs-file-backed, erofs-block-4k, loop."), "{none}");
    }

    #[test]
    fn json_has_every_feature_and_the_verdict() {
        let value = as_json(&caps(&ENOUGH), None);
        assert!(value["daemon"].is_null());
        assert_eq!(value["can_mount"], true);
        assert_eq!(value["inflater"], erolith_differ::inflater());
        assert_eq!(value["features"][0]["feature"], "erofs");
        assert_eq!(value["features"][0]["state"], "ok");
        assert_eq!(value["features"].as_array().map(Vec::len), Some(38));
    }

    #[test]
    fn the_daemon_has_a_table_and_a_verdict_of_its_own() {
        let rows = |ok| {
            vec![
                Row::found("root", true, "/r".into(), ""),
                Row::found("hard-links", false, "another".into(), "move it"),
                Row::found("daemon", ok, "answer".into(), "start it").required(),
                Row::untried("differ-plugin", "nobody").required(),
            ]
        };
        let text = as_text(&caps(&ENOUGH), Some(&rows(false)));
        assert!(text.ends_with("\nNot ready: daemon, differ-plugin.\n"), "{text}");
        assert!(text.contains("-> move it\n") && text.contains("-> start it\n"), "{text}");
        assert_eq!(daemon_verdict(&rows(true)[..3]), "The daemon and containerd are ready.");
        let value = as_json(&caps(&ENOUGH), Some(&rows(true)[..3]));
        assert_eq!(value["daemon"]["ready"], true);
        assert_eq!(value["daemon"]["checks"][1]["advice"], "move it");
        assert_eq!(value["daemon"]["checks"][2]["required"], true);
    }
}
