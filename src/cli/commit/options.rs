//! What the options mean together.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use erolith_differ::commit::CommitNote;
use erolith_differ::compare::LayerFormat;
use erolith_mkfs::meta::Time;
use erolith_overlay::{Owners, Range};

use super::args::{Args, Compression, Format};
use crate::cli::image_options::source_date_epoch;
use crate::exit::Usage;
use crate::serve::config::Config;
use crate::term;

/// What the two together are.
///
/// # Errors
/// [`Usage`] for a combination that has no media type.
pub(super) fn layer_format(
    format: Format,
    compression: Option<Compression>,
) -> Result<LayerFormat, Usage> {
    use erolith_differ::Compression as Tar;
    match (format, compression) {
        (Format::Oci, None | Some(Compression::Gzip)) => Ok(LayerFormat::Tar(Tar::Gzip)),
        (Format::Oci, Some(Compression::Zstd)) => Ok(LayerFormat::Tar(Tar::Zstd)),
        (Format::Oci, Some(Compression::None)) => Ok(LayerFormat::Tar(Tar::None)),
        (Format::Erofs, None | Some(Compression::None)) => Ok(LayerFormat::Erofs),
        (Format::Erofs, Some(Compression::Zstd)) => Ok(LayerFormat::ErofsZstd),
        (Format::Erofs, Some(Compression::Gzip)) => {
            let text = "EROFS layers are compressed with zstd or not at all: --compression zstd";
            Err(Usage(text.to_owned()))
        }
    }
}

/// Whose numbers the owners in the upper directory are.
///
/// # Errors
/// [`Usage`] for ranges that are no map.
pub(super) fn owners(users: &[Range], groups: &[Range]) -> Result<Owners, Usage> {
    for (option, ranges) in [("--uid-map", users), ("--gid-map", groups)] {
        Range::check_map(ranges).map_err(|error| Usage(format!("{option}: {error}")))?;
    }
    Ok(Owners { users: users.to_vec(), groups: groups.to_vec() })
}

/// Where containerd listens, as its own clients find it.
pub(super) fn address(args: &Args) -> PathBuf {
    let variable = || std::env::var_os("CONTAINERD_ADDRESS").filter(|value| !value.is_empty());
    let named = args.address.clone().or_else(|| variable().map(PathBuf::from));
    named.unwrap_or_else(|| Config::default().containerd.address)
}

/// The namespace, as containerd's own clients find it.
pub(super) fn namespace(args: &Args) -> String {
    let variable = || std::env::var("CONTAINERD_NAMESPACE").ok().filter(|value| !value.is_empty());
    args.namespace.clone().or_else(variable).unwrap_or_else(|| "default".to_owned())
}

/// The latest time that the image may hold, in seconds since 1970.
///
/// # Errors
/// [`Usage`] for a variable that is no number.
pub(super) fn latest(args: &Args) -> anyhow::Result<Option<i64>> {
    match args.source_date_epoch {
        Some(seconds) => Ok(Some(seconds)),
        None => source_date_epoch(),
    }
}

/// What the history says: made at `latest`, or now, by `created_by`.
pub(super) fn note(args: &Args, latest: Option<i64>, created_by: String) -> CommitNote {
    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sec = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Time { sec, nsec: now.subsec_nanos() }
    };
    let time = latest.map_or_else(now, |sec| Time { sec, nsec: 0 });
    CommitNote {
        created: term::iso(time),
        created_by,
        author: args.author.clone(),
        comment: args.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_compressions_have_media_types() {
        let of = |format, compression| {
            layer_format(format, compression).ok().map(LayerFormat::media_type)
        };
        let oci = "application/vnd.oci.image.layer.v1.tar";
        let erofs = "application/vnd.erofs.layer.v1";
        for (format, compression, want) in [
            (Format::Oci, None, Some(format!("{oci}+gzip"))),
            (Format::Oci, Some(Compression::Gzip), Some(format!("{oci}+gzip"))),
            (Format::Oci, Some(Compression::Zstd), Some(format!("{oci}+zstd"))),
            (Format::Oci, Some(Compression::None), Some(oci.to_owned())),
            (Format::Erofs, None, Some(erofs.to_owned())),
            (Format::Erofs, Some(Compression::None), Some(erofs.to_owned())),
            (Format::Erofs, Some(Compression::Zstd), Some(format!("{erofs}+zstd"))),
            (Format::Erofs, Some(Compression::Gzip), None),
        ] {
            assert_eq!(of(format, compression), want, "{format:?} {compression:?}");
        }
    }

    #[test]
    fn maps_are_taken_as_they_are_given_and_without_overlaps() {
        let ranges = |texts: &[&str]| -> Vec<Range> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let (apart, overlapping) = (ranges(&["0:9:1", "1:1:1"]), ranges(&["0:9:2", "1:1:1"]));
        let both = owners(&apart, &ranges(&["0:5:1"])).unwrap();
        assert_eq!(both, Owners { users: apart.clone(), groups: ranges(&["0:5:1"]) });
        assert_eq!(owners(&[], &[]).unwrap(), Owners::default());
        for (users, groups, option) in
            [(&overlapping, &apart, "--uid-map"), (&apart, &overlapping, "--gid-map")]
        {
            let Usage(text) = owners(users, groups).unwrap_err();
            assert!(text.contains(option) && text.contains("overlap"), "{text}");
        }
    }
}
