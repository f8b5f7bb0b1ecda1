//! `erolith export`: the tree of an image as a tar archive.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::content::Staging as _;
use erolith_differ::publish::{READABLE, Sync, Unnamed};
use erolith_mkfs::format::FileType;
use erolith_mkfs::image::{Inode, WalkEntry};
use erolith_mkfs::meta::Xattr;
use erolith_mkfs::tar::{Entry, Error, Kind, Problem, Writer};

use super::cat;
use crate::exit::{self, BadInput, Usage};
use crate::names::{Name, Names};
use crate::source::{self, ImageArgs, Opened};
use crate::text::{self, Quoted};

/// What the name of a whiteout begins with in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// The name that makes its directory opaque in a layer.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What overlayfs keeps for itself.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Write the tree of an image as a tar archive (POSIX pax).
///
/// The same image gives the same archive, byte for byte: members in the order of their names, each directory
/// before what is in it, further names of a file as hard links to the first. Sockets, which tar cannot hold, are
/// left out and named. Without --oci the archive holds what a mount of the image shows; whiteouts are then
/// character devices 0,0. With --oci it is a layer as image specifications define it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, or `-` for standard output; a file appears whole or not at all.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Whiteouts and opaque directories become `.wh.` files, and overlayfs' own attributes are undone.
    #[arg(long)]
    oci: bool,
    /// Only what is in this directory of the image.
    #[arg(long, value_name = "SUBTREE")]
    path: Option<PathBuf>,
    #[command(flatten)]
    image: ImageArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    let start = source::subtree(&image, args.path.as_deref())?;
    let what = || format!("exporting {}", args.image.name());
    if args.output.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            return Err(Usage("an archive is not for a terminal: use --output".into()).into());
        }
        Export::new(args, &image, out).tree(&start).with_context(what)?;
    } else {
        let pending = Unnamed::create(&args.output, READABLE)?;
        let out = BufWriter::with_capacity(256 << 10, pending.file());
        Export::new(args, &image, out).tree(&start).with_context(what)?;
        pending.publish(Sync::Durable)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Export<'a, W> {
    args: &'a Args,
    image: &'a Opened,
    tar: Writer<W>,
    dirs: Names,
    /// The first name of inodes that have several.
    first: BTreeMap<u64, Name>,
}

impl<'a, W: Write> Export<'a, W> {
    fn new(args: &'a Args, image: &'a Opened, out: W) -> Self {
        Self { args, image, tar: Writer::new(out), dirs: Names::default(), first: BTreeMap::new() }
    }

    fn tree(mut self, start: &Inode) -> anyhow::Result<()> {
        let image = self.image;
        let mut walk = image.walk_from(start.nid);
        while let Some(entry) = walk.next_entry()? {
            self.dirs.note(&entry);
            self.member(&entry).with_context(|| Quoted(&text::rooted(entry.path)).to_string())?;
        }
        self.tar.finish().map_err(from_tar)?.flush()?;
        Ok(())
    }

    fn member(&mut self, at: &WalkEntry<'_>) -> anyhow::Result<()> {
        let inode = &at.inode;
        let mut xattrs = self.image.xattrs(inode)?;
        let mut opaque = false;
        if self.args.oci {
            if is_whiteout(inode, &xattrs) {
                return self.marker(at.path, &[WHITEOUT, at.name()].concat(), inode);
            }
            if at.name().starts_with(WHITEOUT) {
                return Err(BadInput("this name has a meaning in a layer".into()).into());
            }
            opaque = undo_overlay(&mut xattrs)?;
        }
        let Some(mut entry) = self.entry(at)? else {
            let path = text::rooted(at.path);
            exit::complain(format_args!("{}: socket left out", Quoted(&path)));
            return Ok(());
        };
        if entry.kind != Kind::Hardlink {
            entry.xattrs = xattrs;
        }
        self.tar.write_entry(&entry).map_err(from_tar)?;
        if entry.kind == Kind::Regular {
            cat::copy(self.image, inode, &mut self.tar)?;
        }
        if opaque {
            let inside = if at.path.is_empty() { Vec::new() } else { [at.path, b"/"].concat() };
            self.marker(&[&inside, OPAQUE].concat(), OPAQUE, inode)?;
        }
        Ok(())
    }

