//! Between Arrow batches and Rust values, for the small tables: findings, events, runs.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::{ArrayWriter, ReaderBuilder};
use arrow::record_batch::RecordBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Rows that are decoded at once.
const DECODED_AT_ONCE: usize = 1_024;

/// Rows as JSON objects; nulls are left out, instants are RFC 3339.
pub fn to_json(batches: &[RecordBatch]) -> Result<Vec<Map<String, Value>>, String> {
    let mut writer = ArrayWriter::new(Vec::new());
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        writer.write(batch).map_err(|error| error.to_string())?;
    }
    writer.finish().map_err(|error| error.to_string())?;
    let text = writer.into_inner();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

/// Rows as values whose fields are the columns.
pub fn decode<T: DeserializeOwned>(batches: &[RecordBatch]) -> Result<Vec<T>, String> {
    let mut values = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        // As JSON a row takes several times its room.
        for start in (0..batch.num_rows()).step_by(DECODED_AT_ONCE) {
            let part = batch.slice(start, DECODED_AT_ONCE.min(batch.num_rows() - start));
            for row in to_json(&[part])? {
                values.push(serde_json::from_value(Value::Object(row)).map_err(|error| error.to_string())?);
            }
        }
    }
    Ok(values)
}

/// A column of texts, whatever string type it has.
pub fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<Box<dyn Iterator<Item = Option<&'a str>> + 'a>, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("the result has no column {name}"))?;
    match column.data_type() {
        DataType::Utf8 => Ok(Box::new(column.as_string::<i32>().iter())),
        DataType::LargeUtf8 => Ok(Box::new(column.as_string::<i64>().iter())),
        DataType::Utf8View => Ok(Box::new(column.as_string_view().iter())),
        other => Err(format!("the column {name} holds no texts but {other}")),
    }
}

/// One column of texts.
pub fn texts_batch(name: &str, values: impl IntoIterator<Item = impl AsRef<str>>) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, false)]));
    let column = Arc::new(StringArray::from_iter_values(values));
    RecordBatch::try_new(schema, vec![column]).expect("the column is the one of the schema")
}

/// Values as a batch of this schema; a column that is no field of the values is null.
pub fn encode<T: Serialize>(schema: SchemaRef, values: &[T]) -> Result<RecordBatch, String> {
    let mut decoder = ReaderBuilder::new(schema.clone())
        .with_batch_size(values.len().max(1))
        .build_decoder()
        .map_err(|error| error.to_string())?;
    decoder.serialize(values).map_err(|error| error.to_string())?;
    let batch = decoder.flush().map_err(|error| error.to_string())?;
    Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(schema)))
}

/// The batch with the columns of `schema`, by name and cast to their types; what it lacks is null, what it has
/// beyond them is dropped.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let columns: Result<Vec<ArrayRef>, String> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()).map_err(|error| error.to_string()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect();
    RecordBatch::try_new(schema.clone(), columns?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use serde::Deserialize;

    use super::*;
    use crate::schema::Table;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Run {
        run_id: String,
        started_at: DateTime<Utc>,
        summary: Option<String>,
    }

    #[test]
    fn what_is_encoded_decodes_alike() {
        let runs = [
            Run {
                run_id: "a\"\u{1b}".into(),
                started_at: "2026-11-20T21:00:00.123456Z".parse().unwrap(),
                summary: None,
            },
            Run { run_id: "b".into(), started_at: "1999-01-01T00:00:00Z".parse().unwrap(), summary: Some("{}".into()) },
        ];
        let batch = encode(Table::Runs.schema().stored(), &runs).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(decode::<Run>(&[batch]).unwrap(), runs);
        assert_eq!(decode::<Run>(&[encode::<Run>(Table::Runs.schema().stored(), &[]).unwrap()]).unwrap(), []);
    }
}
