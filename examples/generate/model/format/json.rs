//! Standard logs v2 as JSON: an object a line, all values texts.

use std::io;

use serde::Serializer as _;
use serde_json::Serializer;

use super::fields::Row;

/// A line for each row, its keys in the order of the fields.
pub fn lines(rows: &[Row], fields: &[&str]) -> io::Result<String> {
    let mut out = Vec::with_capacity(rows.len() * 2_000);
    for row in rows {
        let object = fields.iter().map(|name| (name, row.field(name)));
        Serializer::new(&mut out).collect_map(object)?;
        out.push(b'\n');
    }
    String::from_utf8(out).map_err(io::Error::other)
}
