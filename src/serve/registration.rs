//! The part of containerd's configuration that makes it use this daemon.

use std::path::Path;

use super::config::Config;
use crate::containerd;

/// What the plugin of snapshots is called in containerd; also the last part of the default root.
pub(crate) const SNAPSHOTTER: &str = "erolith";
/// What the plugin of differences is called. containerd 1.7 has one table for both.
pub(crate) const DIFFER: &str = "erolith-diff";
/// Where containerd looks for its configuration.
pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
/// What that file imports.
pub(crate) const DROP_INS: &str = "/etc/containerd/conf.d/*.toml";
/// Where the printed text goes.
pub(crate) const DROP_IN: &str = "/etc/containerd/conf.d/erolith.toml";
/// What containerd has to know of a snapshotter, so that pods in user namespaces need no copy of their image
/// (`resolveSnapshotOptions` in containerd's client).
pub(crate) const REMAP_IDS: &str = "remap-ids";

/// Versions of containerd whose configurations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// 1.7.4 and later.
    #[value(name = "1.7")]
    V1_7,
    /// 2.0 to 2.2.
    #[value(name = "2.1")]
    V2_1,
    /// 2.3 and later.
    #[value(name = "2.3")]
    V2_3,
}

impl Version {
    /// The one that a containerd belongs to which says that it has this version: `2.1.9+unknown`, `v2.3.4`, `1.7.24~ds1`.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let containerd::Version { major, minor } = containerd::Version::parse(text)?;
        Some(match (major, minor) {
            (..2, _) => Self::V1_7,
            (2, ..3) => Self::V2_1,
            _ => Self::V2_3,
        })
    }
}

/// The configuration as TOML. `platform` is `os/architecture`.
pub(crate) fn text(version: Version, config: &Config, platform: &str) -> String {
    let parts = [
        head(version),
        proxies(version, config, platform),
        differ_service(),
        transfer(version, platform),
        cri(version),
    ];
    parts.join("\n")
}

/// A string in TOML.
fn quoted(text: impl AsRef<str>) -> String {
    toml::Value::from(text.as_ref()).to_string()
}

fn path(path: &Path) -> String {
    quoted(path.to_string_lossy())
}

/// The platform that plugins say they are for. With the feature, images whose layers are EROFS match too.
fn superset(version: Version, platform: &str) -> String {
    let featured = platform.replacen('/', "(+erofs)/", 1);
    quoted(if version == Version::V2_3 { &featured } else { platform })
}

/// What the file is and where it goes. It has no `version`: then a containerd of 2.0 and later reads it as it reads the
/// file that imports it, whatever version that has (`LoadConfig` in containerd's `cmd/containerd/server/config`). With a
/// line of its own, 2.0 to 2.2 take that version for all files and pass over the old tables of a file of version 2, and
/// 2.3 refuses one that is higher.
fn head(version: Version) -> String {
    let (name, format) = match version {
        Version::V1_7 => ("1.7", 2),
        Version::V2_1 => ("2.0 to 2.2", 3),
        Version::V2_3 => ("2.3 and later", 4),
    };
    format!(
        "# For containerd {name}. This is a file of its own, {DROP_IN}.\n\
         # {CONTAINERD_CONFIG} imports it with this line at its top, above every table (a file that is made anew begins\n\
         # with version = {format}):\n\
         #\n\
         #     imports = [\"{DROP_INS}\"]\n\
         #\n\
         # Then restart containerd, and have it looked at: erolith doctor --config /etc/erolith/config.toml\n"
    )
}

fn proxies(version: Version, config: &Config, platform: &str) -> String {
    let address = path(&config.address);
    let plugin = |name, kind| {
        format!("[proxy_plugins.{name}]\n  type = \"{kind}\"\n  address = {address}\n")
    };
    let (snapshotter, differ) = (plugin(SNAPSHOTTER, "snapshot"), plugin(DIFFER, "diff"));
    let platform = format!("  platform = {}\n", superset(version, platform));
    // containerd 1.7 knows platforms and exports from 1.7.16 on, capabilities from 1.7.23 on, and passes over other keys.
    // `rebase`: layers are unpacked side by side (2.2). `only-remap-ids`: never a copy, since 2.1.
    let capabilities = match version {
        Version::V1_7 => format!("[\"{REMAP_IDS}\"]"),
        Version::V2_1 | Version::V2_3 => {
            format!("[\"rebase\", \"{REMAP_IDS}\", \"only-remap-ids\"]")
        }
    };
    let capabilities = format!("  capabilities = {capabilities}\n");
    let root = path(&config.root);
    let exports = format!("  [proxy_plugins.{SNAPSHOTTER}.exports]\n    root = {root}\n");
    format!("{snapshotter}{platform}{capabilities}{exports}{differ}{platform}")
}

