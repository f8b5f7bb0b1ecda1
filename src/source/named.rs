//! What commands read, as it is named on the command line: one grammar for all of them.
//!
//! `PATH` is a file or directory. `oci:DIR[:REF]`, `oci-archive:FILE[:REF]` and `docker-archive:FILE[:REF]` are an image,
//! and with `#N` or `#DIGEST` behind it one of its layers.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use clap::builder::{OsStringValueParser, TypedValueParser};
use erolith_differ::error::OciImageError;
use erolith_differ::oci::{ImageSource, Location, OciImage, Platform, Select, Transport};

use crate::exit::{BadInput, Usage};

/// Hexadecimal digits that a digest must begin with.
const PREFIX_MIN: usize = 6;

/// A tree, an image or a layer, as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// A file or a directory.
    Path(PathBuf),
    /// An image, or one layer of it.
    Image(Location, Option<LayerName>),
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayerName {
    /// By position; 0 is the lowest.
    Number(usize),
    /// By the digest of the blob, or by the diffID, or by how one of them begins.
    Digest(String),
}

impl LayerName {
    /// Reads what is behind the `#`.
    fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self::Number(number));
        }
        let (algorithm, digits) = text.split_once(':')?;
        let is_digest = ["sha256", "sha512"].contains(&algorithm)
            && digits.len() >= PREFIX_MIN
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_digest.then(|| Self::Digest(text.to_owned()))
    }

    /// Which layer of the image it is; 0 is the lowest.
    ///
    /// # Errors
    /// [`Usage`] when the image has no such layer, or several.
    pub(crate) fn find(&self, image: &OciImage) -> anyhow::Result<usize> {
        let is_called = |index: usize| match (self, image.layers.get(index)) {
            (Self::Number(number), _) => *number == index,
            (Self::Digest(wanted), Some(layer)) => {
                let blob = layer.descriptor().map(|descriptor| descriptor.digest.to_string());
                let names = blob.into_iter().chain([layer.diff_id.to_string()]);
                names.into_iter().any(|name| name.starts_with(wanted))
            }
            _ => false,
        };
        let found: Vec<usize> = (0..image.layers.len()).filter(|i| is_called(*i)).collect();
        // The same layer may be there several times.
        let first = found.first().and_then(|first| image.layers.get(*first));
        let is_same =
            |i: &usize| image.layers.get(*i).map(|l| &l.diff_id) == first.map(|l| &l.diff_id);
        match found.as_slice() {
            [] => {
                let count = image.layers.len();
                Err(Usage(format!("no layer {self}: the image has {count}, #0 the lowest")).into())
            }
            [first, ..] if found.iter().all(is_same) => Ok(*first),
            _ => Err(Usage(format!("several layers are called {self}: give more digits")).into()),
        }
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "#{number}"),
            Self::Digest(digest) => write!(f, "#{digest}"),
        }
    }
}

impl FromStr for Named {
    type Err = erolith_differ::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if Transport::split(text).is_some() {
            // A path may have such a character, too.
            let layer = text.rsplit_once('#');
            let layer = layer.and_then(|(rest, layer)| Some((rest, LayerName::parse(layer)?)));
            return Ok(match layer {
                Some((rest, layer)) => Self::Image(rest.parse()?, Some(layer)),
                None => Self::Image(text.parse()?, None),
            });
        }
        if text.starts_with("docker://") {
            let (text, reason) = (text.to_owned(), Location::advice(text));
            return Err(erolith_differ::Error::Image(OciImageError::BadLocation { text, reason }));
        }
        Ok(Self::Path(text.into()))
    }
}

/// Reads such a name; paths may have any bytes.
pub(crate) fn named() -> impl TypedValueParser<Value = Named> {
    OsStringValueParser::new().try_map(|text: OsString| match text.to_str() {
        Some(text) => text.parse::<Named>(),
        None => Ok(Named::Path(text.into())),
    })
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Image(location, None) => write!(f, "{location}"),
            Self::Image(location, Some(layer)) => write!(f, "{location}{layer}"),
        }
    }
}

/// Opens the one image at `location`: for `platform`, or for this machine. Where there are several forms of it, one of EROFS
/// layers is taken, which need not be converted.
///
/// # Errors
/// What [`ImageSource::open`] reports.
pub(crate) fn open_image(
    location: &Location,
    platform: Option<&Platform>,
    scratch: &Path,
) -> anyhow::Result<(ImageSource, OciImage)> {
    let select = match platform {
        None => Select::Host { erofs: true },
        Some(platform) => Select::Platforms(vec![platform.clone().with_feature("erofs")]),
    };
    let opened = ImageSource::open(location, &select, scratch);
    let mut source = opened.with_context(|| location.to_string())?;
    let images = std::mem::take(&mut source.images);
    match <[OciImage; 1]>::try_from(images) {
        Ok([image]) => Ok((source, image)),
        Err(images) => {
            let count = images.len();
            let text = format!("{location}: {count} images; name one with --platform");
            Err(BadInput(text).into())
        }
    }
}

/// What to write in place of a path at which there is no image file, when that can be told.
pub(super) fn advice(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    match fs::metadata(path) {
        Ok(found) if found.is_dir() && path.join("oci-layout").exists() => {
            Some(format!("an image layout is named oci:{text}[:REF]"))
        }
        Ok(_) => None,
        // Not the name of a file that was mistyped.
        Err(_) if text.contains(':') => Some(Location::advice(text)),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_paths_images_and_layers() {
        let digest = "sha256:0123456789abcdef";
        for (text, location, layer) in [
            ("oci:dir", "oci:dir", None),
            ("oci:dir:tag", "oci:dir:tag", None),
            ("oci:dir#0", "oci:dir", Some(LayerName::Number(0))),
            ("oci:a#b:tag#12", "oci:a#b:tag", Some(LayerName::Number(12))),
            ("oci:a#b", "oci:a#b", None),
            (
                &format!("oci-archive:x.tar:v1#{digest}"),
                "oci-archive:x.tar:v1",
                Some(LayerName::Digest(digest.to_owned())),
            ),
            ("docker-archive:x#sha256:0123", "docker-archive:x#sha256:0123", None),
        ] {
            let named: Named = text.parse().unwrap();
            assert_eq!(named, Named::Image(location.parse().unwrap(), layer), "{text}");
            assert_eq!(named.to_string(), text);
        }
        for path in ["image", "./oci", "a:b", "/a/b#1", "image#0"] {
            assert_eq!(path.parse::<Named>().unwrap(), Named::Path(path.into()));
        }
        let error = "docker://alpine".parse::<Named>().unwrap_err().to_string();
        assert!(error.contains("skopeo copy docker://alpine oci:DIR:TAG"), "{error}");
        assert!("oci:".parse::<Named>().is_err());
    }
}
