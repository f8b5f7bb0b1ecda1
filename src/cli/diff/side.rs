//! One side of a comparison, as the user names it, and what it is made of.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use erolith_differ::compare;
use erolith_differ::oci::{Location, Select, Source};
use erolith_mkfs::overlay::{Marks, Stack};
use erolith_snapshotter::layerdir::RWLAYER;

use crate::cli::layers::Opener;
use crate::cli::snapshots::client::Client;
use crate::exit::BadInput;
use crate::serve::config::Config;
use crate::serve::diff::compare::Opened;
use crate::serve::diff::stack::{Places, Top};
use crate::serve::snapshots::from_mounts;

/// A tree as it is named on the command line.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// A whole image.
    Image(Location),
    /// An EROFS image, an archive, or a directory.
    Path(PathBuf),
}

impl FromStr for Side {
    type Err = erolith_differ::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_location = ["oci:", "oci-archive:", "docker-archive:"]
            .iter()
            .any(|transport| text.starts_with(transport));
        Ok(if is_location { Self::Image(text.parse()?) } else { Self::Path(text.into()) })
    }
}

impl Side {
    /// What it shows.
    ///
    /// # Errors
    /// What is wrong with it, and what the storage reports.
    pub(super) fn open(
        &self,
        opener: &mut Opener<'_>,
        select: &Select,
        scratch: &Path,
    ) -> anyhow::Result<Stack> {
        let layers = match self {
            Self::Path(path) => {
                vec![opener.path(path).with_context(|| path.display().to_string())?]
            }
            Self::Image(location) => {
                let source = Source::open(location, select, scratch);
                let source = source.with_context(|| location.to_string())?;
                let [image] = source.images.as_slice() else {
                    let count = source.images.len();
                    let text = format!("{location}: {count} images; name one with --platform");
                    return Err(BadInput(text).into());
                };
                opener.layers(&source, image).with_context(|| location.to_string())?
            }
        };
        Ok(Stack::new(layers, Marks::Trusted))
    }
}

/// The parents of an active snapshot, and the same with what was written into it.
pub(super) fn of_snapshot(key: &str, address: Option<&Path>) -> anyhow::Result<(Stack, Stack)> {
    let default = Config::default().address;
    let mounts = Client::connect(address.unwrap_or(&default))?.details(key)?.mounts;
    let unknown = || BadInput(format!("{key}: not an active snapshot"));
    let mut stack = Places::default().stack(&from_mounts(mounts)).ok_or_else(unknown)?;
    let top = stack.top.take();
    let lowers = Opened::default().lowers(&stack)?;
    match top {
        Some(Top::Dir { upper, work }) => {
            let all = lowers.with_upper(compare::upper(&upper, work.as_deref())?);
            Ok((lowers, all))
        }
        // The directory of that image, which whoever mounts it has mounted somewhere else.
        Some(Top::Ours(dir)) => {
            let image = dir.join(RWLAYER).display().to_string();
            Err(BadInput(format!("{key}: written into the filesystem {image}; commit it")).into())
        }
        // Without a parent, what is mounted is the upper directory itself.
        None => Ok((Stack::default(), lowers)),
    }
}
