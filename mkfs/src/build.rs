//! Building an image: fill a [`Builder`] from a source, then finish it.
//!
//! File content goes to the output while the source is read, tails wait in memory or in a scratch file, and
//! everything else is written when the source has ended. The memory needed is that of the tree, about 200
//! bytes an inode and its name, and 16 MiB of tails; it does not grow with the bytes of the files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data::{DataArea, Placement};
use crate::emit::{self, Identity};
use crate::format::{DEFAULT_BLOCK_BITS, MAX_BLOCK_BITS, MIN_BLOCK_BITS};
use crate::io::Sink;
use crate::meta::{IMPLICIT_DIR, Meta, Time};
use crate::plan::{ExtraDevice, Plan, PlanOptions};
use crate::tree::{DroppedXattrs, FileTree, LayerOptions, LowerTree, NodeId, Note, XattrSetId};

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// log2 of the block size: 9 to 16.
    pub block_bits: u8,
    /// Last partial blocks of files go behind the inode. Off for DAX, and for images to be merged.
    pub inline_data: bool,
    /// Runs of zeros that fill 128 KiB become holes. Such a file needs kernel 5.15; nothing else does.
    pub holes: bool,
    /// Name of the volume, 15 bytes at most.
    pub label: String,
    /// What becomes of modification times.
    pub timestamp: Timestamp,
    /// What becomes of owners.
    pub owner: Owner,
    /// How members of a layer are understood.
    pub layer: LayerOptions,
    /// Extended attributes on more inodes than this are stored once; `None` stores each with its inode.
    pub share_xattrs_above: Option<u64>,
    /// Every inode takes 64 bytes.
    pub force_extended: bool,
    /// The first block of a file is a multiple of this many blocks.
    pub align_blocks: u64,
    /// Most bytes of the image.
    pub max_bytes: u64,
    /// File content stays where it is, in the archive, which is the image's extra device. Blocks are 512
    /// bytes then.
    pub tar_index: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            block_bits: DEFAULT_BLOCK_BITS,
            inline_data: true,
            holes: true,
            label: String::new(),
            timestamp: Timestamp::Keep,
            owner: Owner::default(),
            layer: LayerOptions::default(),
            share_xattrs_above: Some(2),
            force_extended: false,
            align_blocks: 1,
            max_bytes: 16 << 40,
            tar_index: false,
        }
    }
}

/// What becomes of modification times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timestamp {
    /// They stay.
    Keep,
    /// Every inode takes this one, in seconds since 1970.
    All(i64),
    /// Later ones become this one: what SOURCE_DATE_EPOCH asks for.
    Clamp(i64),
}

impl Timestamp {
    /// What becomes of `time`.
    #[must_use]
    pub fn apply(self, time: Time) -> Time {
        match self {
            Self::Keep => time,
            Self::All(sec) => Time { sec, nsec: 0 },
            Self::Clamp(sec) => time.min(Time { sec, nsec: 0 }),
        }
    }
}

/// What becomes of owners: first replaced, then shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owner {
    /// Every inode takes this user.
    pub force_uid: Option<u32>,
    /// Every inode takes this group.
    pub force_gid: Option<u32>,
    /// Added to users, modulo 2^32.
    pub uid_offset: u32,
    /// Added to groups, modulo 2^32.
    pub gid_offset: u32,
}

impl Owner {
    fn apply(self, meta: &mut Meta) {
        meta.uid = self.force_uid.unwrap_or(meta.uid).wrapping_add(self.uid_offset);
        meta.gid = self.force_gid.unwrap_or(meta.gid).wrapping_add(self.gid_offset);
    }
}

/// Name and extra device of an image that is being finished.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// UUID, in textual order.
    pub uuid: [u8; 16],
    /// Bytes of the archive of an image in index mode.
    pub device_bytes: u64,
    /// Tag of that device: free text, 64 bytes at most.
    pub device_tag: Vec<u8>,
}

impl Finish {
    /// The archive as a device, with blocks of `block` bytes.
    fn device(&self, block: u64) -> ExtraDevice {
        let mut tag = [0; 64];
        for (to, from) in tag.iter_mut().zip(&self.device_tag) {
            *to = *from;
        }
        ExtraDevice { tag, blocks: self.device_bytes.div_ceil(block) }
    }
}

