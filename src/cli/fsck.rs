//! `erolith fsck`: whether an image is what it should be.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::apply::verify_blob;
use erolith_differ::decode::Cancel;
use erolith_errors::ErrorClass;
use erolith_mkfs::check::{self, Finding, Limits, Report, Severity, Stats};
use erolith_mkfs::format::Layout;
use erolith_mkfs::image::{
    Coding, Corruption, CorruptionKind, Error, ExtentLocation, Image, Inode, Super,
};
use erolith_mkfs::io::ReadAt;
use erolith_mkfs::protect;
use erolith_verity::dmverity::{self, Header, RootHash};
use serde_json::{Value, json};

use super::stat::layout_name;
use crate::causes::causes;
use crate::exit::{self, Usage};
use crate::json;
use crate::ranges::Ranges;
use crate::source::{ImageArgs, Part};
use crate::term::{self, Quoted};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Check the structure of an image, and with --data its content.
///
/// The exit code is 0 when nothing speaks against the image, and 1 otherwise; warnings do not count. An image
/// may come from a stranger: it is checked here before a kernel sees it. Of an image of layers each layer is checked, its
/// digests too; with --json there is one object with a list of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read all content too: every stored byte, and every compressed extent decoded.
    #[arg(long)]
    data: bool,
    /// Compare every block with the dm-verity hash tree behind the image, and the tree with this root hash.
    #[arg(long, value_name = "HASH")]
    dm_verity_root: Option<RootHash>,
    /// Where the hash tree begins, in bytes [default: where the image ends].
    #[arg(long, value_name = "BYTES", requires = "dm_verity_root")]
    dm_verity_offset: Option<u64>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    image: ImageArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    if args.dm_verity_root.is_some() && !args.image.is_single() {
        return Err(Usage("--dm-verity-root is of one image: name a layer with #N".into()).into());
    }
    let (mut is_clean, mut layers) = (true, Vec::new());
    args.image.parts(&mut |name, part| {
        let checked = check_part(args, name, part)?;
        is_clean &= checked.is_clean();
        if !args.json {
            return Ok(checked.write(out)?);
        }
        if args.image.is_single() {
            return Ok(json::line(out, &checked.object())?);
        }
        layers.push(checked.object());
        Ok(())
    })?;
    if args.json && !args.image.is_single() {
        json::line(out, &json!({ "clean": is_clean, "layers": layers }))?;
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}

/// What was found of one image.
struct Checked {
    name: String,
    /// The layer it is, 0 the lowest.
    layer: Option<usize>,
    /// Why there is no image to look at, or why it is not the one that was meant.
    fault: Option<erolith_differ::Error>,
    report: Option<Report>,
    /// Bytes of content read.
    data: Option<u64>,
    verity: Option<Result<(), erolith_differ::Error>>,
}

fn check_part(args: &Args, name: String, part: anyhow::Result<Part>) -> anyhow::Result<Checked> {
    let mut checked =
        Checked { name, layer: None, fault: None, report: None, data: None, verity: None };
    let what = checked.name.clone();
    let what = || what.clone();
    let part = match part {
        Ok(part) => part,
        Err(error) => {
            checked.fault = Some(answer(error).with_context(what)?);
            return Ok(checked);
        }
    };
    checked.layer = part.layer;
    if let Some((digest, size)) = &part.blob
        && let Err(error) = verify_blob(&part.image, digest, *size, &Cancel::default())
    {
        checked.fault = Some(answer(error.into()).with_context(what)?);
    }
    let primary: &dyn ReadAt = &part.image;
    let devices: Vec<&dyn ReadAt> = part.devices.iter().map(|d| d as &dyn ReadAt).collect();
    let mut report = check::check(primary, &devices, &Limits::default()).with_context(what)?;
    // What a damaged structure leads to says nothing about the content.
    if args.data && report.is_clean() {
        let image = Image::open(primary, devices).with_context(what)?;
        checked.data = Some(check_data(&image, &mut report).with_context(what)?);
    }
    checked.report = Some(report);
    if let Some(root) = args.dm_verity_root {
        checked.verity = Some(check_verity(primary, root, args).with_context(what)?);
    }
    Ok(checked)
}

/// An error that is an answer: what is wrong with a layer. Failures of the storage are not.
fn answer(error: anyhow::Error) -> anyhow::Result<erolith_differ::Error> {
    match error.downcast::<erolith_differ::Error>() {
        Ok(error) if error.facts().class == ErrorClass::Input => Ok(error),
        Ok(error) => Err(error.into()),
        Err(error) => Err(error),
    }
}

