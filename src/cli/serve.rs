//! `erolith serve`: the daemon, and what containerd is to be told of it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use erolith_differ::oci::Platform;
use erolith_snapshotter::service::Profile;

use crate::serve::config::{Config, MetricsAddress};
use crate::serve::log::LogFormat;
use crate::serve::registration::{Version, text};
use crate::serve::word::Setting;

/// Serve containerd: snapshots of EROFS layers, and layers in and out of them.
///
/// Answers the services Snapshots and Diff, which containerd uses as proxy plugins, on one unix socket. Flags go before
/// the configuration file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration; /etc/erolith/config.toml if that is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the snapshots and their database.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of the mounts of layers.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket of the services.
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Socket of containerd.
    #[arg(long, value_name = "SOCKET")]
    containerd_address: Option<PathBuf>,
    /// Root of containerd, to read blobs straight from there; empty: never.
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    containerd_root: Option<PathBuf>,
    /// Which mounts callers are given: plain is one overlay or bind mount that every caller of mount(2) can use; managed
    /// is EROFS mounts and a template for the mount manager of containerd 2.2.
    #[arg(long, value_parser = Setting::<Profile>::parser())]
    profile: Option<Setting<Profile>>,
    /// Least important level that is logged: off, error, warn, info, debug or trace; MODULE=LEVEL for single modules.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of a line of the log.
    #[arg(long)]
    log_format: Option<LogFormat>,
    /// Where metrics can be fetched: IP:PORT or unix:/PATH.
    #[arg(long, value_name = "ADDRESS")]
    metrics_address: Option<MetricsAddress>,
    /// Print what makes containerd of that version use this daemon, and end.
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "2.3")]
    print_containerd_config: Option<Version>,
}

/// Runs the command until it is asked to stop.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let config = args.settle(Config::read(args.config.as_deref())?);
    config.validate()?;
    if let Some(version) = args.print_containerd_config {
        out.write_all(text(version, &config, &Platform::host().to_string()).as_bytes())?;
    } else {
        crate::serve::run(&config)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The configuration with the flags over it.
    fn settle(&self, mut config: Config) -> Config {
        fn put<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(from) = from {
                to.clone_from(from);
            }
        }
        put(&mut config.root, self.root.as_ref());
        put(&mut config.state, self.state.as_ref());
        put(&mut config.address, self.address.as_ref());
        put(&mut config.containerd.address, self.containerd_address.as_ref());
        put(&mut config.containerd.root, self.containerd_root.as_ref());
        put(&mut config.snapshotter.profile, self.profile.as_ref());
        put(&mut config.log.level, self.log_level.as_ref());
        put(&mut config.log.format, self.log_format.as_ref());
        put(&mut config.metrics.address, self.metrics_address.as_ref());
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Line::try_parse_from([&["serve"], line].concat()).unwrap().args
    }

    #[test]
    fn flags_go_before_the_file() {
        let file = Config { root: "/file".into(), state: "/file".into(), ..Config::default() };
        let line = [
            "--root=/flag",
            "--profile=managed",
            "--metrics-address=127.0.0.1:1",
            "--log-format=json",
            "--containerd-root=",
        ];
        let config = args(&line).settle(file);
        assert_eq!(config.root, PathBuf::from("/flag"));
        assert_eq!(config.state, PathBuf::from("/file"));
        assert_eq!(config.snapshotter.profile.value, Profile::Managed);
        assert_eq!(config.metrics.address, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.containerd.root, PathBuf::new());
        assert_eq!(args(&[]).settle(Config::default()), Config::default());
    }

    #[test]
    fn the_version_of_containerd_can_be_left_out() {
        let version = |line: &[&str]| args(line).print_containerd_config;
        assert_eq!(version(&[]), None);
        assert_eq!(version(&["--print-containerd-config"]), Some(Version::V2_3));
        assert_eq!(version(&["--print-containerd-config=1.7"]), Some(Version::V1_7));
    }

    #[test]
    fn what_is_printed_follows_the_flags() {
        let args = args(&["--address=/run/other.sock", "--print-containerd-config=2.1"]);
        let mut out = Vec::new();
        run(&args, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("address = \"/run/other.sock\""), "{out}");
    }
}
