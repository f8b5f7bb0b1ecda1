//! The new image, for people and for machines.

use std::io::Write;
use std::path::PathBuf;

use erolith_differ::Digest;
use erolith_differ::commit::CommittedLayer;
use erolith_differ::compare::Compared;

/// What was made.
pub(super) enum Made {
    /// An image.
    Image(Box<Committed>),
    /// A layer in a file.
    Layer { path: PathBuf, media_type: String, compared: Compared },
}

impl Made {
    /// A few lines.
    pub(super) fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            Self::Image(committed) => text(committed, out),
            Self::Layer { path, compared, .. } => {
                let Compared { digest, size, entries, .. } = compared;
                let path = path.display();
                Ok(writeln!(out, "{path}  {digest}, {size} bytes, {entries} entries")?)
            }
        }
    }

    /// One object.
    pub(super) fn print_json(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let object = match self {
            Self::Image(committed) => json(committed),
            Self::Layer { path, media_type, compared } => serde_json::json!({
                "path": path.to_string_lossy(),
                "media_type": media_type,
                "digest": compared.digest.to_string(),
                "size": compared.size,
                "diff_id": compared.diff_id.to_string(),
                "entries": compared.entries,
            }),
        };
        Ok(writeln!(out, "{object}")?)
    }
}

/// An image that was committed.
pub(super) struct Committed {
    /// The name of the image, or where it is.
    pub(super) image: String,
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) layer: CommittedLayer,
    /// Name and manifest of the image below.
    pub(super) base: Option<(String, Digest)>,
}

fn text(committed: &Committed, out: &mut dyn Write) -> anyhow::Result<()> {
    let Committed { image, manifest, layer, base, .. } = committed;
    let descriptor = &layer.descriptor;
    writeln!(out, "{image}  {manifest}")?;
    writeln!(out, "  layer {}, {} bytes", descriptor.digest, descriptor.size)?;
    if let Some((name, digest)) = base {
        writeln!(out, "  on    {digest}, {name}")?;
    }
    Ok(())
}

fn json(committed: &Committed) -> serde_json::Value {
    let Committed { image, manifest, config, layer, base } = committed;
    let descriptor = &layer.descriptor;
    let base = base
        .as_ref()
        .map(|(name, digest)| serde_json::json!({ "name": name, "manifest": digest.to_string() }));
    serde_json::json!({
        "image": image,
        "manifest": manifest.to_string(),
        "config": config.to_string(),
        "layer": {
            "media_type": descriptor.media_type,
            "digest": descriptor.digest.to_string(),
            "size": descriptor.size,
            "diff_id": layer.diff_id.to_string(),
        },
        "base": base,
    })
}
