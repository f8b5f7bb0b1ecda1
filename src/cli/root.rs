//! Which root a command works on.

use std::path::PathBuf;

use crate::serve::config::Config;

/// The root of a daemon, as commands are told of it that work on its files.
#[derive(Debug, clap::Args)]
pub(crate) struct RootArgs {
    /// Directory of the snapshots and their database [default: that of the configuration].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The daemon's configuration; /etc/erolith/config.toml if that is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl RootArgs {
    /// The root that is meant. A configuration is read only when it is to say so.
    ///
    /// # Errors
    /// Those of [`Config::read`].
    pub(crate) fn root(&self) -> anyhow::Result<PathBuf> {
        match &self.root {
            Some(root) => Ok(root.clone()),
            None => Ok(Config::read(self.config.as_deref())?.root),
        }
    }
}
