//! The findings as one page: complete in itself, nothing loaded from anywhere, readable without its script.
//!
//! Names come from the image, which may come from a stranger. They are made visible first, as in a terminal, and then
//! escaped; and the page's own policy lets only this style and this script run, whatever a name says.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use super::features::{self, oldest_kernel, version};
use super::grid::Kind;
use super::treemap::{Item, Node, treemap};
use super::{Findings, percent, report};
use crate::cli::stat::layout_name;
use crate::term::{self, Visible, human};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Size of the treemap, in its own units.
const TREE: (f64, f64) = (1000.0, 560.0);
/// Colours for what is directly below the root; the last one is for all that follow.
const FAMILIES: usize = 8;

/// Text in a page: nothing in it is markup, in content as in quoted attributes.
struct Html<'a>(&'a str);

impl fmt::Display for Html<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A name of the image, ready for the page.
fn name(bytes: &[u8]) -> String {
    Html(&Visible(bytes).to_string()).to_string()
}

/// The page.
pub(super) fn page(found: &Findings<'_>) -> String {
    let hash = |text: &str| {
        let digest = Sha256::digest(text.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(digest)
    };
    let title = Html(&found.name).to_string();
    let sections = [
        header(found),
        directories_picture(found),
        image_picture(found),
        format!("<div class=\"pair\">{}{}</div>\n", types(found), layouts(found)),
        directories(found),
        files(found),
        sharing(found),
        format!("<div class=\"pair\">{}{}</div>\n", xattrs(found), kernel(found)),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{}\
         <footer>Made by erolith {}. Files are counted by the bytes they take in the image; what several \
         files share counts for each of them.</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        hash(STYLE),
        hash(SCRIPT),
        sections.concat(),
        env!("CARGO_PKG_VERSION"),
    )
}

fn header(found: &Findings<'_>) -> String {
    let (facts, sb) = (&found.facts, found.image.superblock());
    let (uuid, label) = found.identity();
    let label = match label.as_slice() {
        [] => String::new(),
        label => format!(" &middot; label {}", name(label)),
    };
    let oldest = oldest_kernel(&features::features(sb));
    let cards = [
        ("image", human(facts.image_bytes)),
        ("content of files", human(facts.content)),
        ("inodes", (facts.compact + facts.extended).to_string()),
        ("block size", human(sb.block_size())),
        ("unused", percent(facts.grid.total(Kind::Unused), facts.image_bytes)),
        ("Linux", format!("{} or later", version(oldest))),
    ];
    let cards = cards.map(|(what, value)| format!("<div><dt>{what}</dt><dd>{value}</dd></div>"));
    format!(
        "<header><h1>{}</h1><p class=\"soft mono\">EROFS &middot; {uuid}{label}</p><dl>{}</dl></header>\n",
        Html(&found.name),
        cards.concat()
    )
}

fn directories_picture(found: &Findings<'_>) -> String {
    let (width, height) = TREE;
    let nodes = treemap(&found.facts, width, height);
    if nodes.is_empty() {
        return "<section><h2>Space by directory</h2><p>Nothing is stored.</p></section>\n".into();
    }
    let mut svg = String::new();
    for node in &nodes {
        push_node(&mut svg, found, node);
    }
    format!(
        "<section><h2>Space by directory</h2>\
         <p class=\"soft\">Areas are bytes in the image. Choose a directory to go into it, its own name to go back.</p>\
         <nav id=\"crumbs\" aria-label=\"Directory shown\"></nav>\
         <svg id=\"treemap\" class=\"picture\" viewBox=\"0 0 {width} {height}\" role=\"group\" \
         aria-label=\"Treemap of space by directory; the tables below say the same\">{svg}</svg>\
         <p id=\"where\" class=\"mono\" role=\"status\"></p></section>\n"
    )
}

fn push_node(svg: &mut String, found: &Findings<'_>, node: &Node) {
    let facts = &found.facts;
    let (class, label, what) = match node.item {
        Item::Dir(index) => {
            let dir = facts.dirs.get(index);
            let label = dir.map(|dir| name(&dir.name.name)).unwrap_or_default();
            let files = dir.map_or(0, |dir| dir.files);
            ("d", label, format!("{} in {files} files", human(node.bytes)))
        }
        Item::File(index) => {
            let file = facts.files.get(index);
            let label = file.map(|file| name(&file.name.name)).unwrap_or_default();
            ("l", label, human(node.bytes))
        }
        Item::Rest(files) => ("r", format!("{files} more"), human(node.bytes)),
    };
    let label = if node.parent == 0 && node.depth == 0 { "/".to_owned() } else { label };
    let role = if class == "d" { " role=\"button\"" } else { "" };
    let off = if node.free < 12.0 || node.rect.w < 26.0 { " class=\"off\"" } else { "" };
    let family = node.family.min(FAMILIES - 1);
    let super::treemap::Rect { x, y, w, h } = node.rect;
    let (parent, free) = (node.parent, node.free);
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<svg class=\"n {class} f{family}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" \
         data-p=\"{parent}\" data-f=\"{free:.2}\" data-t=\"{what}\"{role} aria-label=\"{label}, {what}\">\
         <title>{label}: {what}</title><rect width=\"100%\" height=\"100%\"/>\
         <text x=\".3em\" y=\"1.1em\"{off}>{label}</text></svg>"
    );
}

