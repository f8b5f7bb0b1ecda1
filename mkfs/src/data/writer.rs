//! The writer of the content of one file: small, large with holes to look for, or sparse with holes that the source names.

use super::area::DataArea;
use super::large::{HOLE_CHUNK, Large};
use super::sparse::Sparse;
use super::{Content, Tail};
use crate::Error;
use crate::io::Sink;
use crate::meta::Segment;

impl<S: Sink> DataArea<S> {
    /// A writer for a file of `size` bytes, of which only `segments` are data when they are given.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn file(&mut self, size: u64, segments: Option<&[Segment]>) -> Result<FileWriter, Error> {
        let shape = match segments {
            Some(segments) => {
                WriterState::Sparse(Sparse::new(size, segments, self.placement.block_bits))
            }
            None => {
                let whole = self.placement.whole(size);
                let start = self.open(whole)?;
                if size < HOLE_CHUNK {
                    WriterState::Small { start, whole, tail: self.tails.next() }
                } else {
                    WriterState::Large(Large::new(start, size, whole))
                }
            }
        };
        Ok(FileWriter { size, pos: 0, shape })
    }
}

/// Takes the bytes of one file in order. Nothing else may be written to the area before it is finished.
#[derive(Debug)]
pub struct FileWriter {
    size: u64,
    pos: u64,
    shape: WriterState,
}

#[derive(Debug)]
enum WriterState {
    Small { start: u64, whole: u64, tail: Tail },
    Large(Large),
    Sparse(Sparse),
}

impl FileWriter {
    /// The next bytes of the file; of a sparse file, of its segments one behind the other.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::TooLarge`].
    pub fn write<S: Sink>(&mut self, area: &mut DataArea<S>, data: &[u8]) -> Result<(), Error> {
        match &mut self.shape {
            WriterState::Small { start, whole, .. } => {
                let in_area = usize::try_from(whole.saturating_sub(self.pos)).unwrap_or(usize::MAX);
                let (head, tail) = data.split_at(in_area.min(data.len()));
                if !head.is_empty() {
                    area.write(head, *start + self.pos)?;
                }
                if !tail.is_empty() {
                    area.keep_tail(tail)?;
                }
                self.pos += data.len() as u64;
                Ok(())
            }
            WriterState::Large(large) => large.write(area, data),
            WriterState::Sparse(sparse) => sparse.write(area, data),
        }
    }

    /// Ends the file. The caller has written as many bytes as it announced.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::TooLarge`].
    pub fn finish<S: Sink>(self, area: &mut DataArea<S>) -> Result<Content, Error> {
        match self.shape {
            _ if self.size == 0 => Ok(Content::Empty),
            WriterState::Small { start, whole, tail } => {
                area.close(start + whole);
                let tail = (whole < self.size).then_some(tail);
                Ok(Content::Flat { start: start >> area.placement.block_bits, tail })
            }
            WriterState::Large(large) => large.finish(area, self.size),
            WriterState::Sparse(sparse) => Ok(sparse.finish()),
        }
    }
}
