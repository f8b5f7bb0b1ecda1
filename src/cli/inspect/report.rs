//! What was found, as text and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Findings;
use super::features::{self, Feature, oldest_kernel, version};
use super::grid::Kind;
use super::percent;
use crate::causes::causes;
use crate::cli::stat::layout_name;
use crate::json;
use crate::term::{self, Align, Quoted, Table, human};

/// Writes the findings for people.
pub(super) fn text(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    head(found, out)?;
    space(found, out)?;
    inodes(found, out)?;
    xattrs(found, out)?;
    directories(found, out)?;
    files(found, out)?;
    sharing(found, out)
}

fn head(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    let sb = found.image.superblock();
    let features = features::features(sb);
    let (uuid, label) = found.identity();
    let mut table = Table::new([Align::Left, Align::Left]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("image", found.name.clone());
    row("size", format!("{} ({} bytes)", human(found.facts.image_bytes), found.facts.image_bytes));
    row("blocks", format!("{} of {}", sb.blocks, human(sb.block_size())));
    row("uuid", uuid);
    if !label.is_empty() {
        row("label", Quoted(&label).to_string());
    }
    if sb.devices.iter().any(|device| device.blocks > 0) {
        let bytes: u64 = sb.devices.iter().map(|d| d.blocks.saturating_mul(sb.block_size())).sum();
        row("devices", format!("{} with {}", sb.devices.len(), human(bytes)));
    }
    row("kernel", format!("{} or later", version(oldest_kernel(&features))));
    match &found.facts.verity {
        Some(Ok((header, root))) => {
            let at = header.geometry().hash_offset();
            row("dm-verity", format!("root hash {root}, tree at byte {at} (not verified)"));
        }
        Some(Err(error)) => row("dm-verity", causes(error)),
        None => {}
    }
    if let Some(digest) = &found.fsverity {
        row("fs-verity", digest.to_string());
    }
    table.write(out, 0)?;
    writeln!(out, "\nfeatures")?;
    let mut table = Table::new([Align::Left, Align::Left, Align::Left, Align::Left]);
    for Feature { name, needed, kernel, meaning } in features {
        let needed = if needed { "needs" } else { "used by" };
        let kernel = format!("{needed} {}", version(kernel));
        table.row([name.to_owned(), kernel, meaning.to_owned(), String::new()]);
    }
    table.write(out, 2)
}

fn space(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    let facts = &found.facts;
    writeln!(out, "\nspace in the image")?;
    let mut table = Table::new([Align::Left, Align::Right, Align::Right, Align::Left]);
    for kind in Kind::ALL {
        let bytes = facts.grid.total(kind);
        let share = percent(bytes, facts.image_bytes);
        table.row([kind.name().to_owned(), human(bytes), share, kind.meaning().to_owned()]);
    }
    table.write(out, 2)?;
    writeln!(out, "\ncontent")?;
    let mut table = Table::new([Align::Left, Align::Right, Align::Left]);
    let mut row = |name: &str, bytes: u64, note: &str| {
        table.row([name.to_owned(), human(bytes), note.to_owned()]);
    };
    row("files", facts.content, "every file once, holes included");
    row("holes", facts.holes, "zeros that are not stored");
    let (before, after) = facts.compressed;
    if before > 0 {
        row("compressed", before, &format!("to {} ({})", human(after), percent(after, before)));
    }
    if facts.on_devices > 0 {
        row("elsewhere", facts.on_devices, "on other devices");
    }
    if found.shared.saved > 0 {
        row("shared", found.shared.saved, "not stored, since others have the same");
    }
    if found.duplicates.is_some() {
        row("duplicate", found.wasted(), "stored more than once");
    }
    table.write(out, 2)
}

fn inodes(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    use Align::{Left, Right};
    let facts = &found.facts;
    let all = facts.compact + facts.extended;
    writeln!(out, "\n{all} inodes: {} compact, {} extended", facts.compact, facts.extended)?;
    let mut table = Table::new([Left, Right, Right, Right]);
    for (kind, tally) in facts.types.values() {
        let name = term::type_name(*kind).to_owned();
        let bytes = human(tally.bytes);
        table.row([name, tally.inodes.to_string(), percent(tally.inodes, all), bytes]);
    }
    table.write(out, 2)?;
    writeln!(out, "\nlayouts")?;
    let mut table = Table::new([Left, Right, Right, Right]);
    for (layout, tally) in &facts.layouts {
        let name = layout_name(*layout).to_owned();
        let bytes = human(tally.bytes);
        table.row([name, tally.inodes.to_string(), percent(tally.inodes, all), bytes]);
    }
    table.write(out, 2)
}

fn xattrs(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    let xattrs = &found.facts.xattrs;
    if xattrs.inodes == 0 {
        return Ok(());
    }
    let shared: u64 = xattrs.shared.values().sum();
    writeln!(
        out,
        "\n{} inodes with extended attributes: {} stored inline, {} references to {} shared ({})",
        xattrs.inodes,
        xattrs.inline,
        xattrs.references,
        xattrs.shared.len(),
        human(shared)
    )?;
    let mut table = Table::new([Align::Right, Align::Left]);
    for (name, count) in by_count(found) {
        table.row([count.to_string(), Quoted(name).to_string()]);
    }
    table.write(out, 2)
}

/// Names of xattrs, those of most inodes first.
pub(super) fn by_count<'a>(found: &'a Findings<'_>) -> Vec<(&'a [u8], u64)> {
    let names = found.facts.xattrs.names.iter();
    let mut names: Vec<_> = names.map(|(name, count)| (name.as_slice(), *count)).collect();
    names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    names.truncate(found.top);
    names
}

