//! The fs-verity digest of a file, computed from its bytes: what the kernel holds a file against that has fs-verity, and
//! what the annotation of a layer promises.

use std::fmt;
use std::io;
use std::ops::Range;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::ReadAt;
use crate::blockhash::{BlockHash, DIGEST, Known, Part};

/// Bytes of the tree's blocks.
const BLOCK: usize = 4096;
/// Bytes that a thread reads at a time.
const PIECE: usize = 1 << 20;
/// More threads than this wait for the memory.
const MAX_THREADS: usize = 4;
/// Bytes of digests that are hashed together.
const GROUP: usize = 64 * BLOCK;

/// What digests of blocks have to be of, so that they need not be computed once more.
#[must_use]
pub fn unknown() -> Known {
    Known::new(BlockHash::new(&[], BLOCK))
}

/// The fs-verity digest of a file, with SHA-256 over blocks of 4096 bytes and no salt: what `fsverity digest` prints and
/// FS_IOC_MEASURE_VERITY gives. Written as `sha256:` and 64 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of the bytes that `file` has now. `told` hears how many were read, piece by piece.
    ///
    /// # Errors
    /// What reading gives; with fs-verity that is EIO where the bytes were changed.
    pub fn of(file: &dyn ReadAt, told: &mut dyn FnMut(u64)) -> io::Result<Self> {
        Self::with(file, &[], told)
    }

    /// As [`Self::of`], without reading those blocks whose digests are in `known`, which has others, too.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn with(file: &dyn ReadAt, known: &[Known], told: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let known = known.iter().find(|known| known.is_of(&[], BLOCK));
        let mut tree = MerkleTree::new();
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut readers = vec![Reader::new()];
        let mut at = 0;
        loop {
            let end = match known.map(|known| known.part(at..u64::MAX)) {
                Some(Part::Known(digests)) => {
                    let bytes = (digests.len() / DIGEST * BLOCK) as u64;
                    tree.push_digests(digests);
                    at += bytes;
                    told(bytes);
                    continue;
                }
                Some(Part::Missing(end)) => end,
                None => u64::MAX,
            };
            for piece in read_pieces(&mut readers, file, at..end)? {
                tree.push_digests(&piece.digests);
                at += piece.bytes;
                told(piece.bytes);
                if piece.is_last {
                    return Ok(Self(descriptor(at, tree.root())));
                }
            }
            // More of them once the file has turned out to be longer than one piece.
            readers.resize_with(threads.min(MAX_THREADS), Reader::new);
        }
    }

    /// As the kernel gives it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest itself.
    #[must_use]
    pub const fn bytes(self) -> [u8; 32] {
        self.0
    }

    /// Reads what [`fmt::Display`] writes; nothing for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?.as_bytes();
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(Self(bytes))
    }
}

/// Hashes one piece of a file at a time.
struct Reader {
    hash: BlockHash,
    buffer: Vec<u8>,
}

/// The digests of a piece's blocks.
struct Piece {
    bytes: u64,
    digests: Vec<u8>,
    /// The file ends here.
    is_last: bool,
}

impl Reader {
    fn new() -> Self {
        Self { hash: BlockHash::new(&[], BLOCK), buffer: vec![0; PIECE] }
    }

