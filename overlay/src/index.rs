//! The index of an overlay (`index=on`; `fs/overlayfs/copy_up.c`, `namei.c`, `export.c`).
//!
//! A file with several names in a layer below is copied up once, into the directory `index` of the work directory; the
//! names that were written under are links to that copy. Every other name of the file below shows the copy, too, also
//! when the last name in the upper directory was removed or renamed. An entry is named after the file handle of the inode
//! below (`struct ovl_fb`), in hexadecimal digits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::handles::{FileHandle, FileHandles, Origin};
use super::layer::Named;
use super::{Node, OverlayLayer, Stack};
use crate::Error;
use erolith_mkfs::names;
use erolith_mkfs::names::shown;

/// The directory in the work directory that is the index (`OVL_INDEXDIR_NAME`).
pub const INDEX_DIR: &str = "index";

/// `FILEID_INO32_GEN` and `FILEID_INO64_GEN` of `include/linux/exportfs.h`.
const INO32_GEN: u8 = 1;
const INO64_GEN: u8 = 0x81;

/// What the kernel calls an inode of a mounted image: its number, in 32 bits until Linux 6.17 (`generic_encode_ino32_fh`),
/// in 64 since (`erofs_encode_fh`); no inode has a generation.
fn handles_of_nid(nid: u64) -> [FileHandle; 2] {
    let (high, low) = ((nid >> 32).to_le_bytes(), nid.to_le_bytes());
    let word = |bytes: [u8; 8]| bytes.into_iter().take(4);
    let zero = || [0; 4].into_iter();
    [
        FileHandle { kind: INO32_GEN, bytes: word(low).chain(zero()).collect() },
        FileHandle { kind: INO64_GEN, bytes: word(high).chain(word(low)).chain(zero()).collect() },
    ]
}

/// A layer of a stack, and an inode in it.
type Key = (usize, (u64, u64));

/// One file of the index.
#[derive(Debug, Clone)]
struct Entry {
    name: Vec<u8>,
    uuid: Option<[u8; 16]>,
    /// What all names of the file below show that have nothing over them.
    copy: Node,
    /// The file below, once it is found.
    below: Option<(usize, Node)>,
    /// All names of it in its layer.
    names: Vec<Vec<u8>>,
}

/// The files of layers below that were copied up with all of their names.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
    inodes: BTreeMap<Key, usize>,
}

impl Index {
    /// The copy that names of a file below show.
    pub(super) fn copy_of(&self, layer: usize, below: &Node) -> Option<&Node> {
        let index = self.inodes.get(&(layer, below.id()))?;
        self.entries.get(*index).map(|entry| &entry.copy)
    }

    /// Every name below of every file, and the copy it shows if nothing is over it.
    pub(super) fn names(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.entries
            .iter()
            .flat_map(|entry| entry.names.iter().map(move |name| (name.as_slice(), &entry.copy)))
    }

    /// Reads the index of the upper directory of `stack`, and looks for its files in the layers below. Without one, or
    /// when nothing is in there, no layer is looked at.
    ///
    /// # Errors
    /// [`Error::Index`] when it is missing, or names a file that no layer has, or that two have; what `go_on` says; what
    /// the storage reports, and any fault of an image.
    pub(super) fn read<E: From<Error>>(
        stack: &Stack,
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        let Some(upper) = stack.upper() else { return Ok(Self::default()) };
        let Some(list) = upper.indexed()? else {
            return match stack.was_indexed()? {
                true => Err(Error::Index { what: ".".to_owned(), why: MISSING }.into()),
                false => Ok(Self::default()),
            };
        };
        let (mut index, handles) = Self::of_entries(stack, list)?;
        if !index.entries.is_empty() {
            for (number, layer) in stack.lowers() {
                index.find_in(number, layer, upper.file_handles(), &handles, go_on)?;
            }
        }
        match index.entries.iter().find(|entry| entry.below.is_none()) {
            Some(lost) => Err(Error::Index { what: shown(&lost.name), why: LOST }.into()),
            None => Ok(index),
        }
    }

    /// The entries that are files, and their handles.
    fn of_entries(stack: &Stack, list: Vec<Named>) -> Result<(Self, Handles), Error> {
        let (mut index, mut handles) = (Self::default(), Handles::new());
        for (name, copy) in list {
            let is_gone = || Ok::<_, Error>(stack.is_whiteout(&copy, &copy.xattrs()?));
            // Temporary names begin with a sign that is no digit. Directories and whiteouts are there for NFS alone.
            if name.starts_with(b"#") || copy.is_dir() || is_gone()? {
                continue;
            }
            let origin = Origin::from_name(&name)
                .ok_or_else(|| Error::Index { what: shown(&name), why: UNREADABLE })?;
            handles.entry(origin.handle).or_default().push(index.entries.len());
            let (uuid, names) = (origin.uuid, Vec::new());
            index.entries.push(Entry { name, uuid, copy, below: None, names });
        }
        Ok((index, handles))
    }

