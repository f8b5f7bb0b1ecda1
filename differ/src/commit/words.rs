//! The words of an instruction, as a Dockerfile has them: quotes, backslashes and variables (Dockerfile reference,
//! "Environment replacement").

/// Splits at white space outside of quotes. Quotes and backslashes stay.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, behind) = rest.split_at(first_word(rest));
        words.push(word);
        rest = behind.trim_start();
    }
    words
}

/// Bytes of the first word of `text`.
fn first_word(text: &str) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => return at,
            ('\\', None | Some('"')) => {
                chars.next();
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// What a text means, without its quotes. `variable` knows values.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn expand(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, &'static str> {
    let mut out = String::new();
    let mut rest = text;
    let mut in_double = false;
    while let Some(c) = rest.chars().next() {
        let behind = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            '\'' if !in_double => {
                let (inner, behind) = behind.split_once('\'').ok_or("a quote is not closed")?;
                out.push_str(inner);
                behind
            }
            '"' => {
                in_double = !in_double;
                behind
            }
            '\\' => {
                let next = behind.chars().next().ok_or("it ends in a backslash")?;
                if in_double && !['"', '$', '\\'].contains(&next) {
                    out.push('\\');
                }
                out.push(next);
                behind.get(next.len_utf8()..).unwrap_or_default()
            }
            '$' => {
                let (value, behind) = value(behind, variable)?;
                out.push_str(&value);
                behind
            }
            c => {
                out.push(c);
                behind
            }
        };
    }
    if in_double { Err("a quote is not closed") } else { Ok(out) }
}

/// The value of the variable that is named behind a dollar sign, and what follows the name.
fn value<'a>(
    text: &'a str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, &'a str), &'static str> {
    let Some(braced) = text.strip_prefix('{') else {
        let (name, behind) = text.split_at(name_len(text));
        // A dollar sign alone is itself.
        let value =
            if name.is_empty() { "$".to_owned() } else { variable(name).unwrap_or_default() };
        return Ok((value, behind));
    };
    let (inner, behind) = braced.split_once('}').ok_or("a brace is not closed")?;
    let (name, modifier) = inner.split_at(name_len(inner));
    if name.is_empty() {
        return Err("a variable has no name");
    }
    let set = variable(name).filter(|value| !value.is_empty());
    let value = match (modifier, modifier.strip_prefix(":-"), modifier.strip_prefix(":+")) {
        ("", ..) => variable(name).unwrap_or_default(),
        (_, Some(default), _) => set.unwrap_or_else(|| default.to_owned()),
        (_, _, Some(instead)) => set.map_or_else(String::new, |_| instead.to_owned()),
        _ => return Err("of ${NAME...} only ${NAME}, ${NAME:-word} and ${NAME:+word} are known"),
    };
    Ok((value, behind))
}

/// Bytes of the name of a variable at the front of `text`.
fn name_len(text: &str) -> usize {
    let is_name =
        |at: usize, b: u8| b == b'_' || b.is_ascii_alphabetic() || at > 0 && b.is_ascii_digit();
    text.bytes().enumerate().take_while(|&(at, b)| is_name(at, b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_white_space_outside_of_quotes() {
        for (text, want) in [
            ("", &[][..]),
            ("  a  b\tc ", &["a", "b", "c"]),
            (r#"a="b c" d='e "f' g\ h"#, &[r#"a="b c""#, r#"d='e "f'"#, r"g\ h"]),
            (r#""a\" b" c"#, &[r#""a\" b""#, "c"]),
            ("ä ö", &["ä", "ö"]),
        ] {
            assert_eq!(split(text), want, "{text}");
        }
    }

    #[test]
    fn texts_mean_what_they_mean_in_a_dockerfile() {
        let variable = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, want) in [
            ("plain", Ok("plain")),
            (r#""b c" d"#, Ok("b c d")),
            ("$A/${A}x$B.", Ok("1/1x.")),
            ("'$A'", Ok("$A")),
            (r#""$A""#, Ok("1")),
            (r"\$A", Ok("$A")),
            (r#""\$A\n\\""#, Ok(r"$A\n\")),
            ("${B:-d}${EMPTY:-e}${A:-f}", Ok("de1")),
            ("${B:+d}${EMPTY:+e}${A:+f}", Ok("f")),
            ("5$", Ok("5$")),
            ("$5", Ok("$5")),
            ("ä$A", Ok("ä1")),
            ("'a", Err("a quote is not closed")),
            ("\"a", Err("a quote is not closed")),
            ("${A", Err("a brace is not closed")),
            ("${}", Err("a variable has no name")),
            ("a\\", Err("it ends in a backslash")),
        ] {
            assert_eq!(expand(text, &variable).as_deref().map_err(|e| *e), want, "{text}");
        }
        assert!(expand("${A%%x}", &variable).is_err());
    }
}
