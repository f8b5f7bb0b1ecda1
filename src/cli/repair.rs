//! `erolith repair`: the database of a daemon, made again of what is in the directories of its snapshots.

use std::io::Write;
use std::process::ExitCode;

use erolith_snapshotter::repair::{Done, Plan, Problem, Repair};
use erolith_snapshotter::store::{Entry, Health};
use serde_json::{Value, json};

use super::root::RootArgs;
use crate::json;
use crate::term::{Align, Quoted, Table};

/// Make the database of the snapshots again, when it is lost or damaged.
///
/// Every snapshot has a record of itself in its directory, and the database is made of those. The old one is kept beside
/// it, as metadata.db.damaged-N. Directories that nothing is known of are moved to lost/ in the root, and listed. The
/// daemon must not be running. Afterwards start it: containerd goes on with what is there, and removes what it does not
/// know.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    root: RootArgs,
    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do it also when the database needs no repair.
    #[arg(long)]
    force: bool,
    /// One JSON object a snapshot, and one for all of it.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let root = args.root.root()?;
    let repair = Repair::open(&root, args.force)?;
    // What is to be done stands there before it is done.
    let mut shown = Vec::new();
    if args.json {
        objects(repair.plan(), &mut shown)?;
    } else {
        writeln!(shown, "{}: {}", root.join("metadata.db").display(), words(repair.health()))?;
        table(repair.plan(), &mut shown)?;
    }
    out.write_all(&shown)?;
    let done = if args.dry_run { None } else { Some(repair.run()?) };
    if args.json {
        json::line(out, &summary(&repair, done.as_ref()))?;
    } else {
        end(repair.plan(), done.as_ref(), out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was found of the old database.
fn words(health: &Health) -> String {
    match health {
        Health::Missing => "it is not there".to_owned(),
        Health::Blank => "there is nothing in it".to_owned(),
        Health::Sound => "it is sound".to_owned(),
        Health::OtherVersion => "it is of another version of erolith".to_owned(),
        Health::Damaged(reason) => reason.clone(),
    }
}

/// What is wrong with this snapshot.
fn fault(plan: &Plan, id: u64) -> Option<&Problem> {
    plan.problems.iter().find(|problem| problem.id == id)
}

fn table(plan: &Plan, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new([Align::Right, Align::Left, Align::Left, Align::Right, Align::Left]);
    table.row(["ID", "KIND", "KEY", "PARENT", ""].map(str::to_owned));
    let quoted = |key: &str| Quoted(key.as_bytes()).to_string();
    for entry in &plan.entries {
        let parent = entry.parent.map(|parent| parent.to_string()).unwrap_or_default();
        let said = match (fault(plan, entry.id), &entry.damage) {
            (Some(problem), _) => format!("damaged: {}", problem.fault),
            (None, Some(reason)) => format!("damaged: {reason}"),
            (None, None) => String::new(),
        };
        let kind = entry.kind.to_string();
        table.row([entry.id.to_string(), kind, quoted(&entry.key), parent, said]);
    }
    for problem in plan.left_out() {
        let key = problem.key.as_deref().map(quoted).unwrap_or_default();
        let said = format!("left out: {}", problem.fault);
        table.row([problem.id.to_string(), String::new(), key, String::new(), said]);
    }
    Ok(table.write(out, 0)?)
}

fn end(plan: &Plan, done: Option<&Done>, out: &mut dyn Write) -> anyhow::Result<()> {
    let (rows, left_out) = (plan.entries.len(), plan.left_out().count());
    let damaged = plan.entries.iter().filter(|entry| entry.damage.is_some()).count();
    writeln!(out, "{rows} snapshots, {damaged} of them damaged; {left_out} left out")?;
    let Some(done) = done else {
        writeln!(out, "nothing was changed")?;
        return Ok(());
    };
    for (_, path) in &done.lost {
        writeln!(out, "moved to {}", path.display())?;
    }
    if let Some(kept) = &done.kept {
        writeln!(out, "the old database is {}", kept.display())?;
    }
    writeln!(out, "the database was made again; start the daemon")?;
    Ok(())
}

fn objects(plan: &Plan, out: &mut dyn Write) -> anyhow::Result<()> {
    for entry in &plan.entries {
        json::line(out, &object(entry, fault(plan, entry.id)))?;
    }
    for Problem { id, key, fault } in plan.left_out() {
        let (code, reason) = (fault.code(), fault.to_string());
        let left_out =
            json!({ "id": id, "key": key, "action": "leave-out", "code": code, "reason": reason });
        json::line(out, &left_out)?;
    }
    Ok(())
}

fn object(entry: &Entry, problem: Option<&Problem>) -> Value {
    json!({
        "id": entry.id,
        "key": entry.key,
        "parent": entry.parent,
        "kind": entry.kind.as_str(),
        "labels": entry.labels,
        "action": "restore",
        "code": problem.map(|problem| problem.fault.code()),
        "reason": entry.damage,
    })
}

fn summary(repair: &Repair, done: Option<&Done>) -> Value {
    let plan = repair.plan();
    let lost = done.map(|done| done.lost.iter().map(|(_, path)| path.display().to_string()));
    let kept = done.and_then(|done| done.kept.as_ref());
    json!({
        "database": words(repair.health()),
        "done": done.is_some(),
        "snapshots": plan.entries.len(),
        "left_out": plan.left_out().count(),
        "lost": lost.map(Iterator::collect::<Vec<_>>),
        "kept": kept.map(|path| path.display().to_string()),
    })
}

#[cfg(test)]
mod tests {
    use erolith_snapshotter::repair::Inconsistency;
    use erolith_snapshotter::store::{Kind, Usage};

    use super::*;

    fn plan() -> Plan {
        let entry = |id, key: &str, parent, kind| Entry {
            id,
            key: key.to_owned(),
            parent,
            kind,
            created: 0,
            updated: 0,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            usage: Usage::default(),
            pin: None,
            tree: None,
            origin: None,
            damage: (id == 2).then(|| "gone".to_owned()),
        };
        let problem =
            |id, key: Option<&str>, fault| Problem { id, key: key.map(Into::into), fault };
        Plan {
            entries: vec![
                entry(2, "k8s.io/2/sha256:0", None, Kind::Committed),
                entry(3, "k8s.io/3/c", Some(2), Kind::Active),
            ],
            next: 70,
            problems: vec![
                problem(1, None, Inconsistency::NoRecord),
                problem(2, Some("k8s.io/2/sha256:0"), Inconsistency::NoImage),
                problem(4, Some("k8s.io/4/\n"), Inconsistency::ParentMissing(1)),
            ],
        }
    }

    #[test]
    fn a_table_says_what_will_be_and_what_is_left_out() {
        let mut out = Vec::new();
        table(&plan(), &mut out).unwrap();
        end(&plan(), None, &mut out).unwrap();
        let done = Done { kept: Some("/r/old".into()), lost: vec![(1, "/r/lost/1".into())] };
        end(&plan(), Some(&done), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for said in [
            "damaged: its image is gone",
            "left out: it has no record",
            "left out: its parent, snapshot 1, is missing",
            "2 snapshots, 1 of them damaged; 2 left out",
            "nothing was changed",
            "moved to /r/lost/1",
            "the old database is /r/old",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert_eq!(text.lines().next().unwrap().split_whitespace().next(), Some("ID"));
    }

    #[test]
    fn objects_say_the_same_to_machines() {
        let mut out = Vec::new();
        objects(&plan(), &mut out).unwrap();
        let lines: Vec<Value> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let actions: Vec<_> = lines.iter().map(|line| line["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["restore", "restore", "leave-out", "leave-out"]);
        assert_eq!((&lines[0]["code"], &lines[0]["reason"]), (&json!("no-image"), &json!("gone")));
        assert_eq!((&lines[1]["parent"], &lines[1]["code"]), (&json!(2), &Value::Null));
        assert_eq!(lines[3]["code"], "parent-missing");
    }
}
