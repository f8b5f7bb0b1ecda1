//! Which snapshots are limited, and to what.

use crate::store::Labels;
use crate::uppers::MIN_LIMIT;
use crate::{Error, LimitError, Result};

use super::labels::{SIZE_LABEL, is_unpack};

/// Bytes that no file of ext4 has, and so no writable layer that is one: 16 TiB (`s_maxbytes` with blocks of 4096 bytes).
const TOO_LARGE: u64 = 1 << 44;
/// Bytes that every filesystem can count.
const MAX_LIMIT: u64 = i64::MAX as u64;

/// The limit of the active snapshot `key`: what its label says, else `default`, else none.
///
/// The label is a hint (`LabelSnapshotMaxSize` in core/snapshots of containerd): a value that no writable layer can have
/// leaves the default in force, with a warning.
///
/// Snapshots that layers are unpacked into have no limit: they hold what an image says, and are limited by what a layer may
/// expand to. A label there is an annotation of the image.
pub(super) fn of(key: &str, labels: &Labels, default: u64) -> Option<u64> {
    if is_unpacked_into(key, labels) {
        return None;
    }
    let default = Some(default).filter(|&bytes| bytes > 0);
    let Some(value) = labels.get(SIZE_LABEL) else { return default };
    match parse(value) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let limit = default.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} bytes"));
            tracing::warn!(
                error = error.line(),
                key,
                limit,
                "the default limit of writable layers is used instead"
            );
            default
        }
    }
}

/// containerd says what it unpacks by a label, or by a key like `extract-123-abc sha256:...` behind its own prefixes.
/// No container has such a key: their names have no spaces.
fn is_unpacked_into(key: &str, labels: &Labels) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    is_unpack(labels) || (name.starts_with("extract-") && name.contains(' '))
}

fn parse(value: &str) -> Result<u64> {
    let refuse = |reason| {
        Error::Limit(LimitError::BadSize { what: SIZE_LABEL, value: value.to_owned(), reason })
    };
    // `str::parse` would take a sign.
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refuse("not a number of bytes in decimal digits"));
    }
    let bytes = value.parse().map_err(|_| refuse("more than any filesystem has"))?;
    if bytes >= TOO_LARGE {
        return Err(refuse("not less than the 16 TiB that a file of ext4 may have"));
    }
    check(SIZE_LABEL, bytes)?;
    Ok(bytes)
}

/// Refuses what no writable layer can be limited to. `what` is the label or setting.
pub(super) fn check(what: &'static str, bytes: u64) -> Result<()> {
    let refuse =
        |reason| Err(Error::Limit(LimitError::BadSize { what, value: bytes.to_string(), reason }));
    match bytes {
        0..MIN_LIMIT => refuse("less than the 16 MiB that the smallest writable layer has"),
        MIN_LIMIT..=MAX_LIMIT => Ok(()),
        _ => refuse("more than any filesystem has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn a_label_is_obeyed_or_passed_over() {
        for (value, want) in [
            ("16777216", Some(16 << 20)),
            ("0016777216", Some(16 << 20)),
            ("17592186044415", Some((1 << 44) - 1)),
            ("17592186044416", None),
            ("9223372036854775807", None),
            ("9223372036854775808", None),
            ("99999999999999999999999", None),
            ("16777215", None),
            ("0", None),
            ("-1", None),
            ("100", None),
            ("abc", None),
            ("999999999999999999", None),
            ("-16777216", None),
            ("+16777216", None),
            ("16MiB", None),
            ("16777216.5", None),
            (" 16777216", None),
            ("", None),
        ] {
            let sized = labels(&[(SIZE_LABEL, value)]);
            for (default, fallback) in [(0, None), (7 << 30, Some(7 << 30))] {
                assert_eq!(of("k", &sized, default), want.or(fallback), "{value} {default}");
            }
            let unpacked =
                labels(&[(super::super::labels::REF_LABEL, "chain"), (SIZE_LABEL, value)]);
            assert_eq!(of("k", &unpacked, 7 << 30), None, "{value}");
        }
    }

    #[test]
    fn the_default_is_for_containers_and_not_for_layers() {
        let unpacking = [(super::super::labels::REF_LABEL, "sha256:0123")];
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], u64, Option<u64>);
        let table: [Row<'_>; 7] = [
            ("default/1/app", &[], 5, Some(5)),
            ("default/1/app", &[("other", "x")], 5, Some(5)),
            ("default/1/app", &[], 0, None),
            ("default/1/app", &unpacking, 5, None),
            ("default/1/extract-9-abc sha256:0123", &[], 5, None),
            // What a user may call a container.
            ("default/1/extract-9", &[], 5, Some(5)),
            ("extract-1 x/1/app", &[], 5, Some(5)),
        ];
        for (key, pairs, default, want) in table {
            assert_eq!(of(key, &labels(pairs), default), want, "{key} {pairs:?}");
        }
    }
}
