//! Into the sandbox. It cannot be left.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};

use super::limits::WorkerLimits;
use super::{Protection, filter};
use crate::sys::sandbox as sys;
use crate::{Error, Result};

/// User and group "nobody", the kernel's overflow ids: they own nothing.
const NOBODY: u32 = 65534;
/// The highest number that a capability can have.
const LAST_CAPABILITY: u32 = 63;
/// Where the empty root is mounted before it becomes the root. Something is there, for the program came from it.
const STEP: &str = "/proc";
/// The newest Landlock whose rights are known here; an older kernel enforces those it has.
const LANDLOCK: ABI = ABI::V6;

/// Gives up every right that this process has over anything outside, save to read and write what it has open. To be
/// called before it starts threads. Returns what is in force of that which not every system has.
///
/// What is left to do depends on the work: [`confine`] comes before the first byte of a layer.
///
/// # Errors
/// [`Error::Io`], naming the step: then nothing must be read.
pub(super) fn leave() -> Result<Protection> {
    // The kernel's OOM killer prefers this process to the daemon.
    let _ = OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| file.write_all(b"500"));
    sys::ignore_file_size_signal();
    let namespaces =
        sys::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS).is_ok();
    let mounts = sys::unshare(UnshareFlags::NEWNS).is_ok();
    let mounts = mounts && leave_mounts().map_err(Error::io("leaving the mounts"))?;
    let (bounding, nobody) = drop_privileges().map_err(Error::io("dropping privileges"))?;
    // A change of the user takes both back.
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    dumpable.map_err(|e| failed("hiding the process", e))?;
    let death = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    death.map_err(|e| failed("tying the process to its parent", e))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("giving up privileges", e))?;
    let landlock = restrict().unwrap_or(false);
    Ok(Protection { nobody, bounding, namespaces, mounts, landlock })
}

/// Limits what this process may use, and has the kernel kill it at any system call that the work does not need.
///
/// # Errors
/// As [`leave`].
pub(super) fn confine(limits: WorkerLimits) -> Result<()> {
    limits.set().map_err(Error::io("limiting resources"))?;
    filter::install()
}

/// Leaves a mount namespace of our own with nothing in it, so that no mount of the node is held. False: not here.
fn leave_mounts() -> io::Result<bool> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    // Else the node would lose its mounts with us.
    if rustix::mount::mount_change("/", private).is_err() {
        return Ok(false);
    }
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    if rustix::mount::mount("tmpfs", STEP, "tmpfs", flags, Some(c"nr_inodes=1")).is_err() {
        return Ok(false);
    }
    rustix::process::chdir(STEP)?;
    // The old root is on top of the new one then.
    if rustix::process::pivot_root(".", ".").is_err() {
        return Ok(false);
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(true)
}

/// Drops groups, user and all capabilities. Returns whether the bounding set is empty, and whether the user is `nobody`.
fn drop_privileges() -> io::Result<(bool, bool)> {
    let bounding = (0..=LAST_CAPABILITY).all(|number| {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        let dropped = rustix::thread::remove_capability_from_bounding_set(capability);
        // Numbers that the kernel does not know.
        matches!(dropped, Ok(()) | Err(Errno::INVAL))
    });
    let nobody = rustix::process::geteuid().is_root() && become_nobody()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    // Nothing can be ambient that is not permitted; older kernels do not know the question.
    let _ = rustix::thread::clear_ambient_capability_set();
    Ok((bounding, nobody))
}

/// False: there is no such user in this user namespace.
fn become_nobody() -> io::Result<bool> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    match rustix::thread::set_thread_res_gid(gid, gid, gid) {
        Err(Errno::INVAL) => return Ok(false),
        other => other?,
    }
    match rustix::thread::set_thread_groups(&[]) {
        // A user namespace where groups must not be dropped.
        Ok(()) | Err(Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::thread::set_thread_res_uid(uid, uid, uid) {
        Err(Errno::INVAL) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Denies whatever Landlock can deny. False: the kernel has none.
fn restrict() -> std::result::Result<bool, landlock::RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

fn failed(action: &str, errno: Errno) -> Error {
    Error::io(action)(errno.into())
}
