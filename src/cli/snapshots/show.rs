//! Snapshots as tables and as JSON.

use std::io::Write;

use erolith_mkfs::meta::Time;
use serde_json::{Value, json};

use super::client::Details;
use crate::proto::snapshots::{Info, Kind, UsageResponse};
use crate::term::{self, Align, Table, Visible};

/// One a line: key, kind, when it was made, parent.
pub(super) fn list(infos: &[Info], as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        return infos.iter().try_for_each(|info| Ok(writeln!(out, "{}", object(info))?));
    }
    let mut table = Table::new([Align::Left; 4]);
    table.row(["KEY", "KIND", "CREATED", "PARENT"].map(str::to_owned));
    for info in infos {
        table.row([
            name(&info.name),
            kind(info).to_owned(),
            time(info.created_at),
            name(&info.parent),
        ]);
    }
    Ok(table.write(out, 0)?)
}

/// What each takes, and together.
pub(super) fn usage(
    usages: &[(String, UsageResponse)],
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if as_json {
        return usages.iter().try_for_each(|(key, usage)| {
            Ok(writeln!(
                out,
                "{}",
                json!({ "key": key, "size": usage.size, "inodes": usage.inodes })
            )?)
        });
    }
    let mut table = Table::new([Align::Right, Align::Right, Align::Left]);
    table.row(["SIZE", "INODES", "KEY"].map(str::to_owned));
    let row = |size: i64, inodes: i64| [size_text(size), inodes.to_string()];
    for (key, usage) in usages {
        let [size, inodes] = row(usage.size, usage.inodes);
        table.row([size, inodes, name(key)]);
    }
    if usages.len() > 1 {
        let sum = |field: fn(&UsageResponse) -> i64| {
            usages.iter().fold(0i64, |sum, (_, usage)| sum.saturating_add(field(usage)))
        };
        let [size, inodes] = row(sum(|usage| usage.size), sum(|usage| usage.inodes));
        table.row([size, inodes, "together".to_owned()]);
    }
    Ok(table.write(out, 0)?)
}

/// Everything about one.
pub(super) fn details(details: &Details, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let Details { info, usage, mounts } = details;
    if as_json {
        let mut object = object(info);
        object["usage"] = json!({ "size": usage.size, "inodes": usage.inodes });
        let mount = |m: &crate::proto::types::Mount| json!({ "type": m.r#type, "source": m.source, "options": m.options });
        object["mounts"] = mounts.iter().map(mount).collect();
        return Ok(writeln!(out, "{object}")?);
    }
    let mut table = Table::new([Align::Left, Align::Left]);
    let mut row = |name: &str, value: String| table.row([format!("{name}:"), value]);
    row("key", name(&info.name));
    row("kind", kind(info).to_owned());
    row("parent", if info.parent.is_empty() { "none".to_owned() } else { name(&info.parent) });
    row("created", time(info.created_at));
    row("updated", time(info.updated_at));
    row("size", format!("{} in {} inodes", size_text(usage.size), usage.inodes));
    for (key, value) in &info.labels {
        row("label", format!("{}={}", name(key), name(value)));
    }
    for mount in mounts {
        let options = mount.options.join(",");
        row(
            "mount",
            format!("-t {} {} -o {}", name(&mount.r#type), name(&mount.source), name(&options)),
        );
    }
    Ok(table.write(out, 0)?)
}

/// The word for its kind.
pub(super) fn kind(info: &Info) -> &'static str {
    match info.kind() {
        Kind::View => "view",
        Kind::Active => "active",
        Kind::Committed => "committed",
        Kind::Unknown => "unknown",
    }
}

/// What a client chose, harmless to a terminal.
pub(super) fn name(text: &str) -> String {
    Visible(text.as_bytes()).to_string()
}

fn object(info: &Info) -> Value {
    json!({
        "key": info.name,
        "parent": info.parent,
        "kind": kind(info),
        "created": time(info.created_at),
        "updated": time(info.updated_at),
        "labels": info.labels,
    })
}

fn time(at: Option<prost_types::Timestamp>) -> String {
    at.map_or_else(String::new, |at| {
        term::iso(Time { sec: at.seconds, nsec: u32::try_from(at.nanos).unwrap_or_default() })
    })
}

fn size_text(bytes: i64) -> String {
    term::human(u64::try_from(bytes).unwrap_or_default())
}
