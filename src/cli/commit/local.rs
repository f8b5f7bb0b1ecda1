//! A commit without containerd: an upper directory, what is below it, and files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use erolith_differ::commit::Addition;
use erolith_differ::commit::layout::{self, WrittenBlob};
use erolith_differ::compare::{self, Compare, Compared};
use erolith_differ::content::Staging as _;
use erolith_differ::decode::Cancel;
use erolith_differ::oci::{Destination, ImageSource, Location, Select};
use erolith_differ::publish::{Durability, OutputFile};
use erolith_overlay::{Marks, OverlayLayer, Stack};

use super::args::Args;
use super::options::{latest, layer_format, note, owners};
use super::show::{Committed, Made};
use crate::cli::layers::Opener;
use crate::exit::Usage;
use crate::progress::{Count, Line};

/// What the history says of a layer when no container is known.
const CREATED_BY: &str = "erolith commit";

/// The layers below, the topmost first, and the same with the upper directory.
struct Sides {
    old: Stack,
    new: Stack,
}

impl Sides {
    fn of(args: &Args, upper: &Path, lowers: Vec<Arc<OverlayLayer>>) -> anyhow::Result<Self> {
        let marks = if args.userxattr == Some(true) { Marks::User } else { Marks::Trusted };
        let old = Stack::new(lowers, marks);
        let new = old.with_upper(compare::upper(upper, args.work.as_deref())?);
        Ok(Self { old, new })
    }

    fn write(
        &self,
        compare: &Compare,
        mut file: &File,
        line: &Line,
    ) -> erolith_differ::Result<Compared> {
        line.step("writing the layer", Count::Bytes);
        compare.write(&self.old, &self.new, &mut file)
    }
}

fn compare(args: &Args, scratch: &Path, cancel: &Cancel, line: &Line) -> anyhow::Result<Compare> {
    Ok(Compare {
        source_date_epoch: latest(args)?,
        owners: owners(&args.uid_map, &args.gid_map)?,
        refuse_other_marks: args.userxattr != Some(false),
        scratch: scratch.to_owned(),
        cancel: cancel.clone(),
        progress: line.on_bytes(),
        ..Compare::new(layer_format(args.format, args.compression)?)
    })
}

/// Writes a layer to the file `output`.
///
/// # Errors
/// What is wrong with the directories and images, and what the storage reports. There is no new file then.
pub(super) fn layer(
    args: &Args,
    upper: &Path,
    output: &Path,
    cancel: &Cancel,
) -> anyhow::Result<Made> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    let scratch = parent.unwrap_or(Path::new("."));
    let line = args.line();
    let compare = compare(args, scratch, cancel, &line)?;
    let opener = Opener::new(scratch, cancel, &line);
    let lower = |path: &PathBuf| opener.path(path).with_context(|| path.display().to_string());
    let lowers = args.lower.iter().map(lower).collect::<anyhow::Result<_>>()?;
    let sides = Sides::of(args, upper, lowers)?;
    let file = OutputFile::create(output, 0o666)?;
    let compared = sides.write(&compare, file.file(), &line)?;
    file.publish(Durability::Synced)?;
    let path = output.to_owned();
    Ok(Made::Layer { path, media_type: compare.format.media_type(), compared })
}

/// Makes an image of the one at `base` and what is in the upper directory, at `destination`.
///
/// # Errors
/// As [`layer`], and what is wrong with the image below. The destination then shows what it showed before.
pub(super) fn image(
    args: &Args,
    upper: &Path,
    base: &Location,
    destination: &Location,
    cancel: &Cancel,
) -> anyhow::Result<Made> {
    let scratch = destination.path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let line = args.line();
    let compare = compare(args, scratch, cancel, &line)?;
    let source = ImageSource::open(base, &Select::default(), scratch)
        .with_context(|| format!("the image below, {base}"))?;
    let [below] = source.images.as_slice() else {
        return Err(Usage(format!("{base} is not a single image")).into());
    };
    let lowers = Opener::new(scratch, cancel, &line).layers(&source, below);
    let lowers = lowers.with_context(|| format!("the image below, {base}"))?;
    let lowers = lowers.into_iter().map(|(_, layer)| layer).collect();
    let sides = Sides::of(args, upper, lowers)?;
    let media_type = compare.format.media_type();
    let note = note(args, compare.source_date_epoch, CREATED_BY.to_owned());
    let addition = Addition { changes: &args.change, note: &note, cancel };
    let target =
        Destination::open(destination).with_context(|| format!("destination {destination}"))?;
    line.step("copying the layers below", Count::Nothing);
    let (added, base_digest) =
        layout::commit(&source, target, &addition, &media_type, |staging| {
            let compared = sides.write(&compare, staging.file(), &line)?;
            line.step("storing the image", Count::Nothing);
            let Compared { digest, size, diff_id, .. } = compared;
            Ok(WrittenBlob { digest, size, diff_id })
        })?;
    Ok(Made::Image(Box::new(Committed {
        image: destination.to_string(),
        manifest: added.manifest.digest,
        config: added.config,
        layer: added.layer,
        base: Some((base.to_string(), base_digest)),
    })))
}
