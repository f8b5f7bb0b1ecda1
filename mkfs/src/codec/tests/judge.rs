//! The judge of a codec: the crate `erofs-rs`, which calls the same decoders and has other eyes for what they answer.
//!
//! The crate has no decoder to call: it reads images. So each extent is handed to it as an image that holds one file of one
//! extent: a superblock, the parameters of one algorithm, an inode, one extent record, and the compressed bytes.

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use zerocopy::{FromZeros, IntoBytes};

use crate::codec::{Codec, Share};
use crate::format::compression::{
    DeflateConfig, ExtentRecord, Lz4Config, LzmaConfig, MapHeader, ZSTD_WINDOW_BASE, ZstdConfig,
    advise, plen,
};
use crate::format::{
    Algorithm, CompactInode, Layout, SUPER_MAGIC, SUPER_OFFSET, Superblock, incompat, mode,
};

/// Where the pieces of the little image are. Blocks have 512 bytes.
const SUPER_AT: usize = 1024;
const _: () = assert!(SUPER_AT as u64 == SUPER_OFFSET);
const CONFIG_AT: usize = SUPER_AT + size_of::<Superblock>();
const INODE_AT: usize = 2048;
const HEADER_AT: usize = INODE_AT + size_of::<CompactInode>();
/// Records are aligned to their size of 16 bytes.
const RECORD_AT: usize = HEADER_AT + 16;
const RECORD_SIZE: usize = 16;
const DATA_AT: usize = 2560;

/// What a codec has to answer, in its words.
pub(super) fn decode(
    codec: Codec,
    cluster: &[u8],
    share: Share,
    len: u64,
) -> Result<Vec<u8>, String> {
    let image = frame(codec, cluster, share, len);
    let image = EroFS::new(SliceImage::new(&image)).map_err(|e| e.to_string())?;
    let inode = image.get_inode(INODE_AT as u64 / 32).map_err(|e| e.to_string())?;
    let file = image.open_inode_file(inode).map_err(|e| e.to_string())?;
    let mut out = vec![0; usize::try_from(len).unwrap()];
    let read = file.read_at(&mut out, 0).map_err(|e| e.to_string())?;
    assert_eq!(read, out.len());
    Ok(out)
}

fn frame(codec: Codec, cluster: &[u8], share: Share, len: u64) -> Vec<u8> {
    let (algorithm, config) = config(codec);
    let padding =
        if codec == (Codec::Lz4 { is_padded: false }) { 0 } else { incompat::ZERO_PADDING };
    let mut head = Superblock::new_zeroed();
    head.magic = SUPER_MAGIC.into();
    head.blkszbits = 9;
    head.feature_incompat = (padding | incompat::COMPR_CFGS | incompat::LAYOUT_48BIT).into();
    head.u1 = (1 << algorithm as u16).into();
    let mut inode = CompactInode::new_zeroed();
    inode.format = Layout::CompressedFull.format_bits().into();
    inode.mode = (mode::IFREG | 0o400).into();
    inode.nb = 1.into();
    inode.size = u32::try_from(len).unwrap().into();
    let mut header = MapHeader::new_zeroed();
    header.low = 1.into();
    header.advise = (advise::EXTENTS | 2 << advise::EXTENT_SIZE_SHIFT).into();
    let mut record = ExtentRecord::new_zeroed();
    let partial = if share == Share::Prefix { plen::PARTIAL } else { 0 };
    let format = (algorithm as u32 + 1) << plen::FORMAT_SHIFT;
    record.plen = (u32::try_from(cluster.len()).unwrap() | partial | format).into();
    record.pstart_lo = u32::try_from(DATA_AT).unwrap().into();

    let mut image = vec![0; DATA_AT];
    for (at, bytes) in [
        (SUPER_AT, head.as_bytes()),
        (CONFIG_AT, &u16::try_from(config.len()).unwrap().to_le_bytes()),
        (CONFIG_AT + 2, &config),
        (INODE_AT, inode.as_bytes()),
        (HEADER_AT, header.as_bytes()),
        (RECORD_AT, &record.as_bytes()[..RECORD_SIZE]),
    ] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image.extend_from_slice(cluster);
    image
}

/// The configuration record of a codec.
fn config(codec: Codec) -> (Algorithm, Vec<u8>) {
    match codec {
        Codec::Lz4 { .. } => {
            let mut config = Lz4Config::new_zeroed();
            config.max_distance = u16::MAX.into();
            config.max_pcluster_blocks = 1.into();
            (Algorithm::Lz4, config.as_bytes().to_vec())
        }
        Codec::Lzma { dict_size } => {
            let mut config = LzmaConfig::new_zeroed();
            config.dict_size = dict_size.into();
            (Algorithm::Lzma, config.as_bytes().to_vec())
        }
        Codec::Deflate => {
            let mut config = DeflateConfig::new_zeroed();
            config.window_bits = 15;
            (Algorithm::Deflate, config.as_bytes().to_vec())
        }
        Codec::Zstd { window_size } => {
            let mut config = ZstdConfig::new_zeroed();
            let log = window_size.trailing_zeros() - u32::from(ZSTD_WINDOW_BASE);
            config.window_log = u8::try_from(log).unwrap();
            (Algorithm::Zstd, config.as_bytes().to_vec())
        }
    }
}
