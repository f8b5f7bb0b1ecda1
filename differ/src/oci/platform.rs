//! Platforms: what an image runs on (image-spec, image-index.md).

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

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
    /// The one this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), ..Self::default() }
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
    pub(crate) fn with_feature(mut self, feature: &str) -> Self {
        if !self.has_feature(feature) {
            self.os_features.push(feature.to_owned());
        }
        self
    }

    /// Is `feature` among the OS features?
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.os_features.iter().any(|f| f == feature)
    }

    /// Does an image for `self` answer a request for `wanted`? OS features and versions are not looked at.
    #[must_use]
    pub fn answers(&self, wanted: &Self) -> bool {
        let variant = |p: &Self| match (p.architecture.as_str(), p.variant.as_str()) {
            // The first 64-bit ARM; containerd's normalisation.
            ("arm64", "" | "8") => "v8".to_owned(),
            ("arm", "") => "v7".to_owned(),
            ("amd64", "v1") => String::new(),
            (_, v) => v.to_owned(),
        };
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_empty() || variant(self) == variant(wanted))
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `os/architecture[/variant]`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadPlatform { text: text.to_owned() };
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if !parts.iter().all(plain) {
            return Err(bad());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return Err(bad()),
        };
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        })
    }
}

impl fmt::Display for Platform {
    /// As containerd writes it: `linux(+erofs)/arm64/v8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        if !self.os_features.is_empty() {
            write!(f, "(+{})", self.os_features.join("+"))?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_parsed_and_matched() {
        let parse = |text: &str| text.parse::<Platform>().unwrap();
        for (have, want, expect) in [
            ("linux/amd64", "linux/x86_64", true),
            ("linux/amd64", "linux/arm64", false),
            ("windows/amd64", "linux/amd64", false),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm", true),
        ] {
            assert_eq!(parse(have).answers(&parse(want)), expect, "{have} for {want}");
        }
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/../x y"] {
            assert_eq!(bad.parse::<Platform>().unwrap_err().code(), "platform-invalid", "{bad}");
        }
        let erofs = parse("linux/arm64/v8").with_feature("erofs").with_feature("erofs");
        assert_eq!(erofs.to_string(), "linux(+erofs)/arm64/v8");
        let json = erofs.to_json();
        assert_eq!(Platform::from_json(json.as_object().unwrap()), erofs);
    }
}
