//! `erolith cat`: the content of files of an image.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::exit;
use crate::source::{self, ImageArgs, ImageTree, Missing, Node};
use crate::term::Quoted;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Write the content of files of an image to standard output.
///
/// A symbolic link is an error unless --dereference is given. After a path that is not there or has no
/// content, the others are still written, and the exit code is 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Follow symbolic links inside the image.
    #[arg(short = 'L', long)]
    dereference: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// Files of the image.
    #[arg(required = true)]
    path: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let tree = args.image.tree()?;
    let mut code = ExitCode::SUCCESS;
    for path in &args.path {
        let path = source::path_bytes(path);
        let what = || format!("{}: {}", args.image.name(), Quoted(path));
        match find(args, &tree, path).with_context(what)? {
            Ok(node) => copy(&node, out).with_context(what)?,
            Err(why) => {
                exit::complain(format_args!("{}: {why}", Quoted(path)));
                code = ExitCode::from(exit::NO);
            }
        }
    }
    Ok(code)
}

fn find<'a>(
    args: &Args,
    tree: &'a ImageTree,
    path: &[u8],
) -> anyhow::Result<Result<Node<'a>, String>> {
    let found = if args.dereference { tree.follow(path)? } else { tree.find(path)? };
    Ok(match found {
        Ok(node) if node.inode.is_file() => Ok(node),
        Ok(node) if node.inode.is_dir() => Err(Missing::IsADirectory.to_string()),
        Ok(node) if node.inode.is_symlink() => {
            let target = node.image.read_link(&node.inode)?;
            Err(format!("is a symbolic link to {}", Quoted(&target)))
        }
        Ok(_) => Err(Missing::NoContent.to_string()),
        Err(missing) => Err(missing.to_string()),
    })
}

/// Copies the content of a file to a stream.
pub(crate) fn copy(node: &Node<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let inode = &node.inode;
    let mut buf = vec![0; usize::try_from(inode.size).map_or(PIECE, |size| size.min(PIECE))];
    let mut pos = 0;
    while pos < inode.size {
        let n = node.image.read_at(inode, &mut buf, pos)?;
        out.write_all(buf.get(..n).unwrap_or_default())?;
        pos += n as u64;
    }
    Ok(())
}
