//! Where an image is, as skopeo writes it: `oci:DIR[:REF]`, `oci-archive:FILE[:REF]`, `docker-archive:FILE[:REF]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::OciImageError;
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
    /// The transport that a location begins with, and what is behind it.
    #[must_use]
    pub fn split(text: &str) -> Option<(Self, &str)> {
        let (name, rest) = text.split_once(':')?;
        let all = [Self::Oci, Self::OciArchive, Self::DockerArchive];
        Some((all.into_iter().find(|transport| transport.name() == name)?, rest))
    }

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

impl Location {
    /// What to write in place of a text that is no location: the same image in a store that is read here.
    #[must_use]
    pub fn advice(text: &str) -> String {
        const ELSEWHERE: [&str; 6] =
            ["docker", "docker-daemon", "containers-storage", "dir", "containerd", "ostree"];
        let copied = |from: &str| {
            format!(
                "copy the image first: skopeo copy {from} oci:DIR:TAG, and then give oci:DIR:TAG"
            )
        };
        let stored = format!(
            "write oci:{text} for a layout directory, oci-archive:{text} or docker-archive:{text} for an archive"
        );
        match text.split_once(':') {
            Some((transport, _)) if ELSEWHERE.contains(&transport) => copied(text),
            // A name with a tag.
            Some(_) if is_reference(text) => copied(&format!("docker://{text}")),
            None if is_reference(text) => {
                format!(
                    "{stored}; or if a registry has it, {}",
                    copied(&format!("docker://{text}"))
                )
            }
            _ => stored,
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| {
            Error::Image(OciImageError::BadLocation {
                text: text.to_owned(),
                reason: reason.to_owned(),
            })
        };
        let found = Transport::split(text);
        let (transport, rest) = found.ok_or_else(|| bad(&Self::advice(text)))?;
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
    fn what_is_no_location_is_answered_with_one() {
        for (text, advice) in [
            ("alpine:3.20", "skopeo copy docker://alpine:3.20 oci:DIR:TAG"),
            ("docker://alpine", "skopeo copy docker://alpine oci:DIR:TAG"),
            ("docker-daemon:app:1", "skopeo copy docker-daemon:app:1 oci:DIR:TAG"),
            ("ghcr.io/a/b:1", "skopeo copy docker://ghcr.io/a/b:1 oci:DIR:TAG"),
            ("layout", "oci:layout"),
            ("layout", "docker://layout"),
            ("./layout", "oci:./layout"),
            ("/a/image.tar", "oci-archive:/a/image.tar or docker-archive:/a/image.tar"),
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.code(), "location-invalid");
            assert!(error.to_string().contains(advice), "{error}");
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
