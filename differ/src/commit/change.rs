//! Instructions that change what an image runs: those of a Dockerfile that `docker commit --change` takes and that OCI's
//! config has a place for. They mean what they mean there (Dockerfile reference).

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::words;
use crate::error::OciImageError;
use crate::oci::Config;
use crate::{Error, Result};

/// Members of a config's `config` that are changed here (image-spec, config.md).
const KNOWN: [&str; 10] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Labels",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];
/// What runs a command that is no list, where the image does not say (Dockerfile reference, "SHELL").
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Label,
    StopSignal,
    User,
    Volume,
    Workdir,
}

const INSTRUCTIONS: [(&str, Instruction); 9] = [
    ("CMD", Instruction::Cmd),
    ("ENTRYPOINT", Instruction::Entrypoint),
    ("ENV", Instruction::Env),
    ("EXPOSE", Instruction::Expose),
    ("LABEL", Instruction::Label),
    ("STOPSIGNAL", Instruction::StopSignal),
    ("USER", Instruction::User),
    ("VOLUME", Instruction::Volume),
    ("WORKDIR", Instruction::Workdir),
];

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    text: String,
    instruction: Instruction,
    rest: String,
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let (name, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let known = INSTRUCTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, instruction) = known.ok_or_else(|| {
            let names: Vec<_> = INSTRUCTIONS.iter().map(|(name, _)| *name).collect();
            bad(text, format!("it begins with none of {}", names.join(", ")))
        })?;
        if rest.trim().is_empty() {
            return Err(bad(text, "nothing follows"));
        }
        Ok(Self { text: text.to_owned(), instruction: *instruction, rest: rest.trim().to_owned() })
    }
}

fn bad(text: &str, reason: impl Into<String>) -> Error {
    Error::Image(OciImageError::BadChange { text: text.to_owned(), reason: reason.into() })
}

impl Change {
    /// The config with all of `changes`, in their order.
    ///
    /// # Errors
    /// [`crate::error::OciImageError::BadChange`]; [`crate::error::OciImageError::BadDocument`] for a config that another reader could read in another way.
    pub fn apply_all(changes: &[Self], config: &Config) -> Result<Config> {
        let mut json = config.json().clone();
        if changes.is_empty() {
            return Ok(config.clone());
        }
        let section = json.entry("config").or_insert_with(|| json!({}));
        if section.is_null() {
            *section = json!({});
        }
        let damaged = |reason: String| {
            Error::Image(OciImageError::BadDocument { what: "config".to_owned(), reason })
        };
        let section = section.as_object_mut();
        let section = section.ok_or_else(|| damaged("its config is no JSON object".to_owned()))?;
        // Go ignores case, so what it would take for a member must not be beside it.
        let twin = |key: &&String| KNOWN.iter().any(|k| key.eq_ignore_ascii_case(k) && key != k);
        if let Some(key) = section.keys().find(twin) {
            return Err(damaged(format!("{key:?} could be taken for another member")));
        }
        let mut target = ConfigTarget { section, has_cmd: false };
        for change in changes {
            target.apply(change).map_err(|reason| bad(&change.text, reason))?;
        }
        Ok(config.with_json(json))
    }
}

type ChangeResult<T = ()> = std::result::Result<T, String>;

struct ConfigTarget<'a> {
    section: &'a mut Map<String, Value>,
    /// Whether an instruction set `Cmd`.
    has_cmd: bool,
}

