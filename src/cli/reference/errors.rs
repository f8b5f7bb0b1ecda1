//! `docs/errors.md`: the codes of errors, from the tables of the libraries.

use std::fmt::Write as _;

use erolith_differ::error::{ErrorClass, FamilyRow};
use erolith_mkfs::image::CorruptionKind;
use erolith_mkfs::{ErrorCode, tar, tree};
use tonic::Code;

use super::escaped;
use crate::exit::{ENVIRONMENT, INPUT, INTERRUPTED, IO, USAGE};

const HEAD: &str = "\
# Errors

Errors have codes that stay the same across versions: in `--json`, in findings of `erolith fsck` and in tests. A command
that ends with an error has one of the exit codes below, the daemon answers with a status of gRPC. The message says what
and where; this page says what to do. `cargo run -- reference errors >docs/errors.md` makes it again.
";

/// One code, as the document shows it.
struct ErrorRow {
    /// The code.
    code: &'static str,
    /// What is wrong.
    summary: &'static str,
    /// How commands end.
    exit: u8,
    /// What the daemon answers.
    status: Code,
    /// What to do.
    advice: &'static str,
}

/// Codes that arise in one place.
struct ErrorFamily {
    title: &'static str,
    /// Where its errors come from.
    about: &'static str,
    rows: Vec<ErrorRow>,
}

/// The whole document.
pub(super) fn document() -> String {
    let mut out = HEAD.to_owned();
    families().iter().for_each(|family| write_family(family, &mut out));
    out
}

/// Appends the section of a family. What is the same for all rows stands above the table.
fn write_family(family: &ErrorFamily, out: &mut String) {
    let ErrorFamily { title, about, rows } = family;
    let same = |of: fn(&ErrorRow) -> String| {
        let first = rows.first().map(of);
        first.filter(|first| rows.iter().all(|row| of(row) == *first))
    };
    let ends = |row: &ErrorRow| format!("{}, `{:?}`", row.exit, row.status);
    let advice = |row: &ErrorRow| escaped(row.advice);
    let (same_ends, same_advice) = (same(ends), same(advice));
    // Writing to a String does not fail.
    let _ = writeln!(out, "\n## {title}\n\n{about}");
    if let Some(ends) = &same_ends {
        let _ = writeln!(out, "Exit code and status: {ends}.");
    }
    if let Some(advice) = &same_advice {
        let _ = writeln!(out, "What to do: {advice}.");
    }
    out.push('\n');
    let mut line = |cells: [&str; 4]| {
        let is_shown = [true, true, same_ends.is_none(), same_advice.is_none()];
        let shown = cells.iter().zip(is_shown).filter(|(_, is_shown)| *is_shown);
        let cells: String = shown.map(|(cell, _)| format!("| {cell} ")).collect();
        let _ = writeln!(out, "{cells}|");
    };
    line(["code", "what is wrong", "exit, status", "what to do"]);
    line(["---"; 4]);
    for row in rows {
        let code = format!("`{}`", row.code);
        line([&code, &escaped(row.summary), &ends(row), &advice(row)]);
    }
}

/// Every family.
fn families() -> Vec<ErrorFamily> {
    let mut all =
        vec![images(), readers(), archives(), members(), builds(), overlays(), hash_trees()];
    all.extend(layers());
    all.push(decoding());
    all.push(snapshots());
    all
}

/// Rows of a table of a library that share everything but code and summary.
fn rows(codes: &[ErrorCode], exit: u8, status: Code, advice: &'static str) -> Vec<ErrorRow> {
    let row = |&ErrorCode { code, summary }| ErrorRow { code, summary, exit, status, advice };
    codes.iter().map(row).collect()
}

/// Changes what row `code` says of how it ends and what to do.
fn except(rows: &mut [ErrorRow], code: &str, exit: u8, status: Code, advice: &'static str) {
    for row in rows.iter_mut().filter(|row| row.code == code) {
        *row = ErrorRow { exit, status, advice, ..*row };
    }
}

