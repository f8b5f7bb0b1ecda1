//! What `erolith --version` prints.

use std::sync::OnceLock;

/// The version, the commit and its day, and the library that inflates gzip: a line each.
pub(crate) fn long() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    let inflater = erolith_differ::inflater();
    TEXT.get_or_init(|| text(env!("CARGO_PKG_VERSION"), env!("EROLITH_COMMIT"), inflater))
}

/// As [`long`]; `commit` is "DIGEST DAY", or empty where the build does not know it.
fn text(version: &str, commit: &str, inflater: &str) -> String {
    let commit = match commit.split_once(' ') {
        Some((digest, day)) => format!("{digest} of {day}"),
        None => "unknown".to_owned(),
    };
    format!("{version}\ncommit: {commit}\ngzip: {inflater}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_fact() {
        let known = text("1.2.3", "0123456789ab 2026-01-02", "ISA-L");
        assert_eq!(known, "1.2.3\ncommit: 0123456789ab of 2026-01-02\ngzip: ISA-L");
        assert_eq!(text("1.2.3", "", "zlib-rs"), "1.2.3\ncommit: unknown\ngzip: zlib-rs");
    }

    #[test]
    fn the_inflater_is_that_of_the_feature() {
        let expected = if cfg!(feature = "isal") { "ISA-L" } else { "zlib-rs" };
        assert!(long().lines().last().is_some_and(|line| line.contains(expected)), "{}", long());
    }
}