impl ConfigTarget<'_> {
    fn apply(&mut self, change: &Change) -> ChangeResult {
        let rest = change.rest.as_str();
        match change.instruction {
            Instruction::Cmd => {
                self.command("Cmd", rest)?;
                self.has_cmd = true;
            }
            Instruction::Entrypoint => {
                self.command("Entrypoint", rest)?;
                // What the image gave another program is of no use to this one.
                if !self.has_cmd {
                    self.section.shift_remove("Cmd");
                }
            }
            Instruction::Env => {
                for (name, value) in self.pairs(rest)? {
                    self.set_env(&name, &value);
                }
            }
            Instruction::Label => {
                for (name, value) in self.pairs(rest)? {
                    self.add("Labels", name, json!(value));
                }
            }
            Instruction::Expose => {
                for word in words::split(rest) {
                    for port in ports(&self.expand(word)?)? {
                        self.add("ExposedPorts", port, json!({}));
                    }
                }
            }
            Instruction::Volume => {
                for volume in self.volumes(rest)? {
                    self.add("Volumes", volume, json!({}));
                }
            }
            Instruction::User => self.set("User", rest)?,
            Instruction::StopSignal => {
                let signal = self.expand(rest)?;
                if !is_signal(&signal) {
                    return Err(format!("{signal:?} is no signal, such as SIGTERM or 15"));
                }
                self.section.insert("StopSignal".to_owned(), json!(signal));
            }
            Instruction::Workdir => {
                let below = self.text("WorkingDir").to_owned();
                let dir = self.expand(rest)?;
                self.section.insert("WorkingDir".to_owned(), json!(joined(&below, &dir)));
            }
        }
        Ok(())
    }

    fn text(&self, key: &str) -> &str {
        self.section.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn set(&mut self, key: &str, text: &str) -> ChangeResult {
        let value = self.expand(text)?;
        self.section.insert(key.to_owned(), json!(value));
        Ok(())
    }

    /// Adds to a member that is an object, and makes it one if it is none.
    fn add(&mut self, key: &str, name: String, value: Value) {
        match self.section.entry(key).or_insert_with(|| json!({})) {
            Value::Object(map) => {
                map.insert(name, value);
            }
            other => *other = json!({ name: value }),
        }
    }

    /// The texts in a member that is a list of them.
    fn list(&self, key: &str) -> Vec<&str> {
        let list = self.section.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.list("Env").into_iter().filter_map(|entry| entry.split_once('='));
        found.rev().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    fn expand(&self, text: &str) -> ChangeResult<String> {
        words::expand(text, &|name| self.variable(name)).map_err(str::to_owned)
    }

    fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let same = |old: &&str| old.split_once('=').map_or(*old, |(key, _)| key) == name;
        let mut entries: Vec<String> = self.list("Env").into_iter().map(str::to_owned).collect();
        match entries.iter_mut().find(|old| same(&old.as_str())) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
        self.section.insert("Env".to_owned(), json!(entries));
    }

    /// `name=value ...`, or `name` and one value that is all the rest.
    fn pairs(&self, text: &str) -> ChangeResult<Vec<(String, String)>> {
        let all = words::split(text);
        let first = all.first().copied().unwrap_or_default();
        if !first.contains('=') {
            let (name, value) = text.split_once(char::is_whitespace).ok_or("it has no value")?;
            return Ok(vec![(self.expand(name)?, self.expand(value.trim())?)]);
        }
        let mut pairs = Vec::with_capacity(all.len());
        for word in all {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} has no ="))?;
            let name = self.expand(name)?;
            if name.is_empty() {
                return Err(format!("{word:?} has no name"));
            }
            pairs.push((name, self.expand(value)?));
        }
        Ok(pairs)
    }

    fn volumes(&self, text: &str) -> ChangeResult<Vec<String>> {
        let volumes = match list(text)? {
            Some(volumes) => volumes,
            None => words::split(text)
                .into_iter()
                .map(|w| self.expand(w))
                .collect::<ChangeResult<_>>()?,
        };
        if volumes.iter().any(String::is_empty) {
            return Err("the path of a volume is empty".to_owned());
        }
        Ok(volumes)
    }

    /// A command as a list of words, or as a line for the image's shell.
    fn command(&mut self, key: &str, text: &str) -> ChangeResult {
        let words = list(text)?.unwrap_or_else(|| {
            let shell = self.list("Shell");
            let shell = if shell.is_empty() { SHELL.to_vec() } else { shell };
            shell.into_iter().chain([text]).map(str::to_owned).collect()
        });
        match words.is_empty() {
            true => self.section.shift_remove(key),
            false => self.section.insert(key.to_owned(), json!(words)),
        };
        Ok(())
    }
}

/// A JSON list of texts, if it is one. What looks like one is no line for a shell: single quotes are a common mistake.
fn list(text: &str) -> ChangeResult<Option<Vec<String>>> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(list) => Ok(Some(list)),
        Err(_) if text.ends_with(']') => {
            Err(r#"it is no JSON list of texts, such as ["a", "b"]"#.to_owned())
        }
        Err(_) => Ok(None),
    }
}

/// `port[-port][/protocol]` as the members of `ExposedPorts`.
fn ports(text: &str) -> ChangeResult<Vec<String>> {
    let wrong = || format!("{text:?} is no port, such as 80, 80/udp or 8000-8010");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// A number, or a name as signal(7) has it.
fn is_signal(text: &str) -> bool {
    let is_number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let is_name = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"+-".contains(&b));
    is_number || is_name
}

/// `dir` as seen from `below`, absolute and without `.` and `..`.
fn joined(below: &str, dir: &str) -> String {
    let start = if dir.starts_with('/') { "" } else { below };
    let mut parts = Vec::new();
    for part in start.split('/').chain(dir.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