    /// Looks for the files in one layer.
    fn find_in<E: From<Error>>(
        &mut self,
        number: usize,
        layer: &Arc<OverlayLayer>,
        ask: Option<&Arc<dyn FileHandles>>,
        handles: &Handles,
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let uuid = layer.uuid(ask);
        walk(layer, go_on, &mut |path, node| {
            let found = match node.nid() {
                Some(nid) => handles_of_nid(nid).to_vec(),
                None => match ask {
                    Some(ask) => vec![node.file_handle(ask)?],
                    None => Vec::new(),
                },
            };
            for &at in found.iter().filter_map(|handle| handles.get(handle)).flatten() {
                let Some(entry) = self.entries.get_mut(at) else { continue };
                if entry.uuid.is_some() && uuid.is_some() && entry.uuid != uuid {
                    continue;
                }
                let is_other = |(layer, known): &(usize, Node)| {
                    // Two directories of one filesystem may share an inode; two images do not.
                    known.id() != node.id() || (node.nid().is_some() && *layer != number)
                };
                if entry.below.as_ref().is_some_and(is_other) {
                    return Err(Error::Index { what: shown(&entry.name), why: TWICE });
                }
                entry.below.get_or_insert_with(|| (number, node.clone()));
                entry.names.push(path.to_vec());
                self.inodes.insert((number, node.id()), at);
            }
            Ok(())
        })
    }
}

const MISSING: &str = "the overlay was mounted with index=on, and other names of its files show what only its index \
    has: the work directory of the overlay is needed (--work), as it was when the overlay was written to";
const LOST: &str = "the overlay's index has this entry, and none of the layers below has its file: give all layers \
    that the overlay was mounted with";
const TWICE: &str = "the overlay's index has this entry, and two of the layers below have a file of that handle: give \
    the images of the layers instead of directories they are mounted at";
const UNREADABLE: &str = "this entry of the overlay's index is not understood: copy the files out of the mounted \
    overlay instead";

/// Numbers of entries by handle; filesystems may call two inodes the same.
type Handles = BTreeMap<FileHandle, Vec<usize>>;

/// Takes a path and the inode there.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &Node) -> Result<(), Error> + 'a;

/// Shows `visit` every name in a layer that is not a directory's.
pub(super) fn walk<E: From<Error>>(
    layer: &Arc<OverlayLayer>,
    go_on: &mut dyn FnMut() -> Result<(), E>,
    visit: &mut Visit<'_>,
) -> Result<(), E> {
    let mut todo = vec![(Vec::new(), layer.root()?)];
    // A directory has one name, but nothing makes sure that this one has.
    let mut seen = BTreeSet::new();
    while let Some((path, dir)) = todo.pop() {
        go_on()?;
        for name in dir.names()? {
            let path = names::join(&path, &name);
            match dir.child(&name)? {
                Some(child) if !child.is_dir() => visit(&path, &child)?,
                Some(child) if seen.insert(child.id()) => todo.push((path, child)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of entries that Linux 6.18 made over an image (`-U 11111111-...`, inode 40), and over ext4 without a UUID.
    const OF_IMAGE: &str = "00fb21008111111111222233334444555555555555000000002800000000000000";
    const OF_EXT4: &str = "00fb1d0001000000000000000000000000000000005a400b00bbcff4ad";

    #[test]
    fn entries_are_called_like_the_handles_of_what_is_below() {
        let of_image = Origin::from_name(OF_IMAGE.as_bytes()).unwrap();
        let uuid = of_image.uuid.map(|uuid| uuid.map(|byte| byte >> 4));
        assert_eq!(uuid, Some([1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5]));
        assert!(handles_of_nid(40).contains(&of_image.handle));
        assert!(!handles_of_nid(41).contains(&of_image.handle));
        let of_ext4 = Origin::from_name(OF_EXT4.as_bytes()).unwrap();
        let bytes = vec![0x5A, 0x40, 0x0B, 0, 0xBB, 0xCF, 0xF4, 0xAD];
        let handle = FileHandle { kind: INO32_GEN, bytes };
        assert_eq!(of_ext4, Origin { uuid: None, handle });
    }

    #[test]
    fn inodes_of_images_have_a_handle_of_either_kind() {
        let [old, new] = handles_of_nid(0x12_3456_789A);
        assert_eq!((old.kind, old.bytes), (1, vec![0x9A, 0x78, 0x56, 0x34, 0, 0, 0, 0]));
        let bytes = vec![0x12, 0, 0, 0, 0x9A, 0x78, 0x56, 0x34, 0, 0, 0, 0];
        assert_eq!((new.kind, new.bytes), (0x81, bytes));
    }

    #[test]
    fn what_is_no_handle_is_not_taken_for_one() {
        for bad in [
            "",
            "0",
            "#3",
            "00fb",
            // Another version, another magic, another length, another order of bytes, no handle.
            "01fb1d0001000000000000000000000000000000005a400b00bbcff4ad",
            "00fc1d0001000000000000000000000000000000005a400b00bbcff4ad",
            "00fb1e0001000000000000000000000000000000005a400b00bbcff4ad",
            "00fb1d0101000000000000000000000000000000005a400b00bbcff4ad",
            "00fb15000100000000000000000000000000000000",
            "00fb1d0001000000000000000000000000000000005a400b00bbcff4a",
            "00fb1d0001000000000000000000000000000000005a400b00bbcff4zz",
        ] {
            assert_eq!(Origin::from_name(bad.as_bytes()), None, "{bad}");
        }
    }
}
