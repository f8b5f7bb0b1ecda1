//! Content that the kernel copies from file to file.

use std::io;
use std::os::fd::BorrowedFd;

use super::Content;
use super::area::DataArea;
use super::large::Large;
use crate::Error;
use crate::io::{Sink, is_zero};

impl<S: Sink> DataArea<S> {
    /// Copies a dense file of `size` bytes from byte `offset` of `from`, inside the kernel where it can.
    /// The result is the same as if its bytes had gone through a [`FileWriter`](super::FileWriter).
    ///
    /// # Errors
    /// [`Error::Input`], [`Error::Output`], [`Error::TooLarge`].
    pub fn copy_file(
        &mut self,
        from: BorrowedFd<'_>,
        offset: u64,
        size: u64,
    ) -> Result<Content, Error> {
        // What is gathered would otherwise grow, with zeros, over what the kernel copies behind it.
        self.flush()?;
        let whole = self.placement.whole(size);
        let mut large = Large::new(self.open(whole)?, size, whole);
        let mut copy = Copy { from, shift: 0, to: 0, len: 0 };
        let mut probe = vec![0; 4096];
        while large.pos < whole {
            let len = large.left_in_chunk().min(whole - large.pos);
            if self.placement.holes && is_hole(from, offset + large.pos, len, &mut probe)? {
                large.pass(len);
            } else {
                let (src, dst) = (offset + large.pos, large.at());
                copy.extend(self, src, dst, len)?;
                large.dirty = true;
                large.pass(len);
            }
            large.close_full_chunk(self.placement.block_bits);
        }
        copy.flush(self)?;
        let tail_len = usize::try_from(size - whole).unwrap_or(0);
        large.tail.resize(tail_len, 0);
        read_exact(from, &mut large.tail, offset + whole)?;
        large.finish(self, size)
    }
}

/// A copy that waits for its neighbour.
struct Copy<'a> {
    from: BorrowedFd<'a>,
    shift: u64,
    to: u64,
    len: u64,
}

impl Copy<'_> {
    fn extend<S: Sink>(
        &mut self,
        area: &DataArea<S>,
        src: u64,
        dst: u64,
        len: u64,
    ) -> Result<(), Error> {
        if self.len > 0 && (self.shift + self.len, self.to + self.len) == (src, dst) {
            self.len += len;
            return Ok(());
        }
        self.flush(area)?;
        (self.shift, self.to, self.len) = (src, dst, len);
        Ok(())
    }

    fn flush<S: Sink>(&mut self, area: &DataArea<S>) -> Result<(), Error> {
        if self.len > 0 {
            area.sink.copy_from(self.from, self.shift, self.to, self.len).map_err(Error::Output)?;
            self.len = 0;
        }
        Ok(())
    }
}

fn input_error(source: io::Error) -> Error {
    Error::Input { what: "file content".into(), source }
}

fn read_exact(from: BorrowedFd<'_>, mut buf: &mut [u8], mut offset: u64) -> Result<(), Error> {
    while !buf.is_empty() {
        match rustix::io::pread(from, &mut *buf, offset) {
            Ok(0) => return Err(input_error(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(input_error(e.into())),
        }
    }
    Ok(())
}

/// Whether a range of a file is all zeros. Most are not, and their first bytes tell.
fn is_hole(from: BorrowedFd<'_>, offset: u64, len: u64, buf: &mut [u8]) -> Result<bool, Error> {
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).map_or(buf.len(), |l| l.min(buf.len()));
        let part = buf.get_mut(..want).unwrap_or_default();
        read_exact(from, part, offset + done)?;
        if !is_zero(part) {
            return Ok(false);
        }
        done += want as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::data::Placement;
    use crate::io::FileSink;

    const KIB: usize = 1 << 10;

    fn area() -> DataArea<FileSink> {
        let dir = File::open(std::env::temp_dir()).unwrap();
        let sink = FileSink::new(tempfile::tempfile().unwrap(), dir.into());
        let placement = Placement {
            block_bits: 10,
            inline: true,
            holes: true,
            first_block: 0,
            align_blocks: 1,
            max_bytes: 1 << 40,
        };
        DataArea::new(sink, placement)
    }

    fn small(area: &mut DataArea<FileSink>) {
        let mut writer = area.file(1024, None).unwrap();
        writer.write(area, &[0xee; 1024]).unwrap();
        writer.finish(area).unwrap();
    }

    fn image(mut area: DataArea<FileSink>) -> Vec<u8> {
        area.settle().unwrap();
        let mut bytes = Vec::new();
        let mut file = area.into_sink().into_file();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        bytes
    }

    /// Both ways between two small files, whose bytes are gathered while the kernel copies.
    fn both_ways(content: &[u8]) -> [(Vec<u8>, String); 2] {
        let file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut &file, content).unwrap();
        [true, false].map(|by_kernel| {
            let mut area = area();
            small(&mut area);
            let size = content.len() as u64;
            let content = if by_kernel {
                area.copy_file(file.as_fd(), 0, size).unwrap()
            } else {
                let mut writer = area.file(size, None).unwrap();
                content.chunks(50_000).for_each(|part| writer.write(&mut area, part).unwrap());
                writer.finish(&mut area).unwrap()
            };
            small(&mut area);
            (image(area), format!("{content:?}"))
        })
    }

    #[test]
    fn the_kernel_copies_what_a_writer_writes() {
        for len in [128 * KIB, 130 * KIB, 200 * KIB + 77, 1_047_984, 1 << 20] {
            // Data in the first chunk, in the last one, in both, everywhere, nowhere.
            for data in [
                vec![0],
                vec![len - 2000],
                vec![0, len - 1],
                (0..len / KIB).map(|k| k * KIB).collect(),
                vec![],
            ] {
                let mut content = vec![0; len];
                data.iter().for_each(|&at| content[at] = 0x5a);
                let [kernel, writer] = both_ways(&content);
                assert_eq!(kernel.1, writer.1, "{len} bytes, data at {data:?}");
                assert!(kernel.0 == writer.0, "{len} bytes, data at {data:?}");
            }
        }
    }
}
