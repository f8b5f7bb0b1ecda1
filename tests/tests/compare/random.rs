//! Random trees and random changes, the same for the same seed. What the kernel refuses is passed over.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, removexattr, setxattr};

/// Trees for each kind of overlay.
pub const ROUNDS: u64 = 10;
/// Names of a tree, and changes of it. Few names, so that they meet.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const CHANGES: usize = 60;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn path(&mut self, root: &Path) -> PathBuf {
        let depth = self.below(3) + 1;
        (0..depth).fold(root.to_owned(), |path, _| path.join(NAMES[self.below(NAMES.len())]))
    }

    fn content(&mut self) -> Vec<u8> {
        let len = [0, 1, 100, 4096, 10_000, 200_000][self.below(6)];
        vec![u8::try_from(self.below(256)).unwrap(); len]
    }

    /// Makes a tree of an empty directory, or another one of it.
    pub fn change(&mut self, root: &Path) {
        for _ in 0..CHANGES {
            self.one(root);
        }
    }

    fn one(&mut self, root: &Path) {
        let (path, other) = (self.path(root), self.path(root));
        // Whether it can be done depends on what is there.
        let _ = match self.below(13) {
            0 | 1 => fs::create_dir_all(&path),
            2 | 3 => File::create(&path).and_then(|mut file| file.write_all(&self.content())),
            4 => File::options().write(true).open(&path).and_then(|file| {
                file.write_all_at(b"changed", u64::try_from(self.below(9000)).unwrap())
            }),
            5 => fs::remove_file(&path),
            6 => fs::remove_dir_all(&path),
            7 => fs::rename(&path, &other),
            8 => fs::hard_link(&path, &other),
            9 => symlink(&other, &path),
            10 => fs::symlink_metadata(&path).and_then(|found| {
                let mode = [0o600, 0o755, 0o4711, 0o1777][self.below(4)];
                match found.is_symlink() {
                    true => Ok(()),
                    false => fs::set_permissions(&path, fs::Permissions::from_mode(mode)),
                }
            }),
            11 => {
                let owner = u32::try_from(self.below(3)).unwrap();
                std::os::unix::fs::lchown(&path, Some(owner), None)
            }
            _ => match self.below(3) {
                0 => removexattr(&path, "user.key").map_err(Into::into),
                n => {
                    let value = [b"one".as_slice(), b"two"][n - 1];
                    setxattr(&path, "user.key", value, XattrFlags::empty()).map_err(Into::into)
                }
            },
        };
    }
}