fn images() -> ErrorFamily {
    let codes: Vec<_> = CorruptionKind::ALL
        .iter()
        .map(|kind| ErrorCode { code: kind.code(), summary: kind.text() })
        .collect();
    let advice = "`erolith fsck` shows all findings; get the image again, or make it again with `erolith mkfs`";
    ErrorFamily {
        title: "EROFS images",
        about: "The structures of an image: reading, `erolith fsck`, and the check of layers that are EROFS images. A mount \
                that finds one answers `DataLoss`.",
        rows: rows(&codes, INPUT, Code::InvalidArgument, advice),
    }
}

fn readers() -> ErrorFamily {
    let advice = "name another path, or look with `erolith stat` what it is";
    let mut rows = rows(erolith_mkfs::image::Error::CODES, INPUT, Code::InvalidArgument, advice);
    let advice = "look at the disk and its filesystem: the message has what the kernel said";
    except(&mut rows, "image-io", IO, Code::InvalidArgument, advice);
    ErrorFamily { title: "Reading images", about: "Reads of one image.", rows }
}

fn archives() -> ErrorFamily {
    let advice = "pull or save the image again; if the archive is the same again, its author has to make a new one";
    let rows = rows(tar::Problem::CODES, INPUT, Code::InvalidArgument, advice);
    ErrorFamily { title: "Archives", about: "The tar archive of a layer.", rows }
}

fn members() -> ErrorFamily {
    let advice =
        "the layer cannot be unpacked by others either: build the image again without that member";
    let rows = rows(tree::Error::CODES, INPUT, Code::InvalidArgument, advice);
    ErrorFamily {
        title: "Members of layers",
        about: "The tree that the members of an archive make.",
        rows,
    }
}

fn builds() -> ErrorFamily {
    let advice = "";
    let mut rows = rows(erolith_mkfs::Error::CODES, INPUT, Code::InvalidArgument, advice);
    let disk = "look at the disk and its free space: the message has what the kernel said";
    except(&mut rows, "input-io", IO, Code::Internal, disk);
    except(&mut rows, "output-io", IO, Code::Internal, disk);
    let large = "raise the limit that the message names, or split the layer";
    except(&mut rows, "image-too-large", INPUT, Code::InvalidArgument, large);
    let options = "leave out one of the options: the message says which";
    except(&mut rows, "bad-options", USAGE, Code::InvalidArgument, options);
    let report = "report it, with the layer: it is a fault of erolith";
    except(&mut rows, "internal", INPUT, Code::InvalidArgument, report);
    ErrorFamily {
        title: "Writing images",
        about: "An image that is written. Where a disk or a quota is full, the status is `ResourceExhausted`.",
        rows,
    }
}

fn overlays() -> ErrorFamily {
    let advice = "mount the overlay with the options that docs/commit.md names";
    let mut rows = rows(erolith_overlay::Error::CODES, INPUT, Code::FailedPrecondition, advice);
    let disk = "look at the disk: the message has what the kernel said";
    except(&mut rows, "input-io", IO, Code::Internal, disk);
    let pause = "commit again while the container does not write; `ctr task pause` stops it";
    except(&mut rows, "input-changed", IO, Code::Unavailable, pause);
    let stack = "unpack the layers with another tool: the message says what is not understood";
    except(&mut rows, "overlay-unsupported", INPUT, Code::InvalidArgument, stack);
    let owner = "give the file an owner that the container's map has";
    except(&mut rows, "owner-unmapped", INPUT, Code::InvalidArgument, owner);
    ErrorFamily {
        title: "Layers on top of each other",
        about: "Layers that are read as overlayfs shows them: diffs and commits. Where a disk or a quota is full, the status is \
                `ResourceExhausted`.",
        rows,
    }
}

