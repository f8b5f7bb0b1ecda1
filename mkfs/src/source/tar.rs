//! A tar archive as a source.

use crate::Error;
use crate::build::Builder;
use crate::data::{Content, KERNEL_COPY, device_chunks};
use crate::io::{Input, Sink};
use crate::tar::{Entry, Limits, Reader};
use crate::tree::Applied;

/// The extra device of an image in index mode is the archive.
const TAR_DEVICE: u16 = 1;

impl<S: Sink> Builder<S> {
    /// Fills the tree from an archive. Returns the input, positioned behind the end marker: what follows is
    /// part of a layer's digest, but not of its tree.
    ///
    /// # Errors
    /// [`Error`]; the builder is of no use then.
    pub fn fill_from_tar<I: Input>(&mut self, input: I, limits: Limits) -> Result<I, Error> {
        let mut reader = Reader::new(input, limits);
        let mut entry = Entry::default();
        while reader.next(&mut entry)? {
            let applied = self
                .tree
                .apply(&entry, &self.options.layer)
                .map_err(|source| Error::Tree { offset: entry.offset, source })?;
            if let Applied::File(id) = applied {
                let content = self.store(&mut reader, &entry)?;
                self.tree.set_content(id, content);
            }
        }
        self.tree.drop_aufs_bookkeeping();
        Ok(reader.finish())
    }

    fn store<I: Input>(&mut self, reader: &mut Reader<I>, entry: &Entry) -> Result<Content, Error> {
        if entry.size == 0 {
            return Ok(Content::Empty);
        }
        let segments = entry.sparse.as_deref();
        if self.options.tar_index {
            let bits = self.options.block_bits;
            let chunks = device_chunks(TAR_DEVICE, entry.data_offset, entry.size, segments, bits);
            if let Some(chunks) = chunks {
                return Ok(Content::Chunks(Box::new(chunks)));
            }
        }
        if segments.is_none() && entry.size >= KERNEL_COPY && reader.input().as_file().is_some() {
            // Passing over the data first finds out whether all of it is there.
            reader.skip_data()?;
            if let Some(file) = reader.input().as_file() {
                return self.data.copy_file(file, entry.data_offset, entry.size);
            }
        }
        let mut writer = self.data.file(entry.size, segments)?;
        loop {
            let data = reader.fill_data()?;
            if data.is_empty() {
                break;
            }
            writer.write(&mut self.data, data)?;
            let n = data.len();
            reader.consume_data(n);
        }
        writer.finish(&mut self.data)
    }
}