/// What was built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Inodes.
    pub inodes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the metadata zone, inline tails included.
    pub metadata_bytes: u64,
    /// Bytes of tails behind inodes.
    pub inline_bytes: u64,
    /// `feature_incompat` of the superblock.
    pub feature_incompat: u32,
    /// What was noticed and taken nevertheless, and how often.
    pub notes: BTreeMap<Note, u64>,
    /// Which extended attributes were dropped.
    pub dropped_xattrs: DroppedXattrs,
}

/// An image in the making.
#[derive(Debug)]
pub struct Builder<S> {
    pub(crate) tree: FileTree,
    pub(crate) data: DataArea<S>,
    pub(crate) options: Options,
    label: [u8; 16],
}

impl<S: Sink> Builder<S> {
    /// Begins an image in `sink`, which must be empty.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn new(sink: S, mut options: Options) -> Result<Self, Error> {
        if options.tar_index {
            options.block_bits = MIN_BLOCK_BITS;
            options.inline_data = false;
        }
        if !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&options.block_bits) {
            return Err(Error::Options("block sizes are 512 to 65536 bytes"));
        }
        let mut label = [0; 16];
        match label.get_mut(..options.label.len()) {
            Some(to) if options.label.len() < 16 => to.copy_from_slice(options.label.as_bytes()),
            _ => return Err(Error::Options("a label has 15 bytes at most")),
        }
        let block = 1u64 << options.block_bits;
        let placement = Placement {
            block_bits: options.block_bits,
            inline: options.inline_data,
            holes: options.holes,
            first_block: emit::head_bytes(usize::from(options.tar_index)).div_ceil(block),
            align_blocks: options.align_blocks,
            max_bytes: options.max_bytes,
        };
        let mut tree = FileTree::new();
        if !options.layer.root_inherits {
            tree.describe_root(IMPLICIT_DIR, XattrSetId::EMPTY);
        }
        Ok(Self { tree, data: DataArea::new(sink, placement), options, label })
    }

    /// What has been filled in so far.
    #[must_use]
    pub fn tree(&self) -> &FileTree {
        &self.tree
    }

    /// The tree, for a source to fill.
    pub fn tree_mut(&mut self) -> &mut FileTree {
        &mut self.tree
    }

    /// The content of files, for a source to fill.
    pub fn data_mut(&mut self) -> &mut DataArea<S> {
        &mut self.data
    }

    /// How the image is built.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Gives directories that the source did not describe the attributes they have in the layers below,
    /// the nearest first.
    pub fn inherit(&mut self, lowers: &[&dyn LowerTree]) {
        self.tree.inherit(lowers);
    }

    /// Writes the metadata and the superblock. The sink is complete then, and not yet synced.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::TooLarge`].
    pub fn finish(mut self, finish: &Finish) -> Result<(S, Summary), Error> {
        self.data.settle()?;
        let (timestamp, owner) = (self.options.timestamp, self.options.owner);
        for id in 0..self.tree.len() {
            let id = NodeId(u32::try_from(id).unwrap_or(u32::MAX));
            let meta = &mut self.tree.node_mut(id).meta;
            meta.mtime = timestamp.apply(meta.mtime);
            owner.apply(meta);
        }
        let notes = self.tree.notes().clone();
        let dropped_xattrs = self.tree.dropped_xattrs().clone();
        let sealed = self.tree.seal(self.options.layer.base);
        let block = 1u64 << self.options.block_bits;
        let devices = Vec::from_iter(self.options.tar_index.then(|| finish.device(block)));
        let plan = Plan::new(
            &sealed,
            PlanOptions {
                block_bits: self.options.block_bits,
                zone_block: self.data.end_block(),
                share_xattrs_above: self.options.share_xattrs_above,
                force_extended: self.options.force_extended,
                max_bytes: self.options.max_bytes,
                devices,
            },
        )?;
        let identity = Identity { uuid: finish.uuid, label: self.label };
        emit::emit(&sealed, &plan, &self.data, &identity)?;
        let summary = Summary {
            inodes: plan.order.len() as u64,
            image_bytes: plan.total_blocks() * block,
            metadata_bytes: (plan.total_blocks() - plan.options.zone_block) * block,
            inline_bytes: self.data.tail_bytes,
            feature_incompat: plan.features.incompat,
            notes,
            dropped_xattrs,
        };
        Ok((self.data.into_sink(), summary))
    }
}
