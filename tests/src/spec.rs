//! Generated trees, and what they look like as an archive, as a directory and as a [`Listing`].
//!
//! All three come from the same description and share nothing else, so a tree that is the same after the way through
//! an image and four readers was understood by all of them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path as HostPath;

use proptest::prelude::*;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use crate::cases::attributes;
use crate::listing::make::{self, Item, listing};
use crate::listing::{Listing, Path, join};
use crate::tarball::{Header, Tarball, field, record};

/// Bytes of a file: its size, and the runs that are not zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Size of the file.
    pub size: u64,
    /// Where data is, ascending and apart from each other.
    pub runs: Vec<(u64, Vec<u8>)>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Directory.
    Dir,
    /// Regular file.
    File(Content),
    /// Symbolic link.
    Symlink(Vec<u8>),
    /// Character device.
    Char(u32, u32),
    /// Block device.
    Block(u32, u32),
    /// FIFO.
    Fifo,
    /// Another name of the inode at this path.
    Link(Path),
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: Path,
    /// What.
    pub body: Body,
    /// Permissions, owner, group; of no meaning for a hard link.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree, parents before children and targets before hard links. The first entry is the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// All paths of it.
    pub entries: Vec<Entry>,
}

impl Spec {
    /// The tree as every reader must see it.
    pub fn listing(&self) -> Listing {
        listing(self.entries.iter().map(Entry::item))
    }

    /// The tree as an archive. Sparse files are written with holes when `sparse` says so.
    pub fn tar(&self, sparse: bool) -> Vec<u8> {
        let mut by_path: BTreeMap<&Path, &Entry> = BTreeMap::new();
        let mut tar = Tarball::new();
        for entry in &self.entries {
            let described = match &entry.body {
                Body::Link(target) => by_path.get(target).copied().unwrap_or(entry),
                _ => {
                    by_path.insert(&entry.path, entry);
                    entry
                }
            };
            tar = entry.append(described, tar, sparse);
        }
        tar.end()
    }

