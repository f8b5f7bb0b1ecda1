//! A tree as the crate `erofs-rs` reads it: an oracle that shares no line with our reader.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path as HostPath;

use erofs_rs::EroFS;
use erofs_rs::backend::{Image, MmapImage};
use erofs_rs::types::Inode;
use rustix::fs::FileType;

use super::{Listing, Node, Path, Result, Type, digest, join};

impl Listing {
    /// The tree of the image at `path`.
    ///
    /// # Errors
    /// What could not be read, and why.
    pub fn from_erofs_rs(path: &HostPath) -> Result<Self> {
        Self::from_erofs_rs_devices(path, &[])
    }

    /// The tree of the image at `path`, whose file data is on the given devices.
    ///
    /// # Errors
    /// What could not be read, and why.
    pub fn from_erofs_rs_devices(path: &HostPath, devices: &[&HostPath]) -> Result<Self> {
        let devices = devices.iter().map(|path| map(path)).collect::<Result<Vec<_>>>()?;
        let fs = EroFS::new_with_devices(map(path)?, devices).map_err(|e| e.to_string())?;
        let mut out = Self::default();
        let mut inodes = BTreeMap::new();
        let root = fs.get_inode(fs.super_block().root_inode_id()).map_err(|e| e.to_string())?;
        out.nodes.insert(Path::new(), node(&fs, root)?);
        let mut todo = vec![Path::new()];
        while let Some(dir) = todo.pop() {
            let fail = |e: erofs_rs::Error| format!("/{}: {e}", dir.escape_ascii());
            let absolute = [b"/", dir.as_slice()].concat();
            for entry in fs.read_dir(absolute.as_slice()).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.dir_entry.file_name();
                if name == b"." || name == b".." {
                    continue;
                }
                let path = join(&dir, name);
                let node =
                    node(&fs, entry.inode).map_err(|e| format!("/{}: {e}", path.escape_ascii()))?;
                if node.kind == Type::Dir {
                    todo.push(path.clone());
                } else {
                    inodes.insert(path.clone(), entry.inode.id());
                }
                out.nodes.insert(path, node);
            }
        }
        out.group(&inodes);
        Ok(out)
    }
}

fn map(path: &HostPath) -> Result<MmapImage> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    crate::sys::map_image(&File::open(path).map_err(fail)?).map_err(fail)
}

fn node<I: Image>(fs: &EroFS<I>, inode: Inode) -> Result<Node> {
    use std::os::unix::fs::PermissionsExt as _;
    let kind = match inode.file_type() {
        FileType::Directory => Type::Dir,
        FileType::Symlink => Type::Symlink,
        FileType::CharacterDevice => Type::Char,
        FileType::BlockDevice => Type::Block,
        FileType::Fifo => Type::Fifo,
        FileType::Socket => Type::Socket,
        _ => Type::File,
    };
    let mut out = Node {
        kind,
        mode: inode.permissions().mode() & 0o7777,
        uid: inode.uid(),
        gid: inode.gid(),
        mtime: Some(inode.modified_unix()),
        size: 0,
        content: None,
        target: Vec::new(),
        rdev: inode.device().unwrap_or((0, 0)),
        leader: Path::new(),
        nlink: Some(u64::from(inode.nlink())),
        xattrs: fs.xattrs_inode(inode).map_err(|e| e.to_string())?,
    };
    if kind == Type::Symlink {
        out.target = fs.read_link_inode(inode).map_err(|e| e.to_string())?.into_vec();
        out.size = inode.data_size();
    }
    if kind == Type::File {
        let file = fs.open_inode_file(inode).map_err(|e| e.to_string())?;
        out.size = inode.data_size();
        out.content = Some(digest(out.size, |mut buf, mut at| {
            while !buf.is_empty() {
                let n = file.read_at(buf, at).map_err(|e| format!("read at {at}: {e}"))?;
                if n == 0 {
                    return Err(format!("ends at {at}"));
                }
                buf = buf.get_mut(n..).unwrap_or_default();
                at += n as u64;
            }
            Ok(())
        })?);
    }
    Ok(out)
}
