//! What was converted before, remembered beside the blobs of a layout: `.erolith/layers/<key>`.
//!
//! A record is a hint. The blob it names is read and verified before it is used, and one that is gone or damaged is
//! made anew.

use erolith_durable::fault;
use erolith_verity::dmverity::DmVerityTree;
use serde_json::{Map, Value, json};

use super::Options;
use crate::apply::{self, Output, Protect, StoredImage, dm_verity, fsverity};
use crate::content::{Dir, OciLayout, Provider};
use crate::decode::Cancel;
use crate::{Digest, Error, Result};

/// Changes whenever the same layer gives other bytes.
const FORMAT: u32 = 2;
const LIMIT: u64 = 4096;

/// The names under which a layer may be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// For an image that depends on nothing but its layer.
    layer: String,
    /// For one that also depends on the layers below.
    chain: String,
}

impl Keys {
    /// For the top one of the layers with these diffIDs, lowest first.
    /// `protect` has what the top layer came with.
    /// `build` is the form of the build options that [`build_form`] gives.
    pub(super) fn new(chain: &[Digest], protect: &Protect, options: &Options, build: &str) -> Self {
        let output = match options.output {
            Output::Raw => "raw".to_owned(),
            Output::Zstd { level, .. } => format!("zstd {level}"),
        };
        let version = env!("CARGO_PKG_VERSION");
        let base = chain.len() == 1;
        let mut how = format!("{FORMAT}\n{version}\n{output}\n{build}\nbase {base}\n");
        if options.dm_verity {
            how.push_str("dm-verity\n");
        }
        if let Some(DmVerityTree { root, hash_offset, block_size }) = protect.promised {
            how.push_str(&format!("dm-verity {root} {hash_offset} {block_size}\n"));
        }
        if protect.is_digest_wanted {
            how.push_str("fs-verity\n");
        }
        if let Some(digest) = protect.digest {
            how.push_str(&format!("fs-verity {digest}\n"));
        }
        let names: Vec<String> = chain.iter().map(Digest::to_string).collect();
        let top = names.last().cloned().unwrap_or_default();
        let key = |kind, what: &str| Digest::of(format!("{how}{kind} {what}").as_bytes());
        Self {
            layer: key("layer", &top).hex().to_owned(),
            chain: key("chain", &names.join(" ")).hex().to_owned(),
        }
    }
}

/// The build options as part of a key: every option by its name, so that the form changes with the options alone.
pub(super) fn build_form(options: &Options) -> Result<String> {
    let form = serde_json::to_string(&options.build);
    form.map_err(|error| Error::io("describing the build options")(error.into()))
}

fn dir(layout: &OciLayout) -> Result<Dir> {
    layout.root().create_dir(".erolith")?.create_dir("layers")
}

/// The image that an earlier conversion made of this layer, and whether it depends on the layers below.
pub(super) fn find(
    layout: &OciLayout,
    keys: &Keys,
    output: Output,
    cancel: &Cancel,
) -> Result<Option<(StoredImage, bool)>> {
    if !layout.is_durable() {
        return Ok(None);
    }
    let dir = dir(layout)?;
    for (key, inherits) in [(&keys.layer, false), (&keys.chain, true)] {
        let Some(sealed) = dir.read(key, LIMIT)?.and_then(|bytes| parse(&bytes)) else { continue };
        let Ok(blob) = layout.open(&sealed.digest) else { continue };
        match apply::verify(&blob, &sealed, output, cancel) {
            Ok(()) => return Ok(Some((sealed, inherits))),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Remembers an image that is durable.
pub(super) fn keep(
    layout: &OciLayout,
    keys: &Keys,
    inherits: bool,
    sealed: &StoredImage,
) -> Result<()> {
    if !layout.is_durable() {
        return Ok(());
    }
    let step = |point| fault::point(point).map_err(Error::io("remembering a layer"));
    step("convert.before_record")?;
    let key = if inherits { &keys.chain } else { &keys.layer };
    let tree = sealed.verity.as_ref().map(dm_verity::to_annotations).into_iter().flatten();
    let digest = sealed.fsverity.map(|digest| (fsverity::ANNOTATION, digest.to_string()));
    let said: Map<String, Value> =
        tree.chain(digest).map(|(key, value)| (key.into(), value.into())).collect();
    let record = json!({
        "digest": sealed.digest.to_string(),
        "size": sealed.size,
        "diffId": sealed.diff_id.to_string(),
        "annotations": said,
    });
    layout.replace_in(&dir(layout)?, key, record.to_string().as_bytes())?;
    step("convert.after_record")
}

fn parse(bytes: &[u8]) -> Option<StoredImage> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let digest = |key| value.get(key).and_then(Value::as_str)?.parse().ok();
    let annotation = |key: &str| value.get("annotations")?.get(key)?.as_str();
    Some(StoredImage {
        digest: digest("digest")?,
        size: value.get("size")?.as_u64()?,
        diff_id: digest("diffId")?,
        verity: dm_verity::from_annotations(annotation).ok()?,
        fsverity: fsverity::from_annotations(annotation).ok()?,
    })
}
