//! Images inside tar archives, read in place: a blob is a range of the archive file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use erolith_errors::error_chain;
use erolith_mkfs::io::{FileInput, copy_range};
use erolith_mkfs::meta::Segment;
use erolith_mkfs::tar::{Entry, Kind, Limits, Reader};

use crate::content::{Blob, Dir, Provider, ScratchFile, spool};
use crate::decode::{LayerStream, Request};
use crate::error::ContentError;
use crate::{Compression, Digest, Error, Result};

/// Most members of an archive; each costs memory. An image has a few for every layer.
const MAX_MEMBERS: usize = 100_000;
/// Most runs of all its sparse members together.
const MAX_RUNS: usize = 1_000_000;
/// Links to follow from one member to another: as many as the kernel does.
const MAX_LINKS: usize = 40;

/// An archive of files that are looked up by name.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    members: BTreeMap<String, ArchiveMember>,
    /// Where sparse members are expanded.
    scratch: PathBuf,
    /// The expanded ones, by the offset of their data.
    expanded: Mutex<BTreeMap<u64, Blob>>,
}

#[derive(Debug, PartialEq, Eq)]
enum ArchiveMember {
    File {
        offset: u64,
        size: u64,
    },
    /// Only these runs of the file are stored, one behind the other. `tar -S` and bsdtar store blobs with holes so.
    Sparse {
        offset: u64,
        size: u64,
        runs: Vec<Segment>,
    },
    /// To the cleaned name of another member.
    Link(String),
}

impl Archive {
    /// Opens the archive at `path`, or standard input for `-`. What is compressed or no plain file is first copied
    /// to a scratch file in `scratch`.
    pub(crate) fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let file = if path == Path::new("-") {
            let fd = io::stdin().as_fd().try_clone_to_owned();
            File::from(fd.map_err(Error::io("opening standard input"))?)
        } else {
            File::open(path).map_err(Error::io(format!("opening {}", path.display())))?
        };
        let is_file = file.metadata().map_err(Error::io("examining the archive"))?.is_file();
        let again = file.try_clone().map_err(Error::io("duplicating a descriptor"))?;
        let mut stream = LayerStream::open(again, Request::default())?;
        if is_file && stream.compression() == Compression::None {
            return Self::scan(file, scratch);
        }
        let spooled = spool(&Dir::open(scratch)?, &mut stream);
        if let Some(error) = stream.take_error() {
            return Err(error);
        }
        stream.finish()?;
        Self::scan(spooled?, scratch)
    }

    /// Reads the headers of all members; the data are passed over. Of members with one name the last counts, as for all
    /// who extract such archives.
    fn scan(file: File, scratch: &Path) -> Result<Self> {
        let again = file.try_clone().map_err(Error::io("duplicating a descriptor"))?;
        let input = FileInput::new(again).map_err(Error::io("examining the archive"))?;
        let mut reader = Reader::new(input, Limits::default());
        let (mut members, mut runs) = (BTreeMap::new(), 0usize);
        let mut entry = Entry::default();
        let bad = |reason: String| Error::Content(ContentError::BadArchive { reason });
        while reader.next(&mut entry).map_err(|e| bad(error_chain(&e)))? {
            let Some(name) = clean("", &String::from_utf8_lossy(&entry.path)) else { continue };
            let link = |base: &str| clean(base, &String::from_utf8_lossy(&entry.link));
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            let (offset, size) = (entry.data_offset, entry.size);
            runs = runs.saturating_add(entry.sparse.as_ref().map_or(0, Vec::len));
            if runs > MAX_RUNS {
                return Err(bad(format!("its sparse members have more than {MAX_RUNS} runs")));
            }
            let member = match entry.kind {
                Kind::Regular => Some(match entry.sparse.take() {
                    Some(runs) => ArchiveMember::Sparse { offset, size, runs },
                    None => ArchiveMember::File { offset, size },
                }),
                Kind::Symlink => link(parent).map(ArchiveMember::Link),
                Kind::Hardlink => link("").map(ArchiveMember::Link),
                _ => None,
            };
            match member {
                Some(member) => members.insert(name, member),
                None => members.remove(&name),
            };
            if members.len() > MAX_MEMBERS {
                return Err(bad(format!("it has more than {MAX_MEMBERS} members")));
            }
        }
        let (scratch, expanded) = (scratch.to_owned(), Mutex::default());
        Ok(Self { file: Arc::new(file), members, scratch, expanded })
    }

    /// What is stored under `name`, through links inside the archive.
    fn find(&self, name: &str) -> Option<&ArchiveMember> {
        let mut name = &clean("", name)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(name)? {
                ArchiveMember::Link(to) => name = to,
                member => return Some(member),
            }
        }
        None
    }

    /// The member `name`, through links inside the archive.
    ///
    /// # Errors
    /// What the storage reports when a sparse member is expanded.
    pub(crate) fn member(&self, name: &str) -> Result<Option<Blob>> {
        match self.find(name) {
            Some(ArchiveMember::File { offset, size }) => {
                Ok(Some(Blob::new(Arc::clone(&self.file), *offset, *size)))
            }
            Some(ArchiveMember::Sparse { offset, size, runs }) => {
                self.expanded(*offset, *size, runs).map(Some)
            }
            Some(ArchiveMember::Link(_)) | None => Ok(None),
        }
    }

    /// A sparse member in a scratch file, where its holes are holes.
    fn expanded(&self, offset: u64, size: u64, runs: &[Segment]) -> Result<Blob> {
        let mut expanded = self.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blob) = expanded.get(&offset) {
            return Ok(blob.clone());
        }
        let failed = || Error::io("expanding a sparse member of the archive");
        let file = ScratchFile::new(&self.scratch)?.into_file();
        file.set_len(size).map_err(failed())?;
        let mut from = offset;
        for Segment { offset, len } in runs {
            copy_range(self.file.as_fd(), from, &file, *offset, *len).map_err(failed())?;
            from = from.saturating_add(*len);
        }
        let blob = Blob::new(Arc::new(file), 0, size);
        expanded.insert(offset, blob.clone());
        Ok(blob)
    }

    /// The bytes of the member `name`, at most `limit`.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.member(name)?.map(|blob| blob.bytes(limit)).transpose()
    }
}