fn directories(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    let dirs = found.largest_dirs();
    if dirs.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nlargest directories")?;
    let whole = found.facts.dirs.first().map_or(0, |root| root.stored);
    let mut table = Table::new([Align::Right, Align::Right, Align::Right, Align::Left]);
    for index in dirs {
        let Some(dir) = found.facts.dirs.get(index) else { continue };
        let path = Quoted(&found.dir_path(index)).to_string();
        let files = format!("{} files", dir.files);
        table.row([human(dir.stored), percent(dir.stored, whole), files, path]);
    }
    table.write(out, 2)
}

fn files(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    let files = found.largest_files();
    if files.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nlargest files")?;
    let mut table = Table::new([Align::Right, Align::Left, Align::Left]);
    for index in files {
        let Some(file) = found.facts.files.get(index) else { continue };
        let note = if file.stored == file.size {
            String::new()
        } else {
            format!("of {}", human(file.size))
        };
        table.row([human(file.stored), note, Quoted(&found.file_path(index)).to_string()]);
    }
    table.write(out, 2)
}

fn sharing(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    if !found.shared.top.is_empty() {
        let (runs, saved) = (found.shared.runs, human(found.shared.saved));
        writeln!(out, "\n{runs} runs of data with several references, which save {saved}")?;
        let mut table = Table::new([Align::Right, Align::Right, Align::Left]);
        for (saved, references, file) in &found.shared.top {
            let path = Quoted(&found.file_path(*file)).to_string();
            table.row([human(*saved), format!("{references} times"), path]);
        }
        table.write(out, 2)?;
    }
    let Some(duplicates) = &found.duplicates else { return Ok(()) };
    let (groups, wasted) = (duplicates.len(), human(found.wasted()));
    writeln!(out, "\n{groups} groups of files with equal content, which waste {wasted}")?;
    let mut table = Table::new([Align::Right, Align::Right, Align::Left]);
    for duplicate in duplicates.iter().take(found.top) {
        let first = duplicate.files.first().copied().unwrap_or(0);
        let copies = format!("{} files", duplicate.files.len());
        let path = Quoted(&found.file_path(first)).to_string();
        table.row([human(duplicate.wasted), copies, path]);
    }
    table.write(out, 2)
}

