//! `erolith doctor`: what this kernel and a filesystem can do, and what to do about what is missing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use erolith_snapshotter::kernel::{Explanation, Feature, KernelCaps, State};
use serde_json::json;

use crate::exit;

/// Show what this kernel can do with EROFS images, found by trying.
///
/// Exits with 0 when images can be mounted here, else with 1. As root everything is tried; without rights to
/// mount most of it cannot be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory where images are kept; what is possible depends on its filesystem.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let caps = KernelCaps::probe(&args.dir)?;
    if args.json {
        writeln!(out, "{}", as_json(&caps))?;
    } else {
        out.write_all(as_text(&caps).as_bytes())?;
    }
    Ok(if caps.can_mount() { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn as_json(caps: &KernelCaps) -> serde_json::Value {
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
    json!({
        "kernel": caps.place().release,
        "directory": caps.place().dir.to_string_lossy(),
        "filesystem": caps.place().fs_type,
        "canMount": caps.can_mount(),
        "features": features.collect::<Vec<_>>(),
    })
}

fn as_text(caps: &KernelCaps) -> String {
    let place = caps.place();
    let rows = caps.explain();
    let width = rows.iter().map(|row| row.feature.name().len()).max().unwrap_or(0);
    let dir = place.dir.display();
    let mut text = format!("Linux {}, {dir} on {}\n\n", place.release, place.fs_type);
    for row in &rows {
        text.push_str(&row_text(row, width));
    }
    text.push('\n');
    text.push_str(&verdict(caps));
    text.push('\n');
    text
}

fn row_text(row: &Explanation, width: usize) -> String {
    let (name, state) = (row.feature.name(), state_name(row.state));
    let mut text = format!("{name:width$}  {state:8}  {}\n", row.evidence);
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
        let text = as_text(&KernelCaps::from_parts(place(), found));
        let rows: Vec<_> = text.lines().skip(2).take_while(|line| !line.is_empty()).collect();
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
        let value = as_json(&caps(&ENOUGH));
        assert_eq!(value["canMount"], true);
        assert_eq!(value["features"][0]["feature"], "erofs");
        assert_eq!(value["features"][0]["state"], "ok");
        assert_eq!(value["features"].as_array().map(Vec::len), Some(34));
    }
}
