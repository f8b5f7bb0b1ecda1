//! Settings whose values are words: a table for each type, which has the words of the previous release too.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};

/// A type whose values have words in the configuration.
pub(crate) trait Vocabulary: Copy + PartialEq + Send + Sync + 'static {
    /// Each word with its value.
    const WORDS: &'static [(&'static str, Self)];
    /// Words of the previous release, which are accepted with a warning, each with the word to write instead.
    const RETIRED: &'static [(&'static str, &'static str)] = &[];
}

/// A setting: a value, and whether a word of the previous release named it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    /// What is set.
    pub(crate) value: T,
    /// The retired word that was written, and the one to write instead.
    pub(crate) retired: Option<(&'static str, &'static str)>,
}

impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Self {
        Self { value, retired: None }
    }
}

impl<T: Vocabulary> FromStr for Setting<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let retired = T::RETIRED.iter().find(|(old, _)| *old == text).copied();
        let word = retired.map_or(text, |(_, new)| new);
        let found = T::WORDS.iter().find(|(known, _)| *known == word);
        let value = found.map(|(_, value)| *value);
        let value =
            value.ok_or_else(|| format!("unknown word {text:?}, expected {}", words::<T>()))?;
        Ok(Self { value, retired })
    }
}

impl<T: Vocabulary> fmt::Display for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = T::WORDS.iter().find(|(_, value)| *value == self.value);
        f.write_str(found.map_or("", |(word, _)| word))
    }
}

impl<T: Vocabulary> fmt::Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl<T: Vocabulary> Setting<T> {
    /// A parser of arguments that takes the words, and not the retired ones.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        let words = T::WORDS.iter().map(|(word, _)| *word);
        PossibleValuesParser::new(words).try_map(|word| word.parse())
    }
}

impl<'de, T: Vocabulary> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WordVisitor(PhantomData))
    }
}

/// Takes words, and the booleans that some of them replaced.
struct WordVisitor<T>(PhantomData<T>);

impl<T: Vocabulary> Visitor<'_> for WordVisitor<T> {
    type Value = Setting<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::<T>())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, is_set: bool) -> Result<Self::Value, E> {
        let text = if is_set { "true" } else { "false" };
        text.parse().map_err(|_| E::invalid_type(Unexpected::Bool(is_set), &self))
    }
}

/// The words of a type, for a message.
fn words<T: Vocabulary>() -> String {
    let words: Vec<_> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Lamp {
        Dark,
        Lit,
    }

    impl Vocabulary for Lamp {
        const WORDS: &'static [(&'static str, Self)] = &[("dark", Self::Dark), ("lit", Self::Lit)];
        const RETIRED: &'static [(&'static str, &'static str)] =
            &[("false", "dark"), ("bright", "lit")];
    }

    #[derive(Debug, serde::Deserialize)]
    struct Table {
        lamp: Setting<Lamp>,
    }

    fn read(value: &str) -> Result<Setting<Lamp>, String> {
        let table: Result<Table, _> = toml::from_str(&format!("lamp = {value}"));
        table.map(|table| table.lamp).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn words_are_taken_and_retired_ones_noted() {
        for (written, value, retired) in [
            ("'dark'", Lamp::Dark, None),
            ("'lit'", Lamp::Lit, None),
            ("'bright'", Lamp::Lit, Some(("bright", "lit"))),
            ("false", Lamp::Dark, Some(("false", "dark"))),
        ] {
            assert_eq!(read(written), Ok(Setting { value, retired }), "{written}");
        }
        assert_eq!(Setting::from(Lamp::Lit).to_string(), "lit");
    }

    #[test]
    fn other_values_are_refused_with_the_words() {
        for (written, named) in [("'gleam'", "\"gleam\""), ("true", "`true`"), ("1", "`1`")] {
            let error = read(written).unwrap_err();
            assert!(error.contains(named), "{written}: {error}");
            assert!(error.contains("expected \"dark\" or \"lit\""), "{written}: {error}");
        }
    }
}
