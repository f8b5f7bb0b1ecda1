//! containerd's configuration as containerd reads it: a file and those it imports, one after another, where later ones
//! go before earlier ones (`LoadConfig` in containerd's `cmd/containerd/server/config`).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::serve::registration::Version;

/// A value that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Table,
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Other,
}

/// A key of a file, with all keys above it; those of an array of tables are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    keys: Vec<String>,
    value: Value,
    line: usize,
}

/// One file.
#[derive(Debug)]
struct File {
    path: PathBuf,
    settings: Vec<Setting>,
}

/// What a key is set to, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingMatch<'f> {
    pub(super) value: &'f Value,
    /// `file:line`.
    pub(super) place: String,
    /// The place of the file among all.
    file: usize,
}

/// A file with all that it imports.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<File>,
    /// Mistakes, each with the file and the line.
    pub(super) mistakes: Vec<String>,
}

impl Files {
    /// Reads `path` and what it imports. What cannot be read is a mistake.
    pub(super) fn read(path: &Path) -> Self {
        let mut all = Self::default();
        let mut pending = VecDeque::from([path.to_owned()]);
        while let Some(path) = pending.pop_front() {
            if all.files.iter().any(|file| file.path == path) {
                continue;
            }
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    all.mistakes.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            let file = match File::parse(path, &text) {
                Ok(file) => file,
                Err(mistake) => {
                    all.mistakes.push(mistake);
                    continue;
                }
            };
            pending.extend(file.imports());
            all.files.push(file);
        }
        all.look_at_versions();
        all.look_at_strays();
        all
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether one of the files is this.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// The version that the first file has; 0 when it does not say, or there is none.
    pub(super) fn version(&self) -> i64 {
        self.files.first().map_or(0, File::version)
    }

    /// The version that containerd 2.0 to 2.2 take for all files: the last that one of them says.
    fn last_version(&self) -> i64 {
        self.files.iter().rev().map(File::version).find(|&version| version > 0).unwrap_or(0)
    }

    /// What a key is in the end. Of the tables that containerd does not merge, all of it is the last file's: those of
    /// proxies in every version, and those of plugins in 1.7 (`mergeConfig`).
    pub(super) fn get(&self, version: Version, keys: &[&str]) -> Option<SettingMatch<'_>> {
        let whole = keys.first() == Some(&"proxy_plugins")
            || (version == Version::V1_7 && keys.first() == Some(&"plugins"));
        let table = keys.get(..2).filter(|_| whole);
        for (index, file) in self.files.iter().enumerate().rev() {
            if let Some(setting) = file.get(keys) {
                let place = format!("{}:{}", file.path.display(), setting.line);
                return Some(SettingMatch { value: &setting.value, place, file: index });
            }
            if table.is_some_and(|table| file.get(table).is_some()) {
                return None;
            }
        }
        None
    }

    /// Which snapshotter CRI takes by default, by the tables that this containerd looks at.
    pub(super) fn cri_snapshotter(&self, version: Version) -> Option<SettingMatch<'_>> {
        let new = || self.get(version, &["plugins", "io.containerd.cri.v1.images", "snapshotter"]);
        let old = || {
            let keys = ["plugins", "io.containerd.grpc.v1.cri", "containerd", "snapshotter"];
            self.get(version, &keys)
        };
        match version {
            Version::V1_7 => old(),
            // The old table is brought into the new form after all files were merged, and over what is there.
            Version::V2_1 if self.last_version() <= 2 => old().or_else(new),
            Version::V2_1 => new(),
            // Each file is, before it is merged; one of version 3 and later has no old tables.
            Version::V2_3 => {
                let old = old().filter(|found| {
                    self.files.get(found.file).is_some_and(|file| file.version() <= 2)
                });
                [new(), old].into_iter().flatten().max_by_key(|found| found.file)
            }
        }
    }

    /// The first of the runtime classes with this snapshotter, and where that is said.
    pub(super) fn runtime_class(&self, snapshotter: &str) -> Option<(&str, String)> {
        for file in &self.files {
            for Setting { keys, value, line } in &file.settings {
                if let [plugins, _, containerd, runtimes, class, key] = keys.as_slice()
                    && [plugins, containerd, runtimes, key]
                        == ["plugins", "containerd", "runtimes", "snapshotter"]
                    && *value == Value::Text(snapshotter.to_owned())
                {
                    return Some((class.as_str(), format!("{}:{line}", file.path.display())));
                }
            }
        }
        None
    }

    /// A file that is imported and says a higher version than the first.
    fn look_at_versions(&mut self) {
        let root = self.version();
        let Some(first) = self.files.first() else { return };
        let first = first.path.display().to_string();
        for file in self.files.iter().skip(1).filter(|file| file.version() > root) {
            let Some(setting) = file.get(&["version"]) else { continue };
            self.mistakes.push(format!(
                "{}:{}: version = {} in a file that {first} imports, which has {root}: containerd 2.0 to 2.2 then pass \
                 over its tables of version {root}, and 2.3 does not start; remove the line",
                file.path.display(),
                setting.line,
                file.version(),
            ));
        }
    }

    /// Keys of the top that are below a table, because something was appended or inserted there.
    fn look_at_strays(&mut self) {
        for file in &self.files {
            for Setting { keys, value, line } in &file.settings {
                let Some((last, above)) = keys.split_last() else { continue };
                let is_stray = match value {
                    Value::Texts(_) => last == "imports",
                    Value::Number(_) => last == "version",
                    _ => false,
                };
                if is_stray && !above.is_empty() {
                    self.mistakes.push(format!(
                        "{}:{line}: {last} is part of the table [{}] and does nothing there; it belongs above every table",
                        file.path.display(),
                        above.join("."),
                    ));
                }
            }
        }
    }
}

