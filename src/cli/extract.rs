//! `erolith extract`: the tree of an image as files.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::extract::{Error, Extractor, Restored, RestoredAttributes, TreeEntry};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};

use crate::exit::{self, BadInput, Usage};
use crate::source::{Entry, ImageArgs, ImageTree, Node};
use crate::term::{self, Quoted};

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
    let attributes = RestoredAttributes {
        owners: !args.no_owner,
        xattrs: !args.no_xattrs,
        devices: !args.no_devices,
    };
    // Nodes are made with the permissions they are to have.
    rustix::process::umask(Mode::empty());
    allow_open_files();
    let extractor = Extractor::create(&args.dir, attributes).map_err(explained);
    let mut extractor =
        extractor.with_context(|| format!("extracting to {}", args.dir.display()))?;
    walk(&tree, &start, |entry| extractor.make(entry))?;
    walk(&tree, &start, |entry| extractor.finish(entry))?;
    let devices_left_out = extractor.devices_left_out();
    extractor.close().map_err(explained).context("directory attributes")?;
    if devices_left_out > 0 {
        exit::complain(format_args!("{devices_left_out} devices were left out"));
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

/// Hands over everything from `start` on.
fn walk<'a>(
    tree: &'a ImageTree,
    start: &Node<'a>,
    mut take: impl FnMut(TreeEntry<'_>) -> Result<(), Error>,
) -> anyhow::Result<()> {
    let mut walk = tree.walk(start);
    while let Some(Entry { path, parent, id, node }) = walk.next_entry()? {
        let what = || format!("extracting {}", Quoted(&term::rooted(path)));
        let xattrs = node.xattrs().with_context(what)?;
        let (image, inode) = (node.image, node.inode);
        let entry = TreeEntry { path, parent, id, image, inode, xattrs };
        take(entry).map_err(explained).with_context(what)?;
    }
    Ok(())
}

/// The error with what leaves out the part that failed.
fn explained(error: Error) -> anyhow::Error {
    let (what, source) = match error {
        Error::Refused { what, source } => (what, source),
        Error::Image(error) => return error.into(),
        Error::Io(error) => return error.into(),
        Error::NotEmpty => return Usage(error.to_string()).into(),
        _ => return BadInput(error.to_string()).into(),
    };
    let text = match &what {
        Restored::Owner => "owner (--no-owner leaves it)".to_owned(),
        Restored::Device => "making a device (--no-devices leaves them out)".to_owned(),
        Restored::Xattr(name) => {
            format!("attribute {} (--no-xattrs leaves them out)", Quoted(name))
        }
        _ => what.to_string(),
    };
    anyhow::Error::new(source).context(text)
}
