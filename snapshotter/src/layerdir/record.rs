//! The record of a snapshot in its own directory: what its row in the database says, so that the database can be made
//! again when it is lost (`erolith repair`). Nothing else reads it, and where the two differ the database is right.
//!
//! It is there before the directory has its name. A commit writes what the snapshot will be beside it, as
//! [`COMMITTING`], which takes its place when the database has committed. So both are there only in between, and each
//! is true of a state that was or will be.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use erolith_durable::Durability;
use erolith_verity::dmverity::sidecar::Sidecar;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::files::{failed, open_dir, publish, unlink};
use crate::protect::{Digest, Pin};
use crate::store::{Entry, Kind, Labels, Origin, Store, Usage};

/// The record.
pub const RECORD: &str = "snapshot.json";
/// What the record will be when the commit that is under way is done.
pub(crate) const COMMITTING: &str = "commit.json";

/// The form that this code writes, which adds `origin` to the first one. Others are refused: what they leave out or add
/// is not known.
const VERSION: u64 = 2;
/// The earliest form that can be read.
const FIRST: u64 = 1;

/// Most bytes of a record that is read. A request has at most 4 MiB, and JSON writes a byte as six at most.
const LIMIT: u64 = 32 << 20;

/// One record is written at a time, so that the later one stays.
static WRITING: Mutex<()> = Mutex::new(());

/// The form on disk. Times are nanoseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<'a> {
    version: u64,
    id: u64,
    key: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<u64>,
    kind: Cow<'a, str>,
    created: i64,
    updated: i64,
    #[serde(default, skip_serializing_if = "no_labels")]
    labels: Cow<'a, Labels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<UsageForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<SealForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dmverity: Option<TreeForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Cow<'a, Origin>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quarantine: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageForm {
    size: u64,
    inodes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealForm {
    digest: String,
    enforced: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TreeForm {
    roothash: String,
    hashoffset: u64,
}

/// The version alone, whatever else there is.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

fn no_labels(labels: &Labels) -> bool {
    labels.is_empty()
}

/// Why a record says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It is longer than any that we write.
    TooLong,
    /// A version that is not known here.
    Version(u64),
    /// It is not in the form of a record; what is wrong.
    Form(String),
    /// Storage did not give it.
    Storage(String),
}

impl Unreadable {
    /// A stable name for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "record-too-long",
            Self::Version(_) => "record-version",
            Self::Form(_) => "record-form",
            Self::Storage(_) => "record-storage",
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it has more than {LIMIT} bytes"),
            Self::Version(version) => {
                write!(f, "it is of version {version}; this erolith knows version {VERSION}")
            }
            Self::Form(why) | Self::Storage(why) => f.write_str(why),
        }
    }
}

/// The bytes of a record.
fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let Usage { size, inodes } = entry.usage;
    let form = Form {
        version: VERSION,
        id: entry.id,
        key: Cow::Borrowed(&entry.key),
        parent: entry.parent,
        kind: Cow::Borrowed(entry.kind.as_str()),
        created: entry.created,
        updated: entry.updated,
        labels: Cow::Borrowed(&entry.labels),
        usage: (entry.kind == Kind::Committed).then_some(UsageForm { size, inodes }),
        seal: entry.pin.map(|Pin { digest, is_enforced }| SealForm {
            digest: digest.to_string(),
            enforced: is_enforced,
        }),
        dmverity: entry.tree.map(|Sidecar { root, hash_offset }| TreeForm {
            roothash: root.to_string(),
            hashoffset: hash_offset,
        }),
        origin: entry.origin.as_ref().map(Cow::Borrowed),
        quarantine: entry.damage.as_deref().map(Cow::Borrowed),
    };
    let mut bytes = serde_json::to_vec(&form)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Understands a record, which must be that of the snapshot with this id.
