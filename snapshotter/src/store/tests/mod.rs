//! Tests of the store against a real database in a temporary directory.

mod damage;
mod durability;
mod errors;
mod labels;
mod scale;
mod seals;
mod suite;

use tempfile::TempDir;

use super::*;
use erolith_errors::ErrorStatus;

/// A store and the directory it lives in.
struct Fixture {
    dir: TempDir,
    store: Store,
}

impl std::ops::Deref for Fixture {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

fn database(dir: &TempDir) -> PathBuf {
    dir.path().join("metadata.db")
}

fn empty() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&database(&dir)).unwrap();
    Fixture { dir, store }
}

impl Fixture {
    /// The same directory, opened anew.
    fn reopened(self) -> Self {
        let Self { dir, store } = self;
        drop(store);
        let store = Store::open(&database(&dir)).unwrap();
        Self { dir, store }
    }
}

/// A `place` with nothing to do.
fn nowhere(_: &Snapshot) -> crate::Result<()> {
    Ok(())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn create(store: &Store, kind: Kind, key: &str, parent: &str) -> crate::Result<Snapshot> {
    store.create(kind, key, parent, &Labels::new(), &mut nowhere)
}

fn commit(store: &Store, key: &str, name: &str) -> crate::Result<Snapshot> {
    commit_on(store, key, name, "")
}

fn commit_on(store: &Store, key: &str, name: &str, parent: &str) -> crate::Result<Snapshot> {
    store.commit(name, key, parent, &Labels::new(), Usage::default(), &mut nowhere)
}

/// A committed snapshot.
fn layer(store: &Store, name: &str, parent: &str) -> Snapshot {
    let key = format!("key of {name}");
    create(store, Kind::Active, &key, parent).unwrap();
    commit(store, &key, name).unwrap()
}

fn error<T: std::fmt::Debug>(outcome: crate::Result<T>) -> Error {
    match outcome {
        Err(crate::Error::Store(error)) => error,
        other => panic!("expected an error of the store, got {other:?}"),
    }
}

fn status<T: std::fmt::Debug>(outcome: crate::Result<T>) -> ErrorStatus {
    error(outcome).status()
}

fn names(store: &Store) -> Vec<String> {
    store.list(&Filters::default()).unwrap().into_iter().map(|info| info.name).collect()
}

#[test]
fn a_store_goes_to_several_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Store>();
}
