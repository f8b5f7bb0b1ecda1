//! `erolith export`: the tree of an image as a tar archive.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as First;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::content::Staging as _;
use erolith_differ::publish::{Durability, OutputFile, READABLE};
use erolith_mkfs::tar::{Error, Problem};
use erolith_overlay::Marks;
use erolith_overlay::changeset::{Changeset, Form, Member, MemberOutput};

use super::cat;
use crate::exit::{self, BadInput, Usage};
use crate::source::{Entry, ImageArgs, ImageTree, Node};
use crate::term::{self, Quoted};
use erolith_differ::path_index::{NameInDir, PathIndex};

/// Write the tree of an image as a tar archive (POSIX pax).
///
/// The same image gives the same archive, byte for byte: members in the order of their names, each directory
/// before what is in it, further names of a file as hard links to the first. Sockets, which tar cannot hold, are
/// left out and named. Access lists are there twice, as attributes and in the text form that GNU tar (--acls) and bsdtar
/// read. Without --oci the archive holds what a mount of the image shows; whiteouts are then
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
    let tree = args.image.tree()?;
    let start = tree.subtree(args.path.as_deref())?;
    let what = || format!("exporting {}", args.image.name());
    if args.output.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            return Err(Usage("an archive is not for a terminal: use --output".into()).into());
        }
        Export::new(args, &tree, out).write(&start).with_context(what)?;
    } else {
        let pending = OutputFile::create(&args.output, READABLE)?;
        let out = BufWriter::with_capacity(256 << 10, pending.file());
        Export::new(args, &tree, out).write(&start).with_context(what)?;
        pending.publish(Durability::Synced)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Export<'a, W> {
    tree: &'a ImageTree,
    archive: Changeset<W>,
    dirs: PathIndex,
    /// The first name of inodes that have several.
    first: BTreeMap<u64, NameInDir>,
}

impl<'a, W: Write> Export<'a, W> {
    fn new(args: &'a Args, tree: &'a ImageTree, out: W) -> Self {
        let form = if args.oci { Form::Layer(Marks::Trusted) } else { Form::AsIs };
        let archive = Changeset::new(out, form).with_acl_texts();
        Self { tree, archive, dirs: PathIndex::default(), first: BTreeMap::new() }
    }

    fn write(mut self, start: &Node<'a>) -> anyhow::Result<()> {
        let mut walk = self.tree.walk(start);
        while let Some(entry) = walk.next_entry()? {
            if entry.node.inode.is_dir() && !entry.path.is_empty() {
                self.dirs.note(entry.id, NameInDir::new(entry.parent, entry.name()));
            }
            self.member(&entry).with_context(|| Quoted(&term::rooted(entry.path)).to_string())?;
        }
        self.archive.finish().map_err(from_tar)?.flush()?;
        Ok(())
    }

    fn member(&mut self, at: &Entry<'_, '_>) -> anyhow::Result<()> {
        let (image, inode) = (at.node.image, &at.node.inode);
        let mut member = Member {
            path: at.path,
            meta: inode.meta(),
            size: inode.size,
            rdev: inode.rdev().unwrap_or_default(),
            xattrs: at.node.xattrs()?,
            first: self.first_name(at),
            ..Member::default()
        };
        if inode.is_symlink() {
            member.target = image.read_link(inode)?;
        }
        match self.archive.member(inode.file_type(), member).map_err(from_tar)? {
            MemberOutput::Header => cat::copy(&at.node, &mut self.archive)?,
            MemberOutput::Whole => {}
            MemberOutput::Nothing => {
                let path = term::rooted(at.path);
                exit::complain(format_args!("{}: socket left out", Quoted(&path)));
            }
        }
        Ok(())
    }

    /// The path under which the inode was met before, if it was.
    fn first_name(&mut self, at: &Entry<'_, '_>) -> Option<Vec<u8>> {
        let inode = &at.node.inode;
        if inode.is_dir() || inode.nlink == 1 {
            return None;
        }
        match self.first.entry(at.id) {
            First::Occupied(first) => Some(self.dirs.path(first.get())),
            First::Vacant(empty) => {
                empty.insert(NameInDir::new(at.parent, at.name()));
                None
            }
        }
    }
}

/// An archive that cannot be written is a matter of its stream; else of what the image holds.
fn from_tar(error: Error) -> anyhow::Error {
    match error.problem {
        Problem::Io(e) => e.into(),
        _ => BadInput(error.to_string()).into(),
    }
}
