//! `erolith ls`: what is in a directory of an image.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_mkfs::image::{Corruption, CorruptionKind, Error};

use crate::exit;
use crate::json;
use crate::source::{self, ImageArgs, ImageTree, Node};
use crate::term::{self, Align, Quoted, Table};

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
    let tree = args.image.tree()?;
    list(args, &tree, out).with_context(|| args.image.name())
}

fn list(args: &Args, tree: &ImageTree, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let path = source::path_bytes(&args.path);
    let node = match tree.find(path)? {
        Ok(node) => node,
        Err(missing) => {
            exit::complain(format_args!("{}: {missing}", Quoted(path)));
            return Ok(ExitCode::from(exit::NO));
        }
    };
    let path = source::normal(path);
    let mut lister = Lister { args, tree, out };
    if node.inode.is_dir() {
        lister.directories(path, node)?;
    } else {
        let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(slash);
        lister.entries(parent, &[(name.to_vec(), node)])?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Lister<'a> {
    args: &'a Args,
    tree: &'a ImageTree,
    out: &'a mut dyn Write,
}

impl<'a> Lister<'a> {
    fn directories(&mut self, path: Vec<u8>, dir: Node<'a>) -> anyhow::Result<()> {
        // A directory that is met again would never end.
        let mut seen = BTreeSet::new();
        // Directories that wait, and how much of `path` is that of their parent.
        let mut todo = vec![(0, path, dir)];
        let mut path = Vec::new();
        while let Some((keep, name, dir)) = todo.pop() {
            if !seen.insert((dir.layer(), dir.inode.nid)) {
                let inode = &dir.inode;
                let twice =
                    Corruption::new(CorruptionKind::DirTwice).nid(inode.nid).at(inode.offset);
                return Err(Error::from(twice).into());
            }
            let is_first = seen.len() == 1;
            path.truncate(keep);
            path.extend_from_slice(&name);
            if self.args.recursive && !self.args.json {
                let gap = if is_first { "" } else { "\n" };
                writeln!(self.out, "{gap}{}:", Quoted(&term::rooted(&path)))?;
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            let found = self.tree.entries(&dir)?;
            self.entries(&path, &found)?;
            if self.args.recursive {
                let keep = path.len();
                let dirs = found.into_iter().rev().filter(|(_, node)| node.inode.is_dir());
                todo.extend(dirs.map(|(name, node)| (keep, name, node)));
            }
        }
        Ok(())
    }

    /// Lists entries of the directory `parent`, a path that ends with a slash or is empty.
    fn entries(&mut self, parent: &[u8], found: &[(Vec<u8>, Node<'_>)]) -> anyhow::Result<()> {
        if self.args.json {
            return found.iter().try_for_each(|(name, node)| self.object(parent, name, node));
        }
        if !self.args.long {
            for (name, _) in found {
                writeln!(self.out, "{}", Quoted(name))?;
            }
            return Ok(());
        }
        use Align::{Left, Right};
        let mut table = Table::new([Left, Right, Right, Right, Right, Left, Left]);
        for (name, node) in found {
            let inode = &node.inode;
            let mut shown = Quoted(name).to_string();
            if inode.is_symlink() {
                shown.push_str(&format!(" -> {}", Quoted(&node.image.read_link(inode)?)));
            }
            let size = match inode.rdev() {
                Some((major, minor)) => format!("{major},{minor}"),
                None => inode.size.to_string(),
            };
            table.row([
                term::mode_letters(inode),
                inode.nlink.to_string(),
                inode.uid.to_string(),
                inode.gid.to_string(),
                size,
                term::iso(inode.mtime),
                shown,
            ]);
        }
        Ok(table.write(self.out, 0)?)
    }

    fn object(&mut self, parent: &[u8], name: &[u8], node: &Node<'_>) -> anyhow::Result<()> {
        let inode = &node.inode;
        let mut object = json::inode(inode);
        object["path"] = json::bytes(&[b"/", parent, name].concat());
        if let Some(layer) = node.layer() {
            object["layer"] = layer.into();
        }
        if inode.is_symlink() {
            object["target"] = json::bytes(&node.image.read_link(inode)?);
        }
        Ok(json::line(self.out, &object)?)
    }
}
