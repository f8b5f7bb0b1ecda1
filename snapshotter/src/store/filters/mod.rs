//! Filters of lists: containerd's grammar (`pkg/filters`), over the fields of an [`Info`].
//!
//! ```text
//! filter   := selector (',' selector)*              every selector must match
//! selector := path [operator value]                 without operator: is it there?
//! path     := field ('.' field)*
//! field    := '"' Go string '"' | [A-Za-z0-9_-]+
//! operator := '==' | '!=' | '~='
//! value    := '"' Go string '"' | anything without space and comma
//!             after '~=' also  '/' ... '/'  and  '|' ... '|'
//! ```
//!
//! Several filters: one must match. No filter, or an empty one, matches everything.

mod parser;
mod regexp;
mod scanner;

#[cfg(test)]
mod tests;

use regex::Regex;

use super::error::{Error, SnapshotError};
use super::types::Info;

/// Which snapshots to show. The default shows all.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// One of these must match; none given is as good as one that does.
    any: Vec<Vec<Selector>>,
}

/// One condition.
#[derive(Debug, Clone)]
struct Selector {
    field: Field,
    test: Test,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// Nothing that a snapshot has. Not an error: filters may be written for later versions.
    Unknown,
}

/// What is asked of a field.
#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters as `ListSnapshotsRequest.filters` has them.
    ///
    /// # Errors
    /// [`SnapshotError::BadFilter`] for the first that does not follow the grammar, or whose regular expression is
    /// none. (The reference logs a bad expression and shows nothing.)
    pub fn parse(filters: &[String]) -> crate::Result<Self> {
        let any = filters.iter().map(|filter| {
            parser::parse(filter).map_err(|fault| {
                Error::Snapshot(SnapshotError::BadFilter {
                    filter: filter.clone(),
                    at: fault.at,
                    reason: fault.reason,
                })
            })
        });
        Ok(Self { any: any.collect::<Result<_, _>>()? })
    }

    /// Whether to show this snapshot.
    #[must_use]
    pub fn matches(&self, info: &Info) -> bool {
        self.any.is_empty()
            || self.any.iter().any(|all| all.iter().all(|selector| selector.matches(info)))
    }
}

impl Selector {
    /// Absent values are empty, except that they equal nothing.
    fn matches(&self, info: &Info) -> bool {
        let value = self.field.of(info);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted,
            Test::Matches(pattern) => pattern.is_match(value.unwrap_or_default()),
        }
    }
}

impl Field {
    /// By its path. Only labels look at more than the first part; dots within a label's name need no quotes.
    fn new(path: &[String]) -> Self {
        match path {
            [first, ..] if first == "name" => Self::Name,
            [first, ..] if first == "parent" => Self::Parent,
            [first, ..] if first == "kind" => Self::Kind,
            [first, rest @ ..] if first == "labels" => Self::Label(rest.join(".")),
            _ => Self::Unknown,
        }
    }

    /// The value, if the field is there. Name, parent and kind always are; the parent may be empty.
    fn of<'a>(&self, info: &'a Info) -> Option<&'a str> {
        match self {
            Self::Name => Some(&info.name),
            Self::Parent => Some(&info.parent),
            Self::Kind => Some(info.kind.as_str()),
            Self::Label(name) => info.labels.get(name).map(String::as_str),
            Self::Unknown => None,
        }
    }
}