/// Writes the findings for machines, on one line.
pub(super) fn json(found: &Findings<'_>, out: &mut dyn Write) -> io::Result<()> {
    let sb = found.image.superblock();
    let facts = &found.facts;
    let features = features::features(sb);
    let (uuid, label) = found.identity();
    let tally = |inodes: u64, bytes: u64| json!({ "inodes": inodes, "bytes": bytes });
    let types = facts
        .types
        .values()
        .map(|(kind, t)| (term::type_name(*kind).to_owned(), tally(t.inodes, t.bytes)));
    let layouts = facts
        .layouts
        .iter()
        .map(|(layout, t)| (layout_name(*layout).to_owned(), tally(t.inodes, t.bytes)));
    let space = Kind::ALL.map(|kind| (kind.name().to_owned(), facts.grid.total(kind).into()));
    let object = json!({
        "image": found.name,
        "image_bytes": facts.image_bytes,
        "block_size": sb.block_size(),
        "blocks": sb.blocks,
        "uuid": uuid,
        "label": json::bytes(&label),
        "kernel": version(oldest_kernel(&features)),
        "features": features.iter().map(feature_object).collect::<Vec<_>>(),
        "inodes": { "compact": facts.compact, "extended": facts.extended },
        "types": Value::Object(types.collect()),
        "layouts": Value::Object(layouts.collect()),
        "space": Value::Object(space.into_iter().collect()),
        "content": {
            "bytes": facts.content,
            "holes": facts.holes,
            "compressed_from": facts.compressed.0,
            "compressed_to": facts.compressed.1,
            "on_devices": facts.on_devices,
        },
        "xattrs": xattrs_object(found),
        "directories": found.largest_dirs().into_iter().map(|i| dir_object(found, i)).collect::<Vec<_>>(),
        "files": found.largest_files().into_iter().map(|i| file_object(found, i)).collect::<Vec<_>>(),
        "shared": { "runs": found.shared.runs, "saved": found.shared.saved },
        "duplicates": duplicates_object(found),
        "dm_verity": verity_object(found),
        "fs_verity": found.fsverity.map(|digest| digest.to_string()),
    });
    json::line(out, &object)
}

/// What the hash tree says of itself; it is not verified.
fn verity_object(found: &Findings<'_>) -> Value {
    match &found.facts.verity {
        Some(Ok((header, root))) => json!({
            "root": root.to_string(),
            "hash_offset": header.geometry().hash_offset(),
            "block_size": header.geometry().block_size(),
            "data_blocks": header.geometry().data_blocks(),
            "end": header.geometry().end(),
            "salt": json::hex(header.salt()),
            "uuid": uuid::Uuid::from_bytes(header.uuid()).hyphenated().to_string(),
        }),
        Some(Err(error)) => json!({ "code": error.code(), "error": causes(error) }),
        None => Value::Null,
    }
}

fn feature_object(feature: &Feature) -> Value {
    json!({
        "name": feature.name,
        "needed": feature.needed,
        "kernel": version(feature.kernel),
    })
}

fn xattrs_object(found: &Findings<'_>) -> Value {
    let xattrs = &found.facts.xattrs;
    let names = by_count(found)
        .into_iter()
        .map(|(name, inodes)| json!({ "name": json::bytes(name), "inodes": inodes }));
    json!({
        "inodes": xattrs.inodes,
        "inline": xattrs.inline,
        "references": xattrs.references,
        "shared": xattrs.shared.len(),
        "shared_bytes": xattrs.shared.values().sum::<u64>(),
        "names": names.collect::<Vec<_>>(),
    })
}

fn dir_object(found: &Findings<'_>, index: usize) -> Value {
    let dir = found.facts.dirs.get(index);
    json!({
        "path": json::bytes(&found.dir_path(index)),
        "files": dir.map(|dir| dir.files),
        "size": dir.map(|dir| dir.size),
        "stored": dir.map(|dir| dir.stored),
    })
}

fn file_object(found: &Findings<'_>, index: usize) -> Value {
    let file = found.facts.files.get(index);
    json!({
        "path": json::bytes(&found.file_path(index)),
        "size": file.map(|file| file.size),
        "stored": file.map(|file| file.stored),
    })
}

fn duplicates_object(found: &Findings<'_>) -> Value {
    let Some(duplicates) = &found.duplicates else { return Value::Null };
    let groups = duplicates.iter().take(found.top).map(|duplicate| {
        let paths = duplicate.files.iter().map(|file| json::bytes(&found.file_path(*file)));
        json!({ "wasted": duplicate.wasted, "paths": paths.collect::<Vec<_>>() })
    });
    json!({
        "groups": duplicates.len(),
        "wasted": found.wasted(),
        "largest": groups.collect::<Vec<_>>(),
    })
}
