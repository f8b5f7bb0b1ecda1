//! Where an image is, as skopeo writes it: `oci:DIR[:REF]`, `oci-archive:FILE[:REF]`, `docker-archive:FILE[:REF]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Error, Result};

/// The form in which an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// An OCI image layout directory.
    Oci,
    /// A tar archive of such a directory.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

impl Transport {
    /// Its name in a location.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
        }
    }
}

/// An image in a directory or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The form.
    pub transport: Transport,
    /// The directory or file. `-` is standard input, for archives.
    pub path: PathBuf,
    /// Which image in it; without one there must be only one.
    pub reference: Option<String>,
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason| Error::BadLocation { text: text.to_owned(), reason };
        let (transport, rest) = text.split_once(':').ok_or_else(|| bad("it has no transport"))?;
        let transport = match transport {
            "oci" => Transport::Oci,
            "oci-archive" => Transport::OciArchive,
            "docker-archive" => Transport::DockerArchive,
            _ => return Err(bad("the transport is not oci, oci-archive or docker-archive")),
        };
        // The first colon ends the path, as in skopeo: a reference may have colons of its own.
        let (path, reference) = match rest.split_once(':') {
            Some((path, reference)) => (path, Some(reference)),
            None => (rest, None),
        };
        if path.is_empty() || path.contains('\0') {
            return Err(bad("it has no path"));
        }
        if reference.is_some_and(|r| !is_reference(r)) {
            return Err(bad("the reference is not a name or tag"));
        }
        Ok(Self { transport, path: PathBuf::from(path), reference: reference.map(str::to_owned) })
    }
}

/// The grammar of `org.opencontainers.image.ref.name` (image-spec, annotations.md), which holds tags and full names.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-._:@+_".contains(&b);
    let component = |part: &str| {
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(inner)
            && !part.contains("..")
    };
    text.len() <= 1024 && text.split('/').all(component)
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.name(), self.path.display())?;
        match &self.reference {
            Some(reference) => write!(f, ":{reference}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_follow_the_grammar_of_skopeo() {
        for (text, transport, path, reference) in [
            ("oci:dir", Transport::Oci, "dir", None),
            ("oci:/a/b:latest", Transport::Oci, "/a/b", Some("latest")),
            ("oci-archive:x.tar:v1.2", Transport::OciArchive, "x.tar", Some("v1.2")),
            (
                "docker-archive:x.tar:docker.io/library/busybox:1.36",
                Transport::DockerArchive,
                "x.tar",
                Some("docker.io/library/busybox:1.36"),
            ),
            ("docker-archive:-", Transport::DockerArchive, "-", None),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.transport, transport);
            assert_eq!(location.path, PathBuf::from(path));
            assert_eq!(location.reference.as_deref(), reference);
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn d16_references_and_paths_that_are_none_are_refused() {
        for text in [
            "",
            "dir",
            "dir:tag",
            "docker:busybox",
            "oci:",
            "oci::tag",
            "oci:dir:",
            "oci:dir:../../etc",
            "oci:dir:a/../b",
            "oci:dir:a..b",
            "oci:dir:/etc",
            "oci:dir:tag with space",
            "oci:dir:-tag",
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().code(), "location-invalid", "{text}");
        }
    }
}
