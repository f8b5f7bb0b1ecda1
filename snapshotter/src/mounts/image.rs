//! What has to be known of an image before a kernel sees it: its block size and whether all of it is there.
//!
//! This is no validation of the structure. The kernel mounts a truncated image without a word and answers
//! EIO whenever a missing block is touched, so sizes are compared here.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};

use erolith_mkfs::format::{
    DeviceSlot, MAX_BLOCK_BITS, MIN_BLOCK_BITS, SUPER_MAGIC, SUPER_OFFSET, Superblock, incompat,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{Error, IntegrityError, MountError, Result};

/// Facts of one image, from its superblock and device table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// log2 of the block size, from 9 to 16.
    pub block_bits: u8,
    /// Bytes of the primary device.
    pub bytes: u64,
    /// Bytes of each extra device, in slot order.
    pub devices: Vec<u64>,
}

/// Reads the superblock and the device table of `image` and compares what they promise with the files there.
/// `name` is what errors call the image.
///
/// Without `devices` an image that has a device table must be flattened: the devices follow in the primary
/// file, where the table says. Where they do not, it is the devices that are missing.
///
/// # Errors
/// [`IntegrityError::NotErofs`], [`IntegrityError::Truncated`], [`MountError::Devices`], and [`IntegrityError::Read`]
/// when storage fails.
pub fn inspect(name: &str, image: &File, devices: &[File]) -> Result<ImageFacts> {
    let size = size_of_file(name, image)?;
    let superblock = read_superblock(name, image, size)?;
    let block_bits = superblock.blkszbits;
    let bytes = checked_bytes(name, primary_blocks(&superblock), block_bits)?;
    require(name, size, bytes)?;
    let slots = read_slots(name, image, size, &superblock)?;
    if !devices.is_empty() && devices.len() != slots.len() {
        let (slots, given) = (slots.len(), devices.len());
        return Err(Error::Mount(MountError::Devices { image: name.to_owned(), slots, given }));
    }
    let mut facts = ImageFacts { block_bits, bytes, devices: Vec::with_capacity(slots.len()) };
    for (index, slot) in slots.iter().enumerate() {
        let blocks = join48(slot.blocks_lo.get(), slot.blocks_hi.get());
        let start = join48(slot.uniaddr_lo.get(), slot.uniaddr_hi.get());
        let bytes = checked_bytes(name, blocks, block_bits)?;
        facts.devices.push(bytes);
        if let Some(device) = devices.get(index) {
            let name = format!("{name}, device {}", index + 1);
            require(&name, size_of_file(&name, device)?, bytes)?;
            continue;
        }
        let end = start.checked_add(blocks).ok_or_else(|| absurd(name))?;
        if start == 0 || size < checked_bytes(name, end, block_bits)? {
            let (slots, given) = (slots.len(), 0);
            return Err(Error::Mount(MountError::Devices { image: name.to_owned(), slots, given }));
        }
    }
    Ok(facts)
}

fn read_superblock(name: &str, image: &File, size: u64) -> Result<Superblock> {
    let not = |reason: String| {
        Error::Integrity(IntegrityError::NotErofs { image: name.to_owned(), reason })
    };
    let end = SUPER_OFFSET + size_of::<Superblock>() as u64;
    if size < end {
        return Err(not(format!("{size} bytes hold no superblock")));
    }
    let mut superblock = Superblock::new_zeroed();
    read_at(name, image, superblock.as_mut_bytes(), SUPER_OFFSET)?;
    if superblock.magic.get() != SUPER_MAGIC {
        return Err(not(format!("magic {:#010x} at byte {SUPER_OFFSET}", superblock.magic.get())));
    }
    if !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&superblock.blkszbits) {
        return Err(not(format!("block size 2^{}", superblock.blkszbits)));
    }
    Ok(superblock)
}

fn read_slots(
    name: &str,
    image: &File,
    size: u64,
    superblock: &Superblock,
) -> Result<Vec<DeviceSlot>> {
    if superblock.feature_incompat.get() & incompat::DEVICE_TABLE == 0 {
        return Ok(Vec::new());
    }
    let count = usize::from(superblock.extra_devices.get());
    let start = u64::from(superblock.devt_slotoff.get()) * size_of::<DeviceSlot>() as u64;
    let bytes = count * size_of::<DeviceSlot>();
    require(name, size, start + bytes as u64)?;
    let mut table = vec![0; bytes];
    read_at(name, image, &mut table, start)?;
    let slots = table.chunks_exact(size_of::<DeviceSlot>()).map(DeviceSlot::read_from_bytes);
    slots.collect::<Result<_, _>>().map_err(|_| absurd(name))
}

/// The 16 high bits share their field with the root nid, which 48-bit images have elsewhere.
fn primary_blocks(superblock: &Superblock) -> u64 {
    let wide = superblock.feature_incompat.get() & incompat::LAYOUT_48BIT != 0;
    let high =
        if wide && superblock.rootnid_8b.get() != 0 { superblock.rootnid_2b.get() } else { 0 };
    join48(superblock.blocks_lo.get(), high)
}

fn join48(low: u32, high: u16) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn checked_bytes(name: &str, blocks: u64, block_bits: u8) -> Result<u64> {
    blocks
        .checked_mul(1 << block_bits)
        .filter(|&b| b <= i64::MAX as u64)
        .ok_or_else(|| absurd(name))
}