fn differ_service() -> String {
    format!(
        "# Layers of other snapshotters go on to containerd's own differ.\n\
         [plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"{DIFFER}\", \"walking\"]\n"
    )
}

fn transfer(version: Version, platform: &str) -> String {
    const PLUGIN: &str = "plugins.\"io.containerd.transfer.v1.local\"";
    let unpack = |platform: &str, snapshotter, differ| {
        format!(
            "  [[{PLUGIN}.unpack_config]]\n    platform = {platform}\n    \
             snapshotter = \"{snapshotter}\"\n    differ = \"{differ}\"\n"
        )
    };
    let mut text = format!("[{PLUGIN}]\n");
    let plain = quoted(platform);
    if version == Version::V2_3 {
        // It counts for every image that the transfer service unpacks. Ours are right with it. With overlayfs, containerd
        // unpacks side by side what it then cannot see the layers below of: directories that a layer does not describe lose
        // their permissions, `/tmp` among them. So the node's operator decides, who knows what else runs there.
        text.push_str(
            "  # Layers side by side, here and for every other snapshotter: overlayfs then loses permissions and owners of\n  \
             # directories that a layer does not describe. Where all images are unpacked for erolith it does no harm.\n  \
             # max_concurrent_unpacks = 4\n",
        );
        text.push_str(&unpack(&superset(version, platform), SNAPSHOTTER, DIFFER));
        text.push_str(
            "    layer_types = [\"application/vnd.erofs\", \"application/vnd.erofs+zstd\"]\n",
        );
    }
    text.push_str(&unpack(&plain, SNAPSHOTTER, DIFFER));
    // Naming one takes the defaults away.
    text.push_str(&unpack(&plain, "overlayfs", "walking"));
    if version == Version::V2_3 {
        // containerd's own EROFS snapshotter, which may not be there.
        text.push_str(&unpack(&superset(version, platform), "erofs", "erofs"));
        text.push_str("    optional = true\n");
    }
    text
}

