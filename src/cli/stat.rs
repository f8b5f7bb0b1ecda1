//! `erolith stat`: everything an image says of a file.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_mkfs::format::Layout;
use erolith_mkfs::image::{Coding, Data, Extent, ExtentLocation, Inode, Space};
use serde_json::{Value, json};

use crate::exit;
use crate::json;
use crate::source::{self, ImageArgs, Node, Opened};
use crate::term::{self, Align, Quoted, Table};
use crate::xattr_text;

/// Show everything an image says of files: attributes, layout, extended attributes.
///
/// Symbolic links are not followed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where each run of the content is in the image.
    #[arg(long)]
    extents: bool,
    /// One JSON object a line and path.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// Files of the image.
    #[arg(required = true)]
    path: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let tree = args.image.tree()?;
    let mut code = ExitCode::SUCCESS;
    for path in &args.path {
        let path = source::path_bytes(path);
        let what = || format!("{}: {}", args.image.name(), Quoted(path));
        match tree.find(path).with_context(what)? {
            Ok(node) => {
                let path = term::rooted(&source::normal(path));
                if args.json {
                    object(args, &path, &node, out).with_context(what)?;
                } else {
                    describe(args, &path, &node, out).with_context(what)?;
                }
            }
            Err(missing) => {
                exit::complain(format_args!("{}: {missing}", Quoted(path)));
                code = ExitCode::from(exit::NO);
            }
        }
    }
    Ok(code)
}

/// What a layout is called; the words of `fs/erofs/erofs_fs.h`.
pub(crate) fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::FlatPlain => "flat-plain",
        Layout::FlatInline => "flat-inline",
        Layout::ChunkBased => "chunk-based",
        Layout::CompressedFull => "compressed-full",
        Layout::CompressedCompact => "compressed-compact",
    }
}

fn describe(args: &Args, path: &[u8], node: &Node<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let (image, inode) = (node.image, &node.inode);
    let mut table = Table::new([Align::Left, Align::Left]);
    let mut row = |name: &str, value: String| table.row([format!("{name}:"), value]);
    row("path", Quoted(path).to_string());
    if let Some(layer) = node.layer() {
        row("layer", format!("{layer}, of which the rest of this is said"));
    }
    row("type", term::type_name(inode.file_type()).to_owned());
    if inode.is_symlink() {
        row("target", Quoted(&image.read_link(inode)?).to_string());
    }
    if let Some((major, minor)) = inode.rdev() {
        let note = if inode.is_whiteout() { " (a whiteout to overlayfs)" } else { "" };
        row("device", format!("{major},{minor}{note}"));
    }
    row("mode", format!("{:04o} {}", inode.mode & 0o7777, term::mode_letters(inode)));
    row("owner", format!("{}:{}", inode.uid, inode.gid));
    row("size", inode.size.to_string());
    row("modified", term::iso(inode.mtime));
    row("links", inode.nlink.to_string());
    row("nid", inode.nid.to_string());
    let place = if inode.space() == Space::Metabox { " of the metabox" } else { "" };
    let form = if inode.extended { "extended" } else { "compact" };
    row("inode", format!("{form}, {} bytes at byte {}{place}", inode.header_len(), inode.offset));
    row("layout", layout_text(image, inode));
    if inode.dot_omitted {
        row("entries", "without a dot entry".to_owned());
    }
    table.write(out, 0)?;
    let xattrs = node.xattrs()?;
    if !xattrs.is_empty() {
        writeln!(out, "xattrs:    {} bytes behind the inode", inode.xattr_len())?;
        let mut table = Table::new([Align::Left, Align::Left]);
        for xattr in &xattrs {
            table.row([Quoted(&xattr.name).to_string(), xattr_text::value(xattr)]);
        }
        table.write(out, 2)?;
    }
    if args.extents {
        write_extents(image, inode, out)?;
    }
    Ok(())
}

fn layout_text(image: &Opened, inode: &Inode) -> String {
    let block = image.superblock().block_size();
    let name = layout_name(inode.layout);
    match inode.data {
        Data::Flat { block: first } if inode.size > 0 => match inode.inline_tail(block_bits(image))
        {
            (0, _) => format!("{name}, from block {first}"),
            (tail, 0) => format!("{name}, {tail} bytes inline"),
            (tail, _) => format!("{name}, from block {first}, the last {tail} bytes inline"),
        },
        Data::Hole => format!("{name}, nothing stored"),
        Data::Chunks { bits, indexes, .. } => {
            let unit = if indexes { "indexes" } else { "block map" };
            format!("{name}, chunks of {}, {unit}", term::human(1 << bits))
        }
        Data::Compressed => {
            format!("{name}, {} blocks of {}", inode.compressed_blocks, term::human(block))
        }
        Data::Flat { .. } | Data::Device { .. } | Data::None => name.to_owned(),
    }
}

