//! No file of the product imports another one that imports it, on whatever way.
//!
//! An import leads to the file that defines the name, through re-exports. Code of tests does not count.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use erolith_tests::sources::{PRODUCT, is_of_tests, root, rust_files};

/// A module by its names; empty for the root of the crate.
type Module = Vec<String>;
/// What a module imports by `use`: a path from the root of the crate.
type Import = Vec<String>;

/// The modules of a crate, each a file.
#[derive(Default)]
struct Crate {
    /// What each uses for itself.
    uses: BTreeMap<Module, BTreeSet<Import>>,
    /// What each re-exports, by the name under which it does.
    exports: BTreeMap<Module, BTreeMap<String, Import>>,
}

/// The code of a file: no comments, no tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    )
}

fn module(root: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(root).unwrap().with_extension("");
    let mut names: Module = relative.iter().map(|n| n.to_str().unwrap().to_owned()).collect();
    if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        names.pop();
    }
    names
}

/// `a::{b, c::{d as e}}` as `(a::b, b)` and `(a::c::d, e)`.
fn expand(tree: &str) -> Vec<(String, String)> {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
        let last = path.rsplit("::").next().unwrap_or_default();
        let name = if name.is_empty() { last } else { name };
        return vec![(path.trim().to_owned(), name.trim().to_owned())];
    };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for c in inside.chars() {
        match c {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    parts.push(part);
    let named = parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| expand(part));
    let base = before.trim_end_matches("::");
    let own = base.rsplit("::").next().unwrap_or_default();
    named
        .map(|(path, name)| match (path.as_str(), name.as_str()) {
            ("self", "self") => (base.to_owned(), own.to_owned()),
            ("self", _) => (base.to_owned(), name),
            _ => (format!("{base}::{path}"), name),
        })
        .collect()
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut files = rust_files(root);
        files.retain(|file| !is_of_tests(file));
        let mut found = Self::default();
        for file in &files {
            found.uses.entry(module(root, file)).or_default();
        }
        for file in &files {
            let (of, code) = (module(root, file), code(file));
            for statement in code.split(';') {
                found.statement(&of, statement);
            }
            found.inline(&of, &code);
        }
        found
    }

    /// A `use`, if the statement ends in one.
    fn statement(&mut self, of: &Module, statement: &str) {
        let flat = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(at) = flat.rfind("use ").filter(|&at| at == 0 || flat[..at].ends_with(' ')) else {
            return;
        };
        let is_export = flat[..at].trim_end().ends_with([')', 'b']) && flat[..at].contains("pub");
        for (path, name) in expand(&flat[at + 4..]) {
            let Some(import) = self.absolute(of, &path) else { continue };
            if is_export {
                self.exports.entry(of.clone()).or_default().insert(name, import);
            } else {
                self.uses.entry(of.clone()).or_default().insert(import);
            }
        }
    }

    /// Paths that begin at the root or above, where they are used.
    fn inline(&mut self, of: &Module, code: &str) {
        for start in ["crate::", "super::"] {
            for (at, _) in code.match_indices(start) {
                let line = code[..at].rsplit('\n').next().unwrap_or_default();
                let before = code[..at].chars().next_back();
                if line.contains("use ")
                    || line.ends_with("pub(in ")
                    || before.is_some_and(|c| c.is_alphanumeric() || c == ':')
                {
                    continue;
                }
                let end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
                let path = code[at..].split(end).next().unwrap_or_default().trim_matches(':');
                if let Some(import) = self.absolute(of, path) {
                    self.uses.entry(of.clone()).or_default().insert(import);
                }
            }
        }
    }

    /// A path of this crate from its root; nothing for one of another crate.
    fn absolute(&self, of: &Module, path: &str) -> Option<Import> {
        let mut names = path.split("::").map(|name| name.trim().to_owned()).peekable();
        let mut out = of.clone();
        match names.peek()?.as_str() {
            "crate" => {
                out.clear();
                names.next();
            }
            "self" => drop(names.next()),
            "super" => {
                while names.next_if(|name| name == "super").is_some() {
                    out.pop();
                }
            }
            first => {
                let child = [of.as_slice(), &[first.to_owned()]].concat();
                self.uses.contains_key(&child).then_some(())?;
            }
        }
        out.extend(names);
        Some(out)
    }

    /// The module that defines what is imported.
    fn home(&self, import: &[String], depth: usize) -> Option<Module> {
        let length = (0..=import.len()).rev().find(|&n| self.uses.contains_key(&import[..n]))?;
        let module = import[..length].to_vec();
        let next = import.get(length).and_then(|name| self.exports.get(&module)?.get(name));
        match next {
            Some(target) if depth < 20 => {
                self.home(&[target, &import[length + 1..]].concat(), depth + 1)
            }
            _ => Some(module),
        }
    }

    /// What each module imports from others.
    fn edges(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |(module, imports): (&Module, &BTreeSet<Import>)| {
            let homes = imports.iter().filter_map(|import| self.home(import, 0));
            (module.clone(), homes.filter(|home| home != module).collect())
        };
        self.uses.iter().map(of).collect()
    }
}

/// The modules that can be reached from `from`.
fn reachable(from: &Module, edges: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<_> = edges[from].iter().collect();
    while let Some(module) = todo.pop() {
        if seen.insert(module.clone()) {
            todo.extend(&edges[module]);
        }
    }
    seen
}

#[test]
fn no_file_imports_itself_through_others() {
    let root = root();
    let mut circles = Vec::new();
    for name in PRODUCT {
        let edges = Crate::read(&root.join(name)).edges();
        assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 0, "{name}: nothing found");
        for module in edges.keys() {
            for import in &edges[module] {
                if reachable(import, &edges).contains(module) {
                    circles.push(format!("{name}: {} -> {}", module.join("/"), import.join("/")));
                }
            }
        }
    }
    assert_eq!(circles, [""; 0], "{}", circles.join("\n"));
}

#[test]
fn system_calls_import_nothing_above_them() {
    let root = root();
    for name in PRODUCT {
        for (module, imports) in Crate::read(&root.join(name)).edges() {
            let is_sys = |module: &Module| module.first().is_some_and(|name| name == "sys");
            // Errors are everywhere.
            let above = imports.iter().filter(|import| !is_sys(import));
            let above: Vec<_> = above
                .filter(|import| {
                    !["error", "errno"].contains(&import.first().map_or("", String::as_str))
                })
                .collect();
            assert!(!is_sys(&module) || above.is_empty(), "{name}: {module:?} imports {above:?}");
        }
    }
}

#[test]
fn circles_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::File::create(dir.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
    };
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use c::{D as E};\n");
    write("a.rs", "use crate::{b::B, E};\n");
    write("b.rs", "fn f() { let _ = super::c::D; }\n");
    write("c.rs", "// use crate::a::A;\n#[cfg(test)]\nmod tests { use crate::a::A; }\n");
    let edges = Crate::read(dir.path()).edges();
    let names = |from: &str| -> Vec<String> {
        edges[&vec![from.to_owned()]].iter().map(|module| module.join("/")).collect()
    };
    assert_eq!(names("a"), ["b", "c"]);
    assert_eq!(names("b"), ["c"]);
    assert_eq!(names("c"), [""; 0]);
}