/// The codes of hash trees: their crate has no table.
const HASH_TREES: &[ErrorCode] = &[
    ErrorCode { code: "dmverity-no-tree", summary: "there is no superblock of a hash tree" },
    ErrorCode {
        code: "dmverity-super",
        summary: "the superblock of the hash tree asks for something that is not supported",
    },
    ErrorCode { code: "dmverity-short", summary: "the file ends before its hash tree does" },
    ErrorCode { code: "dmverity-root", summary: "the root hash is not the expected one" },
    ErrorCode { code: "dmverity-block", summary: "a block is not what its digest says" },
    ErrorCode { code: "dmverity-bad-root", summary: "a root hash is not 64 hexadecimal digits" },
    ErrorCode {
        code: "dmverity-sidecar",
        summary: "a sidecar does not say how to open the device",
    },
    ErrorCode { code: "dmverity-unfit", summary: "no hash tree can be made for the image" },
    ErrorCode { code: "cancelled", summary: "the work was cancelled" },
    ErrorCode { code: "dmverity-io", summary: "reading or writing failed" },
];

fn hash_trees() -> ErrorFamily {
    let advice = "the image was changed or is of another root hash: get it again";
    let mut rows = rows(HASH_TREES, INPUT, Code::InvalidArgument, advice);
    let typed = "give the root hash as `erolith mkfs --dm-verity` or veritysetup printed it";
    except(&mut rows, "dmverity-bad-root", USAGE, Code::InvalidArgument, typed);
    let unfit = "write the image without a hash tree, or with blocks of 4096 bytes";
    except(&mut rows, "dmverity-unfit", INPUT, Code::InvalidArgument, unfit);
    let again = "start it again";
    except(&mut rows, "cancelled", INTERRUPTED, Code::Cancelled, again);
    let disk = "look at the disk: the message has what the kernel said";
    except(&mut rows, "dmverity-io", IO, Code::InvalidArgument, disk);
    ErrorFamily {
        title: "Hash trees",
        about: "dm-verity trees behind images, and their sidecars.",
        rows,
    }
}

/// The families of errors of layers and images, from their tables.
fn layers() -> Vec<ErrorFamily> {
    use erolith_differ::error as of;
    let again = "pull or save the image again; if it stays so, its author has to make a new one";
    let tables = [
        ("Layers", of::LayerError::ROWS, again),
        (
            "Limits",
            of::BudgetError::ROWS,
            "raise the limit that the message names, for a layer that is trusted",
        ),
        ("Bytes that are not the promised ones", of::MismatchError::ROWS, again),
        ("Content", of::ContentError::ROWS, "look at the path or the store that the message names"),
        (
            "Images",
            of::OciImageError::ROWS,
            "name another image, platform or location: the message lists what is there",
        ),
        (
            "Processes",
            of::ProcessError::ROWS,
            "look at the log; for a stream processor, at what it printed",
        ),
    ];
    let family = |(title, table, advice): (&'static str, &'static [FamilyRow], &'static str)| {
        let mut rows: Vec<_> = table.iter().flat_map(|row| family_rows(row, advice)).collect();
        // Two kinds of error may share a code.
        rows.dedup_by(|second, first| second.code == first.code);
        ErrorFamily { title, about: "Layers and images: `differ/src/error/families.rs`.", rows }
    };
    tables.into_iter().map(family).collect()
}

/// A row for each code that a kind of error has; none where the code is that of another table.
fn family_rows(row: &FamilyRow, advice: &'static str) -> Vec<ErrorRow> {
    let &FamilyRow { codes, summary, class, status } = row;
    let exit = match class {
        ErrorClass::Usage => USAGE,
        ErrorClass::Input => INPUT,
        ErrorClass::Environment => ENVIRONMENT,
        ErrorClass::Interrupted => INTERRUPTED,
        ErrorClass::Io | ErrorClass::OfSource => IO,
    };
    let status = crate::serve::error::code_of_status(status);
    let quoted = codes.split('"').skip(1).step_by(2);
    quoted.map(|code| ErrorRow { code, summary: summary.trim(), exit, status, advice }).collect()
}

