//! One side of a comparison, as the user names it, and what it is made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use erolith_differ::apply::Look;
use erolith_differ::content::Blob;
use erolith_differ::decode::{Cancel, OnBytes, Request};
use erolith_differ::oci::{Location, Select, Source};
use erolith_mkfs::image::Image;
use erolith_mkfs::io::ReadAt;
use erolith_mkfs::overlay::{Layer, Marks, Stack};

use crate::cli::snapshots::client::Client;
use crate::exit::BadInput;
use crate::serve::config::Config;
use crate::serve::diff::compare::{Opened, open_dir};
use crate::serve::diff::stack::{Places, Top};
use crate::serve::snapshots::from_mounts;

/// A tree as it is named on the command line.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// A whole image.
    Image(Location),
    /// An EROFS image, an archive, or a directory.
    Path(PathBuf),
}

impl FromStr for Side {
    type Err = erolith_differ::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_location = ["oci:", "oci-archive:", "docker-archive:"]
            .iter()
            .any(|transport| text.starts_with(transport));
        Ok(if is_location { Self::Image(text.parse()?) } else { Self::Path(text.into()) })
    }
}

/// Opens trees. A layer that is met again is the same one.
pub(super) struct Opener<'a> {
    look: Look,
    select: &'a Select,
    /// By the diffIDs of the layer and of those below it, from which an archive takes attributes.
    known: BTreeMap<Vec<String>, (Blob, Arc<Layer>)>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(scratch: &Path, select: &'a Select, cancel: &Cancel) -> Self {
        let (scratch, cancel) = (scratch.to_owned(), cancel.clone());
        let look = Look { scratch, cancel, progress: OnBytes::default() };
        Self { look, select, known: BTreeMap::new() }
    }

    pub(super) fn open(&mut self, side: &Side) -> anyhow::Result<Stack> {
        match side {
            Side::Image(location) => self.image(location).with_context(|| location.to_string()),
            Side::Path(path) => self.path(path).with_context(|| path.display().to_string()),
        }
    }

    fn image(&mut self, location: &Location) -> anyhow::Result<Stack> {
        let source = Source::open(location, self.select, &self.look.scratch)?;
        let [image] = source.images.as_slice() else {
            let text = format!("{} images; name one with --platform", source.images.len());
            return Err(BadInput(text).into());
        };
        let (mut chain, mut below, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for layer in &image.layers {
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
                    let image = self.look.image(source.blob(layer)?, request, &below)?;
                    let opened = as_layer(image.clone())?;
                    self.known.insert(chain.clone(), (image.clone(), Arc::clone(&opened)));
                    (image, opened)
                }
            };
            below.insert(0, blob);
            layers.insert(0, opened);
        }
        Ok(Stack::new(layers, Marks::Trusted))
    }

    fn path(&self, path: &Path) -> anyhow::Result<Stack> {
        let layer = if path.is_dir() {
            open_dir(path)?
        } else {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            as_layer(self.look.image(
                Blob::new(Arc::new(file), 0, size),
                Request::default(),
                &[],
            )?)?
        };
        Ok(Stack::new(vec![layer], Marks::Trusted))
    }
}

fn as_layer(image: Blob) -> anyhow::Result<Arc<Layer>> {
    let image: Arc<dyn ReadAt> = Arc::new(image);
    Ok(Layer::image(Image::open(image, Vec::new())?))
}

/// The parents of an active snapshot, and the same with what was written into it.
pub(super) fn of_snapshot(key: &str, address: Option<&Path>) -> anyhow::Result<(Stack, Stack)> {
    let default = Config::default().address;
    let mounts = Client::connect(address.unwrap_or(&default))?.details(key)?.mounts;
    let unknown = || BadInput(format!("{key}: not an active snapshot"));
    let mut stack = Places::default().stack(&from_mounts(mounts)).ok_or_else(unknown)?;
    let top = stack.top.take();
    let lowers = Opened::default().lowers(&stack)?;
    match top {
        Some(Top::Dir(upper) | Top::Ours(upper)) => {
            let all = lowers.with_upper(open_dir(&upper)?);
            Ok((lowers, all))
        }
        // Without a parent, what is mounted is the upper directory itself.
        None => Ok((Stack::default(), lowers)),
    }
}
