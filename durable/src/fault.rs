//! Named points at which a test makes the process fail or die.
//!
//! Compiled to nothing unless the feature `faults` is on. Then the environment variable `EROLITH_FAULTS` arms points:
//!
//! ```text
//! EROLITH_FAULTS="ingest.before_sync=error(ENOSPC),publish.after_name=kill:2"
//! ```
//!
//! `error(ENOSPC|EIO|EDQUOT)` makes the step fail with that error, `kill` ends the process as `kill -9` does. The
//! number after the colon is the visit at which it happens, 1 if absent; other visits pass.

/// The points that layers and images pass, in the order in which a conversion passes them; `output` is a single file.
/// Tests walk this table.
pub const LAYER_POINTS: &[&str] = &[
    "ingest.before_create",
    "ingest.after_create",
    "ingest.after_write",
    "ingest.before_sync",
    "ingest.after_sync",
    "ingest.before_name",
    "ingest.after_name",
    "ingest.after_dir_sync",
    "convert.before_record",
    "convert.after_record",
    "convert.before_documents",
    "convert.after_documents",
    "publish.before_create",
    "publish.after_create",
    "publish.before_sync",
    "publish.after_sync",
    "publish.before_name",
    "publish.after_name",
    "publish.after_dir_sync",
    "archive.before_sync",
    "archive.after_sync",
    "archive.before_name",
    "archive.after_name",
    "archive.after_dir_sync",
    "output.before_create",
    "output.after_create",
    "output.before_sync",
    "output.after_sync",
    "output.before_name",
    "output.after_link",
    "output.after_name",
    "output.after_dir_sync",
];

/// The points that a snapshot passes, in that order. Tests walk this table.
pub const SNAPSHOT_POINTS: &[&str] = &[
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
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

/// Passes the point `family.step`: the same step is a point of its own for each kind of file.
///
/// # Errors
/// As [`point`].
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn step(_family: Option<&'static str>, _step: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use armed::point;
#[cfg(feature = "faults")]
pub(crate) use armed::step;

#[cfg(feature = "faults")]
mod armed {
    use std::io;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    use super::{LAYER_POINTS, SNAPSHOT_POINTS};

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

    fn is_known(name: &str) -> bool {
        LAYER_POINTS.contains(&name) || SNAPSHOT_POINTS.contains(&name)
    }

    /// See [`super::step`].
    pub(crate) fn step(family: Option<&'static str>, step: &'static str) -> io::Result<()> {
        family.map_or(Ok(()), |family| pass(&format!("{family}.{step}")))
    }

    /// See [`super::point`].
    pub fn point(name: &'static str) -> io::Result<()> {
        pass(name)
    }

    fn pass(name: &str) -> io::Result<()> {
        static ARMED: OnceLock<Mutex<Vec<Armed>>> = OnceLock::new();
        debug_assert!(is_known(name), "{name} is missing from the tables");
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var("EROLITH_FAULTS").unwrap_or_default();
            Mutex::new(parse(&text).expect("EROLITH_FAULTS is well formed"))
        });
        let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = armed.iter_mut().find(|f| f.name == name && f.countdown > 0) else {
            return Ok(());
        };
        fault.countdown -= 1;
        if fault.countdown > 0 {
            return Ok(());
        }
        match fault.action {
            Action::Error(errno) => Err(errno.into()),
            Action::Kill => {
                kill_process(getpid(), Signal::KILL)?;
                Ok(())
            }
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
        let countdown = visit.parse().ok()?;
        is_known(name).then(|| Armed { name: name.to_owned(), action, countdown })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn armed_points_are_parsed_and_unknown_ones_refused() {
            let parsed = parse("ingest.before_sync=error(ENOSPC),commit.after_name=kill:2");
            let parsed = parsed.expect("well formed");
            assert_eq!(parsed[0].action, Action::Error(Errno::NOSPC));
            assert_eq!((parsed[1].action, parsed[1].countdown), (Action::Kill, 2));
            assert_eq!(parse("no.such.point=kill"), None);
            assert_eq!(parse("create.after_sync=explode"), None);
            assert_eq!(parse(""), Some(Vec::new()));
        }

        #[test]
        fn no_point_is_listed_twice() {
            let mut names: Vec<_> = LAYER_POINTS.iter().chain(SNAPSHOT_POINTS).collect();
            names.sort();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
