//! The device mapper: devices that are made of others, here those of dm-verity. Numbers and layouts are those of
//! `include/uapi/linux/dm-ioctl.h`.
//!
//! A device in use can be removed with its last user ([`DeviceMapper::remove`]). So none has to be remembered,
//! and a killed process leaves none, as with loop devices.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Updater, opcode};

use crate::{Error, Result};

/// `DM_NAME_LEN` and `DM_UUID_LEN`, the final NUL included.
const NAME: usize = 128;
const UUID: usize = 129;
/// `DM_MAX_TYPE_NAME`.
const TYPE: usize = 16;
/// Room behind the head: one target and its parameters, whose salt has up to 512 digits.
const DATA: usize = 2048;
/// Bytes of a sector, the unit of tables.
const SECTOR: u64 = 512;

const DM_READONLY_FLAG: u32 = 1;
const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
const DM_DEFERRED_REMOVE: u32 = 1 << 17;

/// `struct dm_ioctl`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Head {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME],
    uuid: [u8; UUID],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; TYPE],
}

/// What every call takes and gives.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Buffer {
    head: Head,
    target: Target,
    text: [u8; DATA],
}

const _: () = assert!(size_of::<Head>() == 312);
const _: () = assert!(std::mem::offset_of!(Head, dev) == 40);
const _: () = assert!(std::mem::offset_of!(Head, uuid) == 176);
const _: () = assert!(size_of::<Target>() == 40);
const _: () = assert!(std::mem::offset_of!(Target, target_type) == 24);
const _: () = assert!(std::mem::offset_of!(Buffer, target) == 312);
const _: () = assert!(std::mem::offset_of!(Buffer, text) == 352);
const _: () = assert!(size_of::<Buffer>() == 352 + DATA);

const DM_VERSION: Opcode = opcode::read_write::<Head>(0xFD, 0);
const DM_DEV_CREATE: Opcode = opcode::read_write::<Head>(0xFD, 3);
const DM_DEV_REMOVE: Opcode = opcode::read_write::<Head>(0xFD, 4);
const DM_DEV_SUSPEND: Opcode = opcode::read_write::<Head>(0xFD, 6);
const DM_TABLE_LOAD: Opcode = opcode::read_write::<Head>(0xFD, 9);
const DM_TABLE_STATUS: Opcode = opcode::read_write::<Head>(0xFD, 12);
const DM_GET_TARGET_VERSION: Opcode = opcode::read_write::<Head>(0xFD, 17);
const _: () = assert!(DM_VERSION == 0xC138_FD00);

impl Buffer {
    /// A call about the device, or the type of target, called `name`.
    fn new(name: &str) -> Result<Self, Errno> {
        let head = Head {
            version: [4, 0, 0],
            data_size: u32::try_from(size_of::<Self>()).map_err(|_| Errno::INVAL)?,
            data_start: u32::try_from(size_of::<Head>()).map_err(|_| Errno::INVAL)?,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; NAME],
            uuid: [0; UUID],
            data: [0; 7],
        };
        let target =
            Target { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; TYPE] };
        let mut buffer = Self { head, target, text: [0; DATA] };
        put(&mut buffer.head.name, name)?;
        Ok(buffer)
    }
}

/// Puts `text` and a NUL into `to`.
fn put(to: &mut [u8], text: &str) -> Result<(), Errno> {
    let room = to.get_mut(..text.len() + 1).ok_or(Errno::NAMETOOLONG)?;
    let (room, end) = room.split_at_mut(text.len());
    room.copy_from_slice(text.as_bytes());
    end.fill(0);
    Ok(())
}

/// What a device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Type of its only target.
    pub(crate) target: &'static str,
    /// Bytes of the device, whole sectors.
    pub(crate) bytes: u64,
    /// The arguments of the target.
    pub(crate) parameters: String,
}

/// An open device mapper.
#[derive(Debug)]
pub(crate) struct DeviceMapper(File);

impl DeviceMapper {
    /// Opens the device mapper, if this kernel has it and this type of target. Its modules are loaded by that where there
    /// are any.
    ///
    /// # Errors
    /// [`crate::KernelError::Call`] for other reasons than that it is not there.
    pub(crate) fn with_target(target: &'static str) -> Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = match rustix::fs::open("/dev/mapper/control", flags, Mode::empty()) {
            Ok(control) => Self(control.into()),
            Err(Errno::NOENT | Errno::NXIO | Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(Error::kernel("open /dev/mapper/control", errno)),
        };
        let asked = Buffer::new(target)
            .and_then(|mut buffer| control.call::<DM_GET_TARGET_VERSION>(&mut buffer));
        match asked {
            Ok(()) => Ok(Some(control)),
            Err(Errno::INVAL) => Ok(None),
            Err(errno) => Err(Error::kernel(format!("ask for the target {target}"), errno)),
        }
    }

