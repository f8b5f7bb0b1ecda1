//! The new image, for people and for machines.

use std::io::Write;

use erolith_differ::Digest;
use erolith_differ::commit::Layer;

/// What was committed.
pub(super) struct Committed {
    /// The name of the image.
    pub(super) image: String,
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) layer: Layer,
    /// Name and manifest of the image below.
    pub(super) base: Option<(String, Digest)>,
}

/// A few lines.
pub(super) fn text(committed: &Committed, out: &mut dyn Write) -> anyhow::Result<()> {
    let Committed { image, manifest, layer, base, .. } = committed;
    let descriptor = &layer.descriptor;
    writeln!(out, "{image}  {manifest}")?;
    writeln!(out, "  layer {}, {} bytes", descriptor.digest, descriptor.size)?;
    if let Some((name, digest)) = base {
        writeln!(out, "  on    {digest}, {name}")?;
    }
    Ok(())
}

/// One object.
pub(super) fn json(committed: &Committed, out: &mut dyn Write) -> anyhow::Result<()> {
    let Committed { image, manifest, config, layer, base } = committed;
    let descriptor = &layer.descriptor;
    let base = base
        .as_ref()
        .map(|(name, digest)| serde_json::json!({ "name": name, "manifest": digest.to_string() }));
    let object = serde_json::json!({
        "image": image,
        "manifest": manifest.to_string(),
        "config": config.to_string(),
        "layer": {
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest.to_string(),
            "size": descriptor.size,
            "diffId": layer.diff_id.to_string(),
        },
        "base": base,
    });
    Ok(writeln!(out, "{object}")?)
}