    fn piece(&mut self, file: &dyn ReadAt, place: Range<u64>) -> io::Result<Piece> {
        let wanted = usize::try_from(place.end - place.start).map_or(PIECE, |len| len.min(PIECE));
        let mut full = 0;
        while let Some(room) = self.buffer.get_mut(full..wanted).filter(|room| !room.is_empty()) {
            match file.read_at(room, place.start + full as u64) {
                Ok(0) => break,
                Ok(n) => full += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The last block is hashed as if zeroes followed, and an empty file has none.
        let end = full.next_multiple_of(BLOCK);
        self.buffer.get_mut(full..end).unwrap_or_default().fill(0);
        let mut digests = Vec::with_capacity(end / BLOCK * DIGEST);
        self.hash.all(self.buffer.get(..end).unwrap_or_default(), &mut digests);
        Ok(Piece { bytes: full as u64, digests, is_last: full < wanted })
    }
}

/// As many pieces of a range as there are readers, in order.
fn read_pieces(
    readers: &mut [Reader],
    file: &dyn ReadAt,
    range: Range<u64>,
) -> io::Result<Vec<Piece>> {
    let places = range.clone().step_by(PIECE).map(|start| start..range.end);
    let mut work = readers.iter_mut().zip(places);
    let Some((mine, first)) = work.next() else { return Ok(Vec::new()) };
    thread::scope(|scope| {
        let others = work.map(|(reader, place)| {
            let builder = thread::Builder::new().name("fs-verity".into());
            builder.spawn_scoped(scope, move || reader.piece(file, place))
        });
        let others = others.collect::<io::Result<Vec<_>>>()?;
        let mut pieces = vec![mine.piece(file, first)?];
        for other in others {
            let piece = other.join().map_err(|_| io::Error::other("a thread that hashes died"))?;
            pieces.push(piece?);
        }
        Ok(pieces)
    })
}

/// A Merkle tree of which only the unfinished blocks are kept: Linux, Documentation/filesystems/fsverity.rst, "Merkle
/// tree".
struct MerkleTree {
    hash: BlockHash,
    /// Digests that are in no block yet which was hashed, of each level, that of the data first.
    levels: Vec<Vec<u8>>,
}

impl MerkleTree {
    fn new() -> Self {
        Self { hash: BlockHash::new(&[], BLOCK), levels: Vec::new() }
    }

    /// Takes digests of the data, in order.
    fn push_digests(&mut self, digests: &[u8]) {
        self.add(0, digests);
    }

    /// Adds digests to a level. What is hashed of them is a group of whole blocks, and never the end of a level.
    fn add(&mut self, level: usize, digests: &[u8]) {
        if self.levels.len() == level && !digests.is_empty() {
            self.levels.push(Vec::new());
        }
        let Some(pending) = self.levels.get_mut(level) else { return };
        pending.extend_from_slice(digests);
        while let Some(pending) = self.levels.get_mut(level).filter(|all| all.len() > GROUP) {
            let rest = pending.split_off(GROUP);
            let full = std::mem::replace(pending, rest);
            self.push(level, &full);
        }
    }

    /// Hashes whole blocks of a level.
    fn push(&mut self, level: usize, blocks: &[u8]) {
        let mut digests = Vec::new();
        self.hash.all(blocks, &mut digests);
        self.add(level + 1, &digests);
    }

    /// The digest on top; zeroes where there was nothing.
    fn root(mut self) -> [u8; DIGEST] {
        let mut level = 0;
        while let Some(digests) = self.levels.get_mut(level) {
            let is_top = digests.len() == DIGEST;
            let mut last = std::mem::take(digests);
            if is_top && self.levels.len() == level + 1 {
                return last.try_into().unwrap_or_default();
            }
            last.resize(last.len().next_multiple_of(BLOCK), 0);
            self.push(level, &last);
            level += 1;
        }
        [0; DIGEST]
    }
}

/// The digest of what the kernel calls the descriptor: how the tree was made, the size of the file, and the root.
fn descriptor(size: u64, root: [u8; DIGEST]) -> [u8; DIGEST] {
    // struct fsverity_descriptor of include/uapi/linux/fsverity.h: version 1, SHA-256, blocks of 2^12, no salt.
    let mut bytes = vec![1, 1, 12, 0, 0, 0, 0, 0];
    bytes.extend(size.to_le_bytes());
    bytes.extend(root);
    bytes.resize(256, 0);
    BlockHash::new(&[], bytes.len()).one(&bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn digest_of(bytes: &[u8]) -> String {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let mut read = 0;
        let digest = Digest::of(&file, &mut |n| read += n).unwrap();
        assert_eq!(read, bytes.len() as u64);
        digest.to_string()
    }

    /// What `fsverity digest` of fsverity-utils 1.6 prints for the same bytes.
    #[test]
    fn digests_are_those_of_fsverity_utils() {
        let count = |len: usize| (0..=250).cycle().take(len).collect::<Vec<u8>>();
        for (bytes, want) in [
            (count(0), "sha256:3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (count(1), "sha256:b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
            (
                count(4095),
                "sha256:5f4953aad672b0188023d6cd6fbce9d09508eb7dad165b6298ce0086bc1e72db",
            ),
            (
                count(4096),
                "sha256:13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157",
            ),
            (
                count(4097),
                "sha256:b0d074abef4d544404facfab6ba242f6a8ccbde90f1325cd286f3c8aa8d0f8aa",
            ),
            (
                count(524288),
                "sha256:d82861203d50ae9b60948504a704f35f5118bd229aeb1a22d6dae47b1767c4c4",
            ),
            (
                count(524289),
                "sha256:4dc6905041c9c4ee73e13b53f63f5d289c46da359b664a965ead7f8cc4d799d4",
            ),
            (
                count(1000000),
                "sha256:dbe1b6c44240d0b0642a25e6c1d5e399381c87474f3dcda2f3acb9495fa159d6",
            ),
        ] {
            assert_eq!(digest_of(&bytes), want, "{} bytes", bytes.len());
        }
    }

    /// What is known is not read: here other bytes are known than there are.
    #[test]
    fn known_digests_are_taken_as_they_are() {
        let bytes: Vec<u8> = (0..=250).cycle().take(5 << 20).collect();
        let mut other = bytes.clone();
        let piece = (2 << 20) + 4096..(4 << 20) - 4096;
        other[piece].fill(0);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&other, 0).unwrap();
        let mut known = unknown();
        known.add(1 << 20, &bytes[1 << 20..4 << 20]);
        let others = Known::new(BlockHash::new(&[1], BLOCK));
        let digest = Digest::with(&file, &[others, known], &mut |_| {}).unwrap();
        assert_eq!(digest.to_string(), digest_of(&bytes));
        assert_ne!(digest.to_string(), digest_of(&other));
    }

    /// The crate `fs-verity` computes the same, one block after the other, which takes five times as long.
    #[test]
    fn digests_are_those_of_the_crate_fs_verity() {
        use digest::FixedOutput as _;
        use std::io::Write as _;
        let digits = BLOCK / DIGEST;
        for blocks in
            [0, 1, 2, 63, 64, 65, digits, digits + 1, 3 * digits, 64 * digits, 66 * digits + 1]
        {
            for more in [0, 1, 4095] {
                let bytes: Vec<u8> = (0..=246).cycle().take(blocks * BLOCK + more).collect();
                let mut judge: fs_verity::FsVerityDigest = fs_verity::FsVerityDigest::new();
                judge.write_all(&bytes).unwrap();
                let want = Digest::from_bytes(judge.finalize_fixed().into()).to_string();
                assert_eq!(digest_of(&bytes), want, "{blocks} blocks and {more} bytes");
            }
        }
    }

    #[test]
    fn texts_go_there_and_back_and_others_are_refused() {
        let digest = Digest(std::array::from_fn(|n| u8::try_from(n * 7).unwrap()));
        let text = digest.to_string();
        assert_eq!(Digest::parse(&text), Some(digest));
        let (upper, short) = (text.to_uppercase(), text.get(..70).unwrap().to_owned());
        for bad in ["", "sha256:", &upper, &short, &format!("{text}0"), &text.replace('0', "g")] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
