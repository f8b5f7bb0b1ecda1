//! Where a converted image goes: into a layout directory, or into an archive of one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use erolith_durable::{Durability, Tmpfile};
use erolith_mkfs::io::{FileSink, Sink};

use super::document::{Descriptor, Document, Index};
use super::{ImageSource, Location, REF_NAME, Transport};
use crate::content::{Dir, OciLayout};
use crate::decode::Cancel;
use crate::error::OciImageError;
use crate::{Error, Result};

/// An image layout that is filled, and then shows its image.
#[derive(Debug)]
pub struct Destination {
    layout: OciLayout,
    reference: Option<String>,
    archive: Option<Packed>,
}

/// An archive in the making: a directory beside it, in which everything is prepared.
#[derive(Debug)]
struct Packed {
    target: PathBuf,
    scratch: PathBuf,
    /// Tells others that the directory is in use.
    _lock: OwnedFd,
}

impl Destination {
    /// Opens `location` for writing; makes the layout if there is none.
    ///
    /// # Errors
    /// [`crate::error::OciImageError::BadLocation`] for a form that is not written, [`crate::error::ContentError::NotALayout`], and what the storage reports.
    pub fn open(location: &Location) -> Result<Self> {
        let bad = |reason: &str| {
            Error::Image(OciImageError::BadLocation {
                text: location.to_string(),
                reason: reason.to_owned(),
            })
        };
        let reference = location.reference.clone();
        match location.transport {
            Transport::DockerArchive => Err(bad("such archives are read, not written")),
            _ if location.path == Path::new("-") => Err(bad("an image is not written to a pipe")),
            Transport::Oci => {
                Ok(Self { layout: OciLayout::create(&location.path)?, reference, archive: None })
            }
            Transport::OciArchive => {
                let packed = Packed::open(&location.path)?;
                // One level down: the lock on the directory itself is taken.
                let layout = OciLayout::create(&packed.scratch.join("layout"))?.not_durable();
                Ok(Self { layout, reference, archive: Some(packed) })
            }
        }
    }

    /// Would what is written to `location` take the place of `source`, which was opened at `from`? In a layout that is so
    /// under the same name, and in an archive always.
    #[must_use]
    pub fn replaces(location: &Location, from: &Location, source: &ImageSource) -> bool {
        let id = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let is_same = id(&location.path).is_some_and(|found| id(&from.path) == Some(found));
        let name = location.reference.as_deref();
        let is_named = |root: &Descriptor| root.annotation(REF_NAME) == name;
        is_same && (location.transport != Transport::Oci || source.roots.iter().any(is_named))
    }

    /// The layout to fill.
    #[must_use]
    pub fn layout(&self) -> &OciLayout {
        &self.layout
    }

    /// Shows `entry` in the layout's index, in place of what had its name, and completes the archive.
    ///
    /// # Errors
    /// What the storage reports. Then the destination shows what it showed before.
    pub fn publish(self, entry: Descriptor, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        let entry = match &self.reference {
            Some(reference) => entry.with_annotation(REF_NAME, reference),
            None => entry.without_annotation(REF_NAME),
        };
        self.layout.update_index(|bytes| {
            let Document::Index(index) = Document::parse("index.json", None, bytes)? else {
                let reason = "it is no index".to_owned();
                return Err(Error::Image(OciImageError::BadDocument {
                    what: "index.json".to_owned(),
                    reason,
                }));
            };
            Ok(list(&index, entry).to_bytes())
        })?;
        match self.archive {
            Some(packed) => packed.finish(&self.layout),
            None => Ok(()),
        }
    }
}

/// One name leads to one image; the image without a name is one, too.
fn list(index: &Index, entry: Descriptor) -> Index {
    let name = entry.annotation(REF_NAME);
    let others = index.manifests.iter().filter(|other| other.annotation(REF_NAME) != name);
    let mut manifests: Vec<Descriptor> = others.cloned().collect();
    manifests.push(entry);
    index.rewritten(manifests)
}