fn image_picture(found: &Findings<'_>) -> String {
    /// Side of a cell.
    const CELL: usize = 8;
    let grid = &found.facts.grid;
    let cells: Vec<Kind> = grid.cells().collect();
    let columns = if cells.len() <= 1024 { 64 } else { 128 };
    let mut svg = String::new();
    let mut first = 0usize;
    for (row, kinds) in cells.chunks(columns).enumerate() {
        let mut column = 0;
        for run in kinds.chunk_by(|a, b| a == b) {
            let kind = run.first().map_or(Kind::Unused, |kind| *kind).name();
            let start = human((first as u64).saturating_mul(grid.cell_bytes()));
            let (x, y) = (column * CELL, row * CELL);
            let width = run.len() * CELL;
            let _ = writeln!(
                svg,
                "<rect class=\"k-{kind}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{CELL}\">\
                 <title>{kind} at {start}</title></rect>"
            );
            column += run.len();
            first += run.len();
        }
    }
    let (width, height) = (columns * CELL, cells.len().div_ceil(columns) * CELL);
    let rows = Kind::ALL.map(|kind| {
        let bytes = grid.total(kind);
        format!(
            "<tr><td><span class=\"swatch k-{0}\"></span>{0}</td><td class=\"num\">{1}</td>\
             <td class=\"num\">{2}</td><td class=\"soft\">{3}</td></tr>\n",
            kind.name(),
            human(bytes),
            percent(bytes, found.facts.image_bytes),
            kind.meaning()
        )
    });
    format!(
        "<section><h2>Map of the image</h2><p class=\"soft\">From its first byte to its last, {} a cell, in the \
         colour of what takes most of it.</p><svg class=\"picture\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"Map of the image; the table below has the totals\">{svg}</svg><table>{}</table></section>\n",
        human(grid.cell_bytes()),
        rows.concat()
    )
}

/// A table row of a bar: what, how many, their share of all, bytes.
fn bar(what: &str, count: u64, all: u64, bytes: u64) -> String {
    let share = percent(count, all);
    let width = if all == 0 { 0 } else { u128::from(count) * 1000 / u128::from(all) };
    format!(
        "<tr><td>{what}</td><td class=\"num\">{count}</td><td><svg class=\"bar\" viewBox=\"0 0 1000 10\" \
         preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect width=\"{width}\" height=\"10\"/></svg></td>\
         <td class=\"num\">{share}</td><td class=\"num\">{}</td></tr>\n",
        human(bytes)
    )
}

fn types(found: &Findings<'_>) -> String {
    let facts = &found.facts;
    let all = facts.compact + facts.extended;
    let mut rows = String::new();
    for (kind, tally) in facts.types.values() {
        rows.push_str(&bar(term::type_name(*kind), tally.inodes, all, tally.bytes));
    }
    format!("<section><h2>Types of inodes</h2><table>{rows}</table></section>\n")
}

fn layouts(found: &Findings<'_>) -> String {
    let facts = &found.facts;
    let all = facts.compact + facts.extended;
    let mut rows = String::new();
    for (layout, tally) in &facts.layouts {
        rows.push_str(&bar(layout_name(*layout), tally.inodes, all, tally.bytes));
    }
    let inode_bytes =
        [("compact inodes", facts.compact, 32), ("extended inodes", facts.extended, 64)];
    for (what, count, size) in inode_bytes {
        rows.push_str(&bar(what, count, all, count.saturating_mul(size)));
    }
    format!("<section><h2>Layouts and forms</h2><table>{rows}</table></section>\n")
}

