//! Layers that a command looks at, whatever they are stored as.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use erolith_differ::apply::LayerOpener;
use erolith_differ::compare::directory;
use erolith_differ::content::Blob;
use erolith_differ::decode::{Cancel, Request};
use erolith_differ::oci::{ImageLayer, ImageSource, OciImage};
use erolith_differ::{LayerType, Result};
use erolith_overlay::OverlayLayer;

use crate::exit::BadInput;
use crate::progress::{Count, Line};
use crate::term::Visible;

/// Opens layers. One that is met again is the same.
pub(crate) struct Opener<'a> {
    look: LayerOpener,
    /// Shows which layer is read.
    line: &'a Line,
    /// By the diffIDs of the layer and of those below it, from which an archive takes attributes.
    known: BTreeMap<Vec<String>, OpenLayer>,
}

/// The image of a layer, twice: as bytes, and as a part of a stack.
pub(crate) type OpenLayer = (Blob, Arc<OverlayLayer>);

impl<'a> Opener<'a> {
    /// Archives become images without a name in the directory `scratch`.
    pub(crate) fn new(scratch: &Path, cancel: &Cancel, line: &'a Line) -> Self {
        let (scratch, cancel) = (scratch.to_owned(), cancel.clone());
        let look = LayerOpener { scratch, cancel, progress: line.on_bytes() };
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
    pub(crate) fn layers(
        &mut self,
        from: &ImageSource,
        of: &OciImage,
    ) -> anyhow::Result<Vec<OpenLayer>> {
        self.chain(from, of, of.layers.len())
    }

    /// One layer of an image; 0 is the lowest. An archive takes attributes from the layers below, so these are opened first.
    ///
    /// # Errors
    /// As [`Opener::layers`].
    pub(crate) fn layer(
        &mut self,
        from: &ImageSource,
        of: &OciImage,
        index: usize,
    ) -> anyhow::Result<OpenLayer> {
        let missing = || BadInput(format!("there is no layer {index}"));
        let layer = of.layers.get(index).ok_or_else(missing)?;
        if matches!(layer.layer_type, LayerType::Erofs { .. }) {
            return self.open(from, index, layer, &[]);
        }
        let layers = self.chain(from, of, index + 1)?;
        Ok(layers.into_iter().next().ok_or_else(missing)?)
    }

    /// So many of the lowest layers, the topmost first.
    fn chain(
        &mut self,
        from: &ImageSource,
        of: &OciImage,
        count: usize,
    ) -> anyhow::Result<Vec<OpenLayer>> {
        let (mut chain, mut below, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for (index, layer) in of.layers.iter().enumerate().take(count) {
            chain.push(layer.diff_id.to_string());
            let opened = match self.known.get(&chain) {
                Some(known) => known.clone(),
                None => {
                    let opened = self.open(from, index, layer, &below)?;
                    self.known.insert(chain.clone(), opened.clone());
                    opened
                }
            };
            below.insert(0, opened.0.clone());
            layers.insert(0, opened);
        }
        Ok(layers)
    }

    fn open(
        &self,
        from: &ImageSource,
        index: usize,
        layer: &ImageLayer,
        below: &[Blob],
    ) -> anyhow::Result<OpenLayer> {
        let request = Request {
            layer_type: Some(layer.layer_type),
            blob: layer.descriptor().map(|d| (d.digest.clone(), d.size)),
            diff_id: Some(layer.diff_id.clone()),
            ..Request::default()
        };
        let short: String = layer.diff_id.hex().chars().take(12).collect();
        let image = from.blob(layer).and_then(|blob| self.image(&short, blob, request, below));
        let blob = image.map_err(|source| {
            let name = layer.descriptor().map_or(&layer.diff_id, |d| &d.digest).clone();
            erolith_differ::Error::InLayer { index, name, source: Box::new(source) }
        })?;
        let opened = OverlayLayer::image(Arc::new(blob.clone()))?;
        Ok((blob, opened))
    }

    /// A directory, or a file that is an EROFS image or an archive.
    ///
    /// # Errors
    /// As [`Opener::layers`].
    pub(crate) fn path(&self, path: &Path) -> anyhow::Result<Arc<OverlayLayer>> {
        if path.is_dir() {
            return Ok(directory(path)?);
        }
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let blob = Blob::new(Arc::new(file), 0, size);
        let name = Visible(path.file_name().unwrap_or_default().as_bytes()).to_string();
        Ok(OverlayLayer::image(Arc::new(self.image(&name, blob, Request::default(), &[])?))?)
    }
}