impl Provider for Archive {
    /// As in a layout directory.
    fn open(&self, digest: &Digest) -> Result<Blob> {
        self.member(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()))?
            .ok_or_else(|| Error::Content(ContentError::BlobMissing { digest: digest.clone() }))
    }
}

/// `path` from `base`, without `.` and `..`. `None` when it leads out of the archive.
fn clean(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
    if path.starts_with('/') {
        return None;
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn d16_names_are_cleaned_and_stay_inside() {
        for (base, path, expect) in [
            ("", "a/b", Some("a/b")),
            ("", "./a//b/", Some("a/b")),
            ("a/b", "../c", Some("a/c")),
            ("a", "../../c", None),
            ("", "..", None),
            ("", "/etc/passwd", None),
            ("", ".", None),
            ("", "", None),
            ("", "a/../..", None),
        ] {
            assert_eq!(clean(base, path).as_deref(), expect, "{path} from {base}");
        }
    }

    /// A member in the form of an old GNU header: `a`, a hole up to byte 10 000, and `b`.
    fn sparse(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_size(2);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(10_001);
        for (slot, offset) in gnu.sparse.iter_mut().zip([0, 10_000]) {
            slot.set_offset(offset);
            slot.set_length(1);
        }
        header.set_cksum();
        let mut member = header.as_bytes().to_vec();
        member.extend_from_slice(b"ab");
        member.resize(1024, 0);
        member
    }

    #[test]
    fn sparse_members_are_expanded_and_the_last_of_a_name_counts() {
        let temp = tempfile::tempdir().unwrap();
        let plain = |name: &str, data: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            let mut member = header.as_bytes().to_vec();
            member.extend_from_slice(data);
            member.resize(1024, 0);
            member
        };
        let path = temp.path().join("archive");
        let all = [
            plain("twice", b"first"),
            plain("./twice", b"second"),
            sparse("hole"),
            plain("again", b"x"),
            sparse("again"),
            vec![0; 1024],
        ];
        File::create(&path).unwrap().write_all(&all.concat()).unwrap();
        let archive = Archive::open(&path, temp.path()).unwrap();
        let read = |name: &str| archive.read(name, 1 << 20).unwrap();
        assert_eq!(read("twice").unwrap(), b"second");
        let mut expanded = vec![0; 10_001];
        (expanded[0], expanded[10_000]) = (b'a', b'b');
        for name in ["hole", "again", "hole"] {
            assert_eq!(read(name).unwrap(), expanded, "{name}");
        }
        assert_eq!(read("gone"), None);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left");
    }
}