/// containerd 1.7 replaces the table of a plugin as a whole by that of an imported file (`mergeConfig`), so what an
/// operator set for CRI would be lost.
fn cri(version: Version) -> String {
    match version {
        Version::V1_7 => format!(
            "# For Kubernetes: pods run on erolith when {CONTAINERD_CONFIG} itself has this line. It cannot be imported:\n\
             # containerd 1.7 would forget everything else that is set for CRI.\n\
             #\n\
             #     [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
             #       snapshotter = \"{SNAPSHOTTER}\"\n"
        ),
        Version::V2_1 | Version::V2_3 => format!(
            "# For Kubernetes: pods run on erolith. A {CONTAINERD_CONFIG} of version 2 that sets `snapshotter` below\n\
             # [plugins.\"io.containerd.grpc.v1.cri\".containerd] says the same there: 2.0 to 2.2 take that.\n\
             [plugins.\"io.containerd.cri.v1.images\"]\n  snapshotter = \"{SNAPSHOTTER}\"\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use toml::{Table, Value};

    use super::*;

    const VERSIONS: [Version; 3] = [Version::V1_7, Version::V2_1, Version::V2_3];

    fn parsed(version: Version, config: &Config) -> Table {
        text(version, config, "linux/amd64").parse().unwrap()
    }

    fn at<'t>(table: &'t Table, path: &[&str]) -> Option<&'t Value> {
        let (last, parents) = path.split_last()?;
        let table = parents.iter().try_fold(table, |table, key| table.get(*key)?.as_table())?;
        table.get(*last)
    }

    #[test]
    fn every_version_gets_a_file_it_can_read() {
        let address = "/run/it's \"here\".sock";
        let config = Config { address: address.into(), ..Config::default() };
        for version in VERSIONS {
            let table = parsed(version, &config);
            for (name, kind) in [(SNAPSHOTTER, "snapshot"), (DIFFER, "diff")] {
                let plugin = at(&table, &["proxy_plugins", name]).unwrap();
                assert_eq!(plugin["type"].as_str(), Some(kind));
                assert_eq!(plugin["address"].as_str(), Some(address));
                assert!(plugin.get("platform").is_some());
            }
            let service = ["plugins", "io.containerd.service.v1.diff-service", "default"];
            let order = at(&table, &service).unwrap().as_array().unwrap();
            assert_eq!(
                order.iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>(),
                [DIFFER, "walking"]
            );
            let unpack = ["plugins", "io.containerd.transfer.v1.local", "unpack_config"];
            let unpack = at(&table, &unpack).unwrap().as_array().unwrap();
            let of = |snapshotter| {
                unpack.iter().find(|entry| entry["snapshotter"].as_str() == Some(snapshotter))
            };
            assert_eq!(of("overlayfs").unwrap()["differ"].as_str(), Some("walking"));
            let erofs = of("erofs");
            assert_eq!(erofs.is_some(), version == Version::V2_3);
            if let Some(erofs) = erofs {
                assert_eq!(erofs["differ"].as_str(), Some("erofs"));
                assert_eq!(erofs["platform"].as_str(), Some("linux(+erofs)/amd64"));
                assert_eq!(erofs["optional"].as_bool(), Some(true));
            }
            let concurrent =
                ["plugins", "io.containerd.transfer.v1.local", "max_concurrent_unpacks"];
            assert_eq!(at(&table, &concurrent), None, "it is not ours alone");
        }
    }

    #[test]
    fn versions_differ_where_containerd_does() {
        let config = Config::default();
        let [old, middle, new] = VERSIONS.map(|version| parsed(version, &config));
        // They are imported by files of any version.
        assert_eq!([&old, &middle, &new].map(|table| at(table, &["version"])), [None; 3]);
        let platform = ["proxy_plugins", SNAPSHOTTER, "platform"];
        assert_eq!(at(&old, &platform).unwrap().as_str(), Some("linux/amd64"));
        assert_eq!(at(&middle, &platform).unwrap().as_str(), Some("linux/amd64"));
        assert_eq!(at(&new, &platform).unwrap().as_str(), Some("linux(+erofs)/amd64"));
        let root = ["proxy_plugins", SNAPSHOTTER, "exports", "root"];
        assert_eq!(at(&new, &root).unwrap().as_str(), config.root.to_str());
        for table in [&old, &middle, &new] {
            let capabilities = ["proxy_plugins", SNAPSHOTTER, "capabilities"];
            let capabilities = at(table, &capabilities).unwrap().as_array().unwrap();
            assert!(capabilities.contains(&Value::from(REMAP_IDS)), "{capabilities:?}");
        }
        // An imported table would replace the node's own.
        assert_eq!(at(&old, &["plugins", "io.containerd.grpc.v1.cri"]), None);
        let new_cri = ["plugins", "io.containerd.cri.v1.images", "snapshotter"];
        assert_eq!(at(&new, &new_cri).unwrap().as_str(), Some(SNAPSHOTTER));
    }

    #[test]
    fn versions_are_those_that_containerd_says() {
        for (text, want) in [
            ("1.7.24~ds1", Some(Version::V1_7)),
            ("1.6.20", Some(Version::V1_7)),
            ("v2.0.0-rc.1", Some(Version::V2_1)),
            ("2.2.7", Some(Version::V2_1)),
            ("2.3.4", Some(Version::V2_3)),
            ("v2.4.0-beta.0-12-gabcdef.m", Some(Version::V2_3)),
            ("3.0.0", Some(Version::V2_3)),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(Version::of(text), want, "{text}");
        }
    }

    #[test]
    fn the_default_root_is_where_cri_looks() {
        let name = format!("io.containerd.snapshotter.v1.{SNAPSHOTTER}");
        assert!(Config::default().root.ends_with(name));
    }
}
