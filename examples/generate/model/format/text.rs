//! Standard logs as text: columns separated by tabs.

use super::fields::Row;

/// With a version line and a line of names before the rows.
pub fn w3c(rows: &[Row], fields: &[&str]) -> String {
    format!("#Version: 1.0\n#Fields: {}\n{}", fields.join(" "), raw(rows, fields))
}

/// With a bare line of names before the rows.
pub fn plain(rows: &[Row], fields: &[&str]) -> String {
    format!("{}\n{}", fields.join("\t"), raw(rows, fields))
}

/// Nothing but the rows.
pub fn raw(rows: &[Row], fields: &[&str]) -> String {
    join(rows, "\n", |row| fields.iter().map(|name| row.field(name)).collect())
}

/// The columns of each row, and `end` after each.
pub fn join(rows: &[Row], end: &str, columns: impl Fn(&Row) -> Vec<String>) -> String {
    let mut out = String::with_capacity(rows.len() * 1_200);
    for row in rows {
        out.push_str(&columns(row).join("\t"));
        out.push_str(end);
    }
    out
}
