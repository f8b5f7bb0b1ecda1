//! A tree as the kernel shows it: a mount, or a directory that a program extracted into.
//!
//! Nothing is followed. Directories are opened again by path for every listing, in steps below `PATH_MAX`, so that
//! neither the depth of a tree nor the number of open files is a limit.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path as HostPath;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Listing, Node, Path, Result, Type, digest, join};

impl Listing {
    /// Everything below `root`, which is not followed out of its file system.
    ///
    /// # Errors
    /// What could not be read, and why.
    pub fn from_dir(root: &HostPath) -> Result<Self> {
        let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| format!("{}: {e}", root.display()))?;
        let mut out = Self::default();
        let mut inodes = BTreeMap::new();
        let stat = rustix::fs::fstat(&root).map_err(|e| format!("root: {e}"))?;
        out.nodes.insert(Path::new(), node(&stat, xattrs_of_fd(&root)?));
        let mut todo = vec![Path::new()];
        while let Some(path) = todo.pop() {
            let dir = open_dir(&root, &path)?;
            for name in names(&dir).map_err(|e| format!("/{}: {e}", path.escape_ascii()))? {
                let child = join(&path, &name);
                let (node, inode) =
                    look(&dir, &name).map_err(|e| format!("/{}: {e}", child.escape_ascii()))?;
                if node.kind == Type::Dir {
                    todo.push(child.clone());
                } else {
                    inodes.insert(child.clone(), inode);
                }
                out.nodes.insert(child, node);
            }
        }
        out.group(&inodes);
        Ok(out)
    }
}

/// Opens a directory below `root` in steps that the kernel takes.
fn open_dir(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd> {
    const STEP: usize = 2048;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fail = |e: Errno| format!("/{}: {e}", path.escape_ascii());
    let mut at = rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(fail)?;
    let mut step = Path::new();
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        step = join(&step, name);
        if step.len() > STEP {
            at = rustix::fs::openat(&at, &*step, flags, Mode::empty()).map_err(fail)?;
            step.clear();
        }
    }
    if !step.is_empty() {
        at = rustix::fs::openat(&at, &*step, flags, Mode::empty()).map_err(fail)?;
    }
    Ok(at)
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<Path>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            out.push(name);
        }
    }
    Ok(out)
}

/// One entry of a directory, and what identifies its inode.
fn look(dir: &OwnedFd, name: &[u8]) -> Result<(Node, (u64, u64))> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| format!("lstat: {e}"))?;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut node = node(&stat, xattrs_of_path(&path)?);
    match node.kind {
        Type::File => {
            node.size = stat.st_size.cast_unsigned();
            node.content = Some(content(dir, name, node.size)?);
        }
        Type::Symlink => {
            node.target = rustix::fs::readlinkat(dir, name, Vec::new())
                .map_err(|e| format!("readlink: {e}"))?
                .into_bytes();
            node.size = stat.st_size.cast_unsigned();
        }
        Type::Char | Type::Block => {
            node.rdev = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        Type::Dir | Type::Fifo | Type::Socket => {}
    }
    Ok((node, (stat.st_dev, stat.st_ino)))
}

fn node(stat: &Stat, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Node {
    Node {
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Type::Dir,
            FileType::Symlink => Type::Symlink,
            FileType::CharacterDevice => Type::Char,
            FileType::BlockDevice => Type::Block,
            FileType::Fifo => Type::Fifo,
            FileType::Socket => Type::Socket,
            _ => Type::File,
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Some((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX))),
        size: 0,
        content: None,
        target: Vec::new(),
        rdev: (0, 0),
        leader: Path::new(),
        nlink: Some(links(stat)),
        xattrs,
    }
}

fn content(dir: &OwnedFd, name: &[u8], size: u64) -> Result<[u8; 32]> {
    // A FIFO put there in the meantime must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| format!("open: {e}"))?;
    digest(size, |mut buf, mut at| {
        while !buf.is_empty() {
            match rustix::io::pread(&file, &mut *buf, at) {
                Ok(0) => return Err(format!("ends at {at} of {size} bytes")),
                Ok(n) => {
                    buf = buf.get_mut(n..).unwrap_or_default();
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(format!("read at {at}: {e}")),
            }
        }
        Ok(())
    })
}

fn xattrs_of_fd(fd: &impl AsFd) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = format!("/proc/self/fd/{}/.", fd.as_fd().as_raw_fd());
    xattrs_of_path(path.as_bytes())
}

fn xattrs_of_path(path: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = CString::new(path).map_err(|e| e.to_string())?;
    let fetch = |call: &dyn Fn(&mut [u8]) -> rustix::io::Result<usize>| {
        // The largest list and the largest value that the kernel has are both 64 KiB.
        let mut buf = vec![0; 64 << 10];
        let len = call(&mut buf)?;
        buf.truncate(len);
        Ok::<_, Errno>(buf)
    };
    let list = match fetch(&|buf| rustix::fs::llistxattr(&path, buf)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(e) => return Err(format!("llistxattr: {e}")),
    };
    let mut out = BTreeMap::new();
    for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let value = fetch(&|buf| rustix::fs::lgetxattr(&path, name, buf))
            .map_err(|e| format!("lgetxattr {}: {e}", name.escape_ascii()))?;
        out.insert(name.to_vec(), value);
    }
    Ok(out)
}

/// How many names an inode has.
#[allow(clippy::useless_conversion, reason = "32 bits on aarch64")]
fn links(stat: &Stat) -> u64 {
    stat.st_nlink.into()
}
