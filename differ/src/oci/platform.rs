//! Platforms: what an image runs on (image-spec, image-index.md), and which image a platform gets.
//!
//! Names and choice follow containerd's package `github.com/containerd/platforms`: both sides are normalised before they
//! are compared, a platform without a variant never gets an image that needs a later one, and an older variant is taken
//! where there is no better one.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::EROFS_FEATURE;
use crate::error::OciImageError;
use crate::{Error, Result};

/// An operating system and a processor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`: Go's names.
    pub architecture: String,
    /// `v8` of `arm64`; empty when there is none.
    pub variant: String,
    /// Windows has versions that matter.
    pub os_version: String,
    /// What the OS must be able to do: `erofs`.
    pub os_features: Vec<String>,
}

impl Platform {
    /// The one this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        let mut host = Self::new("linux", architecture, "").normalized();
        if host.architecture == "arm" {
            let machine = rustix::system::uname();
            host.variant = arm_variant(&machine.machine().to_string_lossy()).to_owned();
        }
        host
    }

    fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
    }

    /// The members of a JSON object: a descriptor's `platform`, or a config.
    #[must_use]
    pub(crate) fn from_json(map: &Map<String, Value>) -> Self {
        let text = |key| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let features = map.get("os.features").and_then(Value::as_array);
        let features = features.into_iter().flatten().filter_map(Value::as_str);
        Self {
            os: text("os"),
            architecture: text("architecture"),
            variant: text("variant"),
            os_version: text("os.version"),
            os_features: features.map(str::to_owned).collect(),
        }
    }

    /// As a descriptor's `platform`.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("architecture".to_owned(), json!(self.architecture));
        map.insert("os".to_owned(), json!(self.os));
        if !self.os_version.is_empty() {
            map.insert("os.version".to_owned(), json!(self.os_version));
        }
        if !self.os_features.is_empty() {
            map.insert("os.features".to_owned(), json!(self.os_features));
        }
        if !self.variant.is_empty() {
            map.insert("variant".to_owned(), json!(self.variant));
        }
        Value::Object(map)
    }

    /// With `feature` among the OS features.
    #[must_use]
    pub fn with_feature(mut self, feature: &str) -> Self {
        if !self.has_feature(feature) {
            self.os_features.push(feature.to_owned());
        }
        self
    }

    /// Whether `feature` is among the OS features.
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.os_features.iter().any(|f| f == feature)
    }

    /// Whether it is the platform that BuildKit invents for attestations.
    pub(crate) fn is_unknown(&self) -> bool {
        let normal = self.normalized();
        normal.os == "unknown" || normal.architecture == "unknown"
    }

    /// With the names that Go has for OS, architecture and variant (containerd's `platforms.Normalize`): `x86_64` is
    /// `amd64`, `armhf` is `arm/v7`, and `v8` of `arm64` goes without saying. No OS is Linux.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        let (os_version, os_features) = (self.os_version.clone(), self.os_features.clone());
        Self { os_version, os_features, ..Self::new(&os, architecture, variant) }
    }

    /// The platforms whose images run here, the best first (containerd's `platforms.Only`).
    fn accepted(&self) -> Vec<Self> {
        let this = self.normalized();
        let with = |architecture: &str, variant: &str| {
            Self::new(&this.os, architecture, variant).normalized()
        };
        let mut accepted = vec![this.clone()];
        match this.architecture.as_str() {
            "amd64" => {
                let level = number(&this.variant).unwrap_or(1);
                accepted.extend((1..level).rev().map(|level| with("amd64", &format!("v{level}"))));
                accepted.push(with("386", ""));
            }
            "arm" => accepted.extend(older_arm(&this.variant).map(|v| with("arm", &v))),
            "arm64" => {
                accepted.extend(older_arm64(&this.variant).map(|v| with("arm64", &v)));
                // The 32-bit programs of the same processor.
                accepted.push(with("arm", "v8"));
                accepted.extend(older_arm("v8").map(|v| with("arm", &v)));
            }
            _ => {}
        }
        accepted
    }

    /// How well an image for `self` serves a request for `wanted`: 0 is best, and nothing means that it does not run
    /// there. The image may need no OS feature that is not wanted, but for that of EROFS layers, which say how an image
    /// is stored. A version of Windows must be the same up to its build number, where both name one.
    #[must_use]
    pub fn rank(&self, wanted: &Self) -> Option<usize> {
        let this = self.normalized();
        let is_here = |feature: &String| feature == EROFS_FEATURE || wanted.has_feature(feature);
        if !this.os_features.iter().all(is_here) {
            return None;
        }
        let is_wanted = |other: &Self| {
            (&other.os, &other.architecture, &other.variant)
                == (&this.os, &this.architecture, &this.variant)
        };
        let rank = wanted.accepted().iter().position(is_wanted)?;
        let is_same = this.os != "windows" || is_same_build(&this.os_version, &wanted.os_version);
        is_same.then_some(rank)
    }

    /// Whether an image for `self` runs on `wanted`.
    #[must_use]
    pub fn answers(&self, wanted: &Self) -> bool {
        self.rank(wanted).is_some()
    }
}

