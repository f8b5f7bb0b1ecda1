//! The differential oracle of images: four readers, which must find the same tree. They are our own, the crate `erofs-rs`,
//! `fsck.erofs` and the kernel.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use erolith_mkfs::check::{Finding, Limits, check};
use erolith_mkfs::image::Image;
use erolith_mkfs::io::ReadAt;

use crate::listing::{Blind, Listing};
use crate::mount::{self, Mounted};
use crate::scratch::Scratch;
use crate::tools;

/// Bytes that a tree may extract to.
const ROOM: u64 = 4 << 30;

/// The readers that are available here. A missing one is reported once, as a skipped part of the test.
#[derive(Debug)]
pub struct Readers {
    fsck: Option<(PathBuf, Scratch)>,
    kernel: bool,
}

/// An image to be read.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The image.
    pub image: &'a Path,
    /// Its extra devices.
    pub devices: &'a [&'a Path],
    /// What it is, for messages.
    pub name: &'a str,
}

impl Readers {
    /// Looks for the readers.
    pub fn new() -> Self {
        let fsck = tools::program("fsck.erofs").and_then(|program| {
            // Extraction sets owners and makes devices, and tmpfs takes all that a tree can have.
            Ok((program, Scratch::new(ROOM)?))
        });
        let say = |why: &String| tools::skipped(&format!("a reader is missing: {why}"));
        let kernel = mount::available();
        if let Err(why) = &fsck {
            say(why);
        }
        if let Err(why) = &kernel {
            say(why);
        }
        Self { fsck: fsck.ok(), kernel: kernel.is_ok() }
    }

    /// Panics unless every reader finds exactly this tree in the image.
    ///
    /// # Panics
    /// With the name of the reader and the differences.
    pub fn agree(&self, subject: Subject<'_>, expected: &Listing) {
        let bytes: u64 = expected.nodes.values().map(|node| node.size).sum();
        let agree = |reader: &str, read: Result<Option<Listing>, String>, blind: &[Blind]| {
            let seen = read.unwrap_or_else(|why| panic!("{}: {reader}: {why}", subject.name));
            let Some(seen) = seen else { return };
            let (expected, seen) = (expected.clone().blind(blind), seen.blind(blind));
            expected.assert_eq(&seen, ("expected", reader), subject.name);
        };
        agree("erolith", ours(subject).map(Some), &[]);
        let erofs_rs = Listing::from_erofs_rs_devices(subject.image, subject.devices);
        agree("erofs-rs", erofs_rs.map(Some), &[]);
        let mut blind = vec![Blind::Capabilities];
        let default_acl = b"system.posix_acl_default".as_slice();
        if expected.nodes.values().any(|node| node.xattrs.contains_key(default_acl)) {
            blind.push(Blind::Acls);
        }
        let depth = |path: &[u8]| path.iter().filter(|&&b| b == b'/').count();
        // fsck.erofs recurses and joins whole paths: it dies below a thousand directories or so, and where the path it
        // extracts to is longer than PATH_MAX.
        let is_deep = |path: &Vec<u8>| depth(path) > 1000 || path.len() > 4000;
        let is_deep = expected.nodes.keys().any(is_deep);
        let extraction = if is_deep { Ok(None) } else { self.fsck(subject, bytes) };
        let extracted = extraction.map(|seen| {
            seen.map(|mut seen| {
                // Where an inode has an attribute without a value, it extracts neither that one nor those behind it.
                for (path, node) in &expected.nodes {
                    let extracted = seen.nodes.get_mut(path);
                    if let Some(to) = extracted.filter(|_| node.xattrs.values().any(Vec::is_empty))
                    {
                        to.xattrs.clone_from(&node.xattrs);
                    }
                }
                seen
            })
        });
        agree("fsck.erofs", extracted, &blind);
        agree("kernel", self.kernel(subject), &[]);
    }

    /// Checks the image and everything in it, and extracts it unless that would take more room than there is: it
    /// writes every hole out as zeros.
    fn fsck(&self, subject: Subject<'_>, bytes: u64) -> Result<Option<Listing>, String> {
        let Some((program, scratch)) = &self.fsck else { return Ok(None) };
        // One after the other in one process; a name of its own keeps a failed one from confusing the next.
        let dir = tempfile::tempdir_in(scratch.path()).map_err(|e| e.to_string())?;
        let target = dir.path().join("tree");
        let devices = subject.devices.iter().map(|d| format!("--device={}", d.display()));
        let extracts = bytes < ROOM;
        let action = if extracts {
            vec![format!("--extract={}", target.display()), "--xattrs".to_owned()]
        } else {
            Vec::new()
        };
        let out = Command::new(program)
            .args(action)
            .args(devices)
            .arg(subject.image)
            .output()
            .map_err(|e| e.to_string())?;
        if !out.status.success() {
            let text = [out.stdout, out.stderr].concat();
            return Err(String::from_utf8_lossy(&text).into_owned());
        }
        if extracts { Listing::from_dir(&target).map(Some) } else { Ok(None) }
    }

    fn kernel(&self, subject: Subject<'_>) -> Result<Option<Listing>, String> {
        if !self.kernel {
            return Ok(None);
        }
        let mounted = Mounted::erofs(subject.image, subject.devices)?;
        Listing::from_dir(&mounted.path()).map(Some)
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self::new()
    }
}

fn ours(subject: Subject<'_>) -> Result<Listing, String> {
    let open = |path: &Path| File::open(path).map_err(|e| format!("{}: {e}", path.display()));
    let devices = subject.devices.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let primary = open(subject.image)?;
    let parts: Vec<&dyn ReadAt> = devices.iter().map(|device| device as &dyn ReadAt).collect();
    let report = check(&primary, &parts, &Limits::default()).map_err(|e| e.to_string())?;
    // An archive without file data leaves its device unused.
    let bad = |finding: &&Finding| finding.code() != "device-unused";
    if let Some(finding) = report.findings.iter().find(bad) {
        let at = finding.path.escape_ascii();
        return Err(format!("check: {} at /{at}: {}", finding.code(), finding.corruption));
    }
    let image = Image::open(primary, devices).map_err(|e| e.to_string())?;
    Listing::from_image(&image)
}
