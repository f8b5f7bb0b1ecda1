//! `docs/errors.md`: the codes of errors, from the tables of the libraries.

use std::fmt::Write as _;

use erolith_differ::decode::Defect;
use erolith_errors::{ErrorCode, ErrorRow};
use erolith_mkfs::image::CorruptionKind;
use erolith_mkfs::{tar, tree};
use erolith_snapshotter::IntegrityError;
use erolith_snapshotter::protect::FsVerityMismatch;
use erolith_verity::dmverity;
use tonic::Code;

use super::escaped;
use crate::exit::{self, ENVIRONMENT, INPUT, INTERRUPTED, IO, USAGE};
use crate::serve::error::code_of;

const HEAD: &str = "\
# Errors

Errors have codes that stay the same across versions: in `--json`, in findings of `erolith fsck` and in tests. A command
that ends with an error has one of the exit codes below, the daemon answers with a status of gRPC. The message says what
and where; this page says what to do. Where an end is `by cause`, the answer of the kernel decides: damage is `DataLoss`, a
full disk or a limit that is reached `ResourceExhausted`. `cargo run -- reference errors >docs/errors.md` makes it again.
";

/// One code, as the document shows it.
struct Entry {
    /// The code.
    code: &'static str,
    /// What is wrong.
    summary: &'static str,
    /// How commands end, where that does not depend on the cause.
    exit: Option<u8>,
    /// What the daemon answers, where that does not depend on the cause.
    status: Option<Code>,
    /// What to do.
    advice: &'static str,
}

