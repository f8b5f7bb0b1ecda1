//! `erolith extract`: the tree of an image as files.
//!
//! The image may come from a stranger, so nothing is ever reached by a path that it chose. Every file is created
//! new, under one name, in a directory that is held open and that only we may enter until it is complete; names
//! have neither slashes nor NUL, since the reader refuses them. Directories get their attributes in a second
//! walk, the deepest first, when nothing in them changes any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_mkfs::format::FileType;
use erolith_mkfs::image::{Corruption, CorruptionKind, Error, ExtentLocation, Inode};
use erolith_mkfs::io::copy_range;
use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::exit::{self, BadInput, Usage};
use crate::names::{Name, Names};
use crate::source::{Entry, ImageArgs, ImageTree, Node};
use crate::text::{self, Quoted};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Extract the tree of an image into a new or an empty directory.
///
/// Everything is restored: owners, modes, times, extended attributes, access control lists, devices, hard links
/// and holes. That needs root; the options below leave out what others may not do. When it fails, what was
/// extracted so far stays, and only its owner may enter the directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Everything belongs to the user who extracts.
    #[arg(long)]
    no_owner: bool,
    /// Without extended attributes, access control lists among them.
    #[arg(long)]
    no_xattrs: bool,
    /// Without character and block devices; whiteouts (character device 0,0) are made in any case.
    #[arg(long)]
    no_devices: bool,
    /// Only what is in this directory of the image.
    #[arg(long, value_name = "SUBTREE")]
    path: Option<PathBuf>,
    #[command(flatten)]
    image: ImageArgs,
    /// The directory, made if it is not there.
    dir: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, _: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let tree = args.image.tree()?;
    let start = tree.subtree(args.path.as_deref())?;
    let what = || format!("extracting to {}", args.dir.display());
    // Nodes are made with the permissions they are to have.
    rustix::process::umask(Mode::empty());
    allow_open_files();
    let root = destination(&args.dir).with_context(what)?;
    let mut extractor = Extractor {
        args,
        tree: &tree,
        root,
        dirs: Names::default(),
        first: BTreeMap::new(),
        devices_left_out: 0,
    };
    extractor.make(&start)?;
    extractor.finish(&start)?;
    if extractor.devices_left_out > 0 {
        exit::complain(format_args!("{} devices were left out", extractor.devices_left_out));
    }
    Ok(ExitCode::SUCCESS)
}

/// One directory is open for each level of the tree.
fn allow_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where this does not help, opening says so.
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
}

/// Opens the directory, which must be empty, and closes it to others. It gets its own mode in the end.
fn destination(path: &Path) -> anyhow::Result<OwnedFd> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(io::Error::from(e).into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    must_be_empty(&dir)?;
    rustix::fs::fchmod(&dir, Mode::RWXU).map_err(io::Error::from)?;
    // Again, now that no other process can put something in.
    must_be_empty(&dir)?;
    // Lists that are inherited from here would become part of the tree.
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match rustix::fs::fremovexattr(&dir, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(dir)
}

fn must_be_empty(dir: &OwnedFd) -> anyhow::Result<()> {
    for entry in Dir::read_from(dir).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err(Usage("the directory is not empty".into()).into());
        }
    }
    Ok(())
}

/// A directory on the way from the root to where we are.
struct Level<'a> {
    node: Node<'a>,
    id: u64,
    fd: OwnedFd,
}

struct Extractor<'a> {
    args: &'a Args,
    tree: &'a ImageTree,
    root: OwnedFd,
    dirs: Names,
    /// The first name of inodes that have several.
    first: BTreeMap<u64, Name>,
    devices_left_out: u64,
}

