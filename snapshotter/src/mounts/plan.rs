//! Planning: from layers and capabilities to steps. Nothing here touches a file or the kernel.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::mount::MountAttrFlags;

use super::image::ImageFacts;
use super::options::MountOptions;
use crate::api_mounts::OverlayDir;
use crate::{Error, MountError, Result};

/// Lower layers that overlayfs stacks (`OVL_MAX_STACK` in fs/overlayfs/params.h).
pub const MAX_LAYERS: usize = 500;
/// Bytes of option string that mount(2) reads: one page less the NUL (`copy_mount_options`). What follows is
/// cut without an error, so nothing longer is ever passed.
pub const MAX_OPTION_BYTES: usize = 4095;
/// Bytes of options that containerd hands over as they are: a page less the 512 bytes that its own parts may need
/// (`compactLowerdirOption` in core/mount/mount_linux.go rewrites paths from there on, other callers refuse or cut).
pub(crate) const MAX_API_OPTION_BYTES: usize = MAX_OPTION_BYTES + 1 - 512;
/// The source that our overlays carry in the mount table, by which an unmount knows them.
pub const OVERLAY_SOURCE: &str = "erolith";
/// The largest logical block size that every kernel gives a loop device.
const MAX_LOOP_BLOCK: u32 = 4096;

/// Overlay behaviour that must not depend on how a kernel was configured.
///
/// - `redirect_dir=nofollow`: a layer cannot make a directory appear that another layer hides.
/// - `metacopy=off`: a layer cannot name the file that another inode's data comes from.
/// - `index=off`, `xino=off`: neither does anything for a read-only overlay of read-only layers but cost.
pub const OVERLAY_OPTIONS: [(&str, &str); 4] =
    [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"), ("xino", "off")];

/// How an EROFS image gets under the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backing {
    /// What keeps the content of files in memory once: the file itself, read by direct I/O, where that is sound; else a
    /// loop device with direct I/O; else the file itself (kernel 6.12), or any loop device.
    #[default]
    Auto,
    /// The file itself or nothing; by direct I/O where that is sound.
    File,
    /// A loop device.
    Loop,
}

/// How overlayfs is given its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayRoute {
    /// Detached mounts, by descriptor (kernel 6.15).
    Detached,
    /// Mounts with short names in a mount namespace that exists only for the call.
    Scratch,
}

/// One EROFS mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStep {
    /// What errors call it.
    pub name: String,
    /// How the image gets under the filesystem.
    pub backing: Backing,
    /// Bytes of a block of the image.
    pub block: u32,
    /// Logical block size of the loop device, should there be one.
    pub loop_block: u32,
    /// Options with their values.
    pub options: Vec<(String, Option<String>)>,
    /// Attributes of the mount.
    pub attributes: MountAttrFlags,
}

/// The mount over several layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayStep {
    /// How the layers are passed.
    pub route: OverlayRoute,
    /// For [`OverlayRoute::Scratch`]: the whole option string, within [`MAX_OPTION_BYTES`].
    pub option_string: Option<OsString>,
    /// Attributes of the mount at the target.
    pub attributes: MountAttrFlags,
}

/// The steps that make one read-only tree of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// One EROFS mount for each layer, bottom first.
    pub layers: Vec<LayerStep>,
    /// What goes over them; with one layer nothing does, and its mount is the tree.
    pub overlay: Option<OverlayStep>,
}

impl MountPlan {
    /// Plans a mount of `layers`, bottom first, each with its name.
    ///
    /// `overlay` is called only when there are several layers, since finding it out costs system calls.
    ///
    /// # Errors
    /// [`MountError::NoLayers`], [`MountError::TooManyLayers`], [`MountError::OptionsTooLong`], and what `overlay`
    /// gives.
    pub fn new(
        layers: &[(String, ImageFacts)],
        backing: Backing,
        options: &MountOptions,
        overlay: impl FnOnce() -> Result<OverlayRoute>,
    ) -> Result<Self> {
        if layers.len() > MAX_LAYERS {
            return Err(Error::Mount(MountError::TooManyLayers {
                count: layers.len(),
                limit: MAX_LAYERS,
            }));
        }
        let attributes = match layers.len() {
            0 => return Err(Error::Mount(MountError::NoLayers)),
            1 => options.attributes,
            _ => lower_attributes(),
        };
        let steps = layers.iter().map(|(name, facts)| LayerStep {
            name: name.clone(),
            backing,
            block: 1u32.checked_shl(facts.block_bits.into()).unwrap_or(0),
            loop_block: loop_block(facts.block_bits),
            options: options.erofs.clone(),
            attributes,
        });
        let overlay = match layers.len() {
            1 => None,
            count => Some(OverlayStep::new(count, overlay()?, options.attributes)?),
        };
        Ok(Self { layers: steps.collect(), overlay })
    }
}

impl OverlayStep {
    pub(crate) fn new(
        count: usize,
        route: OverlayRoute,
        attributes: MountAttrFlags,
    ) -> Result<Self> {
        let option_string = match route {
            OverlayRoute::Detached => None,
            OverlayRoute::Scratch => {
                let top_first: Vec<_> = (0..count).rev().map(scratch_name).collect();
                Some(overlay_options(&top_first)?)
            }
        };
        Ok(Self { route, option_string, attributes })
    }
}

/// The name of layer `index` (bottom is 0) inside the scratch directory. As short as can be: 500 of them
/// fit in half of [`MAX_OPTION_BYTES`].
#[must_use]
pub fn scratch_name(index: usize) -> String {
    index.to_string()
}

