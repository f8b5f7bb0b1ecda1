//! `erolith cat`: the content of files of an image.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_mkfs::image::Inode;

use crate::exit;
use crate::source::{self, ImageArgs, Missing, Opened};
use crate::text::Quoted;

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
    let image = args.image.open()?;
    let mut code = ExitCode::SUCCESS;
    for path in &args.path {
        let path = source::path_bytes(path);
        let what = || format!("{}: {}", args.image.name(), Quoted(path));
        match find(args, &image, path).with_context(what)? {
            Ok(inode) => copy(&image, &inode, out).with_context(what)?,
            Err(why) => {
                exit::complain(format_args!("{}: {why}", Quoted(path)));
                code = ExitCode::from(exit::NO);
            }
        }
    }
    Ok(code)
}

fn find(args: &Args, image: &Opened, path: &[u8]) -> anyhow::Result<Result<Inode, String>> {
    let found =
        if args.dereference { source::follow(image, path)? } else { source::find(image, path)? };
    Ok(match found {
        Ok(inode) if inode.is_file() => Ok(inode),
        Ok(inode) if inode.is_dir() => Err(Missing::IsADirectory.to_string()),
        Ok(inode) if inode.is_symlink() => {
            Err(format!("is a symbolic link to {}", Quoted(&image.read_link(&inode)?)))
        }
        Ok(_) => Err(Missing::NoContent.to_string()),
        Err(missing) => Err(missing.to_string()),
    })
}

/// Copies the content of a file to a stream.
pub(crate) fn copy(image: &Opened, inode: &Inode, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut buf = vec![0; usize::try_from(inode.size).map_or(PIECE, |size| size.min(PIECE))];
    let mut pos = 0;
    while pos < inode.size {
        let n = image.read_at(inode, &mut buf, pos)?;
        out.write_all(buf.get(..n).unwrap_or_default())?;
        pos += n as u64;
    }
    Ok(())
}