    /// Makes the tree below `root`, an empty directory of a file system that takes everything.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn make(&self, root: &HostPath) -> Result<(), String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| e.to_string())?;
        for entry in &self.entries {
            entry.make(&root).map_err(|e| format!("making /{}: {e}", entry.path.escape_ascii()))?;
        }
        // A default ACL set earlier would be inherited, and every name made in a directory changes its time.
        for entry in self.entries.iter().filter(|e| e.body == Body::Dir) {
            entry.finish(&root).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

impl Entry {
    /// An ACL and a mode are two views of one thing; the kernel keeps them so.
    fn agree_with_acl(&mut self) {
        if self.xattrs.contains_key(b"system.posix_acl_access".as_slice()) {
            self.mode = (self.mode & !0o777) | 0o644;
        }
    }

    fn item(&self) -> Item {
        let item = match &self.body {
            Body::Dir => make::dir(&self.path),
            Body::File(content) => {
                let runs: Vec<_> =
                    content.runs.iter().map(|(at, data)| (*at, data.as_slice())).collect();
                make::sparse(&self.path, content.size, &runs)
            }
            Body::Symlink(target) => make::symlink(&self.path, target),
            Body::Char(major, minor) => make::char(&self.path, *major, *minor),
            Body::Block(major, minor) => make::block(&self.path, *major, *minor),
            Body::Fifo => make::fifo(&self.path),
            Body::Link(target) => return make::link(&self.path, target),
        };
        let item = item.mode(self.mode).owner(self.uid, self.gid).mtime(self.mtime.0, self.mtime.1);
        self.xattrs.iter().fold(item, |item, (name, value)| item.xattr(name, value))
    }

    /// Appends the member; the attributes come from `described`, the first name of the inode.
    fn append(&self, described: &Self, tar: Tarball, sparse: bool) -> Tarball {
        let (kind, link): (u8, &[u8]) = match &self.body {
            Body::Dir => (b'5', b""),
            Body::File(_) => (b'0', b""),
            Body::Symlink(target) => (b'2', target),
            Body::Char(..) => (b'3', b""),
            Body::Block(..) => (b'4', b""),
            Body::Fifo => (b'6', b""),
            Body::Link(target) => (b'1', target),
        };
        let mut pax = Vec::new();
        let name = if self.path.is_empty() { b"./".to_vec() } else { self.path.clone() };
        let mut header = Header::new(kind, name.get(..100).unwrap_or(&name))
            .raw(field::LINK, link.get(..100).unwrap_or(link))
            .mode(u64::from(described.mode))
            .owner(u64::from(described.uid), u64::from(described.gid))
            .mtime(described.mtime.0);
        if let Body::Char(major, minor) | Body::Block(major, minor) = self.body {
            header = header.device(u64::from(major), u64::from(minor));
        }
        if name.len() > 100 {
            pax.extend(record("path", &name));
        }
        if link.len() > 100 {
            pax.extend(record("linkpath", link));
        }
        if described.mtime.1 != 0 {
            pax.extend(record("mtime", pax_time(described.mtime)));
        }
        for (name, value) in &described.xattrs {
            pax.extend(record([b"SCHILY.xattr.", name.as_slice()].concat(), value));
        }
        let body = match &self.body {
            Body::File(content) if sparse && content.runs.len() > 1 => {
                pax.extend(content.sparse_records(&name));
                content.sparse_body()
            }
            Body::File(content) => content.bytes(),
            _ => Vec::new(),
        };
        let tar = if pax.is_empty() { tar } else { tar.pax_raw(pax) };
        tar.member(header, body)
    }

    fn make(&self, root: &OwnedFd) -> rustix::io::Result<()> {
        let path = if self.path.is_empty() { b"." } else { self.path.as_slice() };
        let device = |kind, (major, minor)| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(root, path, kind, mode, rustix::fs::makedev(major, minor))
        };
        match &self.body {
            Body::Dir if self.path.is_empty() => {}
            Body::Dir => rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o700))?,
            Body::File(content) => content.make(root, path)?,
            Body::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), root, path)?,
            Body::Char(major, minor) => device(FileType::CharacterDevice, (*major, *minor))?,
            Body::Block(major, minor) => device(FileType::BlockDevice, (*major, *minor))?,
            Body::Fifo => device(FileType::Fifo, (0, 0))?,
            Body::Link(target) => {
                return rustix::fs::linkat(root, target.as_slice(), root, path, AtFlags::empty());
            }
        }
        let owner = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        rustix::fs::chownat(root, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if !matches!(self.body, Body::Symlink(_)) {
            rustix::fs::chmodat(root, path, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        if self.body == Body::Dir { Ok(()) } else { self.finish(root) }
    }

    /// Sets what other steps would undo.
    fn finish(&self, root: &OwnedFd) -> rustix::io::Result<()> {
        let path = if self.path.is_empty() { b"." } else { self.path.as_slice() };
        let full = proc_path(root, path);
        for (name, value) in &self.xattrs {
            rustix::fs::lsetxattr(&*full, name.as_slice(), value, XattrFlags::empty())?;
        }
        let time = Timespec { tv_sec: self.mtime.0, tv_nsec: i64::from(self.mtime.1) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn proc_path(root: impl AsFd, path: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd as _;
    let mut full = format!("/proc/self/fd/{}/", root.as_fd().as_raw_fd()).into_bytes();
    full.extend_from_slice(path);
    full
}

/// A time as pax writes it: the fraction of a negative one points away from zero.
fn pax_time((sec, nsec): (i64, u32)) -> String {
    if sec >= 0 || nsec == 0 {
        return format!("{sec}.{nsec:09}");
    }
    format!("-{}.{:09}", -(sec + 1), 1_000_000_000 - nsec)
}

impl Content {
    /// All bytes, zeros included.
    fn bytes(&self) -> Vec<u8> {
        let index = |n: u64| usize::try_from(n).expect("generated files fit in memory");
        let mut out = vec![0; index(self.size)];
        for (at, data) in &self.runs {
            out[index(*at)..index(*at) + data.len()].copy_from_slice(data);
        }
        out
    }

    fn sparse_records(&self, name: &[u8]) -> Vec<u8> {
        let size = self.size.to_string();
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", name),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        records.iter().flat_map(|(key, value)| record(key, value)).collect()
    }

    fn sparse_body(&self) -> Vec<u8> {
        let lines = self.runs.iter().map(|(at, data)| format!("{at}\n{}\n", data.len()));
        let mut out = format!("{}\n{}", self.runs.len(), lines.collect::<String>()).into_bytes();
        out.resize(out.len().next_multiple_of(512), 0);
        out.extend(self.runs.iter().flat_map(|(_, data)| data));
        out
    }

    fn make(&self, root: &OwnedFd, path: &[u8]) -> rustix::io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::ftruncate(&file, self.size)?;
        for (at, data) in &self.runs {
            let mut done = 0;
            while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
                done += rustix::io::pwrite(&file, rest, at + done as u64)?;
            }
        }
        Ok(())
    }
}

/// Trees of up to `max` entries besides the root.
pub fn trees(max: usize) -> impl Strategy<Value = Spec> {
    let root = attributes_of(Just(Body::Dir).boxed());
    let entry = (any::<prop::sample::Index>(), names(), attributes_of(bodies()));
    (root, prop::collection::vec(entry, 0..max)).prop_map(|(root, drafts)| assemble(root, drafts))
}

type Draft = (prop::sample::Index, Vec<u8>, Entry);

/// Puts every draft into one of the directories before it. A name that is taken is left out.
fn assemble(mut root: Entry, drafts: Vec<Draft>) -> Spec {
    root.agree_with_acl();
    let mut entries = vec![root];
    let mut dirs = vec![Path::new()];
    let mut inodes: Vec<Path> = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    for (index, name, mut entry) in drafts {
        let dir: &Path = index.get(&dirs);
        let path = join(dir, &name);
        if path.len() > 2000 || !taken.insert(path.clone()) {
            continue;
        }
        entry.path.clone_from(&path);
        match &mut entry.body {
            Body::Dir => dirs.push(path),
            // The strategy says only that it is a link.
            Body::Link(target) => match inodes.is_empty() {
                true => entry.body = Body::Fifo,
                false => target.clone_from(index.get(&inodes)),
            },
            _ => inodes.push(path),
        }
        if matches!(entry.body, Body::Symlink(_)) {
            entry.mode = 0o777;
        }
        if !matches!(entry.body, Body::Dir | Body::File(_)) {
            entry.xattrs.retain(|name, _| name.starts_with(b"security."));
        }
        if entry.body != Body::Dir {
            entry.xattrs.remove(b"system.posix_acl_default".as_slice());
        }
        entry.agree_with_acl();
        entries.push(entry);
    }
    Spec { entries }
}

fn attributes_of(body: BoxedStrategy<Body>) -> impl Strategy<Value = Entry> {
    let owner = || {
        prop_oneof![
            4 => Just(0),
            2 => 1..70_000_u32,
            1 => Just(65_535_u32),
            1 => Just(65_536_u32),
            1 => Just(u32::MAX - 1),
        ]
    };
    let seconds = prop_oneof![
        3 => Just(crate::tarball::MTIME),
        2 => 0..4_000_000_000_i64,
        1 => -3_000_000_000..0_i64,
        1 => Just(1_i64 << 33),
    ];
    let nanoseconds = prop_oneof![2 => Just(0), 1 => 0..1_000_000_000_u32, 1 => Just(999_999_999)];
    let mode = prop_oneof![3 => Just(0o644_u32), 2 => Just(0o755), 2 => 0..0o10_000_u32];
    (body, mode, owner(), owner(), (seconds, nanoseconds), xattrs()).prop_map(
        |(body, mode, uid, gid, mtime, xattrs)| Entry {
            path: Path::new(),
            body,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
    )
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'z', 1 => 1..=255_u8];
    let odd = prop::collection::vec(byte, 1..20);
    let low = prop::sample::select(vec![" ", "-", "!", "+a", "..a", ".a", "...", ",", "~", "#x"]);
    prop_oneof![
        6 => "[a-z]{1,8}".prop_map(String::into_bytes),
        2 => odd,
        2 => low.prop_map(|s| s.as_bytes().to_vec()),
        1 => (200..=255_usize, b'a'..=b'z').prop_map(|(len, byte)| vec![byte; len]),
    ]
    .prop_map(|mut name| {
        name.retain(|&b| b != b'/');
        // Names that mean something to a tar or to a layer are the catalogue's business.
        let taken = name.is_empty() || name == b"." || name == b".." || name.starts_with(b".wh.");
        if taken { b"plain".to_vec() } else { name }
    })
}

fn bodies() -> BoxedStrategy<Body> {
    let target = prop_oneof![
        4 => "[a-z./]{1,30}".prop_map(String::into_bytes),
        1 => (1000..=4095_usize).prop_map(|len| vec![b't'; len]),
    ];
    let number = || (0..=0xfff_u32, prop_oneof![0..256_u32, 0..=0xf_ffff_u32]);
    prop_oneof![
        6 => Just(Body::Dir),
        10 => contents().prop_map(Body::File),
        3 => target.prop_map(Body::Symlink),
        1 => number().prop_map(|(major, minor)| Body::Char(major.max(1), minor)),
        1 => number().prop_map(|(major, minor)| Body::Block(major, minor)),
        1 => Just(Body::Fifo),
        3 => Just(Body::Link(Path::new())),
    ]
    .boxed()
}

fn contents() -> impl Strategy<Value = Content> {
    let near = (0..6_u64, prop::sample::select(vec![512_u64, 1024, 4096, 65_536]), -2..=2_i64)
        .prop_map(|(blocks, block, off)| (blocks * block).saturating_add_signed(off));
    let size = prop_oneof![1 => Just(0), 4 => 1..300_u64, 4 => near, 2 => 1..200_000_u64];
    let run = (any::<prop::sample::Index>(), 1..9000_usize, any::<u8>());
    let sparse = (1..40_u64, prop::collection::vec(run, 0..4)).prop_map(|(units, mut runs)| {
        let size = units * 65_536 - units * 37;
        runs.sort_by_key(|(index, ..)| index.index(1 << 30));
        let mut out: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut end = 0;
        for (index, len, seed) in runs {
            let at = (index.index(1 << 30) as u64 * size) >> 30;
            if at < end || at + len as u64 > size {
                continue;
            }
            end = at + len as u64 + 1;
            out.push((at, pattern(seed, len)));
        }
        Content { size, runs: out }
    });
    let dense = (size, any::<u8>()).prop_map(|(size, seed)| {
        let len = usize::try_from(size).unwrap_or(0);
        let runs = if len == 0 { Vec::new() } else { vec![(0, pattern(seed, len))] };
        Content { size, runs }
    });
    prop_oneof![8 => dense, 2 => sparse]
}

/// Bytes without zeros that differ from run to run.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 7 + usize::from(seed)) % 255).unwrap_or(0) + 1).collect()
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let user = (
        "[a-z.]{1,30}",
        prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..40),
            1 => (1000..5000_usize).prop_map(|len| vec![b'v'; len]),
        ],
    )
        // What overlayfs owns is escaped on the way: the catalogue's business.
        .prop_map(|(name, value)| (format!("user.x{name}").into_bytes(), value));
    let fixed = prop::sample::select(vec![
        (b"security.selinux".to_vec(), b"system_u:object_r:usr_t:s0\0".to_vec()),
        (b"security.capability".to_vec(), attributes::CAPABILITY_V2.to_vec()),
        (b"security.capability".to_vec(), attributes::CAPABILITY_V3.to_vec()),
        (b"system.posix_acl_access".to_vec(), attributes::acl(1000)),
        (b"system.posix_acl_default".to_vec(), attributes::acl(4000)),
    ]);
    prop_oneof![
        6 => Just(BTreeMap::new()),
        2 => prop::collection::btree_map(Just(b"user.shared".to_vec()), Just(b"same".to_vec()), 1),
        2 => prop::collection::vec(prop_oneof![user, fixed], 1..4)
            .prop_map(|pairs| pairs.into_iter().collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_before_1970_point_away_from_zero() {
        assert_eq!(pax_time((5, 7)), "5.000000007");
        assert_eq!(pax_time((-2, 500_000_000)), "-1.500000000");
        assert_eq!(pax_time((-1, 750_000_000)), "-0.250000000");
        assert_eq!(pax_time((-3, 0)), "-3.000000000");
    }
}