    /// Makes a read-only device. [`node`] can be opened when this returns.
    ///
    /// # Errors
    /// The kernel's answer; EBUSY when a device has that name or UUID.
    pub(crate) fn create(&self, name: &str, uuid: &str, table: &Table) -> Result<u32, Errno> {
        let mut create = Buffer::new(name)?;
        put(&mut create.head.uuid, uuid)?;
        self.call::<DM_DEV_CREATE>(&mut create)?;
        let started = self.start(name, table);
        if started.is_err() {
            // It is unused yet.
            let _ = self.remove(name);
        }
        started
    }

    fn start(&self, name: &str, table: &Table) -> Result<u32, Errno> {
        let mut load = Buffer::new(name)?;
        load.head.flags = DM_READONLY_FLAG;
        load.head.target_count = 1;
        load.target.length = table.bytes / SECTOR;
        put(&mut load.target.target_type, table.target)?;
        put(&mut load.text, &table.parameters)?;
        self.call::<DM_TABLE_LOAD>(&mut load)?;
        // Without its flag this resumes: the table that was loaded takes effect.
        let mut resume = Buffer::new(name)?;
        self.call::<DM_DEV_SUSPEND>(&mut resume)?;
        Ok(minor(resume.head.dev))
    }

    /// Removes a device, or has it go with its last user. One that is not there is gone.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Errno> {
        let mut remove = Buffer::new(name)?;
        remove.head.flags = DM_DEFERRED_REMOVE;
        match self.call::<DM_DEV_REMOVE>(&mut remove) {
            Err(Errno::NXIO) => Ok(()),
            other => other,
        }
    }

    /// What a device's target says of itself: dm-verity says `V` first, and `C` once it met a block that is not what it should
    /// be.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn status(&self, name: &str) -> Result<String, Errno> {
        self.text(name, 0)
    }

    /// The parameters of a device's target, as the kernel has them.
    ///
    /// # Errors
    /// The kernel's answer.
    #[cfg(test)]
    pub(crate) fn parameters(&self, name: &str) -> Result<String, Errno> {
        self.text(name, DM_STATUS_TABLE_FLAG)
    }

    fn text(&self, name: &str, flags: u32) -> Result<String, Errno> {
        let mut status = Buffer::new(name)?;
        status.head.flags = flags & DM_STATUS_TABLE_FLAG;
        self.call::<DM_TABLE_STATUS>(&mut status)?;
        if status.head.flags & DM_BUFFER_FULL_FLAG != 0 || status.head.target_count != 1 {
            return Err(Errno::OVERFLOW);
        }
        let text = status.text.split(|&b| b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn call<const CALL: Opcode>(&self, buffer: &mut Buffer) -> Result<(), Errno> {
        // SAFETY: every call that is made here reads `data_size` bytes, which is all of `Buffer`, beginning with a
        // `struct dm_ioctl` (asserted above), and writes back no more than that.
        let update = unsafe { Updater::<CALL, Buffer>::new(buffer) };
        // SAFETY: as above; every bit pattern is a valid `Buffer`.
        unsafe { ioctl::ioctl(&self.0, update) }
    }
}

/// The node of the device with this number. The kernel makes it in its devtmpfs, without udev.
pub(crate) fn node(minor: u32) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{minor}"))
}

/// The minor number in the kernel's 64-bit form (`huge_encode_dev`).
fn minor(dev: u64) -> u32 {
    let dev = u32::try_from(dev & u64::from(u32::MAX)).unwrap_or_default();
    dev & 0xFF | (dev >> 12) & !0xFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_numbers_are_read_from_both_of_their_parts() {
        for (dev, want) in [(0xFD00, 0), (0xFD07, 7), (0x10_FD01, 0x101), (0xFFFF_FDFF, 0xF_FFFF)] {
            assert_eq!(minor(dev), want, "{dev:#x}");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(Buffer::new(&"x".repeat(127)).is_ok());
        assert_eq!(Buffer::new(&"x".repeat(128)).unwrap_err(), Errno::NAMETOOLONG);
    }
}
