//! A tree as our own reader sees it.

use std::collections::BTreeMap;

use erolith_mkfs::format::FileType;
use erolith_mkfs::image::{Image, Inode};
use erolith_mkfs::io::ReadAt;

use super::{Listing, Node, Path, Result, Type, digest};

impl Listing {
    /// The tree of an open image.
    ///
    /// # Errors
    /// What could not be read, and why.
    pub fn from_image<R: ReadAt>(image: &Image<R>) -> Result<Self> {
        let mut out = Self::default();
        let mut inodes = BTreeMap::new();
        let mut walk = image.walk();
        while let Some(entry) = walk.next_entry().map_err(|e| e.to_string())? {
            let path = entry.path.to_vec();
            let node = node(image, &entry.inode)
                .map_err(|e| format!("/{}: {e}", entry.path.escape_ascii()))?;
            if node.kind != Type::Dir {
                inodes.insert(path.clone(), entry.inode.nid);
            }
            out.nodes.insert(path, node);
        }
        out.group(&inodes);
        Ok(out)
    }
}

fn node<R: ReadAt>(image: &Image<R>, inode: &Inode) -> Result<Node> {
    let kind = match inode.file_type() {
        FileType::Directory => Type::Dir,
        FileType::Symlink => Type::Symlink,
        FileType::Char => Type::Char,
        FileType::Block => Type::Block,
        FileType::Fifo => Type::Fifo,
        FileType::Socket => Type::Socket,
        FileType::Regular => Type::File,
    };
    let meta = inode.meta();
    let xattrs = image.xattrs(inode).map_err(|e| e.to_string())?;
    let mut out = Node {
        kind,
        mode: u32::from(meta.mode),
        uid: meta.uid,
        gid: meta.gid,
        mtime: Some((meta.mtime.sec, meta.mtime.nsec)),
        size: 0,
        content: None,
        target: Vec::new(),
        rdev: inode.rdev().unwrap_or((0, 0)),
        leader: Path::new(),
        nlink: Some(u64::from(inode.nlink)),
        xattrs: xattrs.into_iter().map(|x| (x.name, x.value)).collect(),
    };
    if kind == Type::Symlink {
        out.target = image.read_link(inode).map_err(|e| e.to_string())?;
        out.size = inode.size;
    }
    if kind == Type::File {
        out.size = inode.size;
        out.content = Some(digest(out.size, |buf, at| {
            match image.read_at(inode, buf, at).map_err(|e| format!("read at {at}: {e}"))? {
                n if n == buf.len() => Ok(()),
                n => Err(format!("{n} of {} bytes at {at}", buf.len())),
            }
        })?);
    }
    Ok(out)
}
