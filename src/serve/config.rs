//! The daemon's configuration: a TOML file in which unknown keys are errors, and flags that go before it.
//!
//! `dist/config.toml` documents every key; a test keeps it equal to the defaults.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use erolith_differ::apply::layer::Share;
use erolith_differ::processors::Processor;
use erolith_snapshotter::mounts::Backing;
use erolith_snapshotter::protect::FsVerityPolicy;
use erolith_snapshotter::service::{self, DmVerity, LimitBy, Profile};
use serde::Deserialize;

use super::log::{self, Log};
use super::size::Size;
use super::word::{Setting, Vocabulary};

/// Where the configuration is looked for when no file is named. It need not be there.
pub(crate) const DEFAULT_PATH: &str = "/etc/erolith/config.toml";

/// What the daemon is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Directory of the snapshots and their database. Below containerd's root its mount manager and the accounting of
    /// CRI find it.
    pub(crate) root: PathBuf,
    /// Directory of the mounts of layers; on a filesystem that is empty after a reboot.
    pub(crate) state: PathBuf,
    /// Socket of the services.
    pub(crate) address: PathBuf,
    /// How to reach containerd.
    pub(crate) containerd: Containerd,
    /// The Snapshots service.
    pub(crate) snapshotter: Snapshotter,
    /// The Diff service.
    pub(crate) differ: Differ,
    /// Programs that turn layers into others, by the names that containerd knows them by.
    pub(crate) stream_processors: BTreeMap<String, StreamProcessor>,
    /// What is logged.
    pub(crate) log: Log,
    /// What is measured.
    pub(crate) metrics: Metrics,
}

/// How to reach containerd.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Containerd {
    /// Its socket.
    pub(crate) address: PathBuf,
    /// Its root: blobs are read straight from there where that is possible. Empty: never.
    pub(crate) root: PathBuf,
    /// Whether blobs in there are what their digests say, because containerd verified them when it wrote them. Then EROFS
    /// layers are taken without being read whole, and of archives only what they decompress to is hashed.
    pub(crate) trusted: bool,
}

impl Vocabulary for FsVerityPolicy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("auto", Self::IfPossible), ("required", Self::Required)];
    const RETIRED: &'static [(&'static str, &'static str)] = &[("if-possible", "auto")];
}

impl Vocabulary for DmVerity {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("auto", Self::Auto),
        ("required", Self::On),
        ("signed", Self::Signed),
    ];
    const RETIRED: &'static [(&'static str, &'static str)] = &[("on", "required")];
}

/// Whether every image that is written has a protection, or none.
impl Vocabulary for bool {
    const WORDS: &'static [(&'static str, Self)] = &[("off", false), ("required", true)];
    const RETIRED: &'static [(&'static str, &'static str)] =
        &[("false", "off"), ("true", "required")];
}

impl Vocabulary for LimitBy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("quota", Self::Quota), ("image", Self::Image)];
}

impl Vocabulary for Profile {
    const WORDS: &'static [(&'static str, Self)] =
        &[("plain", Self::Plain), ("managed", Self::Managed)];
}

impl Vocabulary for Backing {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("file", Self::File), ("loop", Self::Loop)];
}

impl Vocabulary for Share {
    const WORDS: &'static [(&'static str, Self)] =
        &[("never", Self::Never), ("reflink", Self::Reflink), ("link", Self::Link)];
}