impl File {
    fn parse(path: PathBuf, text: &str) -> Result<Self, String> {
        let line = |offset: usize| {
            1 + text.get(..offset).unwrap_or(text).bytes().filter(|&byte| byte == b'\n').count()
        };
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line(span.start));
            let hint = if error.message().contains("duplicate") {
                "; what erolith serve --print-containerd-config prints is not appended but a file of its own"
            } else {
                ""
            };
            format!("{}:{line}: {}{hint}", path.display(), error.message())
        })?;
        let mut settings = Vec::new();
        flatten(table.get_ref(), &mut Vec::new(), &line, &mut settings);
        Ok(Self { path, settings })
    }

    fn get(&self, keys: &[&str]) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.keys == keys)
    }

    fn version(&self) -> i64 {
        match self.get(&["version"]) {
            Some(Setting { value: Value::Number(version), .. }) => *version,
            _ => 0,
        }
    }

    /// The files that are imported: relative ones beside this, and those that match a pattern in the order of their names.
    fn imports(&self) -> Vec<PathBuf> {
        let Some(Setting { value: Value::Texts(imports), .. }) = self.get(&["imports"]) else {
            return Vec::new();
        };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        imports.iter().flat_map(|import| matching(&dir.join(import))).collect()
    }
}

/// Every key below `table`, with all keys above it.
fn flatten(
    table: &DeTable<'_>,
    above: &mut Vec<String>,
    line: &impl Fn(usize) -> usize,
    out: &mut Vec<Setting>,
) {
    for (key, value) in table {
        above.push(key.get_ref().to_string());
        let mut push = |keys: &[String], value| {
            out.push(Setting { keys: keys.to_vec(), value, line: line(key.span().start) });
        };
        match value.get_ref() {
            DeValue::Table(table) => {
                push(above, Value::Table);
                flatten(table, above, line, out);
            }
            DeValue::Array(values) => {
                let texts: Option<Vec<_>> = values
                    .iter()
                    .map(|value| value.get_ref().as_str().map(str::to_owned))
                    .collect();
                push(above, texts.map_or(Value::Other, Value::Texts));
                for (index, value) in values.iter().enumerate() {
                    if let DeValue::Table(table) = value.get_ref() {
                        above.push(index.to_string());
                        flatten(table, above, line, out);
                        above.pop();
                    }
                }
            }
            DeValue::String(text) => push(above, Value::Text(text.to_string())),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                push(above, number.map_or(Value::Other, Value::Number));
            }
            _ => push(above, Value::Other),
        }
        above.pop();
    }
}

