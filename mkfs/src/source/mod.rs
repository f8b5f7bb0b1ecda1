//! What fills a [`Builder`](crate::build::Builder).

mod changes;
mod dir;
mod image;
mod tar;

/// A file this large is copied by the kernel where there is an open file to copy from; smaller ones go
/// through the buffer that holds them already.
const KERNEL_COPY: u64 = 128 << 10;