impl Packed {
    /// Makes the directory, and removes those that processes that died left for the same target.
    fn open(target: &Path) -> Result<Self> {
        let bad = |reason: &str| {
            let text = target.display().to_string();
            Error::Image(OciImageError::BadLocation { text, reason: reason.to_owned() })
        };
        let name = target.file_name().ok_or_else(|| bad("it is no file"))?;
        if target.is_dir() {
            return Err(bad("it is a directory"));
        }
        let parent = parent(target);
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".erolith-");
        let dir = Dir::open(parent)?;
        // No other process creates or removes such directories at the same time.
        let _lock = dir.lock()?;
        for other in dir.names()? {
            if other.as_bytes().starts_with(prefix.as_bytes()) {
                remove_unlocked(&parent.join(other))?;
            }
        }
        prefix.push(std::process::id().to_string());
        let scratch = parent.join(prefix);
        let lock = Dir::create(&scratch)?.lock()?;
        Ok(Self { target: target.to_owned(), scratch, _lock: lock })
    }

    /// Writes the archive beside its place, syncs it, and moves it there.
    fn finish(self, layout: &OciLayout) -> Result<()> {
        const PACKED: &str = "archive.tar";
        let failed = || Error::io(format!("writing {}", self.target.display()));
        let path = self.scratch.join(PACKED);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let scratch = Dir::open(&self.scratch)?.into_fd();
        let draft = Tmpfile::draft(file.map_err(failed())?, scratch, PACKED.as_ref(), "archive");
        let synced = draft.protected(|file| pack(layout, file))?.sync(Durability::Synced);
        let synced = synced.map_err(failed())?;
        let target = Dir::open(parent(&self.target))?;
        let name = self.target.file_name().ok_or(ErrorKind::InvalidInput.into());
        let named = name.and_then(|name| synced.name(&target, name));
        named.and_then(|named| named.settle(&[])).map_err(failed()).map(drop)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        // The next conversion to this target gets it if this fails.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn remove_unlocked(path: &Path) -> Result<()> {
    if Dir::open(path)?.try_lock()?.is_some() {
        fs::remove_dir_all(path).map_err(Error::io(format!("removing {}", path.display())))?;
    }
    Ok(())
}

/// Writes all that a layout must have, in a fixed order and without a clock.
fn pack(layout: &OciLayout, file: File) -> Result<File> {
    let sink = FileSink::new(file, layout.root().try_clone()?.into_fd());
    let failed = || Error::io("writing the archive");
    let mut at = 0u64;
    for name in layout.files()? {
        let Some(source) = layout.root().file(&name)? else { continue };
        let size = source.metadata().map_err(failed())?.len();
        let header = header(&name, size);
        sink.write_at(&header, at).map_err(failed())?;
        at += header.len() as u64;
        sink.copy_from(source.as_fd(), 0, at, size).map_err(failed())?;
        at += size.next_multiple_of(512);
    }
    sink.set_len(at + 1024).map_err(failed())?;
    Ok(sink.into_file())
}

/// The header blocks of a plain file (POSIX.1-1988 ustar; what does not fit goes into a pax record).
fn header(name: &str, size: u64) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut records = Vec::new();
    if name.len() > 100 {
        record(&mut records, "path", name);
    }
    if size >= 1 << 33 {
        record(&mut records, "size", &size.to_string());
    }
    if !records.is_empty() {
        blocks.extend_from_slice(&ustar("pax", records.len() as u64, b'x'));
        records.resize(records.len().next_multiple_of(512), 0);
        blocks.extend_from_slice(&records);
    }
    let (stored_size, short) = (if size < 1 << 33 { size } else { 0 }, name.get(..100));
    blocks.extend_from_slice(&ustar(short.unwrap_or(name), stored_size, b'0'));
    blocks
}

/// A pax record: its own length in decimal, the key and the value (POSIX.1-2001).
fn record(to: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    to.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
}

fn ustar(name: &str, size: u64, kind: u8) -> [u8; 512] {
    let mut text = Vec::with_capacity(512);
    let mut field = |value: &[u8], width: usize| {
        let end = text.len() + width;
        text.extend_from_slice(value);
        text.resize(end, 0);
    };
    field(name.as_bytes(), 100);
    field(b"0000644", 8);
    field(b"0000000", 8);
    field(b"0000000", 8);
    field(format!("{size:011o}").as_bytes(), 12);
    field(b"00000000000", 12);
    field(b"        ", 8);
    field(&[kind], 1);
    field(b"", 100);
    field(b"ustar\x0000", 8);
    let mut block = [0; 512];
    for (to, from) in block.iter_mut().zip(&text) {
        *to = *from;
    }
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0").bytes()) {
        *to = from;
    }
    block
}
