//! The sentences of a filter.

use super::regexp;
use super::scanner::{FilterSyntaxError, Scanner, Token};
use super::{Field, Selector, Test};

/// The selectors of one filter, all of which must match. An empty filter has none.
pub(super) fn parse(filter: &str) -> Result<Vec<Selector>, FilterSyntaxError> {
    let mut selectors = Vec::new();
    if filter.is_empty() {
        return Ok(selectors);
    }
    let mut scanner = Scanner::new(filter);
    loop {
        selectors.push(selector(&mut scanner)?);
        // Not by `scan`: space after a value is not skipped.
        match scanner.peek() {
            None => return Ok(selectors),
            Some(',') => scanner.scan()?,
            Some(c) => {
                return Err(FilterSyntaxError::new(
                    scanner.position(),
                    format!("unexpected {c:?}"),
                ));
            }
        };
    }
}

fn selector(scanner: &mut Scanner<'_>) -> Result<Selector, FilterSyntaxError> {
    let field = Field::new(&path(scanner)?);
    if matches!(scanner.peek(), None | Some(',')) {
        return Ok(Selector { field, test: Test::Present });
    }
    let test = match scanner.scan()? {
        (_, Token::Operator("==")) => Test::Equal(value(scanner, false)?.1),
        (_, Token::Operator("!=")) => Test::NotEqual(value(scanner, false)?.1),
        (_, Token::Operator("~=")) => {
            let (at, pattern) = value(scanner, true)?;
            Test::Matches(
                regexp::compile(&pattern).map_err(|reason| FilterSyntaxError::new(at, reason))?,
            )
        }
        (at, Token::Operator(other)) => {
            return Err(FilterSyntaxError::new(at, format!("there is no operator `{other}`")));
        }
        (at, _) => {
            return Err(FilterSyntaxError::new(at, "expected an operator: `==`, `!=` or `~=`"));
        }
    };
    Ok(Selector { field, test })
}

fn path(scanner: &mut Scanner<'_>) -> Result<Vec<String>, FilterSyntaxError> {
    let mut parts = vec![part(scanner)?];
    while scanner.peek() == Some('.') {
        scanner.scan()?;
        parts.push(part(scanner)?);
    }
    Ok(parts)
}

fn part(scanner: &mut Scanner<'_>) -> Result<String, FilterSyntaxError> {
    match scanner.scan()? {
        (_, Token::Field(name)) => Ok(name.to_owned()),
        (_, Token::Quoted { quote: '"', text }) => Ok(text),
        (at, Token::Quoted { .. }) => Err(FilterSyntaxError::new(at, WRONG_QUOTE)),
        (at, _) => Err(FilterSyntaxError::new(at, "expected a field, with quotes or without")),
    }
}

/// A value and where it starts. The other quotes are for regular expressions only.
fn value(
    scanner: &mut Scanner<'_>,
    other_quotes: bool,
) -> Result<(usize, String), FilterSyntaxError> {
    match scanner.scan()? {
        (at, Token::Value(text) | Token::Field(text)) => Ok((at, text.to_owned())),
        (at, Token::Quoted { quote, text }) if quote == '"' || other_quotes => Ok((at, text)),
        (at, Token::Quoted { .. }) => Err(FilterSyntaxError::new(at, WRONG_QUOTE)),
        (at, _) => Err(FilterSyntaxError::new(at, "expected a value, with quotes or without")),
    }
}

const WRONG_QUOTE: &str = "only regular expressions may stand between `/` or `|`";
