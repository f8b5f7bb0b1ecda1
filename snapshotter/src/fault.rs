//! Named points at which a test makes the process fail or die.
//!
//! Compiled to nothing unless this is a test or the feature `faults` is on. Then the environment variable
//! `EROLITH_SNAPSHOTTER_FAULTS` arms points:
//!
//! ```text
//! EROLITH_SNAPSHOTTER_FAULTS="create.after_rename=error(ENOSPC),commit.after_sync=kill:2"
//! ```
//!
//! `error(ENOSPC|EIO|EDQUOT)` makes the step fail with that error, `kill` ends the process as `kill -9` does. The
//! number after the colon is the visit at which it happens, 1 if absent; other visits pass.

/// Every point there is, in the order in which a snapshot passes them. Tests walk this table.
pub const POINTS: &[&str] = &[
    "open.after_lock",
    "open.after_store",
    "open.after_lowers",
    "recover.before_rows",
    "recover.after_directory",
    "create.before_directory",
    "create.after_directory",
    "upper.before_filesystem",
    "upper.after_filesystem",
    "quota.after_project",
    "quota.after_limit",
    "create.after_record",
    "create.after_rename",
    "create.after_sync",
    "create.after_commit",
    "lower.after_directory",
    "lower.after_mount",
    "upper.after_mount",
    "commit.before_convert",
    "commit.after_convert",
    "seal.after_digest",
    "seal.after_enable",
    "seal.after_note",
    "commit.after_sync",
    "commit.after_name",
    "commit.after_link",
    "commit.after_record",
    "commit.after_dir_sync",
    "commit.before_transaction",
    "commit.after_transaction",
    "commit.after_upper",
    "commit.after_work",
    "remove.before_transaction",
    "remove.after_transaction",
    "cleanup.before_unmount",
    "cleanup.after_unmount",
    "upper.after_unmount",
    "cleanup.before_aside",
    "cleanup.after_aside",
    "quota.after_release",
    "remove.after_clear",
    "cleanup.after_delete",
    "images.after_link",
    "heal.after_image",
    "heal.before_transaction",
    "heal.after_transaction",
    "repair.after_database",
    "repair.after_aside",
    "repair.after_lost",
    "repair.after_name",
];

/// Passes the point `name`.
///
/// # Errors
/// The armed error. Without the feature `faults`: never.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub(crate) fn point(_name: &'static str) -> crate::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "faults"))]
pub(crate) use armed::point;

#[cfg(any(test, feature = "faults"))]
mod armed {
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    use crate::{Error, Result};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Error(Errno),
        Kill,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Armed {
        name: String,
        action: Action,
        /// Visits left until it happens; 0 when it has.
        countdown: u64,
    }

    /// See [`super::point`].
    pub(crate) fn point(name: &'static str) -> Result<()> {
        static ARMED: OnceLock<Mutex<Vec<Armed>>> = OnceLock::new();
        debug_assert!(super::POINTS.contains(&name), "{name} is missing from POINTS");
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var("EROLITH_SNAPSHOTTER_FAULTS").unwrap_or_default();
            Mutex::new(parse(&text).expect("EROLITH_SNAPSHOTTER_FAULTS is well formed"))
        });
        let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = armed.iter_mut().find(|f| f.name == name && f.countdown > 0) else {
            return Ok(());
        };
        fault.countdown -= 1;
        if fault.countdown > 0 {
            return Ok(());
        }
        let failed =
            |errno: Errno| Error::Storage { action: name.to_owned(), source: errno.into() };
        match fault.action {
            Action::Error(errno) => Err(failed(errno)),
            Action::Kill => kill_process(getpid(), Signal::KILL).map_err(failed),
        }
    }

    fn parse(text: &str) -> Option<Vec<Armed>> {
        text.split(',').filter(|item| !item.is_empty()).map(parse_one).collect()
    }

    fn parse_one(item: &str) -> Option<Armed> {
        let (name, action) = item.split_once('=')?;
        let (action, visit) = action.split_once(':').unwrap_or((action, "1"));
        let action = match action {
            "kill" => Action::Kill,
            "error(ENOSPC)" => Action::Error(Errno::NOSPC),
            "error(EIO)" => Action::Error(Errno::IO),
            "error(EDQUOT)" => Action::Error(Errno::DQUOT),
            _ => return None,
        };
        let known = super::POINTS.contains(&name);
        known.then_some(Armed { name: name.to_owned(), action, countdown: visit.parse().ok()? })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn armed_points_are_parsed_and_unknown_ones_refused() {
            let parsed = parse("create.after_sync=error(ENOSPC),commit.after_name=kill:2");
            let parsed = parsed.expect("well formed");
            assert_eq!(parsed[0].action, Action::Error(Errno::NOSPC));
            assert_eq!((parsed[1].action, parsed[1].countdown), (Action::Kill, 2));
            assert_eq!(parse("no.such.point=kill"), None);
            assert_eq!(parse("create.after_sync=explode"), None);
            assert_eq!(parse(""), Some(Vec::new()));
        }
    }
}
