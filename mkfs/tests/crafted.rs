//! Crafted images: one corruption each, and the finding it must lead to.
//!
//! An image is written by our own builder, found clean, and patched. The superblock checksum is made right
//! again, as in an image that an attacker crafts.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::sync::Arc;

use erolith_mkfs::build::{Builder, Finish, Options};
use erolith_mkfs::check::{Limits, Report, check};
use erolith_mkfs::format::{SUPER_OFFSET, Superblock, checksum};
use erolith_mkfs::image::{CorruptionKind, Error, ExtentLocation, Image, Inode};
use erolith_mkfs::io::{FileSink, ReadAt, Stream};
use erolith_mkfs::tar;

const SUPER: usize = SUPER_OFFSET as usize;

/// `cap_net_raw=ep`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Owner, user 5, group, mask, others.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 5, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

/// An archive with every kind of file.
fn archive() -> Vec<u8> {
    let mut out = ::tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, data: &[u8], xattrs: &[(&str, &[u8])]| {
        out.append_pax_extensions(
            xattrs
                .iter()
                .map(|(k, v)| (format!("SCHILY.xattr.{k}"), *v))
                .collect::<Vec<_>>()
                .iter()
                .map(|(k, v)| (k.as_str(), *v)),
        )
        .unwrap();
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        if kind == ::tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        if kind == ::tar::EntryType::Symlink || kind == ::tar::EntryType::Link {
            header.set_link_name("big").unwrap();
        }
        header.set_path(name).unwrap();
        header.set_cksum();
        out.append(&header, data).unwrap();
    };
    use ::tar::EntryType as T;
    let shared: &[(&str, &[u8])] = &[("user.shared", b"the same everywhere")];
    add(T::Directory, "./", b"", &[]);
    let interpreted: &[(&str, &[u8])] =
        &[("security.capability", &CAPABILITY), ("system.posix_acl_access", &ACL)];
    add(T::Regular, "acl", b"", interpreted);
    add(T::Regular, "big", &[b'B'; 8192], &[]);
    add(T::Link, "also-big", b"", &[]);
    add(T::Directory, "dir", b"", &[]);
    add(T::Directory, "dir/deep", b"", &[]);
    add(T::Regular, "dir/deep/file", b"deep", &[]);
    for name in ["dir/one", "dir/three", "dir/two"] {
        add(T::Regular, name, b"small", shared);
    }
    add(T::Char, "null", b"", &[]);
    let mut sparse = vec![b'S'; 4096];
    sparse.resize(1 << 20, 0);
    sparse.extend_from_slice(&[b'E'; 4096]);
    add(T::Regular, "sparse", &sparse, &[]);
    add(T::Symlink, "symlink", b"", &[]);
    add(T::Regular, "tail", &[b'T'; 5000], &[("user.k", b"v"), ("user.long", b"value")]);
    out.into_inner().unwrap()
}

/// A clean image, and where its structures are.
struct Crafted {
    bytes: Vec<u8>,
    clean: Arc<Vec<u8>>,
}

impl Crafted {
    fn new(clean: &Arc<Vec<u8>>) -> Self {
        Self { bytes: clean.to_vec(), clean: Arc::clone(clean) }
    }

    fn image(&self) -> Image<&Vec<u8>> {
        Image::open(&*self.clean, vec![]).unwrap()
    }

    fn inode(&self, path: &str) -> Inode {
        self.image().lookup(path.as_bytes()).unwrap().unwrap()
    }

    /// Offset of an inode.
    fn at(&self, path: &str) -> usize {
        self.inode(path).offset as usize
    }

    /// Offset of the xattr area of an inode.
    fn xattrs(&self, path: &str) -> usize {
        self.inode(path).xattr_offset() as usize
    }

    /// Offset of a value among the xattrs of an inode.
    fn value(&self, path: &str, value: &[u8]) -> usize {
        let from = self.xattrs(path);
        let found = self.clean[from..].windows(value.len()).position(|bytes| bytes == value);
        from + found.unwrap_or_else(|| panic!("{path}: no such value"))
    }

