//! Text for people. Log content is written by attackers: nothing of it reaches a terminal as it is.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;

use serde::Serialize;

/// Whether a character could move the cursor, colour, hide or reorder what a terminal shows.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        // Zero-width and joining marks, line and paragraph separators, and everything that changes direction.
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with every unsafe character as `\u{…}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A CSV cell: printable, and not taken for a formula by a spreadsheet.
pub fn csv_cell(text: &str) -> Cow<'_, str> {
    let safe = printable(text);
    if safe.starts_with(['=', '+', '-', '@']) { Cow::Owned(format!("'{safe}")) } else { safe }
}

/// JSON on one line, with every unsafe character escaped: the same value to a parser, harmless to a terminal.
pub fn json_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PrintableJson))?;
    Ok(String::from_utf8(bytes).expect("serde_json writes UTF-8"))
}

struct PrintableJson;

impl serde_json::ser::Formatter for PrintableJson {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Nearly all are like that, and need no look at each character.
        if fragment.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unsafe) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let c = rest[at..].chars().next().expect("found one");
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// A table with aligned columns; cells are made printable here.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            rows.iter().map(|row| row[column].chars().count()).chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut padded = String::from("  ");
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(padded, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", padded.trim_end());
    };
    line(&mut header.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(AsRef::as_ref));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_and_direction_marks_do_not_get_through() {
        assert_eq!(printable("plain ä 日本"), "plain ä 日本");
        assert_eq!(printable("\u{1b}[31mred\r\n"), "\\u{1b}[31mred\\u{d}\\u{a}");
        assert_eq!(printable("a\u{202e}b\u{9b}c"), "a\\u{202e}b\\u{9b}c");
        assert_eq!(csv_cell("=cmd|' /C calc'!A0"), "'=cmd|' /C calc'!A0");
    }

    proptest! {
        #[test]
        fn json_says_the_same_and_is_harmless(text in any::<String>()) {
            let line = json_line(&text).unwrap();
            prop_assert!(!line.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