fn absurd(name: &str) -> Error {
    let reason = "sizes that no file can have".to_owned();
    Error::Integrity(IntegrityError::NotErofs { image: name.to_owned(), reason })
}

fn require(name: &str, size: u64, need: u64) -> Result<()> {
    if size < need {
        return Err(Error::Integrity(IntegrityError::Truncated {
            image: name.to_owned(),
            size,
            need,
        }));
    }
    Ok(())
}

/// Bytes of a regular file or a block device; anything else is no image.
fn size_of_file(name: &str, file: &File) -> Result<u64> {
    let read = |source| Error::Integrity(IntegrityError::Read { image: name.to_owned(), source });
    let meta = file.metadata().map_err(read)?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    if meta.file_type().is_block_device() {
        return rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(|e| read(e.into()));
    }
    let reason = "neither a regular file nor a block device".to_owned();
    Err(Error::Integrity(IntegrityError::NotErofs { image: name.to_owned(), reason }))
}

fn read_at(name: &str, file: &File, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset)
        .map_err(|source| Error::Integrity(IntegrityError::Read { image: name.to_owned(), source }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BLOCK: usize = 4096;

    /// An image of `blocks` blocks with `slots` devices of (blocks, start), in a file of `size` bytes.
    fn image(size: usize, blocks: u32, slots: &[(u32, u32)]) -> File {
        let mut bytes = vec![0; size.max(BLOCK)];
        let mut sb = Superblock::new_zeroed();
        sb.magic.set(SUPER_MAGIC);
        sb.blkszbits = 12;
        sb.blocks_lo.set(blocks);
        if !slots.is_empty() {
            sb.feature_incompat.set(incompat::DEVICE_TABLE);
            sb.extra_devices.set(u16::try_from(slots.len()).unwrap());
            sb.devt_slotoff.set(16);
        }
        bytes[1024..1152].copy_from_slice(sb.as_bytes());
        for (index, &(blocks, start)) in slots.iter().enumerate() {
            let mut slot = DeviceSlot::new_zeroed();
            slot.blocks_lo.set(blocks);
            slot.uniaddr_lo.set(start);
            let at = 2048 + index * 128;
            bytes[at..at + 128].copy_from_slice(slot.as_bytes());
        }
        bytes.truncate(size);
        file(&bytes)
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn code(image: &File, devices: &[File]) -> String {
        let inspected = inspect("x", image, devices);
        inspected.as_ref().map_or_else(Error::code, |_| "fine").to_owned()
    }

    #[test]
    fn sizes_are_compared_with_what_the_superblock_promises() {
        let table = [
            (2 * BLOCK, 2, "fine"),
            (3 * BLOCK, 2, "fine"),
            (2 * BLOCK - 1, 2, "image-truncated"),
            (BLOCK, u32::MAX, "image-truncated"),
            (1151, 1, "not-erofs"),
            (0, 0, "not-erofs"),
        ];
        for (size, blocks, want) in table {
            assert_eq!(code(&image(size, blocks, &[]), &[]), want, "{size} {blocks}");
        }
    }

    #[test]
    fn devices_are_counted_and_measured() {
        let slots = [(2, 1), (1, 3)];
        let split = image(BLOCK, 1, &slots);
        let device = |blocks: usize| file(&vec![0; blocks * BLOCK]);
        assert_eq!(code(&split, &[device(2), device(1)]), "fine");
        assert_eq!(code(&split, &[device(1), device(1)]), "image-truncated");
        assert_eq!(code(&split, &[device(2)]), "image-devices");
        assert_eq!(code(&split, &[]), "image-devices");
        assert_eq!(code(&image(4 * BLOCK, 1, &slots), &[]), "fine");
        assert_eq!(code(&image(4 * BLOCK, 1, &[(1, 0)]), &[]), "image-devices");
        assert_eq!(code(&image(2 * BLOCK, 2, &[]), &[device(1)]), "image-devices");
    }

    #[test]
    fn hostile_numbers_are_errors() {
        let good = image(BLOCK, 1, &[(1, 1)]);
        let patched = |offset: u64, bytes: &[u8]| {
            let copy = file(&[0; BLOCK]);
            let mut all = vec![0; BLOCK];
            good.read_exact_at(&mut all, 0).unwrap();
            copy.write_all_at(&all, 0).unwrap();
            copy.write_all_at(bytes, offset).unwrap();
            copy
        };
        let table: [(u64, &[u8], &str); 6] = [
            (1024, &[0], "not-erofs"),
            (1024 + 12, &[8], "not-erofs"),
            (1024 + 12, &[17], "not-erofs"),
            (1024 + 12, &[255], "not-erofs"),
            // The device table beyond the end; 65535 devices.
            (1024 + 88, &[255, 255], "image-truncated"),
            (1024 + 86, &[255, 255], "image-truncated"),
        ];
        for (offset, bytes, want) in table {
            assert_eq!(code(&patched(offset, bytes), &[]), want, "{offset} {bytes:?}");
        }
    }

    #[test]
    fn only_files_and_block_devices_are_images() {
        assert_eq!(code(&File::open("/dev/null").unwrap(), &[]), "not-erofs");
        assert_eq!(code(&File::open("/").unwrap(), &[]), "not-erofs");
    }
}
