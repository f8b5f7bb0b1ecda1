//! `erolith inspect`: what an image is made of, as text, as JSON, or as a page with pictures.

mod facts;
mod features;
mod grid;
mod html;
mod report;
mod sharing;
mod treemap;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use erolith_differ::content::{Blob, Staging as _};
use erolith_differ::publish::{Durability, OutputFile, READABLE};
use erolith_verity::fsverity::Digest;

use facts::Facts;
use sharing::{Duplicate, Shared};

use crate::exit::Usage;
use crate::source::{ImageArgs, Opened, Part};

/// Show what an image is made of: features, layouts, space by directory, what is shared and what is wasted.
///
/// Bytes of a file are those it takes in the image. What several files share is counted for each of them,
/// except in the totals of the image. Of an image of layers each layer is shown by itself, one JSON object a line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Entries of each list.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// How deep below the root directories are listed.
    #[arg(long, value_name = "N", default_value_t = 2)]
    depth: usize,
    /// Look for files of equal content; files of equal size are read.
    #[arg(long)]
    duplicates: bool,
    /// Compute the fs-verity digest of the image; all of it is read.
    #[arg(long)]
    fs_verity: bool,
    /// One JSON object.
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Write a page with pictures instead, complete in itself: nothing is loaded from anywhere.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    image: ImageArgs,
}

/// Everything that the three forms of output show.
struct Findings<'a> {
    /// How the image is called.
    name: String,
    image: &'a Opened,
    facts: Facts,
    shared: Shared,
    /// `None` when they were not searched for.
    duplicates: Option<Vec<Duplicate>>,
    /// What fs-verity would measure of the file, if it was asked for.
    fsverity: Option<Digest>,
    top: usize,
    depth: usize,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    if args.html.is_some() && !args.image.is_single() {
        return Err(Usage("--html shows one image: name a layer with #N".into()).into());
    }
    let mut is_first = true;
    args.image.parts(&mut |name, part| {
        let part = part.with_context(|| name.clone())?;
        let image = part.open()?;
        let findings = look(args, &part, &image).with_context(|| name)?;
        if !is_first && !args.json {
            writeln!(out)?;
        }
        is_first = false;
        show(args, &findings, out)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &Args, findings: &Findings<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    match &args.html {
        Some(path) => {
            let page = html::page(findings);
            let pending = OutputFile::create(path, READABLE)?;
            pending.file().write_all(page.as_bytes())?;
            pending.publish(Durability::Synced)?;
        }
        None if args.json => report::json(findings, out)?,
        None => report::text(findings, out)?,
    }
    Ok(())
}

fn look<'a>(args: &Args, part: &Part, image: &'a Opened) -> anyhow::Result<Findings<'a>> {
    let facts = facts::gather(image)?;
    let shared = sharing::shared(&facts, args.top);
    let duplicates = args.duplicates.then(|| sharing::duplicates(image, &facts)).transpose()?;
    let digest = |file: &Blob| Digest::of(file, &mut |_| {});
    let file = image.device(0).filter(|_| args.fs_verity);
    let fsverity = file.map(digest).transpose().context("reading the image")?;
    let (name, top, depth) = (part.name.clone(), args.top, args.depth);
    Ok(Findings { name, image, facts, shared, duplicates, fsverity, top, depth })
}

impl Findings<'_> {
    /// The path of a file, with a leading slash.
    fn file_path(&self, file: usize) -> Vec<u8> {
        let name = self.facts.files.get(file).map(|file| self.facts.names.path(&file.name));
        crate::term::rooted(&name.unwrap_or_default())
    }

    /// The path of a directory, with a leading slash.
    fn dir_path(&self, dir: usize) -> Vec<u8> {
        let nid = self.facts.dirs.get(dir).map_or(0, |dir| dir.nid);
        crate::term::rooted(&self.facts.names.components(nid).join(&b'/'))
    }

    /// Places of the files that take most, the largest first.
    fn largest_files(&self) -> Vec<usize> {
        let mut files: Vec<usize> = (0..self.facts.files.len()).collect();
        let key = |file: &usize| self.facts.files.get(*file).map(|file| (file.stored, file.size));
        files.sort_by_key(|file| std::cmp::Reverse(key(file)));
        files.truncate(self.top);
        files
    }

    /// Places of the directories that take most, not deeper than asked for, the largest first.
    fn largest_dirs(&self) -> Vec<usize> {
        let is_wanted = |dir: &facts::Dir| (1..=self.depth).contains(&dir.depth);
        let dirs = self.facts.dirs.iter().enumerate().filter(|(_, dir)| is_wanted(dir));
        let mut dirs: Vec<(u64, usize)> = dirs.map(|(i, dir)| (dir.stored, i)).collect();
        dirs.sort_by_key(|(stored, _)| std::cmp::Reverse(*stored));
        dirs.into_iter().map(|(_, i)| i).take(self.top).collect()
    }

    /// Bytes that one copy of each content would save.
    fn wasted(&self) -> u64 {
        self.duplicates.iter().flatten().map(|duplicate| duplicate.wasted).sum()
    }

    /// The UUID as it is written, and the label.
    fn identity(&self) -> (String, Vec<u8>) {
        let raw = &self.image.superblock().raw;
        let uuid = uuid::Uuid::from_bytes(raw.uuid).hyphenated().to_string();
        let label = raw.volume_name.split(|&b| b == 0).next().unwrap_or_default();
        (uuid, label.to_vec())
    }
}

/// Hundredths of a whole, as text.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{} %", tenths / 10, tenths % 10)
}
