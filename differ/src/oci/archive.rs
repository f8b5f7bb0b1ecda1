//! Images inside tar archives, read in place: a blob is a range of the archive file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use erolith_mkfs::io::FileInput;
use erolith_mkfs::tar::{Entry, Kind, Limits, Reader};

use crate::content::{Blob, Dir, Provider, spool};
use crate::decode::{LayerStream, Request};
use crate::{Compression, Digest, Error, Result};

/// Most members of an archive; each costs memory. An image has a few for every layer.
const MAX_MEMBERS: usize = 100_000;
/// Links to follow from one member to another: as many as the kernel does.
const MAX_LINKS: usize = 40;

/// An archive of files that are looked up by name.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, PartialEq, Eq)]
enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// To the cleaned name of another member.
    Link(String),
}

impl Archive {
    /// Opens the archive at `path`, or standard input for `-`. What is compressed or no plain file is first copied
    /// to a nameless file in `scratch`.
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
            return Self::scan(file);
        }
        let spooled = spool(&Dir::open(scratch)?, &mut stream);
        if let Some(error) = stream.take_error() {
            return Err(error);
        }
        stream.finish()?;
        Self::scan(spooled?)
    }

    /// Reads the headers of all members; the data are passed over.
    fn scan(file: File) -> Result<Self> {
        let again = file.try_clone().map_err(Error::io("duplicating a descriptor"))?;
        let input = FileInput::new(again).map_err(Error::io("examining the archive"))?;
        let mut reader = Reader::new(input, Limits::default());
        let mut members = BTreeMap::new();
        let mut entry = Entry::default();
        let bad = |reason: String| Error::BadArchive { reason };
        while reader.next(&mut entry).map_err(|e| bad(e.to_string()))? {
            let Some(name) = clean("", &String::from_utf8_lossy(&entry.path)) else { continue };
            let link = |base: &str| clean(base, &String::from_utf8_lossy(&entry.link));
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            let member = match entry.kind {
                Kind::Regular if entry.sparse.is_some() => continue,
                Kind::Regular => Some(Member::File { offset: entry.data_offset, size: entry.size }),
                Kind::Symlink => link(parent).map(Member::Link),
                Kind::Hardlink => link("").map(Member::Link),
                _ => None,
            };
            let Some(member) = member else { continue };
            if members.insert(name.clone(), member).is_some() {
                return Err(bad(format!("two members are called {name:?}")));
            }
            if members.len() > MAX_MEMBERS {
                return Err(bad(format!("it has more than {MAX_MEMBERS} members")));
            }
        }
        Ok(Self { file: Arc::new(file), members })
    }

    /// The member `name`, through links inside the archive.
    pub(crate) fn member(&self, name: &str) -> Option<Blob> {
        let mut name = clean("", name)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File { offset, size } => {
                    return Some(Blob::new(Arc::clone(&self.file), *offset, *size));
                }
                Member::Link(to) => name.clone_from(to),
            }
        }
        None
    }

    /// The bytes of the member `name`, at most `limit`.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.member(name).map(|blob| blob.bytes(limit)).transpose()
    }
}

impl Provider for Archive {
    /// As in a layout directory.
    fn open(&self, digest: &Digest) -> Result<Blob> {
        self.member(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()))
            .ok_or_else(|| Error::BlobMissing { digest: digest.clone() })
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
}