/// The Snapshots service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Snapshotter {
    /// Which mounts callers are given.
    pub(crate) profile: Setting<Profile>,
    /// How images get under the filesystem.
    pub(crate) backing: Setting<Backing>,
    /// Further options of every overlay, appended last.
    pub(crate) overlay_options: Vec<String>,
    /// Whether what was done is durable when the answer is sent.
    pub(crate) sync: bool,
    /// Most that a container may write, when the label `containerd.io/snapshot/max-size` says nothing. 0: any.
    pub(crate) default_size: Size,
    /// How writable layers are kept to their size.
    pub(crate) limit_by: Setting<LimitBy>,
    /// Whether the images of layers are sealed with fs-verity.
    pub(crate) fs_verity: Setting<FsVerityPolicy>,
    /// Whether the images of layers become immutable (`chattr +i`).
    pub(crate) immutable: bool,
    /// Whether layers are mounted with dm-verity.
    pub(crate) dm_verity: Setting<DmVerity>,
    /// Directories of converted layers to use and not to write, by diffID: `<algorithm>/<2 digits>/<digits>.erofs`.
    pub(crate) caches: Vec<PathBuf>,
}

/// The Diff service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Differ {
    /// Layers that are converted at the same time. 0: as many as there are processors.
    pub(crate) parallel: usize,
    /// How a layer that is an image already may share its bytes with containerd's store.
    pub(crate) share: Setting<Share>,
    /// Most bytes that a layer may expand to.
    pub(crate) max_layer_bytes: u64,
    /// Most bytes that a byte of a layer may expand to on average, long runs of zeros not counted, once 16 GiB came out.
    /// 0: any.
    pub(crate) max_layer_ratio: u64,
    /// Largest zstd window of a layer, as a power of two.
    pub(crate) zstd_window_log: u32,
    /// Longest time, in seconds, that one layer may take. 0: any.
    pub(crate) max_seconds: u64,
    /// Longest time, in seconds, without a sign of life from a layer below that one waits for.
    pub(crate) below_seconds: u64,
    /// Whether converted images are put into containerd's content store too, and taken from there.
    pub(crate) keep_images: bool,
    /// Whether all images get a dm-verity hash tree, and a sidecar with its root hash.
    pub(crate) dm_verity: Setting<bool>,
    /// Whether each layer is read in a process of its own that can do nothing else.
    pub(crate) sandbox: bool,
}

/// A program that turns a layer into another, as containerd's `[stream_processors]` have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamProcessor {
    /// Media types that it takes.
    pub(crate) accepts: Vec<String>,
    /// Media type that it gives.
    pub(crate) returns: String,
    /// The program: a path, or a name to be found in `PATH`.
    pub(crate) path: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    /// Further variables of its environment, `NAME=value`.
    #[serde(default)]
    pub(crate) env: Vec<String>,
}

/// What is measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Where `GET /metrics` is answered: empty for nowhere.
    pub(crate) address: MetricsAddress,
}

/// Where metrics can be fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum MetricsAddress {
    /// Nowhere.
    #[default]
    None,
    /// On a TCP address.
    Tcp(SocketAddr),
    /// On a socket of its own, `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            let absolute = path.is_absolute();
            return absolute.then_some(Self::Unix(path)).ok_or("the path must be absolute".into());
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("{text:?} is neither IP:PORT nor unix:/PATH"))
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/containerd/io.containerd.snapshotter.v1.erolith".into(),
            state: "/run/erolith".into(),
            address: "/run/erolith/erolith.sock".into(),
            containerd: Containerd::default(),
            snapshotter: Snapshotter::default(),
            differ: Differ::default(),
            stream_processors: BTreeMap::new(),
            log: Log::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            address: "/run/containerd/containerd.sock".into(),
            root: "/var/lib/containerd".into(),
            trusted: true,
        }
    }
}

impl Default for Snapshotter {
    fn default() -> Self {
        Self {
            profile: Profile::Plain.into(),
            backing: Backing::Auto.into(),
            overlay_options: Vec::new(),
            sync: true,
            default_size: Size(0),
            limit_by: LimitBy::Auto.into(),
            fs_verity: FsVerityPolicy::IfPossible.into(),
            immutable: false,
            dm_verity: DmVerity::Auto.into(),
            caches: Vec::new(),
        }
    }
}