fn decode(bytes: &[u8], id: u64) -> Result<Entry, Unreadable> {
    let wrong = |why: &str| Unreadable::Form(why.to_owned());
    let json = |error: serde_json::Error| Unreadable::Form(error.to_string());
    let Versioned { version } = serde_json::from_slice(bytes).map_err(json)?;
    if !(FIRST..=VERSION).contains(&version) {
        return Err(Unreadable::Version(version));
    }
    let form: Form<'_> = serde_json::from_slice(bytes).map_err(json)?;
    let kinds = [Kind::View, Kind::Active, Kind::Committed];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == form.kind);
    let kind = kind.ok_or_else(|| wrong("it is of no kind of snapshot"))?;
    if form.id != id {
        return Err(Unreadable::Form(format!("it is that of snapshot {}", form.id)));
    }
    if form.key.is_empty() {
        return Err(wrong("it has no key"));
    }
    let pin = form.seal.map(|SealForm { digest, enforced }| {
        let digest = Digest::parse(&digest).ok_or_else(|| wrong("its digest is none"))?;
        Ok(Pin { digest, is_enforced: enforced })
    });
    let tree = form.dmverity.map(|TreeForm { roothash, hashoffset }| {
        let root = roothash.parse().map_err(|_| wrong("its root hash is none"))?;
        match hashoffset {
            0 => Err(wrong("its hash tree begins at 0")),
            hash_offset => Ok(Sidecar { root, hash_offset }),
        }
    });
    let usage = form.usage.unwrap_or(UsageForm { size: 0, inodes: 0 });
    Ok(Entry {
        id,
        key: form.key.into_owned(),
        parent: form.parent,
        kind,
        created: form.created,
        updated: form.updated,
        labels: form.labels.into_owned(),
        usage: Usage { size: usage.size, inodes: usage.inodes },
        pin: pin.transpose()?,
        tree: tree.transpose()?,
        origin: form.origin.map(Cow::into_owned),
        damage: form.quarantine.map(Cow::into_owned),
    })
}

/// Reads the record called `name` in `dir`, that of the snapshot with this id; nothing when there is none.
pub(crate) fn read(dir: &Path, name: &str, id: u64) -> Option<Result<Entry, Unreadable>> {
    let storage = |error: io::Error| Unreadable::Storage(error.to_string());
    // Neither a link nor a pipe is ours.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(dir.join(name), flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return None,
        Err(errno) => return Some(Err(storage(errno.into()))),
    };
    let mut bytes = Vec::new();
    let read = file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(storage);
    Some(read.and_then(|count| match count as u64 {
        0..=LIMIT => decode(&bytes, id),
        _ => Err(Unreadable::TooLong),
    }))
}

/// Writes the record of a snapshot into its directory, which is new. Not synced: what it stands for is not either.
pub(crate) fn begin(dir: &Path, entry: &Entry) -> Result<()> {
    let path = dir.join(RECORD);
    let bytes = encode(entry).map_err(failed("writing", &path))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = rustix::fs::open(&path, flags, mode).map_err(failed("making", &path))?;
    File::from(fd).write_all(&bytes).map_err(failed("writing", &path))
}

/// Writes what the record of a snapshot will be once it is committed, and syncs its bytes when that is wanted; the name
/// is for the caller to sync.
pub(crate) fn announce(dir: &Path, entry: &Entry, durability: Durability) -> Result<()> {
    write_as(dir, COMMITTING, entry, durability)
}

/// The commit is done: what was announced is the record.
pub(crate) fn adopt(dir: &Path) -> Result<()> {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = dir.join(COMMITTING);
    match rustix::fs::rename(&path, dir.join(RECORD)) {
        // A later one was written.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("naming", &path)(errno)),
    }
}

/// The commit is not done: what was announced is not. Returns whether there was something.
pub(crate) fn withdraw(dir: &Path) -> Result<bool> {
    unlink(&dir.join(COMMITTING))
}

/// Writes the record of a snapshot anew, after its row. Nothing for one that has no row.
pub(crate) fn refresh(store: &Store, dir: &Path, id: u64) -> Result<()> {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(entry) = store.entry(id)? else { return Ok(()) };
    write_as(dir, RECORD, &entry, Durability::Unsynced)?;
    if entry.kind == Kind::Committed {
        withdraw(dir)?;
    }
    Ok(())
}

/// As [`refresh`], for callers who have done what they were asked for already: the database has it.
pub(crate) fn refresh_if_possible(store: &Store, dir: &Path, id: u64) {
    if let Err(error) = refresh(store, dir, id) {
        tracing::warn!(id, error = error.line(), "the record of a snapshot is not up to date");
    }
}

/// The snapshot is removed: its record must not bring it back. Its directory may be there for a while.
pub(crate) fn forget(dir: &Path) {
    for name in [COMMITTING, RECORD] {
        if let Err(error) = unlink(&dir.join(name)) {
            tracing::warn!(error = error.line(), "the record of a removed snapshot is left");
        }
    }
}

/// Writes a record under this name, in the place of another. The name is for the caller to sync.
fn write_as(dir: &Path, name: &str, entry: &Entry, durability: Durability) -> Result<()> {
    let path = dir.join(name);
    let bytes = encode(entry).map_err(failed("writing", &path))?;
    publish(&open_dir(dir)?, &path, &bytes, 0o600, durability).map(|named| drop(named.unsettled()))
}

#[cfg(test)]
mod tests;