/// Codes of compressed data that are damaged.
const DECODING: &[ErrorCode] = &[
    ErrorCode { code: "decode-bad-magic", summary: "it does not begin as such data do" },
    ErrorCode { code: "decode-trailing-garbage", summary: "bytes behind the last member or frame" },
    ErrorCode { code: "decode-bad-header", summary: "a member header breaks the format" },
    ErrorCode { code: "decode-bad-data", summary: "data that cannot be decoded" },
    ErrorCode {
        code: "decode-bad-checksum",
        summary: "the checksum is not that of the decoded bytes",
    },
    ErrorCode { code: "decode-bad-length", summary: "the length is not that of the decoded bytes" },
    ErrorCode { code: "decode-truncated", summary: "the blob ends in the middle" },
    ErrorCode { code: "decode-needs-dictionary", summary: "a frame needs a dictionary" },
    ErrorCode {
        code: "decode-window-too-large",
        summary: "a frame needs more memory than allowed",
    },
];

fn decoding() -> ErrorFamily {
    let advice =
        "pull the image again; a blob with the right digest was written damaged, so build it again";
    let rows = rows(DECODING, INPUT, Code::InvalidArgument, advice);
    ErrorFamily { title: "Compressed data", about: "The gzip and zstd data of a layer.", rows }
}

/// Codes of the snapshotter's own errors.
const SNAPSHOTS: &[ErrorCode] = &[
    ErrorCode { code: "no-layers", summary: "an empty list of layers" },
    ErrorCode { code: "too-many-layers", summary: "more layers than overlayfs stacks" },
    ErrorCode {
        code: "mount-options-too-long",
        summary: "lower directories that need more option bytes than the kernel reads",
    },
    ErrorCode { code: "mount-value-too-long", summary: "a mount option of more than 255 bytes" },
    ErrorCode { code: "mount-option", summary: "a mount option that is not passed on" },
    ErrorCode { code: "not-erofs", summary: "no EROFS magic where the superblock should be" },
    ErrorCode { code: "image-truncated", summary: "a file that is shorter than its image" },
    ErrorCode { code: "image-devices", summary: "the device table and the devices given disagree" },
    ErrorCode {
        code: "verity-sidecar",
        summary: "the dm-verity sidecar is not the one that the layer was committed with",
    },
    ErrorCode {
        code: "unprotected",
        summary: "a layer that shall be mounted with dm-verity cannot be",
    },
    ErrorCode {
        code: "untrusted",
        summary: "the kernel does not accept the signature of a root hash",
    },
    ErrorCode { code: "database-sound", summary: "a database that needs no repair" },
    ErrorCode { code: "image-check", summary: "the structural check refused the image" },
    ErrorCode { code: "image-read", summary: "reading the image failed" },
    ErrorCode { code: "kernel", summary: "a system call failed" },
    ErrorCode { code: "loop-race", summary: "every free loop device was taken by another process" },
    ErrorCode { code: "loop-node", summary: "a loop device without a node in /dev" },
    ErrorCode { code: "not-mounted", summary: "nothing is mounted there" },
    ErrorCode { code: "not-ours", summary: "a mount that erolith did not make" },
    ErrorCode { code: "mount-table", summary: "a line of the mount table that cannot be read" },
    ErrorCode { code: "id-map", summary: "a label of owners that is no map" },
    ErrorCode { code: "config", summary: "a setting that cannot be" },
    ErrorCode { code: "committed", summary: "committed snapshots have no mounts of their own" },
    ErrorCode { code: "finished", summary: "a layer that is in use is not written again" },
    ErrorCode { code: "in-use", summary: "another daemon works on the directory" },
    ErrorCode { code: "database-missing", summary: "snapshots without their database" },
    ErrorCode { code: "gone", summary: "a file that a snapshot needs is not there" },
    ErrorCode { code: "raced", summary: "another request changed the snapshot" },
    ErrorCode {
        code: "storage",
        summary: "a file of the daemon could not be made, read, synced or removed",
    },
    ErrorCode {
        code: "verity-mismatch",
        summary: "the fs-verity digest of an image is another one",
    },
    ErrorCode { code: "verity-lost", summary: "an image lost its fs-verity" },
    ErrorCode {
        code: "verity-missing",
        summary: "an image without fs-verity where it is required",
    },
    ErrorCode { code: "layer-damaged", summary: "a layer is damaged and quarantined" },
    ErrorCode { code: "verity-unavailable", summary: "fs-verity is required where there is none" },
    ErrorCode { code: "limit", summary: "a size of writable layers that is none" },
    ErrorCode { code: "unlimited", summary: "a limit that would not be enforced" },
    ErrorCode { code: "program", summary: "a program of the system could not be started" },
    ErrorCode { code: "mkfs", summary: "mkfs.ext4 failed" },
    ErrorCode { code: "snapshot-not-found", summary: "no snapshot has the key" },
    ErrorCode { code: "snapshot-exists", summary: "the key or name is taken" },
    ErrorCode { code: "snapshot-not-active", summary: "only active snapshots become layers" },
    ErrorCode { code: "snapshot-kind", summary: "layers come from commits only" },
    ErrorCode { code: "parent-not-found", summary: "the parent is not there" },
    ErrorCode { code: "parent-not-committed", summary: "the parent is no layer" },
    ErrorCode { code: "parent-differs", summary: "a snapshot that has a parent keeps it" },
    ErrorCode {
        code: "snapshot-has-children",
        summary: "other snapshots have the snapshot as parent",
    },
    ErrorCode { code: "filter", summary: "a filter that does not follow the grammar" },
    ErrorCode { code: "field-path", summary: "an update of a field that never changes" },
    ErrorCode { code: "empty-key", summary: "a snapshot without a key" },
    ErrorCode { code: "metadata-too-new", summary: "a database of a later version of erolith" },
    ErrorCode { code: "metadata-too-old", summary: "a database of an earlier version of erolith" },
    ErrorCode { code: "metadata-damaged", summary: "a database that is damaged, or none" },
    ErrorCode { code: "metadata-disk-full", summary: "no room for the change of the database" },
    ErrorCode { code: "metadata-locked", summary: "another process has the database locked" },
    ErrorCode {
        code: "metadata-sync",
        summary: "the directory of the database could not be synced",
    },
    ErrorCode { code: "metadata", summary: "SQLite failed" },
];