/// Codes that arise in one place.
struct ErrorFamily {
    title: &'static str,
    /// Where its errors come from.
    about: &'static str,
    rows: Vec<Entry>,
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
    let same = |of: fn(&Entry) -> String| {
        let first = rows.first().map(of);
        first.filter(|first| rows.iter().all(|row| of(row) == *first))
    };
    let advice = |row: &Entry| escaped(row.advice);
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

/// How a call ends, as a cell of a table.
fn ends(row: &Entry) -> String {
    let exit = row.exit.map(|exit| exit.to_string());
    let status = row.status.map(|status| format!("`{status:?}`"));
    let depends = || "by cause".to_owned();
    match (exit, status) {
        (None, None) => depends(),
        (exit, status) => {
            format!("{}, {}", exit.unwrap_or_else(depends), status.unwrap_or_else(depends))
        }
    }
}

/// Every family.
fn families() -> Vec<ErrorFamily> {
    let mut all =
        vec![images(), readers(), archives(), members(), builds(), overlays(), hash_trees()];
    all.extend(layers());
    all.push(decoding());
    all.extend(snapshots());
    all
}

/// Rows of a table of a library that share everything but code and summary.
fn rows(codes: &[ErrorCode], exit: u8, status: Code, advice: &'static str) -> Vec<Entry> {
    let (exit, status) = (Some(exit), Some(status));
    let row = |&ErrorCode { code, summary }| Entry { code, summary, exit, status, advice };
    codes.iter().map(row).collect()
}

/// A row for each code that an error of a table has; none where the code is that of another type. `advice` is for rows that
/// have none.
fn table_rows(table: &[ErrorRow], advice: &'static str) -> Vec<Entry> {
    let of = |row: &ErrorRow| {
        let exit = row.class.and_then(exit::of_class);
        let status = row.status.map(code_of);
        let (summary, advice) = (row.summary(), row.advice.unwrap_or(advice));
        let entry = move |code| Entry { code, summary, exit, status, advice };
        row.codes().map(entry).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = table.iter().flat_map(of).collect();
    // Two kinds of error may share a code, and end in different ways.
    rows.dedup_by(|second, first| {
        let is_same = second.code == first.code;
        if is_same {
            first.exit = first.exit.filter(|_| first.exit == second.exit);
            first.status = first.status.filter(|_| first.status == second.status);
        }
        is_same
    });
    rows
}

/// Changes what row `code` says of how it ends and what to do.
fn except(rows: &mut [Entry], code: &str, exit: u8, status: Code, advice: &'static str) {
    for row in rows.iter_mut().filter(|row| row.code == code) {
        *row = Entry { exit: Some(exit), status: Some(status), advice, ..*row };
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

fn hash_trees() -> ErrorFamily {
    let advice = "the image was changed or is of another root hash: get it again";
    let mut rows = rows(dmverity::Error::CODES, INPUT, Code::InvalidArgument, advice);
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
    let family = |(title, table, advice): (&'static str, &'static [ErrorRow], &'static str)| {
        let rows = table_rows(table, advice);
        ErrorFamily { title, about: "Layers and images: `differ/src/error/families.rs`.", rows }
    };
    tables.into_iter().map(family).collect()
}

fn decoding() -> ErrorFamily {
    let advice =
        "pull the image again; a blob with the right digest was written damaged, so build it again";
    let rows = rows(Defect::CODES, INPUT, Code::InvalidArgument, advice);
    ErrorFamily { title: "Compressed data", about: "The gzip and zstd data of a layer.", rows }
}

/// The families of errors of the snapshotter, from their tables.
fn snapshots() -> Vec<ErrorFamily> {
    use erolith_snapshotter as of;
    use erolith_snapshotter::store;
    let call = "change the call: the message says what is wrong with it";
    let disk = "look at the disk: the message has what the kernel said";
    let node = "`erolith doctor` shows what the node lacks";
    let tables = [
        ("Mounts", "Mounts, before the kernel is asked.", table_rows(of::MountError::ROWS, call)),
        ("System calls", "Answers of the kernel.", table_rows(of::KernelError::ROWS, node)),
        (
            "Integrity of layers",
            "The image of a layer, before it is mounted.",
            integrity_of_layers(),
        ),
        (
            "Sizes of writable layers",
            "Limits of writable layers: project quotas and images of ext4.",
            table_rows(of::LimitError::ROWS, call),
        ),
        (
            "The daemon",
            "Requests and settings that the state of the daemon does not allow.",
            table_rows(of::ServiceError::ROWS, call),
        ),
        ("Storage", "Files of the daemon.", table_rows(of::Error::ROWS, disk)),
        ("Snapshots", "Requests of snapshots.", table_rows(store::SnapshotError::ROWS, call)),
        (
            "The database of snapshots",
            "metadata.db, which has a row for each snapshot.",
            table_rows(store::DatabaseError::ROWS, disk),
        ),
    ];
    let family = |(title, about, rows)| ErrorFamily { title, about, rows };
    tables.into_iter().map(family).collect()
}

fn integrity_of_layers() -> Vec<Entry> {
    let pull = "remove the image and pull it again";
    let mut rows = table_rows(IntegrityError::ROWS, pull);
    rows.extend(self::rows(FsVerityMismatch::CODES, INPUT, Code::DataLoss, pull));
    let missing = "pull the image again, or let `fs_verity` be \"auto\"";
    except(&mut rows, "verity-missing", ENVIRONMENT, Code::FailedPrecondition, missing);
    rows
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
    fn documented(family: &ErrorFamily, code: &str) -> (bool, Option<Code>) {
        let row = family.rows.iter().find(|row| row.code == code);
        let row = row.unwrap_or_else(|| panic!("{code} is not in {}", family.title));
        (row.exit == Some(INPUT), row.status)
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
            let is_input = error.facts().class == erolith_errors::ErrorClass::Input;
            let ends = (is_input, Some(serve::Error::from(error).code()));
            assert_eq!(documented(&family(), &code), ends, "{code}");
        }
    }

    /// The exit code of a class, by its name.
    fn exit_of(class: &str) -> u8 {
        match class {
            "Usage" => USAGE,
            "Input" => INPUT,
            "Environment" => ENVIRONMENT,
            "Io" => IO,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn snapshots_end_as_the_document_says() {
        let errors = include_str!("../../../snapshotter/src/error/tests/errors.txt");
        let rows: Vec<_> = families().into_iter().flat_map(|f| f.rows).collect();
        let mut codes = BTreeSet::new();
        for error in errors.lines().filter(|line| !line.starts_with(' ')) {
            let [code, class, status] = error.split(' ').collect::<Vec<_>>()[..3] else { panic!() };
            codes.insert(code);
            assert!(rows.iter().any(|row| row.code == code), "{code} is not documented");
            for row in snapshots().iter().flat_map(|f| &f.rows).filter(|row| row.code == code) {
                assert!(row.exit.is_none_or(|exit| exit == exit_of(class)), "{error}");
                let documented = row.status.map(|status| format!("{status:?}"));
                assert!(documented.is_none_or(|documented| documented == status), "{error}");
            }
        }
        for row in snapshots().iter().flat_map(|f| &f.rows) {
            assert!(codes.contains(row.code), "no error has the code {}", row.code);
        }
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
