//! Standard logs v2 as Parquet: every column a text, as in the files that CloudFront delivers.

use std::io;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::fields::Row;

/// A file of these rows.
pub fn file(rows: &[Row], fields: &[&str]) -> io::Result<Vec<u8>> {
    let columns = fields.iter().map(|name| {
        let values: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.field(name))));
        (column(name), values, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns).map_err(io::Error::other)?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(vec![], batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

/// The name of a field's column: `cs(User-Agent)` is `cs_user_agent`.
fn column(field: &str) -> String {
    field.replace(['-', '(', ')'], "_").trim_end_matches('_').to_ascii_lowercase()
}
