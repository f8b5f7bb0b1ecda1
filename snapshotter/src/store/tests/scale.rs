//! Ten thousand snapshots cost an operation no more than ten do.

use rusqlite::{Connection, StatementStatus, params};

use super::*;

/// Fills without a sync for each snapshot: the statements are the same.
fn fill(store: &Store, from: u64, to: u64) {
    let mut writer = lock(&store.writer);
    let conn = writer.connection();
    conn.execute_batch("BEGIN").unwrap();
    for n in from..to {
        let parent = n.checked_sub(10).map(|p| format!("layer {p}")).unwrap_or_default();
        let (key, id) = (format!("layer {n}"), rows::integer(1_000_000 + n));
        let above = rows::find(conn, &parent).unwrap().map(|record| rows::integer(record.id));
        conn.prepare_cached(sql::INSERT).unwrap().execute(params![id, key, above, 3, 0]).unwrap();
        let given = labels(&[("containerd.io/snapshot.ref", &key)]);
        rows::set_labels(conn, 1_000_000 + n, &given).unwrap();
        let blob = params![key, key, 1];
        conn.prepare_cached(sql::PUT_BLOB).unwrap().execute(blob).unwrap();
    }
    conn.execute_batch("UPDATE ids SET next = 2000000; COMMIT").unwrap();
}

/// Steps of SQLite's machine that each quick statement takes on a typical row. Undone afterwards.
fn steps(store: &Store) -> Vec<i32> {
    let mut writer = lock(&store.writer);
    let tx = writer.connection().transaction().unwrap();
    let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        let mut statement = tx.prepare(sql).unwrap();
        let mut rows = statement.query(params).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        assert_eq!(statement.get_status(StatementStatus::FullscanStep), 0, "{sql}");
        assert_eq!(statement.get_status(StatementStatus::Sort), 0, "{sql}");
        statement.get_status(StatementStatus::VmStep)
    };
    // In this order each finds what it looks for; the last removes the snapshot, which no other stands on.
    vec![
        run(sql::INSERT, &[&500_000, &"new", &1_000_000, &2, &7]),
        run(sql::PUT_LABEL, &[&500_000, &"label", &"value"]),
        run(sql::FIND, &[&"new"]),
        run(sql::KIND_OF, &[&500_000]),
        run(sql::PARENT_OF, &[&500_000]),
        run(sql::CHILD_OF, &[&500_000]),
        run(sql::LABELS_OF, &[&500_000]),
        run(sql::TOUCH, &[&500_000, &8]),
        run(sql::COMMIT, &[&500_000, &"named", &1_000_000, &3, &9, &1, &1]),
        run(sql::PUT_BLOB, &[&"blob", &"diff", &1]),
        run(sql::BLOB, &[&"blob"]),
        run(sql::CUT_BLOBS, &[&65536]),
        run(sql::PUT_SEAL, &[&500_000, &"sha256:0", &1]),
        run(sql::SEAL, &[&500_000]),
        run(sql::PUT_TREE, &[&500_000, &"00", &4096]),
        run(sql::TREE, &[&500_000]),
        run(sql::PUT_DAMAGED, &[&500_000, &"gone"]),
        run(sql::DAMAGE_OF, &[&500_000]),
        run(sql::PUT_ORIGIN, &[&500_000, &"diff", &"{}"]),
        run(sql::ORIGIN, &[&500_000]),
        run(sql::SAME_DIGEST, &[&500_000]),
        run(sql::SAME_DIFF_ID, &[&500_000]),
        run(sql::ENTRY, &[&500_000]),
        run(sql::DROP_TREE, &[&500_000]),
        run(sql::DROP_DAMAGED, &[&500_000]),
        run(sql::KEY_OF, &[&500_000]),
        run(sql::WITH_REF, &[&"layer 7"]),
        run(sql::WITH_DIFF_ID, &[&"none"]),
        run(sql::DROP_LABELS, &[&500_000]),
        run(sql::DELETE, &[&500_000]),
        run(sql::PUT_ENTRY, &[&500_001, &"whole", &1_000_000, &3, &7, &8, &1, &1]),
    ]
}

fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let rows = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get(3));
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn no_quick_statement_scans_a_table() {
    let store = empty();
    fill(&store, 0, 1000);
    let mut writer = lock(&store.writer);
    let conn = writer.connection();
    conn.execute_batch("ANALYZE").unwrap();
    for sql in sql::QUICK {
        for step in plan(conn, sql) {
            // The first or last row by rowid is found without a search.
            assert!(!step.starts_with("SCAN") && !step.contains("TEMP B-TREE"), "{sql}: {step}");
        }
    }
    // Lists walk in order of ids; nothing is sorted.
    for sql in [sql::LIST, sql::LIST_LABELS, sql::IDS] {
        assert!(plan(conn, sql).iter().all(|step| !step.contains("TEMP B-TREE")), "{sql}");
    }
}

#[test]
fn ten_thousand_snapshots_cost_what_ten_do() {
    let store = empty();
    fill(&store, 0, 10);
    let few = steps(&store);
    fill(&store, 10, 10_000);
    assert_eq!(steps(&store), few);
    assert_eq!(steps(&store).len(), sql::QUICK.len());

    let store = store.reopened();
    let top = create(&store, Kind::Active, "key", "layer 9999").unwrap();
    assert_eq!(top.parents.len(), 1000, "every tenth");
    let infos = store.list(&Filters::default()).unwrap();
    assert_eq!(infos.len(), 10_001);
    assert!(infos[..10_000].iter().all(|info| info.labels.len() == 1));
    let filter = r#"labels."containerd.io/snapshot.ref"=="layer 77",parent=="layer 67""#;
    let filters = Filters::parse(&[filter.into()]).unwrap();
    assert_eq!(store.list(&filters).unwrap()[0].name, "layer 77");
    assert_eq!(store.lowers_in_use().unwrap().len(), 1000);
    assert_eq!(store.ids().unwrap().len(), 10_001);
}

/// As long as chains of images get, and longer.
#[test]
fn long_chains_come_nearest_first() {
    let store = empty();
    fill(&store, 0, 1);
    let mut expected = vec![1_000_000];
    let mut below = "layer 0".to_owned();
    for n in 1..200 {
        let name = format!("above {n}");
        let made = layer(&store, &name, &below);
        assert_eq!(made.parents, expected);
        expected.insert(0, made.id);
        below = name;
    }
    assert_eq!(create(&store, Kind::View, "view", &below).unwrap().parents, expected);
    assert_eq!(store.snapshot("view").unwrap().parents.len(), 200);
}
