//! `erolith scrub`: whether the layers of a daemon are what they were when they were applied.

use std::io::Write;
use std::process::ExitCode;

use erolith_snapshotter::scrub::{Proof, Scrub, Scrubbed, Verdict};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::root::RootArgs;
use crate::exit;
use crate::json;
use crate::progress;
use crate::term::{self, Align, Quoted, Table};

/// Read every layer that the daemon has, and compare it with what it was.
///
/// The daemon may be running, or not. Layers are compared by their fs-verity digest, which was recorded when they were
/// applied; those without one by the digest of the blob whose file they share; of all others only the structure is checked.
/// The exit code is 0 when all layers are sound, and 1 otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    root: RootArgs,
    /// Quarantine damaged layers: nothing new is mounted from them, and the daemon rebuilds them from their blobs.
    #[arg(long)]
    quarantine: bool,
    /// One JSON object a layer.
    #[arg(long)]
    json: bool,
    /// No progress bar.
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let root = args.root.root()?;
    let scrub = Scrub::open(&root)?;
    let bar = progress::bytes(args.quiet || args.json, scrub.bytes());
    let layers = look(&scrub, &bar, args.quarantine);
    bar.finish_and_clear();
    let layers = layers?;
    if args.json {
        for layer in &layers {
            json::line(out, &object(layer))?;
        }
    } else {
        table(&layers, args.quarantine, out)?;
    }
    let is_sound = layers.iter().all(|layer| matches!(layer.verdict, Verdict::Sound(_)));
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

fn look(scrub: &Scrub, bar: &ProgressBar, quarantine: bool) -> anyhow::Result<Vec<Scrubbed>> {
    let mut layers = Vec::new();
    scrub.run(&mut |bytes| bar.inc(bytes), &mut |layer| {
        if let (true, Verdict::Damaged(reason)) = (quarantine, &layer.verdict) {
            scrub.quarantine(layer.id, reason)?;
        }
        layers.push(layer);
        Ok(())
    })?;
    Ok(layers)
}

/// One word for a verdict, and what is to be said of it.
fn words(verdict: &Verdict) -> (&'static str, &str) {
    match verdict {
        Verdict::Sound(Proof::Verity) => ("sound", "by fs-verity"),
        Verdict::Sound(Proof::Digest) => ("sound", "by its digest"),
        Verdict::Sound(Proof::Structure) => ("sound", "by its structure only: no digest is known"),
        Verdict::Damaged(reason) => ("DAMAGED", reason),
        Verdict::Quarantined(reason) => ("quarantined", reason),
    }
}

fn table(layers: &[Scrubbed], quarantine: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new([Align::Right, Align::Right, Align::Left, Align::Left, Align::Left]);
    table.row(["ID", "READ", "STATE", "LAYER", ""].map(str::to_owned));
    for layer in layers {
        let (state, said) = words(&layer.verdict);
        let name = Quoted(layer.name.as_bytes()).to_string();
        let (id, read) = (layer.id.to_string(), term::human(layer.bytes));
        table.row([id, read, state.to_owned(), name, said.to_owned()]);
    }
    table.write(out, 0)?;
    let count =
        |wanted: &str| layers.iter().filter(|layer| words(&layer.verdict).0 == wanted).count();
    let (damaged, quarantined) = (count("DAMAGED"), count("quarantined"));
    writeln!(
        out,
        "{} layers: {} sound, {damaged} damaged, {quarantined} quarantined before",
        layers.len(),
        count("sound")
    )?;
    match (damaged + quarantined, damaged, quarantine) {
        (0, ..) => {}
        (_, 0, _) | (.., true) => {
            writeln!(out, "the daemon rebuilds them; where it cannot, its log says what does")?
        }
        _ => writeln!(out, "--quarantine has the daemon rebuild damaged layers from their blobs")?,
    }
    Ok(())
}

fn object(layer: &Scrubbed) -> Value {
    let (state, proof, reason) = match &layer.verdict {
        Verdict::Sound(proof) => ("sound", Some(proof), None),
        Verdict::Damaged(reason) => ("damaged", None, Some(reason)),
        Verdict::Quarantined(reason) => ("quarantined", None, Some(reason)),
    };
    let proof = proof.map(|proof| match proof {
        Proof::Verity => "fs-verity",
        Proof::Digest => "digest",
        Proof::Structure => "structure",
    });
    json!({
        "id": layer.id,
        "name": layer.name,
        "path": layer.path.display().to_string(),
        "bytes": layer.bytes,
        "state": state,
        "proof": proof,
        "reason": reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<Scrubbed> {
        let verdicts = [
            Verdict::Sound(Proof::Digest),
            Verdict::Damaged("cut off".into()),
            Verdict::Quarantined("gone".into()),
        ];
        let layer = |(id, verdict)| Scrubbed {
            id,
            name: format!("k8s.io/{id}/sha256:0"),
            path: "/r/layer.erofs".into(),
            bytes: 4096,
            verdict,
        };
        (1..).zip(verdicts).map(layer).collect()
    }

    #[test]
    fn a_table_says_what_is_wrong_and_what_to_do() {
        let text = |layers: &[Scrubbed], quarantine| {
            let mut out = Vec::new();
            table(layers, quarantine, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let layers = layers();
        let all = text(&layers, false);
        assert!(
            all.contains("DAMAGED") && all.contains("cut off") && all.contains("gone"),
            "{all}"
        );
        assert!(all.contains("3 layers: 1 sound, 1 damaged, 1 quarantined before"), "{all}");
        assert!(all.contains("--quarantine"), "{all}");
        assert!(text(&layers, true).contains("the daemon rebuilds them"));
        let sound = text(layers.get(..1).unwrap(), false);
        assert!(sound.trim_end().ends_with("0 quarantined before"), "{sound}");
    }

    #[test]
    fn an_object_names_the_layer_and_the_reason() {
        let object = object(layers().get(1).unwrap());
        assert_eq!(object["state"], "damaged");
        assert_eq!((&object["id"], &object["reason"]), (&json!(2), &json!("cut off")));
        assert_eq!(object["proof"], Value::Null);
    }
}