    /// Offset of the last data of a file: its tail, or the symbolic link, or the directory.
    fn data(&self, path: &str) -> usize {
        let inode = self.inode(path);
        let extent = self.image().extents(&inode).last().unwrap().unwrap();
        match extent.place {
            ExtentLocation::Inline { offset, .. } | ExtentLocation::Device { offset, .. } => {
                offset as usize
            }
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Offset of the chunk table of a file.
    fn chunks(&self, path: &str) -> usize {
        (self.inode(path).body_end() as usize).next_multiple_of(8)
    }

    /// Offset of an entry of a directory of one block, and of its name.
    fn entry(&self, dir: &str, name: &str) -> (usize, usize) {
        let base = self.data(dir);
        let size = self.inode(dir).size as usize;
        let block = &self.clean[base..base + size];
        let nameoff =
            |i: usize| usize::from(u16::from_le_bytes([block[12 * i + 8], block[12 * i + 9]]));
        let count = nameoff(0) / 12;
        let index = (0..count)
            .find(|&i| {
                let end = if i + 1 < count { nameoff(i + 1) } else { size };
                &block[nameoff(i)..end] == name.as_bytes()
            })
            .unwrap_or_else(|| panic!("{dir}/{name}"));
        (base + 12 * index, base + nameoff(index))
    }

    /// Makes the sparse file one chunk of 2 MiB, whose entry has these high bits and device.
    fn one_chunk(&mut self, [high, device]: [u16; 2]) {
        self.put_u16(self.at("sparse") + 16, 0x20 | 9);
        self.put_u16(self.chunks("sparse"), high);
        self.put_u16(self.chunks("sparse") + 2, device);
        self.put_u32(self.chunks("sparse") + 4, 1);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Sets bits of one byte.
    fn set(&mut self, at: usize, bits: u8) {
        self.bytes[at] |= bits;
    }

    fn put_u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Makes the checksum right.
    fn sealed(mut self) -> Vec<u8> {
        self.put_u32(SUPER + 4, 0);
        let sum = checksum(&self.bytes[SUPER..4096]).unwrap();
        self.put_u32(SUPER + 4, sum);
        self.bytes
    }
}

fn build() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.path().join("image"))
        .unwrap();
    let sink = FileSink::new(file, File::open(dir.path()).unwrap().into());
    let mut builder = Builder::new(sink, Options::default()).unwrap();
    builder.fill_from_tar(Stream(&*archive()), tar::Limits::default()).unwrap();
    let (sink, _) = builder.finish(&Finish { uuid: [7; 16], ..Finish::default() }).unwrap();
    let mut file = sink.into_file();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn run(image: &Vec<u8>) -> Report {
    check(image, &[], &Limits::default()).unwrap()
}

fn texts(report: &Report) -> String {
    report.findings.iter().map(|f| format!("\n  {f}")).collect()
}

/// Reads everything; whatever is wrong must be an error and nothing else.
fn read_all(bytes: &Vec<u8>) {
    let Ok(image) = Image::open(bytes as &dyn ReadAt, vec![]) else { return };
    let mut walk = image.walk();
    let mut buf = vec![0; 1 << 16];
    for _ in 0..1000 {
        match walk.next_entry() {
            Ok(None) => break,
            Ok(Some(entry)) => {
                let inode = entry.inode;
                let _ = image.xattrs(&inode);
                let _ = image.read_link(&inode);
                let _ = image.read_at(&inode, &mut buf, 0);
                let _ = image.read_at(&inode, &mut buf, inode.size.saturating_sub(100));
                let _ = image.extents(&inode).take(1000).filter(Result::is_err).count();
            }
            Err(_) => {}
        }
    }
}

type Patch = fn(&mut Crafted);

/// What is done to the image, and the finding that must come of it.
const CORRUPTIONS: &[(&str, CorruptionKind, Patch)] = &[
    // Superblock.
    ("another magic", CorruptionKind::SuperMagic, |c| c.put_u32(SUPER, 0)),
    ("blocks of 256 bytes", CorruptionKind::SuperBlockSize, |c| c.put(SUPER + 12, &[8])),
    ("blocks of 128 KiB", CorruptionKind::SuperBlockSize, |c| c.put(SUPER + 12, &[17])),
    ("blocks of 2^31 bytes", CorruptionKind::SuperBlockSize, |c| c.put(SUPER + 12, &[31])),
    ("blocks of 2^255 bytes", CorruptionKind::SuperBlockSize, |c| c.put(SUPER + 12, &[255])),
    ("an extension of 255 slots", CorruptionKind::SuperExtension, |c| c.put(SUPER + 13, &[255])),
    ("root nid outside", CorruptionKind::InodeOutside, |c| c.put_u16(SUPER + 14, 0xFFFF)),
    ("more blocks than bytes", CorruptionKind::SuperBlocks, |c| c.put_u32(SUPER + 0x24, 1 << 20)),
    ("metadata behind the end", CorruptionKind::SuperMetaStart, |c| {
        c.put_u32(SUPER + 0x28, 1 << 30)
    }),
    ("shared xattrs behind the end", CorruptionKind::SuperXattrStart, |c| {
        c.put_u32(SUPER + 0x2C, 1 << 30)
    }),
    ("an unknown feature", CorruptionKind::SuperIncompat, |c| c.put_u32(SUPER + 0x50, 0x8000_0000)),
    ("large directory blocks", CorruptionKind::SuperDirBlock, |c| c.put(SUPER + 0x5A, &[1])),
    ("a billion nanoseconds", CorruptionKind::SuperNanoseconds, |c| {
        c.put_u32(SUPER + 0x20, 1_000_000_000)
    }),
    ("a reserved byte", CorruptionKind::SuperReserved, |c| c.put(SUPER + 0x6A, &[1])),
    ("a million inodes", CorruptionKind::SuperInodes, |c| c.put_u64(SUPER + 0x10, 1_000_000)),
    ("a device table outside", CorruptionKind::DeviceTable, |c| {
        c.put_u32(SUPER + 0x50, 0xC);
        c.put_u16(SUPER + 0x56, 3);
        c.put_u16(SUPER + 0x58, 0xFFFF);
    }),
    ("a metabox without extension", CorruptionKind::SuperExtension, |c| {
        c.put_u32(SUPER + 0x50, 0x104)
    }),
    ("a packed inode in the metabox", CorruptionKind::SuperSpecialNid, |c| {
        c.put_u32(SUPER + 0x50, 0x24);
        c.put_u64(SUPER + 0x60, 1 << 63 | 40);
    }),
    ("an unknown algorithm", CorruptionKind::ComprConfig, |c| {
        c.put_u32(SUPER + 0x50, 0x7);
        c.put_u16(SUPER + 0x54, 0x10);
    }),
    ("an LZMA record of zeros", CorruptionKind::ComprConfig, |c| {
        c.put_u32(SUPER + 0x50, 0x7);
        c.put_u16(SUPER + 0x54, 0x2);
    }),
    ("a prefix table of zeros", CorruptionKind::PrefixTable, |c| {
        c.put_u32(SUPER + 0x50, 0x44);
        c.put(SUPER + 0x5B, &[1]);
    }),
    ("a prefix table outside", CorruptionKind::PrefixTable, |c| {
        c.put_u32(SUPER + 0x50, 0x44);
        c.put(SUPER + 0x5B, &[1]);
        c.put_u32(SUPER + 0x5C, u32::MAX);
    }),
    // Inodes.
    ("undefined format bits", CorruptionKind::InodeFormat, |c| c.set(c.at("tail") + 1, 0x80)),
    ("layout 7", CorruptionKind::InodeLayout, |c| c.set(c.at("tail"), 0x0E)),
    ("a mode without a type", CorruptionKind::InodeType, |c| c.put_u16(c.at("tail") + 4, 0o755)),
    ("a negative size", CorruptionKind::InodeSize, |c| {
        c.set(c.at("big"), 1);
        c.put_u64(c.at("big") + 8, u64::MAX);
    }),
    ("a file larger than the image", CorruptionKind::DataOutside, |c| {
        c.put_u32(c.at("big") + 8, 1 << 30)
    }),
    ("data behind the end", CorruptionKind::DataOutside, |c| c.put_u32(c.at("big") + 16, 1 << 20)),
    ("data in the superblock", CorruptionKind::DataOverlapsMeta, |c| {
        c.put_u32(c.at("big") + 16, 0)
    }),
    ("a tail across blocks", CorruptionKind::DataInlineCrosses, |c| {
        c.put_u32(c.at("tail") + 8, 8191)
    }),
    ("no links", CorruptionKind::InodeNlinkZero, |c| c.put_u16(c.at("tail") + 6, 0)),
    ("too many links", CorruptionKind::InodeNlink, |c| c.put_u16(c.at("tail") + 6, 9)),
    ("a device with content", CorruptionKind::InodeSpecialData, |c| c.put_u32(c.at("null") + 8, 1)),
    ("a reserved field", CorruptionKind::InodeReserved, |c| c.put(c.at("tail") + 28, &[1])),
    ("an empty symbolic link", CorruptionKind::SymlinkEmpty, |c| c.put_u32(c.at("symlink") + 8, 0)),
    ("a long symbolic link", CorruptionKind::SymlinkLong, |c| c.put_u32(c.at("symlink") + 8, 4096)),
    ("NUL in a symbolic link", CorruptionKind::SymlinkNul, |c| c.put(c.data("symlink") + 1, &[0])),
    ("a file as a directory", CorruptionKind::DirTypeMismatch, |c| {
        c.put_u16(c.at("tail") + 4, 0o100_755 & 0o7777 | 0o040_000);
    }),
    ("a dot left out without the feature", CorruptionKind::InodeDotOmitted, |c| {
        c.set(c.at("dir/deep"), 0x10);
    }),
    // Directories.
    ("an empty directory", CorruptionKind::DirSize, |c| c.put_u32(c.at("dir/deep") + 8, 0)),
    ("a name offset that is not 12 times something", CorruptionKind::DirTable, |c| {
        c.put_u16(c.data("") + 8, 13);
    }),
    ("a first name offset outside", CorruptionKind::DirTable, |c| {
        c.put_u16(c.data("") + 8, 0xFFFC)
    }),
    ("no entries", CorruptionKind::DirTable, |c| c.put_u16(c.data("") + 8, 0)),
    ("name offsets that go back", CorruptionKind::DirNameOffset, |c| {
        c.put_u16(c.entry("", "dir").0 + 8, 12)
    }),
    ("a last name offset outside", CorruptionKind::DirNameOffset, |c| {
        c.put_u16(c.entry("", "tail").0 + 8, 0xFFF0);
    }),
    ("an empty name", CorruptionKind::DirNameEmpty, |c| {
        let next = c.entry("", "null").0 + 8;
        let offset = u16::from_le_bytes([c.bytes[next], c.bytes[next + 1]]);
        c.put_u16(c.entry("", "dir").0 + 8, offset);
    }),
    ("a slash in a name", CorruptionKind::DirNameByte, |c| c.put(c.entry("", "null").1 + 1, b"/")),
    ("NUL in a name", CorruptionKind::DirNameByte, |c| c.put(c.entry("", "null").1 + 1, b"\0")),
    ("names out of order", CorruptionKind::DirOrder, |c| c.put(c.entry("", "null").1, b"a")),
    ("the same name twice", CorruptionKind::DirDuplicate, |c| c.put(c.entry("", "dir").1, b"big")),
    ("an unknown entry type", CorruptionKind::DirEntryType, |c| {
        c.put(c.entry("", "null").0 + 10, &[9])
    }),
    ("a wrong entry type", CorruptionKind::DirTypeMismatch, |c| {
        c.put(c.entry("", "null").0 + 10, &[1])
    }),
    ("a directory that says it is a file", CorruptionKind::DirTypeMismatch, |c| {
        c.put(c.entry("", "dir").0 + 10, &[1]);
    }),
    ("a reserved byte of an entry", CorruptionKind::DirReserved, |c| {
        c.put(c.entry("", "null").0 + 11, &[1])
    }),
    ("a dot to elsewhere", CorruptionKind::DirDot, |c| {
        let nid = c.inode("dir").nid;
        c.put_u64(c.entry("", ".").0, nid);
    }),
    ("a dot-dot to elsewhere", CorruptionKind::DirDotDot, |c| {
        let nid = c.inode("dir/deep").nid;
        c.put_u64(c.entry("dir", "..").0, nid);
    }),
    ("no dot-dot", CorruptionKind::DirDotDot, |c| c.put(c.entry("dir/deep", "..").1 + 1, b"a")),
    ("an entry outside", CorruptionKind::InodeOutside, |c| {
        c.put_u64(c.entry("", "null").0, 1 << 40)
    }),
    ("a nid that overflows", CorruptionKind::InodeOutside, |c| {
        c.put_u64(c.entry("", "null").0, u64::MAX >> 1)
    }),
    ("a nid in a metabox", CorruptionKind::MetaboxNid, |c| {
        c.put_u64(c.entry("", "null").0, 1 << 63 | 1)
    }),
    ("a directory in itself", CorruptionKind::DirCycle, |c| {
        let nid = c.inode("dir").nid;
        c.put_u64(c.entry("dir", "deep").0, nid);
    }),
    ("the root below itself", CorruptionKind::DirCycle, |c| {
        let nid = c.inode("").nid;
        c.put_u64(c.entry("dir", "deep").0, nid);
    }),
    ("a directory with two names", CorruptionKind::DirTwice, |c| {
        let nid = c.inode("dir/deep").nid;
        c.put_u64(c.entry("", "dir").0, nid);
        c.put_u64(c.entry("", "null").0, nid);
        c.put(c.entry("", "null").0 + 10, &[2]);
    }),
    // Extended attributes.
    ("only a header", CorruptionKind::XattrHeader, |c| c.put_u16(c.at("tail") + 2, 1)),
    ("an area outside", CorruptionKind::XattrOutside, |c| c.put_u16(c.at("tail") + 2, 0xFFFF)),
    ("a value past the area", CorruptionKind::XattrEntry, |c| {
        c.put_u16(c.xattrs("tail") + 14, 0xFFFF)
    }),
    ("more shared ids than room", CorruptionKind::XattrEntry, |c| {
        c.put(c.xattrs("tail") + 4, &[255])
    }),
    ("a shared id outside", CorruptionKind::XattrShared, |c| {
        c.put_u32(c.xattrs("dir/one") + 12, u32::MAX)
    }),
    ("a long prefix without a table", CorruptionKind::XattrPrefix, |c| {
        c.put(c.xattrs("tail") + 13, &[0x80])
    }),
    ("an unknown namespace", CorruptionKind::XattrHidden, |c| c.put(c.xattrs("tail") + 13, &[77])),
    ("NUL in a name of an xattr", CorruptionKind::XattrName, |c| {
        c.put(c.xattrs("tail") + 16, &[0])
    }),
    ("a filter that lies", CorruptionKind::XattrFilter, |c| c.put_u32(c.xattrs("tail"), u32::MAX)),
    ("a reserved byte of the header", CorruptionKind::XattrReserved, |c| {
        c.put(c.xattrs("tail") + 5, &[1])
    }),
    ("a capability of revision 9", CorruptionKind::XattrValue, |c| {
        c.put(c.value("acl", &CAPABILITY) + 3, &[9]);
    }),
    ("a capability with another flag", CorruptionKind::XattrValue, |c| {
        c.put(c.value("acl", &CAPABILITY), &[2]);
    }),
    ("an ACL of version 3", CorruptionKind::XattrValue, |c| c.put(c.value("acl", &ACL), &[3])),
    ("an ACL without a mask", CorruptionKind::XattrValue, |c| {
        c.put(c.value("acl", &ACL) + 28, &[8, 0, 7, 0, 5, 0, 0, 0]);
    }),
    ("an ACL with an unknown tag", CorruptionKind::XattrValue, |c| {
        c.put(c.value("acl", &ACL) + 4, &[64])
    }),
    ("a default ACL of a file", CorruptionKind::XattrValue, |c| {
        c.put(c.value("acl", &ACL) - 3, &[3])
    }),
    ("a shared id twice", CorruptionKind::XattrDuplicate, |c| {
        let from = c.xattrs("dir/one");
        let id = c.bytes[from + 12..from + 16].to_vec();
        let at = c.xattrs("tail");
        // Room for two ids, where the first entry was; what follows is no longer an entry, but zeros.
        let len = c.inode("tail").xattr_len() as usize;
        c.put(at, &[0; 4]);
        c.put(at + 4, &[2]);
        let zeros = vec![0; len - 12];
        c.put(at + 12, &zeros);
        c.put(at + 12, &id);
        c.put(at + 16, &id);
    }),
    // Chunks.
    ("undefined chunk format bits", CorruptionKind::ChunkFormat, |c| {
        c.put_u16(c.at("sparse") + 16, 0x8000)
    }),
    ("chunks without the feature", CorruptionKind::ChunkFeature, |c| c.put_u32(SUPER + 0x50, 0)),
    ("a chunk on no device", CorruptionKind::DataDevice, |c| c.one_chunk([0, 1])),
    ("a chunk whose device the mask hides", CorruptionKind::DataDevice, |c| {
        c.one_chunk([0, 0x4000])
    }),
    ("high bits where there are none", CorruptionKind::ChunkFormat, |c| c.one_chunk([1, 0])),
    ("a chunk behind the end", CorruptionKind::DataOutside, |c| {
        c.put_u32(c.chunks("sparse") + 4, 1 << 20)
    }),
    ("a chunk table outside", CorruptionKind::ChunkOutside, |c| {
        c.put_u32(c.at("sparse") + 8, u32::MAX)
    }),
    ("a directory in chunks", CorruptionKind::ChunkType, |c| {
        c.put_u16(c.at("dir/deep"), 4 << 1);
        c.put_u32(c.at("dir/deep") + 16, 0x20);
    }),
    // Compression in an image without any.
    ("a compressed file in an image without any", CorruptionKind::MapHeader, |c| {
        let at = c.at("dir/deep/file");
        let body = (c.inode("dir/deep/file").body_end() as usize).next_multiple_of(8);
        c.put_u16(at, 1 << 1);
        c.put(body, &[0, 0, 0, 0, 0xFF, 0xFF, 0, 0]);
    }),
    ("a fragment without a packed inode", CorruptionKind::MapFeature, |c| {
        let at = c.at("dir/deep/file");
        let body = (c.inode("dir/deep/file").body_end() as usize).next_multiple_of(8);
        c.put_u16(at, 1 << 1);
        c.put(body, &[0, 0, 0, 0, 0, 0, 0, 0x80]);
    }),
    ("a compression index outside", CorruptionKind::MapOutside, |c| {
        let at = c.at("big");
        c.put_u16(at, 1 << 1);
        c.put_u32(at + 8, u32::MAX);
        c.put(at + 32, &[0; 8]);
    }),
];

#[test]
fn each_corruption_leads_to_its_finding() {
    let clean = Arc::new(build());
    let report = run(&clean);
    assert!(report.findings.is_empty(), "the image as built:{}", texts(&report));
    let mut wrong = String::new();
    for (what, fault, patch) in CORRUPTIONS {
        let mut crafted = Crafted::new(&clean);
        patch(&mut crafted);
        let bytes = crafted.sealed();
        let report = run(&bytes);
        if !report.findings.iter().any(|f| f.corruption.fault == *fault) {
            wrong += &format!("\n{what}: {} expected, found{}", fault.code(), texts(&report));
        }
        read_all(&bytes);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_wrong_checksum_is_refused_when_the_image_is_opened() {
    let mut bytes = build();
    bytes[SUPER + 0x40] ^= 1;
    let error = Image::open(&bytes, vec![]).unwrap_err();
    assert_eq!(error.code(), "super-checksum");
    assert!(!run(&bytes).is_clean());
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let clean = build();
    for len in (0..clean.len()).step_by(512) {
        let cut = clean[..len].to_vec();
        assert!(!run(&cut).is_clean(), "cut at {len}");
        read_all(&cut);
    }
}

#[test]
fn limits_end_a_check_early() {
    let clean = build();
    let cases = [
        (Limits { names: 3, ..Limits::default() }, CorruptionKind::LimitInodes),
        (Limits { extents: 1, ..Limits::default() }, CorruptionKind::LimitInodes),
        (Limits { bytes: 100, ..Limits::default() }, CorruptionKind::LimitBytes),
        (Limits { metadata: Some(1000), ..Limits::default() }, CorruptionKind::LimitMetadata),
        (Limits { depth: 1, ..Limits::default() }, CorruptionKind::DirDeep),
    ];
    for (limits, fault) in cases {
        let report = check(&clean, &[], &limits).unwrap();
        assert!(report.errors().any(|f| f.corruption.fault == fault), "{fault}{}", texts(&report));
    }
}

#[test]
fn random_damage_never_panics_and_never_runs_away() {
    let clean = build();
    // xorshift: the same damage on every machine.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let zone = Image::open(&clean, vec![]).unwrap().superblock().meta_start as usize;
    for _ in 0..2000 {
        let mut crafted = Crafted { bytes: clean.clone(), clean: Arc::default() };
        for _ in 0..=random(3) {
            let at = if random(8) == 0 {
                SUPER + random(size_of::<Superblock>())
            } else {
                zone + random(clean.len() - zone)
            };
            crafted.bytes[at] = match random(4) {
                0 => 0,
                1 => 255,
                2 => crafted.bytes[at] ^ (1 << random(8)),
                _ => random(256) as u8,
            };
        }
        let bytes = crafted.sealed();
        let report = run(&bytes);
        read_all(&bytes);
        if report.is_clean() {
            // A clean image is read to its last byte.
            let image = Image::open(&bytes, vec![]).unwrap();
            let mut walk = image.walk();
            while let Some(entry) = walk.next_entry().unwrap() {
                let inode = entry.inode;
                image.xattrs(&inode).unwrap();
                for extent in image.extents(&inode) {
                    extent.unwrap();
                }
            }
        }
    }
}

#[test]
fn reading_a_directory_as_a_file_and_the_like_are_errors() {
    let bytes = build();
    let image = Image::open(&bytes, vec![]).unwrap();
    let file = image.lookup(b"big").unwrap().unwrap();
    let null = image.lookup(b"null").unwrap().unwrap();
    assert!(matches!(image.read_dir(file.nid), Err(Error::NotADirectory { .. })));
    assert!(matches!(image.read_link(&file), Err(Error::NotASymlink { .. })));
    assert_eq!(image.lookup(b"absent").unwrap(), None);
    assert!(matches!(image.lookup(b"big/x"), Err(Error::NotADirectory { .. })));
    assert_eq!(image.lookup(b"/./dir//deep/../one").unwrap(), image.lookup(b"dir/one").unwrap());
    assert_eq!(image.read_at(&null, &mut [0; 8], 0).unwrap(), 0);
    assert_eq!(null.rdev(), Some((1, 3)));
}

#[test]
fn sparse_files_show_their_holes() {
    let bytes = build();
    let image = Image::open(&bytes, vec![]).unwrap();
    let sparse = image.lookup(b"sparse").unwrap().unwrap();
    let extents: Vec<_> = image.extents(&sparse).collect::<Result<_, _>>().unwrap();
    assert!(
        extents.iter().any(|e| e.place == ExtentLocation::Hole && e.len >= 512 << 10),
        "{extents:?}"
    );
    assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), sparse.size);
    let mut buf = vec![1; sparse.size as usize];
    assert_eq!(image.read_at(&sparse, &mut buf, 0).unwrap(), buf.len());
    assert!(buf[..4096].iter().all(|&b| b == b'S'));
    assert!(buf[4096..1 << 20].iter().all(|&b| b == 0));
    assert!(buf[1 << 20..].iter().all(|&b| b == b'E'));
}