impl Default for Differ {
    fn default() -> Self {
        let budget = erolith_differ::decode::Budget::default();
        Self {
            parallel: 0,
            share: Share::Link.into(),
            max_layer_bytes: budget.max_output,
            max_layer_ratio: budget.max_ratio.unwrap_or(0),
            zstd_window_log: budget.zstd_window_log,
            max_seconds: 0,
            below_seconds: 600,
            keep_images: false,
            dm_verity: false.into(),
            sandbox: true,
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read.
    #[error("reading {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no TOML, or has a key or a value that it must not have.
    #[error("{}:{line}:{column}: {reason}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character of the line, from 1.
        column: usize,
        /// Why not.
        reason: String,
        /// The line itself.
        text: String,
    },
    /// A value that cannot be.
    #[error("{key}: {reason}")]
    Value {
        /// The key, as a path.
        key: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// What is wrong with the file at `path`, of which `content` was read.
    fn parse(path: PathBuf, content: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let before = content.get(..start).unwrap_or_default();
        let (above, left) = before.rsplit_once('\n').unwrap_or(("", before));
        let line = if left.len() == before.len() { 1 } else { above.matches('\n').count() + 2 };
        Self::Parse {
            path,
            line,
            column: left.chars().count() + 1,
            reason: error.message().replace('\n', ", "),
            text: content.lines().nth(line - 1).unwrap_or_default().to_owned(),
        }
    }

    /// The line of the file that is wrong, and below it a mark where; lines to print after the error.
    pub(crate) fn excerpt(&self) -> Option<String> {
        let Self::Parse { line, column, text, .. } = self else { return None };
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let blank: String =
            text.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        Some(format!("{margin} |\n{number} | {text}\n{margin} | {blank}^"))
    }
}

impl Config {
    /// Reads `path`; without one, the default file if it is there.
    ///
    /// # Errors
    /// When it cannot be read or has keys or values that it should not have.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Error> {
        let at = path.unwrap_or(Path::new(DEFAULT_PATH)).to_owned();
        match std::fs::read_to_string(&at) {
            Ok(text) => toml::from_str(&text).map_err(|error| Error::parse(at, &text, &error)),
            Err(e) if path.is_none() && e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::Read { path: at, source }),
        }
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Value`], naming the key.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let paths = [
            ("root", &self.root),
            ("state", &self.state),
            ("address", &self.address),
            ("containerd.address", &self.containerd.address),
        ];
        let optional = Some(("containerd.root", &self.containerd.root))
            .filter(|(_, path)| !path.as_os_str().is_empty());
        let caches = self.snapshotter.caches.iter().map(|path| ("snapshotter.caches", path));
        for (key, path) in paths.into_iter().chain(optional).chain(caches) {
            if !path.is_absolute() {
                let reason = format!("{} is not an absolute path", path.display());
                return Err(Error::Value { key, reason });
            }
        }
        if !(10..=31).contains(&self.differ.zstd_window_log) {
            let reason = format!("{} is not within 10 to 31", self.differ.zstd_window_log);
            return Err(Error::Value { key: "differ.zstd_window_log", reason });
        }
        let level = log::directives(&self.log.level);
        level.map_err(|reason| Error::Value { key: "log.level", reason })?;
        Ok(())
    }

    /// The words of the previous release in it: key, word, and the word to write instead.
    pub(crate) fn retired(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> + use<> {
        let settings = [
            ("snapshotter.fs_verity", self.snapshotter.fs_verity.retired),
            ("snapshotter.dm_verity", self.snapshotter.dm_verity.retired),
            ("differ.dm_verity", self.differ.dm_verity.retired),
        ];
        settings.into_iter().filter_map(|(key, words)| words.map(|(old, new)| (key, old, new)))
    }
}

impl Config {
    /// What the snapshotter is told.
    pub(crate) fn snapshotter(&self) -> service::Config {
        let told = &self.snapshotter;
        service::Config {
            root: self.root.clone(),
            state: self.state.clone(),
            profile: told.profile.value,
            backing: told.backing.value,
            overlay_options: told.overlay_options.clone(),
            sync: told.sync,
            default_size: told.default_size.0,
            limit_by: told.limit_by.value,
            verity: told.fs_verity.value,
            immutable: told.immutable,
            dm_verity: told.dm_verity.value,
            caches: told.caches.clone(),
        }
    }
}

impl Config {
    /// The programs that turn layers into others.
    pub(crate) fn processors(&self) -> Vec<Processor> {
        let processors = self.stream_processors.iter().map(|(id, processor)| {
            let StreamProcessor { accepts, returns, path, args, env } = processor.clone();
            Processor { id: id.clone(), accepts, returns, path, args, env }
        });
        processors.collect()
    }
}

impl Differ {
    /// How many layers are converted at the same time.
    pub(crate) fn parallel(&self) -> NonZeroUsize {
        let processors = std::thread::available_parallelism();
        let processors = processors.unwrap_or(NonZeroUsize::MIN);
        NonZeroUsize::new(self.parallel).unwrap_or(processors)
    }

    /// What decoding one layer may cost.
    pub(crate) fn budget(&self) -> erolith_differ::decode::Budget {
        let seconds = Some(self.max_seconds).filter(|seconds| *seconds > 0);
        erolith_differ::decode::Budget {
            max_output: self.max_layer_bytes,
            max_ratio: Some(self.max_layer_ratio).filter(|ratio| *ratio > 0),
            zstd_window_log: self.zstd_window_log,
            max_time: seconds.map(std::time::Duration::from_secs),
            ..erolith_differ::decode::Budget::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn the_example_documents_the_defaults() {
        let example = include_str!("../../dist/config.toml");
        assert_eq!(parse(example).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_in_the_example() {
        let example = include_str!("../../dist/config.toml");
        let debug = format!("{:#?}", Config::default());
        let keys = debug.lines().filter_map(|line| line.trim().split_once(": "));
        for (key, _) in keys {
            let named =
                example.contains(&format!("{key} = ")) || example.contains(&format!("[{key}"));
            assert!(named, "{key} is not in dist/config.toml");
        }
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_errors_that_name_them() {
        for (text, word) in [
            ("adress = '/x'", "adress"),
            ("[snapshotter]\nprofil = 'plain'", "profil"),
            ("[snapshotter]\nprofile = 'fast'", "fast"),
            ("[differ]\nparallel = -1", "-1"),
            ("[differ]\nzstd_window_log = 40", "differ.zstd_window_log"),
            ("root = 'relative'", "root"),
            ("[snapshotter]\ncaches = ['relative']", "snapshotter.caches"),
            ("[snapshotter]\ndefault_size = 'much'", "much"),
            ("[snapshotter]\ndefault_size = -1", "default_size"),
            ("[snapshotter]\nlimit_by = 'hope'", "hope"),
            ("[snapshotter]\nfs_verity = 'maybe'", "maybe"),
            ("[snapshotter]\nfs_verity = 'signed'", "signed"),
            ("[snapshotter]\ndm_verity = true", "`true`, expected \"off\", \"auto\""),
            ("[differ]\ndm_verity = 'auto'", "\"off\" or \"required\""),
            ("[metrics]\naddress = 'localhost'", "localhost"),
            ("[metrics]\naddress = 'unix:relative'", "absolute"),
            ("[stream_processors.x]\naccepts = []\nreturns = ''", "path"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn protections_have_one_vocabulary_and_the_words_before_it_for_one_release() {
        use FsVerityPolicy::{IfPossible, Required};
        let fs_verity = |config: &Config| config.snapshotter().verity;
        let fs = [("off", FsVerityPolicy::Off), ("auto", IfPossible), ("required", Required)];
        for (written, value, new) in fs
            .map(|(word, value)| (word, value, None))
            .into_iter()
            .chain([("if-possible", IfPossible, Some("auto"))])
        {
            let config = parse(&format!("[snapshotter]\nfs_verity = '{written}'")).unwrap();
            assert_eq!(fs_verity(&config), value, "{written}");
            let want = new.map(|new| ("snapshotter.fs_verity", written, new));
            assert_eq!(config.retired().collect::<Vec<_>>(), Vec::from_iter(want));
        }
        for (written, value, new) in [
            ("off", DmVerity::Off, None),
            ("auto", DmVerity::Auto, None),
            ("required", DmVerity::On, None),
            ("signed", DmVerity::Signed, None),
            ("on", DmVerity::On, Some("required")),
        ] {
            let config = parse(&format!("[snapshotter]\ndm_verity = '{written}'")).unwrap();
            assert_eq!(config.snapshotter().dm_verity, value, "{written}");
            let want = new.map(|new| ("snapshotter.dm_verity", written, new));
            assert_eq!(config.retired().collect::<Vec<_>>(), Vec::from_iter(want));
        }
        for (written, value, words) in [
            ("'off'", false, None),
            ("'required'", true, None),
            ("false", false, Some(("false", "off"))),
            ("true", true, Some(("true", "required"))),
        ] {
            let config = parse(&format!("[differ]\ndm_verity = {written}")).unwrap();
            assert_eq!(config.differ.dm_verity.value, value, "{written}");
            let want = words.map(|(old, new)| ("differ.dm_verity", old, new));
            assert_eq!(config.retired().collect::<Vec<_>>(), Vec::from_iter(want));
        }
    }

    #[test]
    fn the_budget_of_a_layer_is_what_is_written() {
        for (text, ratio) in
            [("", Some(200)), ("max_layer_ratio = 5000", Some(5000)), ("max_layer_ratio = 0", None)]
        {
            let budget = parse(&format!("[differ]\n{text}")).unwrap().differ.budget();
            assert_eq!(budget.max_ratio, ratio, "{text}");
        }
        let budget = parse("").unwrap().differ.budget();
        assert_eq!(budget, erolith_differ::decode::Budget::default());
    }

    #[test]
    fn sizes_are_numbers_or_texts() {
        for (written, want) in [("0", 0), ("''", 0), ("67108864", 64 << 20), ("'10GiB'", 10 << 30)]
        {
            let config = parse(&format!("[snapshotter]\ndefault_size = {written}")).unwrap();
            assert_eq!(config.snapshotter().default_size, want, "{written}");
        }
    }

    #[test]
    fn metrics_addresses_are_tcp_or_unix() {
        let tcp = "127.0.0.1:9464".parse().unwrap();
        for (text, want) in [
            ("", MetricsAddress::None),
            ("127.0.0.1:9464", MetricsAddress::Tcp(tcp)),
            ("unix:/run/m", MetricsAddress::Unix("/run/m".into())),
            ("unix:///run/m", MetricsAddress::Unix("/run/m".into())),
        ] {
            assert_eq!(text.parse::<MetricsAddress>().unwrap(), want, "{text}");
        }
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        for (content, place, named, mark) in [
            ("rooot = \"/x\"\n", (1, 1), "rooot", "^"),
            ("[log]\nlevel = \"info\"\nformat = \"xml\"\n", (3, 10), "xml", "         ^"),
            ("[differ]\n\tparallel = maybe\n", (2, 13), "", "\t           ^"),
        ] {
            let error: toml::de::Error = toml::from_str::<Config>(content).unwrap_err();
            let error = Error::parse("c.toml".into(), content, &error);
            let (line, column) = place;
            let message = error.to_string();
            assert!(message.starts_with(&format!("c.toml:{line}:{column}: ")), "{message}");
            assert!(message.contains(named) && !message.contains('\n'), "{message}");
            let want = format!("{line} | {}\n  | {mark}", content.lines().nth(line - 1).unwrap());
            assert_eq!(error.excerpt().unwrap(), format!("  |\n{want}"));
        }
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.toml");
        assert!(matches!(Config::read(Some(&missing)), Err(Error::Read { .. })));
    }
}