/// A section with a table, or nothing when it has no rows.
fn section(title: &str, note: &str, head: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    // All columns but the last hold numbers.
    let class = |i: usize| if i + 1 < head.len() { " class=\"num\"" } else { "" };
    let head = head.iter().enumerate().map(|(i, cell)| format!("<th{}>{cell}</th>", class(i)));
    let head: String = head.collect();
    let note =
        if note.is_empty() { String::new() } else { format!("<p class=\"soft\">{note}</p>") };
    format!(
        "<section><h2>{title}</h2>{note}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>\n"
    )
}

/// A row of numbers and, last, a path.
fn path_row(numbers: &[String], path: &[u8]) -> String {
    let numbers = numbers.iter().map(|cell| format!("<td class=\"num\">{cell}</td>"));
    format!("<tr>{}<td class=\"mono\">{}</td></tr>\n", numbers.collect::<String>(), name(path))
}

fn directories(found: &Findings<'_>) -> String {
    let whole = found.facts.dirs.first().map_or(0, |root| root.stored);
    let mut rows = String::new();
    for index in found.largest_dirs() {
        let Some(dir) = found.facts.dirs.get(index) else { continue };
        let share = percent(dir.stored, whole);
        let numbers = [human(dir.stored), share, dir.files.to_string()];
        rows.push_str(&path_row(&numbers, &found.dir_path(index)));
    }
    section("Largest directories", "", &["stored", "share", "files", "path"], &rows)
}

fn files(found: &Findings<'_>) -> String {
    let mut rows = String::new();
    for index in found.largest_files() {
        let Some(file) = found.facts.files.get(index) else { continue };
        let numbers = [human(file.stored), human(file.size)];
        rows.push_str(&path_row(&numbers, &found.file_path(index)));
    }
    section("Largest files", "", &["stored", "size", "path"], &rows)
}

fn sharing(found: &Findings<'_>) -> String {
    let mut rows = String::new();
    for (saved, references, file) in &found.shared.top {
        let numbers = [human(*saved), references.to_string()];
        rows.push_str(&path_row(&numbers, &found.file_path(*file)));
    }
    let note = format!("{} runs of data, {} saved", found.shared.runs, human(found.shared.saved));
    let shared = section("Shared data", &note, &["saved", "references", "one of the files"], &rows);
    let mut rows = String::new();
    for duplicate in found.duplicates.iter().flatten().take(found.top) {
        let first = duplicate.files.first().copied().unwrap_or(0);
        let numbers = [human(duplicate.wasted), duplicate.files.len().to_string()];
        rows.push_str(&path_row(&numbers, &found.file_path(first)));
    }
    let groups = found.duplicates.as_ref().map_or(0, Vec::len);
    let note = format!("{groups} contents, {} stored more than once", human(found.wasted()));
    let head = ["wasted", "files", "one of them"];
    [shared, section("Files of equal content", &note, &head, &rows)].concat()
}

fn xattrs(found: &Findings<'_>) -> String {
    let xattrs = &found.facts.xattrs;
    let mut rows = String::new();
    for (xattr, count) in report::by_count(found) {
        rows.push_str(&path_row(&[count.to_string()], xattr));
    }
    let note = format!(
        "{} stored inline, {} references to {} shared",
        xattrs.inline,
        xattrs.references,
        xattrs.shared.len()
    );
    section("Extended attributes", &note, &["inodes", "name"], &rows)
}

fn kernel(found: &Findings<'_>) -> String {
    let mut rows = String::new();
    for feature in features::features(found.image.superblock()) {
        let needed = if feature.needed { "needs" } else { "used by" };
        let _ = writeln!(
            rows,
            "<tr><td class=\"mono\">{}</td><td>{needed} {}</td><td class=\"soft\">{}</td></tr>",
            feature.name,
            version(feature.kernel),
            feature.meaning
        );
    }
    section("Features", "", &["name", "Linux", "what it is"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_markup() {
        let table: [(&[u8], &str); 4] = [
            (b"<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            (b"\" onload='x' &amp;", "&quot; onload=&#39;x&#39; &amp;amp;"),
            (b"line\nbreak\x1b", "line\\nbreak\\033"),
            (b"\xff<", "\\377&lt;"),
        ];
        for (bytes, want) in table {
            assert_eq!(name(bytes), want);
        }
    }

    #[test]
    fn the_page_holds_nothing_that_ends_its_style_or_script() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"));
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