impl Checked {
    fn is_clean(&self) -> bool {
        let is_report_clean = self.report.as_ref().is_none_or(Report::is_clean);
        self.fault.is_none() && is_report_clean && !matches!(self.verity, Some(Err(_)))
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(error) = &self.fault {
            writeln!(out, "error[{}]: {}", error.code(), causes(error))?;
        }
        let Some(report) = &self.report else { return writeln!(out, "{}: 1 error", self.name) };
        for finding in &report.findings {
            writeln!(out, "{}", finding_text(finding))?;
        }
        if let Some(Err(error)) = &self.verity {
            writeln!(out, "error[{}]: {}", error.code(), causes(error))?;
        }
        let is_same = matches!(self.verity, Some(Ok(())));
        let same = if is_same { "; as its dm-verity tree says" } else { "" };
        let bad =
            usize::from(matches!(self.verity, Some(Err(_)))) + usize::from(self.fault.is_some());
        writeln!(out, "{}: {}{same}", self.name, verdict(report, bad, self.data))
    }

    fn object(&self) -> Value {
        let mut object = self.report.as_ref().map_or_else(|| json!({}), |r| object(r, self.data));
        object["dm_verity"] = self.verity.as_ref().map_or(Value::Null, |found| match found {
            Ok(()) => json!({ "clean": true }),
            Err(e) => json!({ "clean": false, "code": e.code(), "error": causes(e) }),
        });
        if let Some(layer) = self.layer {
            object["layer"] = layer.into();
        }
        if let Some(error) = &self.fault {
            object["clean"] = false.into();
            object["error"] = json!({ "code": error.code(), "text": causes(error) });
        }
        object
    }
}

/// Compares the image with its hash tree. The inner result is the answer.
fn check_verity(
    image: &dyn ReadAt,
    root: RootHash,
    args: &Args,
) -> anyhow::Result<Result<(), erolith_differ::Error>> {
    let offset = match args.dm_verity_offset {
        Some(offset) => offset,
        None => match find_tree(image) {
            Ok(Some(header)) => header.geometry().hash_offset(),
            Ok(None) => {
                return Ok(Err(dmverity::Error::NoTree { offset: image.size() }.into()));
            }
            Err(error) => return Ok(Err(error)),
        },
    };
    match dmverity::verify(image, offset, root, &|| false) {
        Err(error @ dmverity::Error::Io { .. }) => Err(error.into()),
        other => Ok(other.map(drop).map_err(Into::into)),
    }
}

fn find_tree(image: &dyn ReadAt) -> Result<Option<Header>, erolith_differ::Error> {
    let sb = Super::read(image).map_err(erolith_mkfs::Error::from)?;
    Ok(protect::find_tree(image, &sb)?)
}

fn finding_text(finding: &Finding) -> String {
    let severity = severity_name(finding.severity);
    let path = match finding.path.as_slice() {
        [] => String::new(),
        path => format!("{}: ", Quoted(&term::rooted(path))),
    };
    format!("{severity}[{}]: {path}{}", finding.code(), finding.corruption)
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// One line: clean or not, and what was seen. `more_errors` were found elsewhere.
fn verdict(report: &Report, more_errors: usize, data: Option<u64>) -> String {
    let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let errors = report.errors().count();
    let warnings = (report.findings.len() - errors) as u64 + report.more_warnings;
    let mut head = match errors + more_errors {
        0 => "clean".to_owned(),
        n => count(n as u64, "error"),
    };
    if warnings > 0 {
        head.push_str(&format!(", {}", count(warnings, "warning")));
    }
    let Stats { inodes, directories, names, bytes, extents, metadata, .. } = report.stats;
    let mut text = format!(
        "{head}; {inodes} inodes ({directories} directories), {names} names, {} in files, {}, {} of metadata",
        term::human(bytes),
        count(extents, "extent"),
        term::human(metadata)
    );
    if let Some(data) = data {
        text.push_str(&format!(", {} of content read", term::human(data)));
    }
    text
}

fn object(report: &Report, data: Option<u64>) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let Corruption { fault, nid, offset, detail } = &finding.corruption;
            json!({
                "severity": severity_name(finding.severity),
                "code": finding.code(),
                "text": fault.text(),
                "path": json::bytes(&term::rooted(&finding.path)),
                "nid": nid,
                "offset": offset,
                "detail": detail,
            })
        })
        .collect();
    let stats = &report.stats;
    let layouts = [
        Layout::FlatPlain,
        Layout::FlatInline,
        Layout::ChunkBased,
        Layout::CompressedFull,
        Layout::CompressedCompact,
    ];
    let layouts =
        layouts.map(|layout| (layout_name(layout).to_owned(), stats.layout(layout).into()));
    json!({
        "clean": report.is_clean(),
        "findings": findings,
        "more_warnings": report.more_warnings,
        "stats": {
            "inodes": stats.inodes,
            "directories": stats.directories,
            "names": stats.names,
            "bytes": stats.bytes,
            "with_xattrs": stats.with_xattrs,
            "extents": stats.extents,
            "metadata": stats.metadata,
            "layouts": Value::Object(layouts.into_iter().collect()),
            "content_read": data,
        },
    })
}

