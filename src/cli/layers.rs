//! Layers that a command looks at, whatever they are stored as.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use erolith_differ::Result;
use erolith_differ::apply::Look;
use erolith_differ::compare::directory;
use erolith_differ::content::Blob;
use erolith_differ::decode::{Cancel, Request};
use erolith_differ::oci::{Image, Source};
use erolith_mkfs::overlay::Layer;

use crate::progress::{Count, Line};
use crate::text::Visible;

/// Opens layers. One that is met again is the same.
pub(super) struct Opener<'a> {
    look: Look,
    /// Shows which layer is read.
    line: &'a Line,
    /// By the diffIDs of the layer and of those below it, from which an archive takes attributes.
    known: BTreeMap<Vec<String>, (Blob, Arc<Layer>)>,
}

impl<'a> Opener<'a> {
    /// Archives become images without a name in the directory `scratch`.
    pub(super) fn new(scratch: &Path, cancel: &Cancel, line: &'a Line) -> Self {
        let (scratch, cancel) = (scratch.to_owned(), cancel.clone());
        let look = Look { scratch, cancel, progress: line.on_bytes() };
        Self { look, line, known: BTreeMap::new() }
    }

    fn image(&self, what: &str, from: Blob, request: Request, below: &[Blob]) -> Result<Blob> {
        self.line.step(format!("reading {what}"), Count::BytesOf(from.len()));
        self.look.image(from, request, below)
    }

    /// The layers of an image, the topmost first.
    ///
    /// # Errors
    /// What is wrong with a layer, and what the storage reports.
    pub(super) fn layers(&mut self, from: &Source, of: &Image) -> anyhow::Result<Vec<Arc<Layer>>> {
        let (mut chain, mut below, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for layer in &of.layers {
            chain.push(layer.diff_id.to_string());
            let (blob, opened) = match self.known.get(&chain) {
                Some(known) => known.clone(),
                None => {
                    let request = Request {
                        layer_type: Some(layer.layer_type),
                        blob: layer.descriptor().map(|d| (d.digest.clone(), d.size)),
                        diff_id: Some(layer.diff_id.clone()),
                        ..Request::default()
                    };
                    let name: String = layer.diff_id.hex().chars().take(12).collect();
                    let blob = self.image(&name, from.blob(layer)?, request, &below)?;
                    let opened = Layer::image(Arc::new(blob.clone()))?;
                    self.known.insert(chain.clone(), (blob.clone(), Arc::clone(&opened)));
                    (blob, opened)
                }
            };
            below.insert(0, blob);
            layers.insert(0, opened);
        }
        Ok(layers)
    }

    /// A directory, or a file that is an EROFS image or an archive.
    ///
    /// # Errors
    /// As [`Opener::layers`].
    pub(super) fn path(&self, path: &Path) -> anyhow::Result<Arc<Layer>> {
        if path.is_dir() {
            return Ok(directory(path)?);
        }
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let blob = Blob::new(Arc::new(file), 0, size);
        let name = Visible(path.file_name().unwrap_or_default().as_bytes()).to_string();
        Ok(Layer::image(Arc::new(self.image(&name, blob, Request::default(), &[])?))?)
    }
}