fn block_bits(image: &Opened) -> u8 {
    image.superblock().block_bits
}

/// Where an extent is, in words: kind, device, byte there, bytes there, coding.
struct Shown {
    kind: &'static str,
    device: Option<u16>,
    offset: Option<u64>,
    stored: u64,
    coding: Option<&'static str>,
}

fn shown(extent: &Extent) -> Shown {
    let coding_name = |coding| match coding {
        Coding::Stored => "stored",
        Coding::Interlaced => "interlaced",
        Coding::Compressed { algorithm, .. } => algorithm.name(),
    };
    let at = |kind, offset| Shown {
        kind,
        device: None,
        offset: Some(offset),
        stored: extent.len,
        coding: None,
    };
    match extent.place {
        ExtentLocation::Hole => Shown { offset: None, stored: 0, ..at("hole", 0) },
        ExtentLocation::Device { device, offset } => {
            Shown { device: Some(device), ..at("data", offset) }
        }
        ExtentLocation::Inline { offset, .. } => at("inline", offset),
        ExtentLocation::Fragment { offset } => at("fragment", offset),
        ExtentLocation::Encoded { device, offset, len, coding } => Shown {
            device: Some(device),
            stored: len,
            coding: Some(coding_name(coding)),
            ..at("data", offset)
        },
        ExtentLocation::EncodedInline { offset, len, coding, .. } => {
            Shown { stored: len, coding: Some(coding_name(coding)), ..at("inline", offset) }
        }
    }
}

fn write_extents(image: &Opened, inode: &Inode, out: &mut dyn Write) -> anyhow::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new([Right, Right, Left, Right, Right, Right, Left]);
    let mut is_empty = true;
    table.row(["offset", "length", "where", "device", "byte", "stored", "coding"].map(Into::into));
    for extent in image.extents(inode) {
        let extent = extent?;
        let shown = shown(&extent);
        let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
        table.row([
            extent.start.to_string(),
            extent.len.to_string(),
            shown.kind.to_owned(),
            number(shown.device.map(u64::from)),
            number(shown.offset),
            shown.stored.to_string(),
            shown.coding.unwrap_or_default().to_owned(),
        ]);
        is_empty = false;
    }
    if is_empty {
        return Ok(());
    }
    writeln!(out, "extents:")?;
    Ok(table.write(out, 2)?)
}

fn object(args: &Args, path: &[u8], node: &Node<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let (image, inode) = (node.image, &node.inode);
    let mut object = json::inode(inode);
    object["path"] = json::bytes(path);
    if let Some(layer) = node.layer() {
        object["layer"] = layer.into();
    }
    if inode.is_symlink() {
        object["target"] = json::bytes(&image.read_link(inode)?);
    }
    object["inode"] = json!({
        "form": if inode.extended { "extended" } else { "compact" },
        "offset": inode.offset,
        "space": if inode.space() == Space::Metabox { "metabox" } else { "image" },
        "xattr_bytes": inode.xattr_len(),
        "inline_bytes": inode.inline_tail(block_bits(image)).0,
    });
    object["layout"] = layout_name(inode.layout).into();
    let xattrs = node.xattrs()?;
    object["xattrs"] = xattrs
        .iter()
        .map(|xattr| {
            let mut object =
                json!({ "name": json::bytes(&xattr.name), "value": json::bytes(&xattr.value) });
            if let Some(text) = xattr_text::decoded(xattr) {
                object["decoded"] = text.into();
            }
            object
        })
        .collect();
    if args.extents {
        let extents = image.extents(inode).map(|extent| Ok(extent_object(&extent?)));
        object["extents"] = extents.collect::<anyhow::Result<Vec<Value>>>()?.into();
    }
    Ok(json::line(out, &object)?)
}

fn extent_object(extent: &Extent) -> Value {
    let shown = shown(extent);
    json!({
        "offset": extent.start,
        "length": extent.len,
        "where": shown.kind,
        "device": shown.device,
        "byte": shown.offset,
        "stored": shown.stored,
        "coding": shown.coding,
    })
}
