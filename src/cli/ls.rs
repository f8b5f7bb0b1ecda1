//! `erolith ls`: what is in a directory of an image.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_mkfs::image::{Corruption, Error, Fault, Inode};

use crate::exit;
use crate::json;
use crate::source::{self, ImageArgs, Opened};
use crate::text::{self, Align, Quoted, Table};

/// List a directory of an image.
///
/// Names are in the order of their bytes, hidden ones included. Symbolic links are not followed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Type, permissions, links, owner, group, size or device number, modification time, and link targets.
    #[arg(short, long)]
    long: bool,
    /// Everything below the directory, one directory after the other.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// One JSON object a line and entry, with everything that --long shows.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// A directory or a file of the image.
    #[arg(default_value = "/")]
    path: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    list(args, &image, out).with_context(|| args.image.name())
}

fn list(args: &Args, image: &Opened, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let path = source::path_bytes(&args.path);
    let inode = match source::find(image, path)? {
        Ok(inode) => inode,
        Err(missing) => {
            exit::complain(format_args!("{}: {missing}", Quoted(path)));
            return Ok(ExitCode::from(exit::NO));
        }
    };
    let path = source::normal(path);
    let mut lister = Lister { args, image, out };
    if inode.is_dir() {
        lister.tree(path, inode)?;
    } else {
        let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(slash);
        lister.entries(parent, &[(name.to_vec(), inode)])?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Lister<'a> {
    args: &'a Args,
    image: &'a Opened,
    out: &'a mut dyn Write,
}

impl Lister<'_> {
    fn tree(&mut self, path: Vec<u8>, dir: Inode) -> anyhow::Result<()> {
        // A directory that is met again would never end.
        let mut seen = BTreeSet::new();
        // Directories that wait, and how much of `path` is that of their parent.
        let mut todo = vec![(0, path, dir)];
        let mut path = Vec::new();
        while let Some((keep, name, dir)) = todo.pop() {
            if !seen.insert(dir.nid) {
                let twice = Corruption::new(Fault::DirTwice).nid(dir.nid).at(dir.offset);
                return Err(Error::from(twice).into());
            }
            let is_first = seen.len() == 1;
            path.truncate(keep);
            path.extend_from_slice(&name);
            if self.args.recursive && !self.args.json {
                let gap = if is_first { "" } else { "\n" };
                writeln!(self.out, "{gap}{}:", Quoted(&text::rooted(&path)))?;
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            let found = source::entries(self.image, &dir)?;
            let found: Vec<_> = found.into_iter().map(|(entry, i)| (entry.name, i)).collect();
            self.entries(&path, &found)?;
            if self.args.recursive {
                let keep = path.len();
                let dirs = found.into_iter().rev().filter(|(_, inode)| inode.is_dir());
                todo.extend(dirs.map(|(name, inode)| (keep, name, inode)));
            }
        }
        Ok(())
    }

    /// Lists entries of the directory `parent`, a path that ends with a slash or is empty.
    fn entries(&mut self, parent: &[u8], found: &[(Vec<u8>, Inode)]) -> anyhow::Result<()> {
        if self.args.json {
            return found.iter().try_for_each(|(name, inode)| self.object(parent, name, inode));
        }
        if !self.args.long {
            for (name, _) in found {
                writeln!(self.out, "{}", Quoted(name))?;
            }
            return Ok(());
        }
        use Align::{Left, Right};
        let mut table = Table::new([Left, Right, Right, Right, Right, Left, Left]);
        for (name, inode) in found {
            let mut shown = Quoted(name).to_string();
            if inode.is_symlink() {
                shown.push_str(&format!(" -> {}", Quoted(&self.image.read_link(inode)?)));
            }
            let size = match inode.rdev() {
                Some((major, minor)) => format!("{major},{minor}"),
                None => inode.size.to_string(),
            };
            table.row([
                text::mode_letters(inode),
                inode.nlink.to_string(),
                inode.uid.to_string(),
                inode.gid.to_string(),
                size,
                text::iso(inode.mtime),
                shown,
            ]);
        }
        Ok(table.write(self.out, 0)?)
    }

    fn object(&mut self, parent: &[u8], name: &[u8], inode: &Inode) -> anyhow::Result<()> {
        let mut object = json::inode(inode);
        object["path"] = json::bytes(&[b"/", parent, name].concat());
        if inode.is_symlink() {
            object["target"] = json::bytes(&self.image.read_link(inode)?);
        }
        Ok(json::line(self.out, &object)?)
    }
}
