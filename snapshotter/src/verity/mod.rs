//! Layers under dm-verity: a loop device over the image, and over that a device whose every block the kernel compares with
//! the hash tree behind the image when it is read.
//!
//! Both go with the mount. As soon as the filesystem holds the device, the kernel is told to remove it with its last user;
//! the loop device goes with it. Only a process that was killed in between leaves a device, which is unused; the
//! next start removes it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use erolith_verity::dmverity::sidecar::Sidecar;
use erolith_verity::dmverity::{self, Header, RootHash, Signature};
use rustix::io::Errno;

use crate::IntegrityError;
use crate::files::names;
use crate::layerdir::{read_sidecar, signature_of, tree_of};
use crate::sys::dm::{self, DeviceMapper, Table};
use crate::sys::keyring::Key;
use crate::sys::loopdev::{self, Access};
use crate::{Error, Result};

#[cfg(test)]
pub(crate) mod tests;

const TARGET: &str = "verity";
/// Devices of one layer that may be there at a time: mounts that were detached keep theirs.
const TRIES: u32 = 256;

/// Whether layers are mounted with dm-verity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DmVerity {
    /// Those that have a sidecar are, if the kernel has dm-verity.
    #[default]
    Auto,
    /// All are; others cannot be mounted.
    On,
    /// All are, and the kernel must know who signed their root hashes.
    Signed,
    /// None is.
    Off,
}

/// What becomes of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DmVerityMode {
    Verity,
    Plain,
    Refused(&'static str),
}

impl DmVerity {
    /// Whether the sidecar of a layer is of interest.
    pub(crate) fn looks(self) -> bool {
        self != Self::Off
    }

    fn way(self, has_sidecar: bool, has_kernel: bool) -> DmVerityMode {
        match (self, has_sidecar, has_kernel) {
            (Self::Off, _, _) | (Self::Auto, false, _) | (Self::Auto, true, false) => {
                DmVerityMode::Plain
            }
            (_, true, true) => DmVerityMode::Verity,
            (Self::On | Self::Signed, false, _) => {
                DmVerityMode::Refused("the layer has no sidecar with a root hash")
            }
            (Self::On | Self::Signed, true, false) => {
                DmVerityMode::Refused("this kernel has no dm-verity")
            }
        }
    }

    /// Whether a layer that this process makes itself gets a tree.
    pub(crate) fn hashes(self) -> bool {
        matches!(self, Self::On | Self::Signed)
    }

    /// Refuses a layer that others are to mount and that lacks what they need. Returns whether it has a sidecar that is to
    /// be used: with `auto` one that this kernel can use. Where every layer must be protected, the
    /// kernel that mounts may be another one, as in a virtual machine.
    ///
    /// # Errors
    /// [`IntegrityError::Unprotected`], [`IntegrityError::DmVerity`], [`Error::Storage`].
    pub(crate) fn sidecar_for_others(
        self,
        image: &Path,
        is_in_kernel: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        if !self.looks() {
            return Ok(false);
        }
        if self == Self::Signed {
            return Err(unprotected(image, "who mounts it is not told of signatures"));
        }
        let has_sidecar = read_sidecar(image)?.is_some();
        let has_kernel = self != Self::Auto || (has_sidecar && is_in_kernel()?);
        match self.way(has_sidecar, has_kernel) {
            DmVerityMode::Verity => Ok(true),
            DmVerityMode::Plain => Ok(false),
            DmVerityMode::Refused(why) => Err(unprotected(image, why)),
        }
    }
}

/// Whether this kernel has dm-verity.
///
/// # Errors
/// [`crate::KernelError::Call`] when it does not say.
pub(crate) fn is_in_kernel() -> Result<bool> {
    Ok(DeviceMapper::with_target(TARGET)?.is_some())
}

/// Opens devices for the layers of one root.
#[derive(Debug)]
pub(crate) struct Devices {
    mode: DmVerity,
    /// What the names of our devices begin with. No other root has it.
    prefix: String,
}

/// A device that goes when this is dropped, or with its last user.
#[derive(Debug)]
pub(crate) struct Device {
    mapper: DeviceMapper,
    name: String,
    /// Open for reading.
    pub(crate) file: File,
}

impl Devices {
    /// For the layers of the root with this identity. Devices that an earlier process left are removed.
    ///
    /// # Errors
    /// [`crate::KernelError::Call`] and [`Error::Storage`].
    pub(crate) fn new(mode: DmVerity, identity: &str) -> Result<Self> {
        let this = Self { mode, prefix: format!("erolith-{}-", identity.trim()) };
        if mode.looks() {
            this.remove_unused()?;
        }
        Ok(this)
    }