    /// What tar says of an inode; `None` for a socket.
    fn entry(&mut self, at: &WalkEntry<'_>) -> anyhow::Result<Option<Entry>> {
        let inode = &at.inode;
        let mut entry = Entry { meta: inode.meta(), path: at.path.to_vec(), ..Entry::default() };
        entry.kind = match inode.file_type() {
            FileType::Regular => Kind::Regular,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Char => Kind::Char,
            FileType::Block => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => return Ok(None),
        };
        match entry.kind {
            Kind::Directory => {
                entry.path.extend_from_slice(if at.path.is_empty() { b"./" } else { b"/" });
                return Ok(Some(entry));
            }
            Kind::Regular => entry.size = inode.size,
            Kind::Symlink => entry.link = self.image.read_link(inode)?,
            _ => entry.rdev = inode.rdev().unwrap_or_default(),
        }
        if inode.nlink != 1 {
            if let Some(first) = self.first.get(&inode.nid) {
                entry.kind = Kind::Hardlink;
                entry.link = self.dirs.path(first);
                entry.size = 0;
            } else {
                self.first.insert(inode.nid, Name::of(at));
            }
        }
        Ok(Some(entry))
    }

    /// An empty file whose name is what it says, beside `path`.
    fn marker(&mut self, path: &[u8], name: &[u8], inode: &Inode) -> anyhow::Result<()> {
        let parent = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let path = [path.get(..parent).unwrap_or_default(), name].concat();
        let mut meta = inode.meta();
        meta.mode = 0;
        let entry = Entry { path, meta, ..Entry::default() };
        self.tar.write_entry(&entry).map_err(from_tar)
    }
}

/// The two forms overlayfs knows: a character device, and since 6.7 an empty file with an attribute.
fn is_whiteout(inode: &Inode, xattrs: &[Xattr]) -> bool {
    let marked = |xattr: &Xattr| xattr.name == b"trusted.overlay.whiteout";
    inode.is_whiteout() || (inode.is_file() && inode.size == 0 && xattrs.iter().any(marked))
}

/// Takes overlayfs' own attributes out, and the escape from those that are meant to be seen. Returns whether
/// the directory is opaque.
fn undo_overlay(xattrs: &mut Vec<Xattr>) -> anyhow::Result<bool> {
    let mut opaque = false;
    let mut kept = Vec::with_capacity(xattrs.len());
    for xattr in xattrs.drain(..) {
        if let Some(name) = unescaped(&xattr.name) {
            kept.push(Xattr { name, value: xattr.value });
            continue;
        }
        match xattr.name.strip_prefix(OVERLAY) {
            None => kept.push(xattr),
            Some(b"opaque") => opaque |= xattr.value == b"y",
            // These say where a file came from, which no layer needs.
            Some(b"origin" | b"impure" | b"nlink" | b"uuid") => {}
            Some(_) => {
                let text = format!("{} has no form in a layer", Quoted(&xattr.name));
                return Err(BadInput(text).into());
            }
        }
    }
    kept.sort_unstable();
    *xattrs = kept;
    Ok(opaque)
}

/// The name that overlayfs shows for one it would otherwise take as its own: one `overlay.` less.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    [OVERLAY, b"user.overlay."].into_iter().find_map(|prefix| {
        let hidden = name.strip_prefix(prefix)?.strip_prefix(b"overlay.")?;
        Some([prefix, hidden].concat())
    })
}

/// An archive that cannot be written is a matter of its stream; else of what the image holds.
fn from_tar(error: Error) -> anyhow::Error {
    match error.problem {
        Problem::Io(e) => e.into(),
        _ => BadInput(error.to_string()).into(),
    }
}