fn snapshots() -> ErrorFamily {
    let advice = "the command prints what helps behind the error; `erolith doctor` shows what the node lacks";
    ErrorFamily {
        title: "Mounts and snapshots",
        about: "Mounts, snapshots and their database. Exit code and status depend on what the kernel or the storage said: a call \
                that cannot be as it is answers `InvalidArgument` or `FailedPrecondition`, damage `DataLoss`, a full disk \
                `ResourceExhausted`.",
        rows: rows(SNAPSHOTS, ENVIRONMENT, Code::FailedPrecondition, advice),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;

    use erolith_differ::Error as LayerError;
    use erolith_mkfs::image::Corruption;

    use super::*;
    use crate::serve;

    /// How the document says that an error with this code of this family ends.
    fn documented(family: &ErrorFamily, code: &str) -> (bool, Code) {
        let row = family.rows.iter().find(|row| row.code == code);
        let row = row.unwrap_or_else(|| panic!("{code} is not in {}", family.title));
        (row.exit == INPUT, row.status)
    }

    #[test]
    fn errors_end_as_the_document_says() {
        use erolith_mkfs::Error as Build;
        use erolith_overlay::Error as Overlay;
        let io = || io::Error::other("disk gone");
        let build = [
            Build::Input { what: "x".into(), source: io() },
            Build::Output(io()),
            Build::TooLarge { limit: 1 },
            Build::Options("x"),
            Build::Internal("x"),
        ];
        let tar = Build::Tar(tar::Error::new(0, tar::Problem::BadChecksum));
        let tree = Build::Tree { offset: 0, source: tree::Error::RootReplaced };
        let image = Build::Image(Corruption::new(CorruptionKind::SuperMagic).into());
        let overlay = [
            Overlay::Input { what: "x".into(), source: io() },
            Overlay::Changed { what: "x".into() },
            Overlay::Overlay { what: "x".into(), why: "x" },
            Overlay::Index { what: "x".into(), why: "x" },
            Overlay::Marks { what: "x".into(), mark: "x".into(), why: "x" },
            Overlay::Owner { what: "x".into(), id: 1 },
        ];
        let of = |family: fn() -> ErrorFamily| move |error| (family, error);
        let all = (build.map(LayerError::Build).into_iter().map(of(builds)))
            .chain([(archives as fn() -> ErrorFamily, LayerError::Build(tar))])
            .chain([(members as fn() -> ErrorFamily, LayerError::Build(tree))])
            .chain([(images as fn() -> ErrorFamily, LayerError::Build(image))])
            .chain(overlay.map(LayerError::Overlay).into_iter().map(of(overlays)));
        for (family, error) in all {
            let code = error.code().to_owned();
            let is_input = error.facts().class == erolith_differ::error::ErrorClass::Input;
            let ends = (is_input, serve::Error::from(error).code());
            assert_eq!(documented(&family(), &code), ends, "{code}");
        }
    }

    #[test]
    fn every_code_of_hash_trees_is_documented() {
        let codes = codes_of(include_str!("../../../verity/src/dmverity/error.rs"));
        let documented: BTreeSet<_> = HASH_TREES.iter().map(|row| row.code).collect();
        assert_eq!(codes, documented);
    }

    /// The string literals behind `=>` in the function `code` of a source.
    fn codes_of(source: &'static str) -> BTreeSet<&'static str> {
        let code = source.split("fn code(").nth(1).and_then(|rest| rest.split("\n    }\n").next());
        let quoted = code.unwrap().split("=> \"").skip(1);
        quoted.filter_map(|rest| rest.split('"').next()).collect()
    }

    /// The codes of a table of errors: a literal, or those of a `match`.
    fn codes_of_table(source: &'static str) -> BTreeSet<&'static str> {
        let columns = source.split("            code: ").skip(1);
        let codes = columns.filter_map(|rest| rest.split("\n            class: ").next());
        let literals = codes.flat_map(|codes| codes.split('"').skip(1).step_by(2));
        literals.collect()
    }

    #[test]
    fn every_code_of_decoding_and_of_snapshots_is_documented() {
        let of = |table: &[ErrorCode]| table.iter().map(|row| row.code).collect::<BTreeSet<_>>();
        assert_eq!(codes_of(include_str!("../../../differ/src/decode/defect.rs")), of(DECODING));
        let tables = [
            include_str!("../../../snapshotter/src/error/mod.rs"),
            include_str!("../../../snapshotter/src/error/integrity.rs"),
            include_str!("../../../snapshotter/src/error/kernel.rs"),
            include_str!("../../../snapshotter/src/error/limit.rs"),
            include_str!("../../../snapshotter/src/error/mount.rs"),
            include_str!("../../../snapshotter/src/error/service.rs"),
            include_str!("../../../snapshotter/src/store/error.rs"),
        ];
        let codes: BTreeSet<_> = tables.into_iter().flat_map(codes_of_table).collect();
        assert_eq!(codes, of(SNAPSHOTS));
    }

    #[test]
    fn codes_are_in_kebab_case_and_once_in_a_family() {
        for family in families() {
            let codes: BTreeSet<_> = family.rows.iter().map(|row| row.code).collect();
            assert_eq!(codes.len(), family.rows.len(), "{}", family.title);
            for row in &family.rows {
                let is_kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                assert!(row.code.chars().all(is_kebab), "{}", row.code);
                assert!(!row.summary.is_empty() && !row.advice.is_empty(), "{}", row.code);
            }
        }
    }
}
