//! Whole images converted as `erolith convert` converts them.

use std::path::Path;
use std::sync::Arc;

use erolith_differ::convert::{Options, Progress, Report, convert};
use erolith_differ::oci::{Destination, ImageSource, Location, Select};

/// Converts `from` to `to`, both as on the command line: `oci:DIR:REF` and the like.
///
/// # Errors
/// What went wrong, with its code in front.
pub fn run(from: &str, to: &str, scratch: &Path, options: &Options) -> Result<Report, String> {
    let at = |text: &str| text.parse::<Location>().map_err(|e| format!("{text}: {e}"));
    let fail = |e: erolith_differ::Error| format!("{}: {e}", e.code());
    let source = ImageSource::open(&at(from)?, &Select::default(), scratch).map_err(fail)?;
    let destination = Destination::open(&at(to)?).map_err(fail)?;
    let watcher: Arc<dyn Progress> = Arc::new(());
    convert(&source, destination, options, &watcher).map_err(fail)
}
