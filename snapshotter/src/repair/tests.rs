//! What is decided here about names; the service's tests repair real roots.

use super::*;

#[test]
fn an_old_database_gets_a_name_of_its_own_and_its_log_the_same() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let table: [(&[&str], bool, u64); 7] = [
        (&["metadata.db", "lock"], true, 1),
        (&["metadata.db-wal"], false, 1),
        (&["metadata.db", "metadata.db.damaged-1"], true, 2),
        // Cut short between the two renames.
        (&["metadata.db-wal", "metadata.db.damaged-1", "metadata.db.damaged-2"], false, 2),
        (&["metadata.db-wal", "metadata.db.damaged-2", "metadata.db.damaged-2-wal"], false, 3),
        (&["metadata.db", "metadata.db.damaged-10-wal", "metadata.db.damaged-9"], true, 11),
        (&["metadata.db", "metadata.db.damaged-", "metadata.db.damaged-x"], true, 1),
    ];
    for (there, has_name, want) in table {
        assert_eq!(aside(&names(there), has_name), want, "{there:?}");
    }
}

#[test]
fn a_root_without_snapshots_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Repair::open(dir.path(), true).unwrap_err();
    assert_eq!(error.code(), "config");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn names_that_are_taken_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    for want in ["7", "7.1", "7.2"] {
        let path = free(dir.path(), 7).unwrap();
        assert_eq!(path, dir.path().join(want));
        std::fs::create_dir(path).unwrap();
    }
    std::fs::create_dir_all(dir.path().join("lost/9.4")).unwrap();
    std::fs::create_dir_all(dir.path().join("lost/notes")).unwrap();
    assert_eq!(lost_before(dir.path()).unwrap(), BTreeSet::from([9]));
}
