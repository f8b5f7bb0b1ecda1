//! Whether there is a database that can be used, found without changing it.

use std::path::Path;

use super::connection::look_only;
use super::error::{DatabaseError, Error};
use super::{Store, schema};

/// What there is at the path of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No file.
    Missing,
    /// A file without a table.
    Blank,
    /// A database of this version, in which everything is as it should be.
    Sound,
    /// Another version of erolith wrote it.
    OtherVersion,
    /// A damaged one, or a file of another program.
    Damaged(String),
}

impl Store {
    /// What there is at `path`. All of it is read.
    ///
    /// # Errors
    /// When it cannot be read for a reason that is not in the file.
    pub fn health(path: &Path) -> crate::Result<Health> {
        Ok(judge(path, true).map_err(|error| error.located(path))?)
    }

    /// Whether there is a database with tables at `path`, whatever they are. What cannot be told is for
    /// [`Store::open`] to say.
    pub(crate) fn is_there(path: &Path) -> bool {
        !matches!(judge(path, false), Ok(Health::Missing | Health::Blank))
    }
}

fn judge(path: &Path, is_thorough: bool) -> Result<Health, Error> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Health::Missing),
        Ok(meta) if meta.len() == 0 => return Ok(Health::Blank),
        _ => {}
    }
    let looked = look_only(path).and_then(|conn| {
        let found = schema::look(&conn)?;
        if is_thorough && found == schema::SchemaState::Ours {
            schema::check(&conn)?;
        }
        Ok(found)
    });
    match looked.map_err(|error| error.located(path)) {
        Ok(schema::SchemaState::Nothing) => Ok(Health::Blank),
        Ok(schema::SchemaState::Ours) => Ok(Health::Sound),
        Ok(schema::SchemaState::Older) | Err(Error::Database(DatabaseError::TooNew { .. })) => {
            Ok(Health::OtherVersion)
        }
        Err(Error::Database(DatabaseError::Corrupt { reason, .. })) => Ok(Health::Damaged(reason)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::store::Labels;
    use crate::store::types::Kind;

    #[test]
    fn a_database_is_told_from_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let fill = |name: &str, bytes: &[u8]| {
            File::create(at(name)).unwrap().write_all(bytes).unwrap();
        };
        assert_eq!(Store::health(&at("none")).unwrap(), Health::Missing);
        fill("empty", b"");
        assert_eq!(Store::health(&at("empty")).unwrap(), Health::Blank);
        assert!(!Store::is_there(&at("none")) && !Store::is_there(&at("empty")));

        let store = Store::open(&at("ours")).unwrap();
        store.create(Kind::Active, "a", "", &Labels::new(), &mut |_| Ok(())).unwrap();
        // Also while another process has it open.
        assert_eq!(Store::health(&at("ours")).unwrap(), Health::Sound);
        drop(store);
        assert_eq!(Store::health(&at("ours")).unwrap(), Health::Sound);
        let bytes = std::fs::read(at("ours")).unwrap();

        fill("text", &b"no database at all\n".repeat(100));
        fill("cut", bytes.get(..bytes.len() / 2).unwrap());
        let mut torn = bytes.clone();
        torn.get_mut(4096..8192).unwrap().fill(0x5A);
        fill("torn", &torn);
        for name in ["text", "cut", "torn"] {
            let health = Store::health(&at(name)).unwrap();
            assert!(matches!(health, Health::Damaged(_)), "{name}: {health:?}");
            assert!(Store::is_there(&at(name)), "{name}");
        }
        let other = rusqlite::Connection::open(at("foreign")).unwrap();
        other.execute_batch("CREATE TABLE t (x); PRAGMA user_version = 7;").unwrap();
        assert!(matches!(Store::health(&at("foreign")).unwrap(), Health::Damaged(_)));
        let newer = rusqlite::Connection::open(at("ours")).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(Store::health(&at("ours")).unwrap(), Health::OtherVersion);
    }
}