impl<'a> Extractor<'a> {
    /// The level of the root, of which a walk says that it is in itself.
    fn bottom(&self, start: &Entry<'_, 'a>) -> anyhow::Result<Vec<Level<'a>>> {
        Ok(vec![Level { node: start.node.clone(), id: start.id, fd: self.root.try_clone()? }])
    }

    /// Makes everything, with attributes except those of directories.
    fn make(&mut self, start: &Node<'a>) -> anyhow::Result<()> {
        let mut levels = Vec::new();
        let mut walk = self.tree.walk(start);
        while let Some(entry) = walk.next_entry()? {
            if entry.path.is_empty() {
                levels = self.bottom(&entry)?;
                continue;
            }
            while levels.pop_if(|level| level.id != entry.parent).is_some() {}
            let what = || format!("extracting {}", Quoted(&text::rooted(entry.path)));
            let Some(level) = levels.last() else { continue };
            if entry.node.inode.is_dir() {
                rustix::fs::mkdirat(&level.fd, entry.name(), Mode::RWXU)
                    .map_err(io::Error::from)
                    .with_context(what)?;
                let fd = open_dir(&level.fd, entry.name()).with_context(what)?;
                self.dirs.note(entry.id, Name::new(entry.parent, entry.name()));
                levels.push(Level { id: entry.id, node: entry.node, fd });
            } else {
                self.make_one(&levels, &entry).with_context(what)?;
            }
        }
        Ok(())
    }

    /// Gives every directory its attributes once all below it have theirs.
    fn finish(&self, start: &Node<'a>) -> anyhow::Result<()> {
        let mut levels = Vec::new();
        let mut walk = self.tree.walk(start);
        while let Some(entry) = walk.next_entry()? {
            if entry.path.is_empty() {
                levels = self.bottom(&entry)?;
            }
            if entry.path.is_empty() || !entry.node.inode.is_dir() {
                continue;
            }
            let what = || format!("extracting {}", Quoted(&text::rooted(entry.path)));
            while let Some(done) = levels.pop_if(|level| level.id != entry.parent) {
                self.set_attributes(done.fd.as_fd(), &done.node).with_context(what)?;
            }
            let Some(level) = levels.last() else { continue };
            let fd = open_dir(&level.fd, entry.name()).with_context(what)?;
            levels.push(Level { id: entry.id, node: entry.node, fd });
        }
        while let Some(done) = levels.pop() {
            self.set_attributes(done.fd.as_fd(), &done.node).context("directory attributes")?;
        }
        Ok(())
    }

    /// Makes anything but a directory.
    fn make_one(&mut self, levels: &[Level<'_>], at: &Entry<'_, '_>) -> anyhow::Result<()> {
        let Some(Level { fd: dir, .. }) = levels.last() else { return Ok(()) };
        let (node, inode, name) = (&at.node, &at.node.inode, at.name());
        let is_linked = inode.nlink != 1;
        if let Some(first) = self.first.get(&at.id).filter(|_| is_linked) {
            return self.link(levels, first, dir.as_fd(), name).context("hard link");
        }
        let made = if inode.is_file() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
            let fd = open_at(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
            let file = File::from(fd);
            self.fill(&file, node)?;
            file.into()
        } else if self.make_special(dir.as_fd(), name, node)? {
            open_at(dir, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?
        } else {
            self.devices_left_out += 1;
            return Ok(());
        };
        self.set_attributes(made.as_fd(), node)?;
        if is_linked {
            self.first.insert(at.id, Name::new(at.parent, name));
        }
        Ok(())
    }

    /// Makes another name of a file. Its first directory may have been left: then it is opened again, step by
    /// step from the root.
    fn link(
        &self,
        levels: &[Level<'_>],
        first: &Name,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> anyhow::Result<()> {
        let level = levels.iter().find(|level| level.id == first.parent);
        let from = match level {
            Some(level) => level.fd.try_clone()?,
            None => {
                let steps = self.dirs.components(first.parent);
                let root = self.root.try_clone()?;
                steps.into_iter().try_fold(root, |dir, name| open_dir(&dir, name))?
            }
        };
        rustix::fs::linkat(&from, first.name.as_slice(), dir, name, AtFlags::empty())
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// Makes a node or a symbolic link; false when it is to be left out.
    fn make_special(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        node: &Node<'_>,
    ) -> anyhow::Result<bool> {
        use rustix::fs::FileType as Kind;
        let inode = &node.inode;
        let kind = match inode.file_type() {
            FileType::Symlink => {
                let target = node.image.read_link(inode)?;
                rustix::fs::symlinkat(target, dir, name).map_err(io::Error::from)?;
                return Ok(true);
            }
            FileType::Char => Kind::CharacterDevice,
            FileType::Block => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Regular | FileType::Directory => return Ok(false),
        };
        let is_device = inode.rdev().is_some() && !inode.is_whiteout();
        if is_device && self.args.no_devices {
            return Ok(false);
        }
        let (major, minor) = inode.rdev().unwrap_or_default();
        let device = rustix::fs::makedev(major, minor);
        let made = rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device);
        made.map_err(io::Error::from).with_context(|| match is_device {
            true => "making a device (--no-devices leaves them out)",
            false => "making a node",
        })?;
        Ok(true)
    }

    /// Writes the content of a file; what the image does not store stays a hole.
    fn fill(&self, file: &File, node: &Node<'_>) -> anyhow::Result<()> {
        let (image, inode) = (node.image, &node.inode);
        if inode.size == 0 {
            return Ok(());
        }
        file.set_len(inode.size)?;
        let mut buf = Vec::new();
        for extent in image.extents(inode) {
            let extent = extent?;
            let end = extent.end().min(inode.size);
            let len = end.saturating_sub(extent.start);
            match extent.place {
                ExtentLocation::Hole => {}
                ExtentLocation::Device { device, offset } => {
                    copy_stored(file, extent.start, len, (device, offset), node)?;
                }
                _ => {
                    let mut pos = extent.start;
                    while pos < end {
                        let want = usize::try_from(end - pos).map_or(PIECE, |l| l.min(PIECE));
                        buf.resize(want, 0);
                        let n = image.read_at(inode, &mut buf, pos)?;
                        file.write_all_at(buf.get(..n).unwrap_or_default(), pos)?;
                        pos += n as u64;
                    }
                }
            }
        }
        Ok(())
    }

    /// Owner first, since a new owner costs capabilities and the set-user-ID bit; attributes before a mode that
    /// may forbid to write them; the time last.
    fn set_attributes(&self, fd: BorrowedFd<'_>, node: &Node<'_>) -> anyhow::Result<()> {
        let inode = &node.inode;
        // The one path that leads to the open file itself, whatever it is.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if !self.args.no_owner {
            self.set_owner(&path, inode)?;
        }
        if !self.args.no_xattrs {
            for xattr in node.xattrs()? {
                let (name, flags) = (xattr.name.as_slice(), XattrFlags::empty());
                rustix::fs::setxattr(&path, name, &xattr.value, flags)
                    .map_err(io::Error::from)
                    .with_context(|| {
                        format!("attribute {} (--no-xattrs leaves them out)", Quoted(name))
                    })?;
            }
        }
        if !inode.is_symlink() {
            let mode = Mode::from_raw_mode(u32::from(inode.mode & 0o7777));
            rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty())
                .map_err(io::Error::from)
                .context("mode")?;
        }
        let modified = Timespec { tv_sec: inode.mtime.sec, tv_nsec: inode.mtime.nsec.into() };
        let accessed = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = Timestamps { last_access: accessed, last_modification: modified };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())
            .map_err(io::Error::from)
            .context("modification time")
    }

    fn set_owner(&self, path: &str, inode: &Inode) -> anyhow::Result<()> {
        // To the kernel this number means to leave the owner.
        if inode.uid == u32::MAX || inode.gid == u32::MAX {
            let text = format!("owner {}:{} cannot be set", inode.uid, inode.gid);
            return Err(BadInput(text).into());
        }
        let owner = (Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)));
        rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::empty())
            .map_err(io::Error::from)
            .context("owner (--no-owner leaves it)")
    }
}

