//! One side of a comparison, and what it is made of.

use std::path::Path;

use anyhow::Context as _;
use erolith_differ::compare;
use erolith_differ::oci::Platform;
use erolith_overlay::{Marks, Stack};
use erolith_snapshotter::layerdir::RWLAYER;

use crate::cli::layers::Opener;
use crate::cli::snapshots::client::Client;
use crate::exit::BadInput;
use crate::serve::calls::from_mounts;
use crate::serve::config::Config;
use crate::serve::diff::compare::Opened;
use crate::source::{Named, open_image};
use erolith_snapshotter::api_mounts::{MountParser, WritableTop};

/// What one side of a comparison shows.
///
/// # Errors
/// What is wrong with it, and what the storage reports.
pub(super) fn open(
    side: &Named,
    opener: &mut Opener<'_>,
    platform: Option<&Platform>,
    scratch: &Path,
) -> anyhow::Result<Stack> {
    let name = || side.to_string();
    let layers = match side {
        Named::Path(path) => vec![opener.path(path).with_context(name)?],
        Named::Image(location, layer) => {
            let (source, image) = open_image(location, platform, scratch)?;
            match layer {
                Some(layer) => {
                    let index = layer.find(&image)?;
                    vec![opener.layer(&source, &image, index).with_context(name)?.1]
                }
                None => {
                    let layers = opener.layers(&source, &image).with_context(name)?;
                    layers.into_iter().map(|(_, layer)| layer).collect()
                }
            }
        }
    };
    Ok(Stack::new(layers, Marks::Trusted))
}

/// The parents of an active snapshot, and the same with what was written into it.
pub(super) fn of_snapshot(key: &str, address: Option<&Path>) -> anyhow::Result<(Stack, Stack)> {
    let default = Config::default().address;
    let mounts = Client::connect(address.unwrap_or(&default))?.details(key)?.mounts;
    let unknown = || BadInput(format!("{key}: not an active snapshot"));
    let mut stack = MountParser::default().stack(&from_mounts(mounts)).ok_or_else(unknown)?;
    let top = stack.top.take();
    let lowers = Opened::default().lowers(&stack)?;
    match top {
        Some(WritableTop::Dir { upper, work }) => {
            let all = lowers.with_upper(compare::upper(&upper, work.as_deref())?);
            Ok((lowers, all))
        }
        // The directory of that image, which the daemon has mounted somewhere else.
        Some(WritableTop::Ours(dir)) => {
            let image = dir.join(RWLAYER).display().to_string();
            Err(BadInput(format!("{key}: written into the filesystem {image}; commit it")).into())
        }
        // Without a parent, what is mounted is the upper directory itself.
        None => Ok((Stack::default(), lowers)),
    }
}
