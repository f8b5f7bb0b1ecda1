//! The words of a filter.

/// Where a filter is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilterSyntaxError {
    /// Bytes from the start of the filter.
    pub(super) at: usize,
    pub(super) reason: String,
}

impl FilterSyntaxError {
    pub(super) fn new(at: usize, reason: impl Into<String>) -> Self {
        Self { at, reason: reason.into() }
    }
}

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    End,
    /// What stood between two `quote`s, with its escapes resolved.
    Quoted {
        quote: char,
        text: String,
    },
    Value(&'a str),
    Field(&'a str),
    Separator(char),
    Operator(&'a str),
    Other(char),
}

/// Reads words from left to right. What a word is depends on what came before: after an operator comes a value.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    input: &'a str,
    position: usize,
    value_next: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self { input, position: 0, value_next: false }
    }

    /// Bytes read.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The next character, not read yet.
    pub(super) fn peek(&self) -> Option<char> {
        self.input.get(self.position..).and_then(|rest| rest.chars().next())
    }

    /// Reads a character. NUL is in no text; U+FFFD stands for what was no text.
    fn next(&mut self) -> Result<Option<char>, FilterSyntaxError> {
        let Some(c) = self.peek() else { return Ok(None) };
        if matches!(c, '\0' | '\u{fffd}') {
            return Err(FilterSyntaxError::new(self.position, "a character that is no text"));
        }
        self.position += c.len_utf8();
        Ok(Some(c))
    }

    fn skip_while(&mut self, belongs: impl Fn(char) -> bool) -> Result<(), FilterSyntaxError> {
        while self.peek().is_some_and(&belongs) {
            self.next()?;
        }
        Ok(())
    }

    /// Reads a word, and tells where it starts. Space before it does not count.
    pub(super) fn scan(&mut self) -> Result<(usize, Token<'a>), FilterSyntaxError> {
        self.skip_while(char::is_whitespace)?;
        let start = self.position;
        let Some(first) = self.next()? else { return Ok((start, Token::End)) };
        let token = match first {
            '"' | '/' | '|' => Token::Quoted { quote: first, text: self.quoted(start, first)? },
            ',' | '.' => {
                self.value_next = false;
                Token::Separator(first)
            }
            '=' | '!' | '~' => {
                self.skip_while(|c| matches!(c, '=' | '!' | '~'))?;
                self.value_next = true;
                Token::Operator(self.since(start))
            }
            _ if self.value_next => {
                self.skip_while(|c| c != ',' && !c.is_whitespace() && !c.is_control())?;
                self.value_next = false;
                Token::Value(self.since(start))
            }
            c if is_field(c) => {
                self.skip_while(is_field)?;
                Token::Field(self.since(start))
            }
            other => Token::Other(other),
        };
        Ok((start, token))
    }

    fn since(&self, start: usize) -> &'a str {
        self.input.get(start..self.position).unwrap_or_default()
    }

    /// The rest of a Go string, whose delimiter may also be `/` or `|`.
    fn quoted(&mut self, start: usize, quote: char) -> Result<String, FilterSyntaxError> {
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                None | Some('\n') => {
                    return Err(FilterSyntaxError::new(start, "a quote is not closed"));
                }
                Some('\\') => self.escape(start, quote, &mut bytes)?,
                Some(c) if c == quote => break,
                Some(c) => push(&mut bytes, c),
            }
        }
        String::from_utf8(bytes)
            .map_err(|_| FilterSyntaxError::new(start, "the quoted bytes are not UTF-8"))
    }

    /// What follows a backslash. `\x` and octal numbers are bytes, `\u` and `\U` characters.
    fn escape(
        &mut self,
        start: usize,
        quote: char,
        bytes: &mut Vec<u8>,
    ) -> Result<(), FilterSyntaxError> {
        let at = self.position - 1;
        let bad = || FilterSyntaxError::new(at, "no such escape");
        let Some(c) = self.next()? else {
            return Err(FilterSyntaxError::new(start, "a quote is not closed"));
        };
        match c {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            '\\' => bytes.push(b'\\'),
            c if c == quote => push(bytes, c),
            '0'..='7' => {
                self.position = at + 1;
                let byte = u8::try_from(self.digits(8, 3).ok_or_else(bad)?).map_err(|_| bad())?;
                bytes.push(byte);
            }
            'x' => {
                let byte = u8::try_from(self.digits(16, 2).ok_or_else(bad)?).map_err(|_| bad())?;
                bytes.push(byte);
            }
            'u' | 'U' => {
                let digits = if c == 'u' { 4 } else { 8 };
                let number = self.digits(16, digits).ok_or_else(bad)?;
                push(bytes, char::from_u32(number).ok_or_else(bad)?);
            }
            _ => return Err(bad()),
        }
        Ok(())
    }

    /// A number of exactly `count` digits.
    fn digits(&mut self, base: u32, count: usize) -> Option<u32> {
        let text = self.input.get(self.position..self.position + count)?;
        if !text.chars().all(|c| c.is_digit(base)) {
            return None;
        }
        self.position += count;
        u32::from_str_radix(text, base).ok()
    }
}

fn is_field(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
