//! containerd's own apply, the reference for what a layer means.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::listing::{Blind, Listing, Type};
use crate::tools;

/// The program of `tests/oracle`.
#[derive(Debug)]
pub struct Oracle {
    program: PathBuf,
}

/// What containerd made of an archive.
#[derive(Debug)]
pub enum Applied {
    /// A tree.
    Tree(Box<Listing>),
    /// Nothing, and this is what it said.
    Refused(String),
}

impl Applied {
    /// The tree, or what containerd said.
    ///
    /// # Errors
    /// What containerd said.
    pub fn clone_tree(&self) -> Result<Listing, String> {
        match self {
            Self::Tree(tree) => Ok(Listing::clone(tree)),
            Self::Refused(message) => Err(message.clone()),
        }
    }
}

impl Oracle {
    /// Finds it.
    ///
    /// # Errors
    /// What is missing, for [`crate::need!`].
    pub fn find() -> Result<Self, String> {
        let program = tools::program("containerd-apply")?;
        if rustix::process::geteuid().is_root() {
            return Ok(Self { program });
        }
        Err("containerd's apply makes devices and owners: it needs root".to_owned())
    }

    /// Applies each archive to a directory of its own below `scratch`, in overlayfs form, as the overlay snapshotter has
    /// it applied.
    ///
    /// # Errors
    /// What failed but the archives themselves.
    pub fn apply_each<'a>(
        &self,
        archives: impl IntoIterator<Item = &'a [u8]>,
        scratch: &Path,
    ) -> Result<Vec<Applied>, String> {
        let mut list = String::new();
        let mut dirs = Vec::new();
        for (i, archive) in archives.into_iter().enumerate() {
            let (tar, dir) = (scratch.join(format!("{i}.tar")), scratch.join(i.to_string()));
            let mut file = std::fs::File::create(&tar).map_err(|e| e.to_string())?;
            file.write_all(archive).map_err(|e| e.to_string())?;
            list.push_str(&format!("{} {}\n", tar.display(), dir.display()));
            dirs.push(dir);
        }
        let list_file = scratch.join("list");
        let written =
            std::fs::File::create(&list_file).and_then(|mut f| f.write_all(list.as_bytes()));
        written.map_err(|e| e.to_string())?;
        let out = Command::new(&self.program)
            .args(["--overlay", "--batch"])
            .arg(&list_file)
            .output()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        if !out.status.success() {
            return Err(format!("containerd-apply: {}", String::from_utf8_lossy(&out.stderr)));
        }
        let answers = String::from_utf8_lossy(&out.stdout).into_owned();
        let answers: Vec<_> = answers.lines().collect();
        if answers.len() != dirs.len() {
            return Err(format!("{} answers to {} archives", answers.len(), dirs.len()));
        }
        answers
            .iter()
            .zip(dirs)
            .map(|(answer, dir)| match answer.split('\t').collect::<Vec<_>>().as_slice() {
                [_, "ok"] => Ok(Applied::Tree(Box::new(Listing::from_dir(&dir)?))),
                [_, "error", message] => Ok(Applied::Refused((*message).to_owned())),
                _ => Err(format!("containerd-apply answered {answer:?}")),
            })
            .collect()
    }

    /// Applies a layer's archive to the empty `dir` in overlayfs form. Directories that the archive does not describe
    /// take their attributes from those of `parents`, the nearest first.
    ///
    /// # Errors
    /// What containerd said.
    pub fn apply_layer(
        &self,
        archive: &Path,
        dir: &Path,
        parents: &[PathBuf],
    ) -> Result<(), String> {
        let parents: Vec<_> = parents.iter().map(|p| p.display().to_string()).collect();
        self.apply(archive, &["--overlay".into(), format!("--parents={}", parents.join(":"))], dir)
    }

    /// Applies one archive to `dir` as on a plain directory: whiteouts delete what they name.
    ///
    /// # Errors
    /// What containerd said.
    pub fn apply_onto(&self, archive: &Path, dir: &Path) -> Result<(), String> {
        self.apply(archive, &[], dir)
    }

    fn apply(&self, archive: &Path, options: &[String], dir: &Path) -> Result<(), String> {
        let tar = std::fs::File::open(archive).map_err(|e| e.to_string())?;
        let out = Command::new(&self.program)
            .args(options)
            .arg(dir)
            .stdin(Stdio::from(tar))
            .output()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        if out.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
    }
}

/// A tree of ours and one that containerd has made since `start` (in seconds since 1970), without what containerd cannot
/// say.
pub fn comparable(ours: Listing, theirs: Listing, start: i64) -> (Listing, Listing) {
    // It never touches the root.
    let (mut ours, mut theirs) = (ours.blind(&[Blind::Root]), theirs.blind(&[Blind::Root]));
    for node in ours.nodes.values_mut() {
        // A mark that only read-only layers need: an upper directory gets its own from overlayfs.
        node.xattrs.remove(b"trusted.overlay.origin".as_slice());
    }
    for (path, theirs) in &mut theirs.nodes {
        let Some(ours) = ours.nodes.get_mut(path) else { continue };
        // Whiteouts, and directories that the archive does not describe, have the time of day.
        let whiteout = theirs.kind == Type::Char && theirs.rdev == (0, 0);
        let of_today = theirs.mtime.is_some_and(|(sec, _)| sec >= start);
        if whiteout || (theirs.kind == Type::Dir && of_today) {
            (ours.mtime, theirs.mtime) = (None, None);
        }
    }
    (ours, theirs)
}

/// Case N12: containerd makes times before 1970 the start of 1970, and we keep them. Gives its tree our times there.
#[must_use]
pub fn bounded(ours: &Listing, mut theirs: Listing) -> Listing {
    for (path, node) in &mut theirs.nodes {
        let mtime = ours.nodes.get(path).and_then(|node| node.mtime);
        if node.mtime == Some((0, 0)) && mtime.is_some_and(|(sec, _)| sec < 0) {
            node.mtime = mtime;
        }
    }
    theirs
}

/// Seconds since 1970, for [`comparable`].
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(i64::MAX)
}
