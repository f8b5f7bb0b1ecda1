//! The images of the parent layers, for the attributes of directories that a layer does not describe itself.

use std::cell::RefCell;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use erolith_mkfs::image::{Image, Inode};
use erolith_mkfs::marks::{self, Marks};
use erolith_mkfs::tree::{LowerDir, LowerTree};

use crate::content::LocalBlob;
use crate::error::LayerError;
use crate::{Error, Result};

/// The layers below, to be asked for when it turns out that they matter.
pub trait ParentImages {
    /// The images of the layers below, the nearest first. May wait for them.
    ///
    /// # Errors
    /// When one of them could not be made.
    fn images(&self) -> Result<Vec<LocalBlob>>;
}

/// Layers below that are raw images in files, the nearest first. They are opened when they are asked for.
impl ParentImages for Vec<PathBuf> {
    fn images(&self) -> Result<Vec<LocalBlob>> {
        let open = |path: &PathBuf| {
            let failed = || Error::io(format!("opening the layer below, {}", path.display()));
            let file = File::open(path).map_err(failed())?;
            let size = file.metadata().map_err(failed())?.len();
            Ok(LocalBlob::new(Arc::new(file), 0, size))
        };
        self.iter().map(open).collect()
    }
}

/// The image of a layer below. What is wrong with it is remembered: the question has no room for it.
pub(super) struct LowerImage {
    image: Image<LocalBlob>,
    failed: RefCell<Option<Error>>,
}

impl LowerImage {
    pub(super) fn open(blob: LocalBlob) -> Result<Self> {
        let image = Image::open(blob, Vec::new()).map_err(lower_failed)?;
        Ok(Self { image, failed: RefCell::new(None) })
    }

    pub(super) fn result(&self) -> Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn find(&self, path: &[&[u8]]) -> std::result::Result<LowerDir, erolith_mkfs::image::Error> {
        let mut at = self.image.root()?;
        let mut hidden = false;
        for name in path {
            hidden |= self.is_opaque(&at)?;
            let Some(nid) = self.image.lookup_in(&at, name)? else {
                return Ok(if hidden { LowerDir::Hidden } else { LowerDir::Unknown });
            };
            at = self.image.stat(nid)?;
            if !at.is_dir() {
                return Ok(LowerDir::Hidden);
            }
        }
        let mut xattrs = self.image.xattrs(&at)?;
        xattrs.retain(|x| !x.name.starts_with(Marks::Trusted.prefix()));
        Ok(LowerDir::Found(at.meta(), xattrs))
    }

    fn is_opaque(&self, dir: &Inode) -> std::result::Result<bool, erolith_mkfs::image::Error> {
        let xattrs = self.image.xattrs(dir)?;
        Ok(xattrs.iter().any(|x| x.name == marks::OPAQUE && x.value == marks::YES))
    }
}

impl LowerTree for LowerImage {
    fn directory(&self, path: &[&[u8]]) -> LowerDir {
        self.find(path).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(lower_failed(error));
            LowerDir::Hidden
        })
    }
}

fn lower_failed(error: erolith_mkfs::image::Error) -> Error {
    let (code, reason) = (error.code().into(), error.to_string());
    Error::Layer(LayerError::BadImage { code, reason, path: String::new() })
}
