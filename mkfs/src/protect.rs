//! What makes changes of an image detectable: a dm-verity hash tree behind it, a digest as fs-verity has it.
//!
//! Both need the digest of every block. [`ProtectOptions::begin`] has those computed while the image is written, and
//! [`ProtectOptions::finish`] adds what is missing.

use std::fs::File;
use std::io;

use erolith_verity::dmverity::{self, CancelCheck, DmVerityTree, Header, block_bits_for};
use erolith_verity::fsverity;
use serde::{Deserialize, Serialize};

use crate::image::{self, Super};
use crate::io::{FileSink, ReadAt};

/// What an image gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProtectOptions {
    /// Whether its fs-verity digest is computed.
    pub fs_verity: bool,
    /// Whether it gets a hash tree.
    pub dm_verity: bool,
}

/// What an image got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Protected {
    /// The fs-verity digest of all of it, tree included.
    pub digest: Option<fsverity::Digest>,
    /// The hash tree behind it.
    pub verity: Option<DmVerityTree>,
}

/// Why an image is not protected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was written is no image.
    #[error("{0}")]
    Image(#[from] image::Error),
    /// It gets no hash tree.
    #[error(transparent)]
    Tree(#[from] dmverity::Error),
    /// It cannot be read.
    #[error("reading the image")]
    Read(#[from] io::Error),
}

impl ProtectOptions {
    /// Has what is written to `sink` hashed, for an image whose blocks have `1 << block_bits` bytes.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn begin(self, sink: FileSink, block_bits: u8) -> io::Result<FileSink> {
        let digest = self.fs_verity.then(fsverity::unknown);
        let tree = self.dm_verity.then(|| dmverity::unknown(block_bits_for(block_bits)));
        sink.followed(digest.into_iter().chain(tree).collect())
    }

    /// Protects the image that was written to `sink`, which is complete, and not yet synced.
    ///
    /// # Errors
    /// [`Error`]; of [`Error::Tree`] those of [`dmverity::append`].
    pub fn finish(self, sink: &FileSink, stop: &CancelCheck<'_>) -> Result<Protected, Error> {
        let (file, known) = (sink.file(), sink.known());
        let tree = || -> Result<_, Error> {
            let bits = block_bits_for(Super::read(file)?.block_bits);
            Ok(dmverity::append_with(file, bits, &known, stop)?)
        };
        let verity = self.dm_verity.then(tree).transpose()?;
        let digest = || fsverity::Digest::with(file, &known, &mut |_| {});
        let digest = self.fs_verity.then(digest).transpose()?;
        Ok(Protected { digest, verity })
    }
}

/// Gives the image in `file` a tree of the block size that fits: [`dmverity::append`].
///
/// # Errors
/// [`Error::Image`], and those of [`dmverity::append`].
pub fn append_tree(file: &File, stop: &CancelCheck<'_>) -> Result<DmVerityTree, Error> {
    Ok(dmverity::append(file, block_bits_for(Super::read(file)?.block_bits), stop)?)
}

/// Looks for a tree behind an image: where the filesystem ends, or where the devices end that follow it in the same file.
/// `None`: there is none. Nothing is verified by that.
///
/// # Errors
/// A superblock of a tree that cannot be used.
pub fn find_tree(file: &dyn ReadAt, sb: &Super) -> Result<Option<Header>, dmverity::Error> {
    let block = 1u64 << block_bits_for(sb.block_bits);
    let devices = sb.devices.iter().map(|device| device.blocks);
    let with_devices = devices.fold(sb.blocks, u64::saturating_add);
    for blocks in [sb.blocks, with_devices] {
        let Some(end) = blocks.checked_mul(sb.block_size()) else { continue };
        let Some(offset) = end.checked_next_multiple_of(block) else { continue };
        match Header::read(file, offset) {
            Err(dmverity::Error::NoTree { .. }) => {}
            found => return found.map(Some),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use std::io::Write as _;

    use super::*;
    use crate::build::{Builder, Finish, Options};
    use crate::io::FileInput;
    use crate::tar::{Entry, Limits, Writer};

    /// Digest and tree are those that are computed of the complete file.
    #[test]
    fn what_is_hashed_while_it_is_written_is_what_is_hashed_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Writer::new(tempfile::tempfile().unwrap());
        // Small and large ones, with tails and without, holes, and odd ends.
        for (n, size) in
            [0, 1, 100, 4000, 4090, 4096, 5000, 131_072, 200_000, 1 << 20, 3_000_001, 4_190_000]
                .into_iter()
                .enumerate()
        {
            let mut bytes: Vec<u8> = (0..=250).cycle().skip(n).take(size).collect();
            if n % 2 == 1 {
                bytes.iter_mut().skip(131_072).take(262_144).for_each(|byte| *byte = 0);
            }
            let (path, size) = (n.to_string().into_bytes(), bytes.len() as u64);
            archive.write_entry(&Entry { path, size, ..Entry::default() }).unwrap();
            archive.write_all(&bytes).unwrap();
        }
        let archive = archive.finish().unwrap();
        for block_bits in [9, 12, 14] {
            for wanted in [(true, false), (false, true), (true, true)] {
                let wanted = ProtectOptions { fs_verity: wanted.0, dm_verity: wanted.1 };
                let image = |wanted: ProtectOptions| {
                    let (file, scratch) =
                        (tempfile::tempfile().unwrap(), File::open(&dir).unwrap());
                    let sink = FileSink::new(file, scratch.into());
                    let sink = wanted.begin(sink, block_bits).unwrap();
                    let options = Options { block_bits, ..Options::default() };
                    let mut builder = Builder::new(sink, options).unwrap();
                    // From a file, large members are copied by the kernel.
                    let input = FileInput::new(archive.try_clone().unwrap()).unwrap();
                    builder.fill_from_tar(input, Limits::default()).unwrap();
                    builder.finish(&Finish::default()).unwrap().0
                };
                let sink = image(wanted);
                let protected = wanted.finish(&sink, &|| false).unwrap();
                let plain = image(ProtectOptions::default()).into_file();
                let verity = wanted.dm_verity.then(|| append_tree(&plain, &|| false).unwrap());
                let digest =
                    wanted.fs_verity.then(|| fsverity::Digest::of(&plain, &mut |_| {}).unwrap());
                assert_eq!(protected, Protected { digest, verity }, "{block_bits} {wanted:?}");
                let bytes = |file: &File| {
                    let mut bytes =
                        vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
                    file.read_exact_at(&mut bytes, 0).unwrap();
                    bytes
                };
                assert!(bytes(sink.file()) == bytes(&plain), "{block_bits} {wanted:?}");
            }
        }
    }
}
