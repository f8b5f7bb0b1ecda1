//! Content of regular files, whatever layer they are in.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::retry_on_intr;

use super::Node;
use crate::Error;
use crate::directory::failed;
use erolith_mkfs::image::{Image, Inode, Reader};
use erolith_mkfs::io::ReadAt;
use erolith_mkfs::names::shown;

/// The content of a file, read from front to back. It must not change while it is read.
#[derive(Debug)]
pub struct Content<'a> {
    source: ContentSource<'a>,
    left: u64,
}

#[derive(Debug)]
enum ContentSource<'a> {
    Image(Reader<'a, Arc<dyn ReadAt>>),
    File { node: &'a Node, file: OwnedFd },
}

impl<'a> Content<'a> {
    pub(super) fn of_image(image: &'a Image, inode: &Inode) -> Self {
        Self { source: ContentSource::Image(image.reader(inode)), left: inode.size }
    }

    pub(super) fn of_file(node: &'a Node, file: OwnedFd) -> Self {
        Self { source: ContentSource::File { node, file }, left: node.size() }
    }

    /// Reads more of it; 0 bytes at its end, when it is also known to be of one state.
    ///
    /// # Errors
    /// [`Error::Changed`], and what the storage reports.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let want = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let part = buf.get_mut(..want).unwrap_or_default();
        if want == 0 {
            self.verify()?;
            return Ok(0);
        }
        let n = match &mut self.source {
            ContentSource::Image(reader) => reader.read(part).and_then(|n| match n {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                n => Ok(n),
            }),
            ContentSource::File { node, file } => {
                match retry_on_intr(|| rustix::io::read(&*file, &mut *part)) {
                    Ok(0) => return Err(Error::Changed { what: shown(node.path()) }),
                    read => read.map_err(io::Error::from),
                }
            }
        };
        let n = n.map_err(|e| self.failed(e))?;
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }

    fn failed(&self, source: io::Error) -> Error {
        match &self.source {
            ContentSource::Image(_) => {
                Error::Input { what: "a file of an image".to_owned(), source }
            }
            ContentSource::File { node, .. } => failed(node.path(), source),
        }
    }

    fn verify(&self) -> Result<(), Error> {
        let ContentSource::File { node, file } = &self.source else { return Ok(()) };
        node.with_found(|found| found.verify_unchanged(file)).unwrap_or(Ok(()))
    }
}
