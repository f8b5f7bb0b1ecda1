//! Named points at which a test makes the process fail or die.
//!
//! Compiled to nothing unless the feature `faults` is on. Then the environment variable `EROLITH_FAULTS` arms points:
//!
//! ```text
//! EROLITH_FAULTS="ingest.before_sync=error(ENOSPC),publish.after_rename=kill:2"
//! ```
//!
//! `error(ENOSPC|EIO|EDQUOT)` makes the step fail with that error, `kill` ends the process as `kill -9` does. The
//! number after the colon is the visit at which it happens, 1 if absent; other visits pass.

/// Every point there is, in the order in which a conversion passes them, and those of a single file (`output`).
/// Tests walk this table.
pub const POINTS: &[&str] = &[
    "ingest.before_create",
    "ingest.after_create",
    "ingest.after_write",
    "ingest.before_sync",
    "ingest.after_sync",
    "ingest.before_rename",
    "ingest.after_rename",
    "ingest.after_dir_sync",
    "convert.before_record",
    "convert.after_record",
    "convert.before_documents",
    "convert.after_documents",
    "publish.before_create",
    "publish.after_write",
    "publish.after_sync",
    "publish.before_rename",
    "publish.after_rename",
    "publish.after_dir_sync",
    "archive.after_pack",
    "archive.after_sync",
    "archive.before_rename",
    "archive.after_rename",
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

/// Passes the point `name`.
///
/// # Errors
/// The armed error. Without the feature `faults`: never.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn point(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub(crate) use armed::point;

#[cfg(feature = "faults")]
mod armed {
    use std::io;
    use std::sync::{Mutex, OnceLock};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

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
    pub(crate) fn point(name: &'static str) -> io::Result<()> {
        static ARMED: OnceLock<Mutex<Vec<Armed>>> = OnceLock::new();
        debug_assert!(super::POINTS.contains(&name), "{name} is missing from POINTS");
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var("EROLITH_FAULTS").unwrap_or_default();
            Mutex::new(parse(&text).expect("EROLITH_FAULTS is well formed"))
        });
        let mut armed = armed.lock().expect("no holder of this lock panics");
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
        let known = super::POINTS.contains(&name);
        known.then_some(Armed { name: name.to_owned(), action, countdown: visit.parse().ok()? })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn armed_points_are_parsed_and_unknown_ones_refused() {
            let parsed = parse("ingest.before_sync=error(ENOSPC),publish.after_rename=kill:2");
            let parsed = parsed.expect("well formed");
            assert_eq!(parsed[0].action, Action::Error(Errno::NOSPC));
            assert_eq!((parsed[1].action, parsed[1].countdown), (Action::Kill, 2));
            assert_eq!(parse("no.such.point=kill"), None);
            assert_eq!(parse("ingest.before_sync=explode"), None);
            assert_eq!(parse(""), Some(Vec::new()));
        }
    }
}