/// Copies bytes that are in the image as they are, inside the kernel where it can.
fn copy_stored(
    file: &File,
    pos: u64,
    len: u64,
    (device, offset): (u16, u64),
    node: &Node<'_>,
) -> anyhow::Result<()> {
    let inode = &node.inode;
    let bad = |fault| Error::from(Corruption::new(fault).nid(inode.nid).at(inode.offset));
    let from = node.image.device(device).ok_or_else(|| bad(CorruptionKind::DataDeviceMissing))?;
    // The image may be a part of a file, behind which other things are.
    let is_inside = offset.checked_add(len).is_some_and(|end| end <= from.len());
    let (source, start) = from.file();
    let at = start.checked_add(offset).filter(|_| is_inside);
    let at = at.ok_or_else(|| bad(CorruptionKind::DataOutside))?;
    copy_range(source.as_fd(), at, file, pos, len).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => bad(CorruptionKind::DataOutside).into(),
        _ => e.into(),
    })
}

/// Opens a directory that we made.
fn open_dir(parent: impl AsFd, name: &[u8]) -> anyhow::Result<OwnedFd> {
    open_at(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

fn open_at(dir: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> anyhow::Result<OwnedFd> {
    let fd = rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, mode);
    Ok(fd.map_err(io::Error::from)?)
}
