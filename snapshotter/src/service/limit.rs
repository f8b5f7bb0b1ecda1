//! Which snapshots are limited, and to what.

use crate::store::Labels;
use crate::uppers::MIN_LIMIT;
use crate::{Error, Result};

use super::create::REF_LABEL;

/// Bytes that the writable layer may have: decimal digits. containerd's EROFS snapshotter has the same label.
const SIZE_LABEL: &str = "containerd.io/snapshot/max-size";
/// Bytes that every filesystem can count.
const MAX_LIMIT: u64 = i64::MAX as u64;

/// The limit of the active snapshot `key`: what its label says, else `default`, else none.
///
/// The default is not for snapshots that layers are unpacked into: they hold what an image says, and are limited by
/// what a layer may expand to.
///
/// # Errors
/// [`Error::Limit`] for a label that is no size. containerd's own snapshotter takes the default then; who wanted a
/// limit would not learn that there is another one, or none.
pub(super) fn of(key: &str, labels: &Labels, default: u64) -> Result<Option<u64>> {
    if let Some(value) = labels.get(SIZE_LABEL) {
        return parse(value).map(Some);
    }
    Ok(Some(default).filter(|&bytes| bytes > 0 && !is_unpacked_into(key, labels)))
}

/// containerd says what it unpacks by a label, or by a key like `extract-123-abc sha256:...` behind its own prefixes.
/// No container has such a key: their names have no spaces.
fn is_unpacked_into(key: &str, labels: &Labels) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    labels.contains_key(REF_LABEL) || (name.starts_with("extract-") && name.contains(' '))
}

fn parse(value: &str) -> Result<u64> {
    let refuse = |reason| Error::Limit { what: SIZE_LABEL, value: value.to_owned(), reason };
    // `str::parse` would take a sign.
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refuse("not a number of bytes in decimal digits"));
    }
    let bytes = value.parse().map_err(|_| refuse("more than any filesystem has"))?;
    check(SIZE_LABEL, bytes)?;
    Ok(bytes)
}

/// Refuses what no writable layer can be limited to. `what` is the label or setting.
pub(super) fn check(what: &'static str, bytes: u64) -> Result<()> {
    let refuse = |reason| Err(Error::Limit { what, value: bytes.to_string(), reason });
    match bytes {
        0..MIN_LIMIT => refuse("less than the 16 MiB that the smallest writable layer has"),
        MIN_LIMIT..=MAX_LIMIT => Ok(()),
        _ => refuse("more than any filesystem has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn a_label_is_obeyed_or_refused() {
        for (value, want) in [
            ("16777216", Some(16 << 20)),
            ("0016777216", Some(16 << 20)),
            ("9223372036854775807", Some(MAX_LIMIT)),
            ("9223372036854775808", None),
            ("99999999999999999999999", None),
            ("16777215", None),
            ("0", None),
            ("-16777216", None),
            ("+16777216", None),
            ("16MiB", None),
            ("16777216.5", None),
            (" 16777216", None),
            ("", None),
        ] {
            for more in [&[][..], &[(REF_LABEL, "chain")]] {
                let labels = labels(&[more, &[(SIZE_LABEL, value)]].concat());
                match (of("k", &labels, 7 << 30), want) {
                    (Ok(got), Some(_)) => assert_eq!(got, want, "{value}"),
                    (Err(error), None) => {
                        assert_eq!(error.status(), Status::InvalidArgument, "{value}");
                        assert!(error.to_string().contains(SIZE_LABEL), "{error}");
                    }
                    (got, _) => panic!("{value}: {got:?}"),
                }
            }
        }
    }

    #[test]
    fn the_default_is_for_containers_and_not_for_layers() {
        let unpacking = [(REF_LABEL, "sha256:0123")];
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
            assert_eq!(of(key, &labels(pairs), default).unwrap(), want, "{key} {pairs:?}");
        }
    }
}
