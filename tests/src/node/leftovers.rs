//! What a daemon may leave behind, and must not.

use std::fs;
use std::path::{Path, PathBuf};

/// Mounts, directories, files and loop devices of one daemon.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Mount points below the state and the root.
    pub mounts: Vec<PathBuf>,
    /// Entries of `snapshots/`.
    pub layers: Vec<String>,
    /// Converted layers that are kept for reuse, relative to `images/`.
    pub images: Vec<String>,
    /// Backing files of loop devices that are below the root.
    pub loops: Vec<String>,
}

impl Leftovers {
    /// Looks: at mounts as process `pid` sees them.
    ///
    /// # Errors
    /// What could not be read.
    pub fn of(pid: u32, root: &Path, state: &Path) -> Result<Self, String> {
        let table = format!("/proc/{pid}/mountinfo");
        let table = fs::read_to_string(&table).map_err(|e| format!("{table}: {e}"))?;
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut out = Self {
            mounts: points.filter(|p| p.starts_with(state) || p.starts_with(root)).collect(),
            layers: names(&root.join("snapshots")),
            images: files(&root.join("images"), ""),
            loops: loops_below(root),
        };
        out.mounts.sort();
        Ok(out)
    }

    /// Waits up to 10 s until there is nothing.
    ///
    /// # Errors
    /// What stays.
    pub fn vanish(pid: u32, root: &Path, state: &Path) -> Result<(), String> {
        let mut left = Self::of(pid, root, state)?;
        for _ in 0..100 {
            if left == Self::default() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            left = Self::of(pid, root, state)?;
        }
        Err(format!("left behind: {left:#?}"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut out: Vec<_> = entries.map(|e| e.file_name().display().to_string()).collect();
    out.sort();
    out
}

/// Regular files at any depth.
fn files(dir: &Path, prefix: &str) -> Vec<String> {
    let mut out = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            out.extend(files(&path, &format!("{prefix}{name}/")));
        } else {
            out.push(format!("{prefix}{name}"));
        }
    }
    out
}

fn loops_below(root: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|d| fs::read_to_string(d.path().join("loop/backing_file")).ok());
    let files = files.map(|file| file.trim_end().to_owned());
    files.filter(|file| Path::new(file).starts_with(root)).collect()
}
