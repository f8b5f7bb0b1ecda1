//! Options of building and protecting, whose types belong to a crate that sends nothing. A field that is added there does
//! not compile here until it is sent too.

use erolith_mkfs::build::{Options, Owner, Timestamp};
use erolith_mkfs::protect::ProtectOptions;
use erolith_mkfs::tree::{LayerOptions, OverlayXattrs, XattrPolicy};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "Options")]
pub(super) struct BuildOptions {
    block_bits: u8,
    inline_data: bool,
    holes: bool,
    label: String,
    #[serde(with = "Stamp")]
    timestamp: Timestamp,
    #[serde(with = "Owners")]
    owner: Owner,
    #[serde(with = "WireLayerOptions")]
    layer: LayerOptions,
    share_xattrs_above: Option<u64>,
    force_extended: bool,
    align_blocks: u64,
    max_bytes: u64,
    tar_index: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ProtectOptions")]
pub(super) struct Hashes {
    fs_verity: bool,
    dm_verity: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Timestamp")]
enum Stamp {
    Keep,
    All(i64),
    Clamp(i64),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Owner")]
struct Owners {
    force_uid: Option<u32>,
    force_gid: Option<u32>,
    uid_offset: u32,
    gid_offset: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "LayerOptions")]
struct WireLayerOptions {
    whiteouts: bool,
    base: bool,
    root_meta: bool,
    root_inherits: bool,
    refuse_duplicates: bool,
    #[serde(with = "Xattrs")]
    xattrs: XattrPolicy,
    max_entries: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "XattrPolicy")]
struct Xattrs {
    keep_trusted: bool,
    #[serde(with = "Overlay")]
    overlay: OverlayXattrs,
    drop_all: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "OverlayXattrs")]
enum Overlay {
    Escape,
    Drop,
    Keep,
}