    /// The device over the image of layer `id`; nothing when it is to be mounted without. `file` is that image.
    ///
    /// # Errors
    /// [`IntegrityError::DmVerity`] when image and sidecar do not belong together, [`IntegrityError::Unprotected`],
    /// [`crate::KernelError::Call`] and [`Error::Storage`].
    pub(crate) fn open(&self, id: u64, image: &Path, file: &File) -> Result<Option<Device>> {
        if !self.mode.looks() {
            return Ok(None);
        }
        let sidecar = read_sidecar(image)?;
        let mapper = match sidecar {
            Some(_) => DeviceMapper::with_target(TARGET)?,
            None => None,
        };
        match (self.mode.way(sidecar.is_some(), mapper.is_some()), sidecar, mapper) {
            (DmVerityMode::Verity, Some(sidecar), Some(mapper)) => {
                self.make(id, image, file, &sidecar, mapper).map(Some)
            }
            (DmVerityMode::Refused(why), _, _) => Err(unprotected(image, why)),
            (_, Some(_), _) => {
                tracing::warn!(id, "this kernel has no dm-verity: a layer is mounted without");
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn make(
        &self,
        id: u64,
        image: &Path,
        file: &File,
        sidecar: &Sidecar,
        mapper: DeviceMapper,
    ) -> Result<Device> {
        let (header, root) = tree_of(image, file, sidecar)?;
        let signature = self.signature(image)?;
        let block = u32::try_from(header.geometry().block_size()).unwrap_or(512);
        let backing = loopdev::attach(file.as_fd(), block, Access::ReadOnly)?;
        let key = format!("{}{id}", self.prefix);
        let table = table(&header, root, &backing.path(), signature.is_some().then_some(&key));
        // The kernel looks for it while the device is made.
        let _key = signature.map(|signature| keep(&key, &signature)).transpose()?;
        for number in 0..TRIES {
            let name = format!("{}{id}-{number}", self.prefix);
            match mapper.create(&name, &name, &table) {
                Ok(minor) => {
                    let file = File::open(dm::node(minor)).map_err(|source| {
                        // It is unused, so it goes at once.
                        let _ = mapper.remove(&name);
                        Error::Storage { action: format!("opening /dev/dm-{minor}"), source }
                    })?;
                    return Ok(Device { mapper, name, file });
                }
                // A mount that was detached still has it.
                Err(Errno::BUSY | Errno::EXIST) => {}
                Err(errno) if is_distrust(errno) && self.mode == DmVerity::Signed => {
                    return Err(Error::Integrity(IntegrityError::Untrusted {
                        image: image.display().to_string(),
                        errno,
                    }));
                }
                Err(errno) => return Err(Error::kernel(format!("make the device {name}"), errno)),
            }
        }
        Err(Error::kernel(format!("find a name {}{id}-N for a device", self.prefix), Errno::EXIST))
    }

    /// The signature that the kernel verifies; `None` where none is required.
    fn signature(&self, image: &Path) -> Result<Option<Signature>> {
        if self.mode != DmVerity::Signed {
            return Ok(None);
        }
        let signature = signature_of(image)?;
        let missing = || unprotected(image, "nobody has signed its root hash");
        signature.map(Some).ok_or_else(missing)
    }

    /// Removes unused devices, and has others go with their users.
    fn remove_unused(&self) -> Result<()> {
        let ours = self.names()?;
        if ours.is_empty() {
            return Ok(());
        }
        let Some(mapper) = DeviceMapper::with_target(TARGET)? else { return Ok(()) };
        for name in ours {
            mapper.remove(&name).map_err(|errno| Error::kernel(format!("remove {name}"), errno))?;
        }
        Ok(())
    }

    /// The devices there are of this root.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let blocks = Path::new("/sys/block");
        if !blocks.exists() {
            return Ok(Vec::new());
        }
        let devices = names(blocks)?.into_iter().filter(|name| name.starts_with("dm-"));
        // One that was removed since has no name any more.
        let named = devices
            .filter_map(|device| std::fs::read_to_string(blocks.join(device).join("dm/name")).ok());
        let ours = named.map(|name| name.trim_end().to_owned());
        Ok(ours.filter(|name| name.starts_with(&self.prefix)).collect())
    }
}

impl Device {
    /// Why something failed with this device, when the reason is that a block is not what it should be. The whole image is
    /// read for that.
    pub(crate) fn explain(&self, image: &Path, file: &File, error: Error) -> Error {
        if !self.mapper.status(&self.name).is_ok_and(|status| status.starts_with('C')) {
            return error;
        }
        let Ok(Some(sidecar)) = read_sidecar(image) else { return error };
        match dmverity::verify(file, sidecar.hash_offset, sidecar.root, &|| false) {
            Err(fault) => Error::Integrity(IntegrityError::DmVerity {
                image: image.display().to_string(),
                fault,
            }),
            // What was read from the disk then was not what it has now.
            Ok(_) => error,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The filesystem holds it now, or it is unused.
        if let Err(error) = self.mapper.remove(&self.name) {
            tracing::warn!(
                %error,
                name = self.name,
                "a dm-verity device stays for now"
            );
        }
    }
}

/// The table of the dm-verity target (Documentation/admin-guide/device-mapper/verity.rst). Data and hashes are on one device; the first
/// hash block is behind the superblock, which the kernel does not read.
///
/// The kernel finds the signature of the root hash by the name of a `key`.
fn table(header: &Header, root: RootHash, backing: &Path, key: Option<&String>) -> Table {
    let geometry = header.geometry();
    let (block, blocks) = (geometry.block_size(), geometry.data_blocks());
    let salt: String = header.salt().iter().map(|byte| format!("{byte:02x}")).collect();
    let salt = if salt.is_empty() { "-".to_owned() } else { salt };
    let (device, first) = (backing.display(), blocks + 1);
    let signed = key.map(|key| format!(" 2 root_hash_sig_key_desc {key}")).unwrap_or_default();
    let parameters = format!(
        "1 {device} {device} {block} {block} {blocks} {first} sha256 {root} {salt}{signed}"
    );
    Table { target: TARGET, bytes: geometry.hash_offset(), parameters }
}

fn keep(name: &str, signature: &Signature) -> Result<Key> {
    Key::of_thread(name, signature.as_der())
        .map_err(|errno| Error::kernel("keep a signature as a key", errno))
}

/// Whether the kernel answers so when it does not accept a signature (`verify_pkcs7_signature` and what it calls).
fn is_distrust(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOKEY | Errno::KEYREJECTED | Errno::KEYEXPIRED | Errno::KEYREVOKED | Errno::BADMSG
    )
}

fn unprotected(image: &Path, why: &'static str) -> Error {
    Error::Integrity(IntegrityError::Unprotected { image: image.display().to_string(), why })
}