/// The number of a variant such as `v7`.
fn number(variant: &str) -> Option<u8> {
    variant.strip_prefix('v').unwrap_or(variant).parse().ok()
}

/// The variants of 32-bit ARM below this one, down to v5, the last that Linux distributions were made for.
fn older_arm(variant: &str) -> impl Iterator<Item = String> {
    (5..number(variant).unwrap_or(0)).rev().map(|v| format!("v{v}"))
}

/// The versions of 64-bit ARM that this one includes: those before it, and v8.(x+5) is part of v9.x (Arm Architecture
/// Reference Manual, "Armv9-A").
fn older_arm64(variant: &str) -> impl Iterator<Item = String> {
    let text = if variant.is_empty() { "v8" } else { variant };
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let (nines, eights) = match (number(major), minor.parse::<u8>()) {
        (Some(9), Ok(minor)) => (minor, minor.saturating_add(6)),
        (Some(8), Ok(minor)) => (0, minor),
        _ => (0, 0),
    };
    let version = |major: u8| move |minor: u8| format!("v{major}.{minor}");
    (0..nines).rev().map(version(9)).chain((0..eights).rev().map(version(8)))
}

/// The variant of a 32-bit ARM program by the machine that uname(2) names. A 64-bit kernel says `aarch64`.
fn arm_variant(machine: &str) -> &'static str {
    match machine.get(..5) {
        Some("armv5") => "v5",
        Some("armv6") => "v6",
        Some("armv8" | "aarch") => "v8",
        _ => "v7",
    }
}

/// Whether these are the same version of Windows, as far as both say. Behind the build comes the patch level.
fn is_same_build(one: &str, other: &str) -> bool {
    let build = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
    one.is_empty() || other.is_empty() || build(one) == build(other)
}

impl FromStr for Platform {
    type Err = Error;

    /// `os[(version+feature...)]/architecture[/variant]`, or an architecture of Linux alone.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Image(OciImageError::BadPlatform { text: text.to_owned() });
        let is_plain = |part: &str, more: &[u8]| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match *parts.as_slice() {
            [architecture] if ARCHITECTURES.contains(&alone(architecture).as_str()) => {
                ("linux", architecture, "")
            }
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] if is_plain(variant, b"_-.") => (os, architecture, variant),
            _ => return Err(bad()),
        };
        let (os, options) = match os.split_once('(') {
            Some((os, options)) => (os, options.strip_suffix(')').ok_or_else(bad)?),
            None => (os, ""),
        };
        let mut options = options.split('+');
        let os_version = options.next().unwrap_or_default().to_owned();
        let os_features: Vec<String> = options.map(str::to_owned).collect();
        let mut names = os_features.iter().chain(Some(&os_version).filter(|v| !v.is_empty()));
        if !is_plain(os, b"_-")
            || !is_plain(architecture, b"_-.")
            || !names.all(|name| is_plain(name, b"_-.%"))
        {
            return Err(bad());
        }
        Ok(Self { os_version, os_features, ..Self::new(os, architecture, variant) }.normalized())
    }
}

/// The architectures that stand alone for one of Linux (Go's `syslist.go`, those Linux has).
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "sparc64", "armbe",
];

/// The architecture that a name alone means.
fn alone(name: &str) -> String {
    Platform::new("linux", name, "").normalized().architecture
}

impl fmt::Display for Platform {
    /// As containerd writes it: `linux(+erofs)/arm64/v8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        if !self.os_features.is_empty() || !self.os_version.is_empty() {
            write!(f, "({}", self.os_version)?;
            self.os_features.iter().try_for_each(|feature| write!(f, "+{feature}"))?;
            f.write_str(")")?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
