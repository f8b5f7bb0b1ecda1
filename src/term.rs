//! Text for people: names that cannot harm a terminal, times, modes, sizes, and columns that align.

use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use erolith_mkfs::format::FileType;
use erolith_mkfs::image::Inode;
use erolith_mkfs::meta::Time;

/// A name as `ls -b` shows it: a backslash before spaces and backslashes, C escapes or three octal digits
/// for control characters, for what turns the direction of text, and for bytes that are not UTF-8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A space ends a name only where names stand side by side, as on a command line.
        for (i, part) in self.0.split(|&b| b == b' ').enumerate() {
            f.write_str(if i > 0 { "\\ " } else { "" })?;
            Visible(part).fmt(f)?;
        }
        Ok(())
    }
}

/// The same with spaces as they are, for where it is clear where a name ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visible<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if is_harmful(c) => octal(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                    c => write!(f, "{c}")?,
                }
            }
            octal(f, chunk.invalid())?;
        }
        Ok(())
    }
}

fn octal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\{byte:03o}"))
}

/// Control characters, and those that reorder or break lines of the text around them.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A path from the root of the image, with the slash.
pub(crate) fn rooted(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// What a file type is called.
pub(crate) fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Char => "char",
        FileType::Block => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// Type and permissions in the ten letters of `ls -l`.
pub(crate) fn mode_letters(inode: &Inode) -> String {
    let kind = match inode.file_type() {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Char => 'c',
        FileType::Block => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let mut letters = String::from(kind);
    for (shift, special, with, without) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = inode.mode >> shift;
        letters.push(if bits & 4 != 0 { 'r' } else { '-' });
        letters.push(if bits & 2 != 0 { 'w' } else { '-' });
        letters.push(match (inode.mode & special != 0, bits & 1 != 0) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    letters
}

/// A time as ISO 8601 in UTC; with nanoseconds where there are any.
pub(crate) fn iso(time: Time) -> String {
    let (days, second) = (time.sec.div_euclid(86_400), time.sec.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = match time.nsec {
        0 => String::new(),
        nsec => format!(".{nsec:09}"),
    };
    // ISO 8601 wants a sign before years that do not have four digits.
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{year:+05}"),
    };
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The seconds since 1970 of the years 0 to 9999. Documents have their times in the form of RFC 3339, which has four
/// digits for the year; Go reads and writes no other (`Time.MarshalJSON`).
const RFC3339_SECONDS: RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// The time of an image, in seconds since 1970: SOURCE_DATE_EPOCH and what else is given for it.
///
/// # Errors
/// What is wrong with a time that no document can hold.
pub(crate) fn image_time(seconds: i64) -> Result<i64, String> {
    if RFC3339_SECONDS.contains(&seconds) {
        return Ok(seconds);
    }
    let (year, ..) = civil(seconds.div_euclid(86_400));
    Err(format!(
        "{seconds} is in the year {year}, and an image holds the years 0 to 9999 only: give seconds since 1970, not \
         milliseconds"
    ))
}

/// The same from text.
///
/// # Errors
/// As [`image_time`], and for what is no number.
pub(crate) fn parse_image_time(text: &str) -> Result<i64, String> {
    let seconds = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    image_time(seconds)
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    // Days from 0000-03-01, so that the leap day is the last of its year.
    let days = days.saturating_add(719_468);
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, day)
}

/// Bytes with a binary unit, three digits at most: `312`, `4.1 KiB`, `77 MiB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, so that nothing has to become a float.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if tenths < 100 {
        return format!("{}.{} {name}", tenths / 10, tenths % 10);
    }
    format!("{} {name}", tenths / 10)
}

/// Where a column's cells are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows whose columns align. The last column of a row may be as wide as it likes.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    align: [Align; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// No rows yet.
    pub(crate) fn new(align: [Align; N]) -> Self {
        Self { align, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Writes the rows, each behind `indent` spaces and without spaces at its end.
    pub(crate) fn write(&self, out: &mut dyn Write, indent: usize) -> io::Result<()> {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (i, ((cell, width), align)) in row.iter().zip(widths).zip(self.align).enumerate() {
                if i > 0 {
                    line.push_str(if width == 0 { "" } else { "  " });
                }
                let pad = width.saturating_sub(cell.chars().count());
                match align {
                    Align::Left => line.extend([cell.as_str(), &" ".repeat(pad)]),
                    Align::Right => line.extend([&" ".repeat(pad), cell.as_str()]),
                }
            }
            writeln!(out, "{}", line.trim_end_matches(' '))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_images_are_those_that_go_can_write() {
        for (text, year) in [
            ("0", Ok("1970-01-01T00:00:00Z")),
            ("-1", Ok("1969-12-31T23:59:59Z")),
            ("1764547200", Ok("2025-12-01T00:00:00Z")),
            ("253402300799", Ok("9999-12-31T23:59:59Z")),
            ("-62167219200", Ok("0000-01-01T00:00:00Z")),
            ("253402300800", Err("year 10000")),
            ("-62167219201", Err("year -1")),
            ("1764547200000", Err("not milliseconds")),
            ("-9223372036854775808", Err("0 to 9999")),
            ("9223372036854775807", Err("0 to 9999")),
            ("9223372036854775808", Err("not a number of seconds")),
            ("1.5", Err("not a number of seconds")),
            ("", Err("not a number of seconds")),
        ] {
            match (parse_image_time(text), year) {
                (Ok(sec), Ok(want)) => assert_eq!(iso(Time { sec, nsec: 0 }), want),
                (Err(error), Err(want)) => assert!(error.contains(want), "{error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn names_are_quoted_like_ls_b() {
        let table: [(&[u8], &str); 8] = [
            (b"plain", "plain"),
            (b"a b", "a\\ b"),
            (b"back\\slash", "back\\\\slash"),
            (b"nl\ntab\t", "nl\\ntab\\t"),
            (b"esc\x1b[2J", "esc\\033[2J"),
            (b"\xff\xfe", "\\377\\376"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            ("a\u{202e}b".as_bytes(), "a\\342\\200\\256b"),
        ];
        for (name, want) in table {
            assert_eq!(Quoted(name).to_string(), want);
        }
    }

    #[test]
    fn times_are_iso_on_both_sides_of_1970() {
        let table = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_700_000_000, 5, "2023-11-14T22:13:20.000000005Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (-62_167_219_201, 0, "-0001-12-31T23:59:59Z"),
            (253_402_300_800, 0, "+10000-01-01T00:00:00Z"),
        ];
        for (sec, nsec, want) in table {
            assert_eq!(iso(Time { sec, nsec }), want);
        }
        assert!(iso(Time { sec: i64::MIN, nsec: 0 }).starts_with('-'));
        assert!(iso(Time { sec: i64::MAX, nsec: 0 }).starts_with('+'));
    }

    #[test]
    fn sizes_have_at_most_three_digits_before_the_unit() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 << 10, "10 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (u64::MAX, "15 EiB"),
        ];
        for (bytes, want) in table {
            assert_eq!(human(bytes), want);
        }
    }

    #[test]
    fn columns_align_and_lines_do_not_end_in_spaces() {
        let mut table = Table::new([Align::Left, Align::Right, Align::Left]);
        table.row(["a".into(), "10".into(), String::new()]);
        table.row(["bbb".into(), "9".into(), "end".into()]);
        let mut out = Vec::new();
        table.write(&mut out, 1).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), " a    10\n bbb   9  end\n");
    }
}
