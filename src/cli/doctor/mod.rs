//! `erolith doctor`: what this kernel and a filesystem can do, and what to do about what is missing.

mod containerd;
mod daemon;
mod files;
mod socket;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use erolith_snapshotter::kernel::{Explanation, Feature, KernelCaps, State};
use serde_json::json;

use crate::exit;
use crate::serve::config::{Config, DEFAULT_PATH};
use crate::serve::registration::CONTAINERD_CONFIG;

/// Show what this kernel can do with EROFS images, found by trying; and whether the daemon and containerd work together.
///
/// The answer is in the first lines; what was tried, and what to do about what is missing, follows. Exits with 0 when images
/// can be mounted here, else with 1. With --config the daemon and containerd must answer too, containerd's configuration must
/// have layers, pulls and the pods of Kubernetes use the daemon, and the root must be able to hold what containers write. As
/// root everything is tried; without rights to mount most of it cannot be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory where images are kept; what is possible depends on its filesystem. One that is yet to come is judged by the
    /// nearest directory above it [default: ., or the daemon's root].
    dir: Option<PathBuf>,
    /// The daemon's configuration: look at its places, ask it, and ask containerd whether it uses it. The default file,
    /// /etc/erolith/config.toml, need not be there.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// containerd's configuration, with all that it imports.
    #[arg(long, value_name = "FILE", requires = "config", default_value = CONTAINERD_CONFIG)]
    containerd_config: PathBuf,
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

    /// Whether this, by itself, keeps containers from starting.
    fn is_in_the_way(&self) -> bool {
        self.required && self.state != state_name(State::Present)
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let named =
        |path: &Path| Config::read(Some(path).filter(|path| *path != Path::new(DEFAULT_PATH)));
    let config = args.config.as_deref().map(named).transpose()?;
    config.as_ref().map_or(Ok(()), Config::validate)?;
    let dir = match &config {
        Some(config) => &config.root,
        None => args.dir.as_deref().unwrap_or(Path::new(".")),
    };
    let caps = KernelCaps::probe(daemon::existing(dir))?;
    let rows = config.as_ref().map(|config| daemon::rows(config, &caps, &args.containerd_config));
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
    let features = rows.into_iter().map(Row::from).map(|row| {
        json!({
            "feature": row.name,
            "state": row.state,
            "evidence": row.evidence,
            "required": row.required,
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
    let table = |rows: &[Row]| rows.iter().map(|row| row_text(row, width)).collect::<String>();
    let mut text = daemon.map(daemon_verdict).unwrap_or_default();
    text.push_str(&format!("{}\n\n", verdict(caps)));
    if !daemon_rows.is_empty() {
        text.push_str(&format!("{}\n", table(daemon_rows)));
    }
    let (release, dir) = (&place.release, place.dir.display());
    text.push_str(&format!("Linux {release}, {dir} on {}\n", place.fs_type));
    text.push_str(&format!(
        "gzip is inflated by {}\n\n{}",
        erolith_differ::inflater(),
        table(&rows)
    ));
    text
}

impl From<Explanation> for Row {
    fn from(row: Explanation) -> Self {
        let Explanation { feature, state, evidence, advice } = row;
        let (name, required) = (feature.name(), feature.is_required());
        // No cause for alarm: what is lost is what the advice says.
        if state == State::Missing && !feature.is_of_use() {
            let evidence = feature.advice().to_owned();
            return Self { name, state: "unneeded", evidence, advice: None, required };
        }
        Self { name, state: state_name(state), evidence, advice, required }
    }
}

/// The answer about the daemon, in a line or two.
fn daemon_verdict(rows: &[Row]) -> String {
    let names = |wanted: &dyn Fn(&Row) -> bool| {
        let names: Vec<_> = rows.iter().filter(|row| wanted(row)).map(|row| row.name).collect();
        names.join(", ")
    };
    let missing = state_name(State::Missing);
    let remarks = names(&|row| row.state == missing && !row.required);
    let verdict = match names(&Row::is_in_the_way).as_str() {
        "" => "The daemon and containerd are ready.\n".to_owned(),
        names => format!("Not ready: {names}.\n"),
    };
    if remarks.is_empty() { verdict } else { format!("{verdict}Worth a look: {remarks}.\n") }
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
    use std::io::Write as _;

    use erolith_snapshotter::kernel::{Finding, ProbeDir};

    use super::*;

    /// A file of a test.
    pub(super) fn write(path: &Path, text: &str) {
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn place() -> ProbeDir {
        ProbeDir {
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
        assert!(text.starts_with("Images can be mounted here: "), "{text}");
        let rows: Vec<_> = text.lines().skip(5).take_while(|line| !line.is_empty()).collect();
        let column = rows[0].find("ok").unwrap();
        for row in rows {
            match row.trim_start().strip_prefix("-> ") {
                Some(advice) => assert_eq!(row.find("->"), Some(column + 10), "{advice}"),
                None => {
                    let state = row.get(column..).unwrap();
                    let states = ["ok ", "missing ", "untried ", "unneeded "];
                    assert!(states.iter().any(|s| state.starts_with(s)), "{row}");
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
    fn block_sizes_that_images_here_do_not_have_are_no_cause_for_alarm() {
        let refused = Finding { state: State::Missing, evidence: "EINVAL".into() };
        let found = [9, 13, 16].map(|bits| (Feature::Block(bits), refused.clone()));
        let caps = KernelCaps::from_parts(place(), present(&ENOUGH).into_iter().chain(found));
        let text = as_text(&caps, None);
        for name in ["erofs-block-512", "erofs-block-8k", "erofs-block-64k"] {
            let row = text.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(row.contains(" unneeded  "), "{row}");
        }
        assert!(!text.contains("EINVAL") && !text.contains("->"), "{text}");
        assert!(text.contains(" ok "), "{text}");
    }

    #[test]
    fn json_has_every_feature_and_the_verdict() {
        let value = as_json(&caps(&ENOUGH), None);
        assert!(value["daemon"].is_null());
        assert_eq!(value["can_mount"], true);
        assert_eq!(value["inflater"], erolith_differ::inflater());
        assert_eq!(value["features"][0]["feature"], "erofs");
        assert_eq!(value["features"][0]["state"], "ok");
        assert_eq!(value["features"].as_array().map(Vec::len), Some(39));
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
        let head =
            "Not ready: daemon, differ-plugin.\nWorth a look: hard-links.\nImages can be mounted";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("-> move it\n") && text.contains("-> start it\n"), "{text}");
        let verdict = daemon_verdict(&rows(true)[..3]);
        assert_eq!(verdict, "The daemon and containerd are ready.\nWorth a look: hard-links.\n");
        let value = as_json(&caps(&ENOUGH), Some(&rows(true)[..3]));
        assert_eq!(value["daemon"]["ready"], true);
        assert_eq!(value["daemon"]["checks"][1]["advice"], "move it");
        assert_eq!(value["daemon"]["checks"][2]["required"], true);
    }
}