/// The paths that a pattern matches, in order; a path without a `*` is itself, there or not.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let Some(name) = pattern.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let dir = pattern.parent().unwrap_or(Path::new("/"));
    let dirs = if dir.as_os_str().as_encoded_bytes().contains(&b'*') {
        matching(dir)
    } else {
        vec![dir.to_owned()]
    };
    if !name.contains('*') {
        return dirs.into_iter().map(|dir| dir.join(name)).collect();
    }
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let matches = entries.filter(|entry| entry.file_name().to_str().is_some_and(|n| fits(name, n)));
    let mut paths: Vec<_> = matches.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Whether a name fits a pattern in which `*` is any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn of(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                crate::cli::doctor::tests::write(&path, text);
            }
            Self(dir)
        }

        fn read(&self) -> Files {
            Files::read(&self.0.path().join("config.toml"))
        }
    }

    const DROP_IN: &str = "[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'erolith'\n";

    fn snapshotter(files: &Files, version: Version) -> Option<(String, usize)> {
        let found = files.cri_snapshotter(version)?;
        let Value::Text(text) = found.value else { panic!("{found:?}") };
        let line = found.place.rsplit(':').next().unwrap().parse().unwrap();
        Some((text.clone(), line))
    }

    /// As `containerd config dump` of 1.7.24 and 2.1.9 said; for 2.3, as its source says.
    #[test]
    fn the_table_that_counts_depends_on_versions() {
        let imports = "imports = ['conf.d/*.toml']\n";
        let old = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'native'\n";
        let new = "version = 3\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'native'\n";
        let ours = Some(("erolith".to_owned(), 2));
        let theirs = Some(("native".to_owned(), 4));
        for (root, dropin, want) in [
            ("version = 2\n", DROP_IN, [None, ours.clone(), ours.clone()]),
            ("version = 3\n", DROP_IN, [None, ours.clone(), ours.clone()]),
            (new, DROP_IN, [None, ours.clone(), ours.clone()]),
            (old, DROP_IN, [theirs.clone(), theirs.clone(), ours.clone()]),
            (old, "", [theirs.clone(), theirs.clone(), theirs.clone()]),
            (new, "", [None, theirs.clone(), theirs.clone()]),
        ] {
            let dir = Dir::of(&[
                ("config.toml", &format!("{imports}{root}")),
                ("conf.d/erolith.toml", dropin),
            ]);
            let files = dir.read();
            assert_eq!((files.len(), files.mistakes.as_slice()), (2, &[][..]));
            let found =
                [Version::V1_7, Version::V2_1, Version::V2_3].map(|v| snapshotter(&files, v));
            assert_eq!(found, want, "{root} with {dropin}");
        }
    }

    #[test]
    fn tables_of_plugins_are_whole_in_the_old_version() {
        let dir = Dir::of(&[
            (
                "config.toml",
                "imports = ['more.toml']\n[plugins.a]\nx = 'one'\ny = 'one'\n[proxy_plugins.p]\nt = 'one'\n",
            ),
            ("more.toml", "[plugins.a]\nx = 'two'\n[proxy_plugins.p]\nu = 'two'\n"),
        ]);
        let files = dir.read();
        let get = |version, keys: &[&str]| {
            files.get(version, keys).map(|found| match found.value {
                Value::Text(text) => text.clone(),
                other => format!("{other:?}"),
            })
        };
        let one = Some("one".to_owned());
        assert_eq!(get(Version::V2_1, &["plugins", "a", "x"]).as_deref(), Some("two"));
        assert_eq!(get(Version::V2_1, &["plugins", "a", "y"]), one);
        assert_eq!(get(Version::V1_7, &["plugins", "a", "y"]), None);
        for version in [Version::V1_7, Version::V2_1] {
            assert_eq!(get(version, &["proxy_plugins", "p", "t"]), None);
        }
    }

    #[test]
    fn mistakes_are_named_with_file_and_line() {
        for (root, dropin, words) in [
            (
                "version = 3\n[plugins.a]\n[plugins.a]\n",
                "",
                &["config.toml:3: duplicate key", "not appended"][..],
            ),
            ("version = \n", "", &["config.toml:1: "]),
            ("imports = ['none.toml']\n", "", &["none.toml: No such file"]),
            (
                "[a]\nimports = ['conf.d/*.toml']\n",
                "",
                &["config.toml:2: imports is part of the table [a]"],
            ),
            (
                "version = 2\n[a]\nx = 1\nversion = 3\n",
                "",
                &["config.toml:4: version is part of the table [a]"],
            ),
            (
                "version = 2\nimports = ['conf.d/*']\n",
                "version = 3\n",
                &["erolith.toml:1: version = 3", "which has 2", "remove"],
            ),
            ("imports = ['conf.d/*']\nversion = 3\n", "x = [\n", &["erolith.toml:"]),
        ] {
            let files = Dir::of(&[("config.toml", root), ("conf.d/erolith.toml", dropin)]).read();
            assert_eq!(files.mistakes.len(), 1, "{root}: {:?}", files.mistakes);
            for word in words {
                assert!(files.mistakes[0].contains(word), "{word}: {:?}", files.mistakes);
            }
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Files::read(&empty.path().join("none")).mistakes.len(), 1);
        // Files that import each other are read once.
        let dir = Dir::of(&[
            ("config.toml", "imports = ['b.toml']"),
            ("b.toml", "imports = ['config.toml', 'b.toml']"),
        ]);
        assert_eq!((dir.read().len(), dir.read().mistakes.len()), (2, 0));
    }

    #[test]
    fn patterns_fit_as_a_shell_has_them() {
        for (pattern, name, want) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.tom", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("*", "", true),
            ("x", "x", true),
            ("x", "xy", false),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }
}
