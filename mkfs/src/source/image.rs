//! Another image as a source: its tree is written anew, with other options.

use std::collections::BTreeMap;
use std::io::Read;

use crate::Error;
use crate::build::Builder;
use crate::data::Content;
use crate::format::{FileType, encode_rdev};
use crate::image::{Data, ExtentLocation, Image, Inode};
use crate::io::{ReadAt, Sink};
use crate::meta::Segment;
use crate::names::shown;
use crate::tree::{self, NodeId, NodeKind};

/// Bytes of content read at a time.
const PIECE: usize = 256 << 10;

impl<S: Sink> Builder<S> {
    /// Fills the tree with that of an image. Its whiteouts stay whiteouts; runs of content that the image
    /// does not store stay holes. `go_on` is asked before each name.
    ///
    /// # Errors
    /// What `go_on` says, and [`Error`]; the builder is of no use then.
    pub fn fill_from_image<R: ReadAt, E: From<Error>>(
        &mut self,
        image: &Image<R>,
        mut go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        // A nid is an inode of the source, whatever its number of names.
        let mut nodes: BTreeMap<u64, NodeId> = BTreeMap::new();
        let mut walk = image.walk();
        while let Some(entry) = walk.next_entry().map_err(Error::from)? {
            go_on()?;
            let inode = entry.inode;
            let place = |source| Error::Tree { offset: inode.offset, source };
            let Some(&parent) = nodes.get(&entry.parent) else {
                let xattrs = image.xattrs(&inode).map_err(Error::from)?;
                let set = self.tree.xattr_set(
                    b"/",
                    &xattrs,
                    FileType::Directory,
                    self.options.layer.xattrs,
                );
                self.tree.describe_root(inode.meta(), set.map_err(place)?);
                nodes.insert(inode.nid, NodeId::ROOT);
                continue;
            };
            let name = entry.name();
            if let Some(&node) = nodes.get(&inode.nid) {
                self.tree.add_name(parent, name, node);
                continue;
            }
            let xattrs = image.xattrs(&inode).map_err(Error::from)?;
            let set = self
                .tree
                .xattr_set(entry.path, &xattrs, inode.file_type(), self.options.layer.xattrs)
                .map_err(place)?;
            let kind = self.kind_of(image, &inode, parent, entry.path)?;
            let node = self.tree.add(parent, name, inode.meta(), set, kind).map_err(place)?;
            nodes.insert(inode.nid, node);
        }
        Ok(())
    }

    fn kind_of<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        inode: &Inode,
        parent: NodeId,
        path: &[u8],
    ) -> Result<NodeKind, Error> {
        let device = || {
            let (major, minor) = inode.rdev().unwrap_or_default();
            encode_rdev(major, minor).ok_or_else(|| Error::Tree {
                offset: inode.offset,
                source: tree::Error::BadDevice { path: shown(path), major, minor },
            })
        };
        Ok(match inode.file_type() {
            FileType::Directory => tree::new_dir(parent),
            FileType::Regular => NodeKind::File {
                size: inode.size,
                content: self.store_from_image(image, inode, path)?,
            },
            FileType::Symlink => NodeKind::Symlink(image.read_link(inode)?.into()),
            FileType::Char if inode.is_whiteout() => NodeKind::Whiteout,
            FileType::Char => NodeKind::Char(device()?),
            FileType::Block => NodeKind::Block(device()?),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
        })
    }

    /// Stores the content of a regular file of an image. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Input`], [`Error::Output`], [`Error::TooLarge`].
    pub fn store_from_image<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        inode: &Inode,
        path: &[u8],
    ) -> Result<Content, Error> {
        let segments = stored_segments(image, inode)?;
        let whole = [Segment { offset: 0, len: inode.size }];
        let is_dense = segments == whole || inode.size == 0;
        let mut writer = self.data.file(inode.size, (!is_dense).then_some(&segments[..]))?;
        let mut reader = image.reader(inode);
        let mut buf = vec![0; PIECE];
        for segment in &segments {
            reader.seek_to(segment.offset);
            let mut left = segment.len;
            while left > 0 {
                let want = usize::try_from(left).map_or(PIECE, |l| l.min(PIECE));
                let piece = buf.get_mut(..want).unwrap_or_default();
                reader
                    .read_exact(piece)
                    .map_err(|source| Error::Input { what: shown(path), source })?;
                writer.write(&mut self.data, piece)?;
                left -= want as u64;
            }
        }
        writer.finish(&mut self.data)
    }
}

/// The runs of a file that are not holes in the image, neighbours joined.
fn stored_segments<R: ReadAt>(image: &Image<R>, inode: &Inode) -> Result<Vec<Segment>, Error> {
    // Only these layouts have holes; the extents of compressed files are many and say nothing here.
    if !matches!(inode.data, Data::Chunks { .. } | Data::Hole) {
        return Ok(vec![Segment { offset: 0, len: inode.size }]);
    }
    let mut segments: Vec<Segment> = Vec::new();
    for extent in image.extents(inode) {
        let extent = extent?;
        if extent.place == ExtentLocation::Hole {
            continue;
        }
        let len = extent.len.min(inode.size.saturating_sub(extent.start));
        match segments.last_mut() {
            Some(last) if last.offset + last.len == extent.start => last.len += len,
            _ => segments.push(Segment { offset: extent.start, len }),
        }
    }
    Ok(segments)
}