/// Reads the content of every file, each stored byte once, and reports what cannot be read. Returns the
/// bytes read, decoded where they are compressed.
fn check_data<R: ReadAt>(image: &Image<R>, report: &mut Report) -> Result<u64, Error> {
    let mut reader = DataCheck {
        image,
        report,
        stored: Ranges::default(),
        decoded: BTreeSet::new(),
        buf: vec![0; PIECE],
        bytes: 0,
    };
    let sb = image.superblock();
    for nid in [sb.packed, sb.metabox].into_iter().flatten() {
        reader.file(&image.stat(nid)?, b"")?;
    }
    let mut walk = image.walk();
    while let Some(entry) = walk.next_entry()? {
        if entry.inode.is_file() {
            reader.file(&entry.inode, entry.path)?;
        }
        if reader.report.findings.len() > Limits::default().findings {
            let (severity, corruption) =
                (Severity::Error, Corruption::new(CorruptionKind::LimitFindings));
            reader.report.findings.push(Finding { severity, corruption, path: Vec::new() });
            break;
        }
    }
    Ok(reader.bytes)
}

struct DataCheck<'a, R: ReadAt> {
    image: &'a Image<R>,
    report: &'a mut Report,
    /// What was read as it is: files may share it.
    stored: Ranges,
    /// Where compressed extents begin that were decoded, how long they are, and how long they were then.
    decoded: BTreeSet<(u16, u64, u64, u64)>,
    buf: Vec<u8>,
    bytes: u64,
}

impl<R: ReadAt> DataCheck<'_, R> {
    fn file(&mut self, inode: &Inode, path: &[u8]) -> Result<(), Error> {
        for extent in self.image.extents(inode) {
            let extent = extent?;
            let result = match extent.place {
                ExtentLocation::Hole | ExtentLocation::Fragment { .. } => continue,
                ExtentLocation::Device { device, offset }
                | ExtentLocation::Encoded { device, offset, coding: Coding::Stored, .. } => {
                    // Positions in the file that have not been read yet, by what is stored there.
                    let news = self.stored.insert(device, offset, extent.len);
                    news.into_iter().try_for_each(|(start, end)| {
                        let skip = start - offset;
                        self.read(inode, extent.start + skip, extent.start + skip + (end - start))
                    })
                }
                ExtentLocation::Encoded { device, offset, len, .. } => {
                    if !self.decoded.insert((device, offset, len, extent.len)) {
                        continue;
                    }
                    self.read(inode, extent.start, extent.end())
                }
                ExtentLocation::Inline { .. } | ExtentLocation::EncodedInline { .. } => {
                    self.read(inode, extent.start, extent.end())
                }
            };
            match result {
                Ok(()) => {}
                Err(Error::Corrupt(corruption)) => {
                    let (severity, path) = (Severity::Error, path.to_vec());
                    self.report.findings.push(Finding { severity, corruption, path });
                    // The first fault of a file is enough.
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads bytes `start..end` of a file.
    fn read(&mut self, inode: &Inode, mut start: u64, end: u64) -> Result<(), Error> {
        while start < end.min(inode.size) {
            let want = usize::try_from(end - start).map_or(PIECE, |left| left.min(PIECE));
            let n = self.image.read_at(inode, &mut self.buf[..want], start)?;
            start += n as u64;
            self.bytes += n as u64;
        }
        Ok(())
    }
}
