//! An image as text: what a test compares with a file of the repository, so that a difference says what changed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use erolith_mkfs::image::{Error, Extent, Image, Inode};

/// With this in the environment, [`compare`] writes the text instead.
const UPDATE: &str = "EROLITH_TESTS_UPDATE";

/// Superblock, inodes, names, attributes and extents of the image in `file`, in the order of a walk.
///
/// # Errors
/// Any fault of the image.
pub fn dump(file: File) -> Result<String, Error> {
    let image = Image::open(file, Vec::new())?;
    let mut lines = superblock(&image);
    let mut walk = image.walk();
    let mut seen = Vec::new();
    while let Some(entry) = walk.next_entry()? {
        let inode = &entry.inode;
        lines.push(format!("\n/{}: nid {}", entry.path.escape_ascii(), inode.nid));
        if !seen.contains(&inode.nid) {
            seen.push(inode.nid);
            describe(&image, inode, &mut lines)?;
        }
    }
    Ok(lines.join("\n") + "\n")
}

fn superblock(image: &Image<File>) -> Vec<String> {
    let sb = image.superblock();
    let raw = &sb.raw;
    let numbers = [
        ("blkszbits", u64::from(raw.blkszbits)),
        ("blocks", sb.blocks),
        ("inos", raw.inos.get()),
        ("root nid", sb.root),
        ("meta_blkaddr", raw.meta_blkaddr.get().into()),
        ("xattr_blkaddr", raw.xattr_blkaddr.get().into()),
        ("fixed_nsec", raw.fixed_nsec.get().into()),
        ("extra_devices", raw.extra_devices.get().into()),
        ("devt_slotoff", raw.devt_slotoff.get().into()),
    ];
    let mut lines: Vec<_> =
        numbers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    lines.push(format!("epoch: {}", raw.epoch.get()));
    lines.push(format!("checksum: {:#010x}", raw.checksum.get()));
    lines.push(format!("feature_compat: {:#x}", raw.feature_compat.get()));
    lines.push(format!("feature_incompat: {:#x}", raw.feature_incompat.get()));
    lines.push(format!("uuid: {}", hex(&raw.uuid)));
    lines.push(format!("volume_name: {}", raw.volume_name.escape_ascii()));
    lines
}

fn describe(image: &Image<File>, inode: &Inode, lines: &mut Vec<String>) -> Result<(), Error> {
    let Inode { mode, layout, size, nlink, uid, gid, .. } = inode;
    let form = if inode.extended { "extended" } else { "compact" };
    let mtime = format!("{}.{:09}", inode.mtime.sec, inode.mtime.nsec);
    lines.push(format!(
        "  mode {mode:06o}, {form}, {layout:?}, size {size}, nlink {nlink}, owner {uid}:{gid}, mtime {mtime}"
    ));
    if let Some((major, minor)) = inode.rdev() {
        lines.push(format!("  device {major}:{minor}"));
    }
    if inode.is_symlink() {
        lines.push(format!("  target {}", image.read_link(inode)?.escape_ascii()));
    }
    for xattr in image.xattrs(inode)? {
        let (name, value) = (xattr.name.escape_ascii(), xattr.value.escape_ascii());
        lines.push(format!("  xattr {name} = \"{value}\""));
    }
    for extent in image.extents(inode) {
        let Extent { start, len, place } = extent?;
        lines.push(format!("  extent {start}+{len} {place:?}"));
    }
    if inode.is_dir() {
        for entry in image.read_dir(inode.nid)? {
            let entry = entry?;
            let name = entry.name.escape_ascii();
            lines.push(format!("  dirent {name}: nid {}, type {}", entry.nid, entry.file_type));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a text with the file of this name in `tests/golden`.
///
/// # Errors
/// What reading or writing that file gives.
///
/// # Panics
/// When they differ, with the lines that do.
pub fn compare(name: &str, is: &str) -> io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os(UPDATE).is_some() {
        File::create(&path)?.write_all(is.as_bytes())?;
    }
    let was = fs::read_to_string(&path)?;
    let changes = changes(&was, is);
    assert!(
        changes.is_empty(),
        "{}: if intentional, update it with {UPDATE}=1:\n{}",
        path.display(),
        changes.join("\n")
    );
    Ok(())
}

/// Lines that are gone, with `-` before them, and those that are new, with `+`.
fn changes(was: &str, is: &str) -> Vec<String> {
    let (was, is): (Vec<&str>, Vec<&str>) = (was.lines().collect(), is.lines().collect());
    // The length of the longest common part behind each pair of places.
    let mut common = vec![vec![0_usize; is.len() + 1]; was.len() + 1];
    for i in (0..was.len()).rev() {
        for j in (0..is.len()).rev() {
            common[i][j] = match was[i] == is[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < was.len() || j < is.len() {
        if i < was.len() && j < is.len() && was[i] == is[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == is.len() || (i < was.len() && common[i + 1][j] >= common[i][j + 1]) {
            out.push(format!("-{}", was[i]));
            i += 1;
        } else {
            out.push(format!("+{}", is[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_differ_are_told() {
        assert_eq!(changes("a\nb\nc\n", "a\nb\nc\n"), [""; 0]);
        assert_eq!(changes("a\nb\nc\n", "a\nx\nc\nd\n"), ["-b", "+x", "+d"]);
    }
}