/// The option string of a read-only overlay over `lowers`, top first, in the form that mount(2) reads.
///
/// `\`, `:` and `,` in a path are escaped, since overlayfs splits at them.
///
/// # Errors
/// [`MountError::OptionsTooLong`] where the kernel would cut it, with the numbers.
pub fn overlay_options<P: AsRef<OsStr>>(lowers: &[P]) -> Result<OsString> {
    let mut text =
        OVERLAY_OPTIONS.map(|(key, value)| format!("{key}={value},")).concat().into_bytes();
    text.extend_from_slice(OverlayDir::Lower.option("").as_bytes());
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            text.push(b':');
        }
        for &byte in lower.as_ref().as_bytes() {
            if matches!(byte, b'\\' | b':' | b',') {
                text.push(b'\\');
            }
            text.push(byte);
        }
    }
    if text.len() > MAX_OPTION_BYTES {
        let (layers, bytes, limit) = (lowers.len(), text.len(), MAX_OPTION_BYTES);
        return Err(Error::Mount(MountError::OptionsTooLong { layers, bytes, limit }));
    }
    Ok(OsString::from_vec(text))
}

/// Mounts that only overlayfs looks through carry every restriction; none reaches the overlay's own mount.
pub(crate) fn lower_attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// A device's block size may not exceed the filesystem's, and the larger it is the likelier is direct I/O.
fn loop_block(block_bits: u8) -> u32 {
    1u32.checked_shl(block_bits.into()).unwrap_or(MAX_LOOP_BLOCK).min(MAX_LOOP_BLOCK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layers(count: usize) -> Vec<(String, ImageFacts)> {
        let facts = ImageFacts { block_bits: 12, bytes: 4096, devices: Vec::new() };
        (0..count).map(|i| (format!("layer {i}"), facts.clone())).collect()
    }

    fn plan(count: usize, route: OverlayRoute) -> Result<MountPlan> {
        MountPlan::new(&layers(count), Backing::Auto, &MountOptions::default(), || Ok(route))
    }

    #[test]
    fn d20_plans_by_number_of_layers() {
        use OverlayRoute::{Detached, Scratch};
        for route in [Detached, Scratch] {
            assert_eq!(plan(0, route).unwrap_err().code(), "no-layers");
            for count in [2, 127, 128, 499, 500] {
                let plan = plan(count, route).unwrap();
                assert_eq!(plan.layers.len(), count);
                assert_eq!(plan.overlay.unwrap().option_string.is_some(), route == Scratch);
            }
            for count in [501, 1000] {
                match plan(count, route).unwrap_err() {
                    Error::Mount(MountError::TooManyLayers { count: c, limit: 500 }) => {
                        assert_eq!(c, count)
                    }
                    other => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn one_layer_is_mounted_bare_and_needs_no_overlayfs() {
        let plan = MountPlan::new(&layers(1), Backing::Loop, &MountOptions::default(), || {
            panic!("asked for overlayfs")
        });
        let plan = plan.unwrap();
        assert_eq!(plan.overlay, None);
        assert_eq!(plan.layers[0].attributes, MountAttrFlags::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn lowers_are_restricted_and_the_target_is_as_asked() {
        let plan = plan(2, OverlayRoute::Detached).unwrap();
        assert!(plan.layers.iter().all(|l| l.attributes == lower_attributes()));
        assert_eq!(plan.overlay.unwrap().attributes, MountAttrFlags::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn loop_blocks_never_exceed_the_image_block() {
        let table = [(9, 512), (10, 1024), (11, 2048), (12, 4096), (13, 4096), (16, 4096)];
        for (bits, want) in table {
            assert_eq!(loop_block(bits), want);
        }
    }

    #[test]
    fn scratch_names_keep_500_layers_within_the_option_string() {
        let options = plan(500, OverlayRoute::Scratch).unwrap().overlay.unwrap().option_string;
        let options = options.unwrap();
        assert!(options.len() < 2048, "{}", options.len());
        assert!(options.to_str().unwrap().contains("lowerdir=499:498:"));
    }

    /// Splits as overlayfs does (`ovl_parse_param_split_lowerdirs`).
    fn split(options: &OsStr) -> Vec<Vec<u8>> {
        let text = options.as_bytes();
        let start = text.windows(9).position(|w| w == b"lowerdir=").unwrap() + 9;
        let (mut lowers, mut escaped) = (vec![Vec::new()], false);
        for &byte in &text[start..] {
            match byte {
                b'\\' if !escaped => escaped = true,
                b':' if !escaped => lowers.push(Vec::new()),
                other => {
                    lowers.last_mut().unwrap().push(other);
                    escaped = false;
                }
            }
        }
        lowers
    }

    proptest! {
        /// Whatever the paths, the kernel sees every lower, or nothing is mounted.
        #[test]
        fn p9_option_strings_are_whole_or_refused(
            paths in prop::collection::vec(prop::collection::vec(1u8..=255, 1..120), 1..120),
        ) {
            let lowers: Vec<OsString> = paths.iter().cloned().map(OsString::from_vec).collect();
            match overlay_options(&lowers) {
                Ok(options) => {
                    prop_assert!(options.len() <= MAX_OPTION_BYTES);
                    prop_assert_eq!(split(&options), paths);
                }
                Err(Error::Mount(MountError::OptionsTooLong { layers, bytes, limit })) => {
                    prop_assert_eq!(layers, paths.len());
                    prop_assert!(bytes > limit && limit == 4095);
                    prop_assert!(bytes >= paths.iter().map(Vec::len).sum::<usize>());
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
