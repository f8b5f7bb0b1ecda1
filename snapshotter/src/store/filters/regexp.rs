//! Regular expressions as Go writes them, for an engine that reads almost the same.
//!
//! Both stem from RE2, and take time linear in the text. What differs, and is rewritten here: Go's `\d \w \s \b` are
//! ASCII; `{` that starts no count, and `[`, `&&`, `~~`, `--` within a class, are just characters to it; it has
//! `\Q...\E`, and `\<` is just `<`.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// Compiles an expression.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn compile(go: &str) -> Result<Regex, String> {
    // Go reads `\123` as an octal number too.
    RegexBuilder::new(&translate(go)).octal(true).build().map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("bad regular expression: {}", last.trim_start_matches("error: "))
    })
}

/// The same expression for the engine. Wrong expressions stay wrong.
pub(super) fn translate(go: &str) -> String {
    let mut out = String::with_capacity(go.len());
    let mut rest = go.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, false, &mut out),
            '[' => class(&mut rest, &mut out),
            '{' if !is_count(rest.clone()) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    out
}

/// What follows a backslash.
fn escape(rest: &mut Peekable<Chars<'_>>, in_class: bool, out: &mut String) {
    let Some(c) = rest.next() else {
        out.push('\\');
        return;
    };
    match c {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        's' => out.push_str("[\\t\\n\\f\\r ]"),
        'S' => out.push_str("[^\\t\\n\\f\\r ]"),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        '<' | '>' => out.push(c),
        'Q' if !in_class => verbatim(rest, out),
        'p' | 'P' | 'x' => {
            out.extend(['\\', c]);
            // Its braces are no count.
            if rest.peek() == Some(&'{') {
                for c in rest.by_ref() {
                    out.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
        }
        _ => out.extend(['\\', c]),
    }
}

/// What stands between `\Q` and `\E`, or the end.
fn verbatim(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        if c == '\\' && rest.peek() == Some(&'E') {
            rest.next();
            break;
        }
        text.push(c);
    }
    out.push_str(&regex::escape(&text));
}

/// A class, after its `[`.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    // The first bracket does not close the class.
    if rest.next_if_eq(&']').is_some() {
        out.push_str("\\]");
    }
    let mut before = '\0';
    while let Some(c) = rest.next() {
        match c {
            ']' => {
                out.push(c);
                return;
            }
            '\\' => escape(rest, true, out),
            '[' => match posix_name(rest.clone()) {
                Some(name) => {
                    out.push('[');
                    out.extend(rest.by_ref().take(name));
                }
                None => out.push_str("\\["),
            },
            '&' | '~' => out.extend(['\\', c]),
            '-' if before == '-' => out.push_str("\\-"),
            _ => out.push(c),
        }
        before = c;
    }
}

/// How many characters `:name:]` has, if that is what comes.
fn posix_name(mut rest: Peekable<Chars<'_>>) -> Option<usize> {
    rest.next_if_eq(&':')?;
    let mut length = 1;
    while let Some(c) = rest.next() {
        length += 1;
        match c {
            ':' if rest.peek() == Some(&']') => return Some(length + 1),
            '^' | 'a'..='z' => {}
            _ => return None,
        }
    }
    None
}

/// Whether `n}`, `n,}` or `n,m}` comes.
fn is_count(mut rest: Peekable<Chars<'_>>) -> bool {
    let mut digits = 0;
    while rest.next_if(char::is_ascii_digit).is_some() {
        digits += 1;
    }
    if rest.next_if_eq(&',').is_some() {
        while rest.next_if(char::is_ascii_digit).is_some() {}
    }
    digits > 0 && rest.next() == Some('}')
}
