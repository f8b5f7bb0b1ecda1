//! File content on its way into the image: written once, at its final place, while the input is read.
//!
//! Whole blocks go to the data area, which grows from the front of the image. The last partial block of a
//! file waits in the [`tails`](mod@tails) store until the metadata is placed, because it belongs behind the
//! inode. Runs of zeros that fill a whole chunk become holes ([`chunks`](mod@chunks)).

mod area;
mod chunks;
mod copy;
mod large;
mod sparse;
mod tails;
mod writer;

pub use area::{DataArea, Placement};
pub use chunks::{Chunks, Run, device_chunks};
pub use tails::Tail;
pub(crate) use tails::TailRead;
pub use writer::FileWriter;

/// A file this large is copied by the kernel where there is an open file to copy from; smaller ones go
/// through the buffer that holds them already. In bytes.
pub const KERNEL_COPY: u64 = 128 << 10;

/// Where the bytes of a regular file are.
#[derive(Debug, Default)]
pub enum Content {
    /// There are none.
    #[default]
    Empty,
    /// In consecutive blocks of the image, except perhaps the last partial block.
    Flat {
        /// First block; meaningless when the file has no whole block.
        start: u64,
        /// The last partial block, when it goes behind the inode.
        tail: Option<Tail>,
    },
    /// In chunks, some of which are holes or on another device.
    Chunks(Box<Chunks>),
}
