//! Records as Parquet (v2): a column per field, all of them texts as a rule, named in snake case.
//!
//! Only the columns that are wanted are read, and none is turned into lines of text first.

use std::io::{Read, Seek};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::fields::{Field, FieldSet, Times, Values, check_needed, field, is_realtime};
use super::{ReadError, Rows};

/// Rows that are decoded at once. A row may hold several values of some 30 KB each, which viewers choose.
const ROWS_AT_ONCE: usize = 1_024;

/// Unpacked bytes of one column in one row group, at most: what a file may make the decoder hold.
const MAX_COLUMN_BYTES: i64 = 1 << 30;

/// Reads a whole Parquet object; gives the names of its columns.
///
/// `wanted` are the fields that are read, of those that the object has. The object goes through a temporary file without
/// a name, as its index stands at its end.
pub fn read(mut bytes: impl Read, wanted: FieldSet, rows: &mut dyn Rows) -> Result<Vec<String>, ReadError> {
    // What could not be read of the object is told by whoever reads it.
    let failed = |source: std::io::Error| {
        let folder = std::env::temp_dir();
        let reason = format!("no temporary file can be written in {} (TMPDIR): {source}", folder.display());
        ReadError::Store { bytes: 0, source: std::io::Error::new(source.kind(), reason) }
    };
    let mut file = tempfile::tempfile().map_err(failed)?;
    std::io::copy(&mut bytes, &mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let broken = |error: &dyn std::fmt::Display| ReadError::Format(format!("broken Parquet: {error}"));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(&error))?;
    let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let fields: Vec<Option<Field>> = names.iter().map(|name| field(name)).collect();
    check_needed(|field| fields.contains(&Some(field)))
        .map_err(|reason| ReadError::Format(format!("Parquet, but {reason}")))?;
    let is_wanted = |place: &usize| fields[*place].is_some_and(|field| wanted.has(field));
    let roots: Vec<usize> = (0..fields.len()).filter(is_wanted).collect();
    for group in builder.metadata().row_groups() {
        for column in group.columns() {
            let root = column.column_path().parts().first();
            let is_read = root.and_then(|name| field(name)).is_some_and(|field| wanted.has(field));
            if is_read && !(0..=MAX_COLUMN_BYTES).contains(&column.uncompressed_size()) {
                let reason = format!("column {} unpacks to {} bytes", column.column_path(), column.uncompressed_size());
                return Err(ReadError::Format(reason));
            }
        }
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build().map_err(|error| broken(&error))?;
    // Firehose can turn real-time logs into Parquet.
    let realtime = is_realtime(names.iter().map(String::as_str));
    let mut times = Times::default();
    for batch in reader {
        take(&batch.map_err(|error| broken(&error))?, realtime, &mut times, rows)?;
        if rows.stopped() {
            return Err(ReadError::Stopped);
        }
    }
    Ok(names)
}

/// Hands on the rows of a batch.
fn take(batch: &RecordBatch, realtime: bool, times: &mut Times, rows: &mut dyn Rows) -> Result<(), ReadError> {
    let mut columns: Vec<(Field, ArrayRef)> = Vec::with_capacity(batch.num_columns());
    for (column, described) in batch.columns().iter().zip(batch.schema().fields()) {
        let Some(field) = field(described.name()) else { continue };
        let texts = match column.data_type() {
            DataType::Utf8 => column.clone(),
            _ => arrow::compute::cast(column, &DataType::Utf8)
                .map_err(|error| ReadError::Format(format!("Parquet column {}: {error}", described.name())))?,
        };
        columns.push((field, texts));
    }
    let columns: Vec<(Field, &StringArray)> =
        columns.iter().map(|(field, column)| (*field, column.as_string::<i32>())).collect();
    for row in 0..batch.num_rows() {
        let mut values = Values::default();
        for (field, column) in &columns {
            if column.is_valid(row) {
                values.set(*field, column.value(row));
            }
        }
        rows.row(values.line(realtime, times));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Int64Array};
    use parquet::arrow::ArrowWriter;
    use proptest::prelude::*;

    use super::super::LogLine;
    use super::*;

    #[derive(Default)]
    struct Collected(Vec<Result<String, &'static str>>);

    impl Rows for Collected {
        fn row(&mut self, line: Result<LogLine<'_>, &'static str>) {
            self.0.push(line.map(|line| {
                format!("{} {} {} {:?} {:?}", line.time, line.status, line.uri_stem, line.user_agent, line.edge)
            }));
        }
    }

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn file(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn log() -> Vec<u8> {
        file(vec![
            ("date", texts(&[Some("2026-11-20"), Some("2026-11-20"), Some("-")])),
            ("time", texts(&[Some("19:00:01"), Some("19:00:02"), Some("19:00:03")])),
            ("x_edge_location", texts(&[Some("FRA2"), Some("FRA2"), Some("FRA2")])),
            ("c_ip", texts(&[Some("192.0.2.1"), None, Some("-")])),
            ("cs_uri_stem", texts(&[Some("/a"), Some("/b"), Some("/c")])),
            ("sc_status", texts(&[Some("200"), Some("000"), Some("200")])),
            ("cs_user_agent", texts(&[Some("x%20y"), Some("-"), None])),
            ("something_new", texts(&[None, None, None])),
        ])
    }

    const ALL: [Field; 7] =
        [Field::Date, Field::Time, Field::Ip, Field::UriStem, Field::Status, Field::UserAgent, Field::Edge];

    #[test]
    fn rows_with_nulls_and_dashes_and_only_the_wanted_columns() {
        let mut rows = Collected::default();
        let names = read(log().as_slice(), FieldSet::of(ALL), &mut rows).unwrap();
        assert_eq!(names.len(), 8);
        assert_eq!(
            rows.0,
            [
                Ok("1795201201000000 200 /a Some(\"x%20y\") Some(\"FRA2\")".to_owned()),
                Ok("1795201202000000 000 /b None Some(\"FRA2\")".to_owned()),
                Err("no time"),
            ]
        );
        let mut rows = Collected::default();
        let fewer = FieldSet::of(ALL.into_iter().filter(|field| *field != Field::Edge));
        read(log().as_slice(), fewer, &mut rows).unwrap();
        assert_eq!(rows.0[0], Ok("1795201201000000 200 /a Some(\"x%20y\") None".to_owned()));
    }

    #[test]
    fn columns_of_other_types_are_read_as_text() {
        let log = file(vec![
            ("date", Arc::new(Date32Array::from(vec![20_777]))),
            ("time", texts(&[Some("19:00:01")])),
            ("c_ip", texts(&[None])),
            ("cs_uri_stem", texts(&[Some("/a")])),
            ("sc_status", Arc::new(Int64Array::from(vec![206]))),
        ]);
        let mut rows = Collected::default();
        read(log.as_slice(), FieldSet::of(ALL), &mut rows).unwrap();
        assert_eq!(rows.0, [Ok("1795201201000000 206 /a None None".to_owned())]);
    }

    #[test]
    fn other_tables_and_broken_files_are_refused_with_the_reason() {
        let other = file(vec![("id", texts(&[Some("1")])), ("date", texts(&[Some("2026-11-20")]))]);
        let refused = |bytes: &[u8]| read(bytes, FieldSet::of(ALL), &mut Collected::default()).unwrap_err().to_string();
        assert!(refused(&other).contains("cs-uri-stem"), "{}", refused(&other));
        let log = log();
        assert!(refused(&log[..log.len() - 20]).contains("broken Parquet"));
        assert!(refused(b"PAR1").contains("broken Parquet"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn takes_mutated_files(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut log = log();
            for (place, byte) in changes {
                let place = place.index(log.len());
                log[place] = byte;
            }
            // The decoder may panic on what no writer makes; the caller runs it on a thread of its own.
            let _ = std::panic::catch_unwind(move || {
                let _ = read(log.as_slice(), FieldSet::of(ALL), &mut Collected::default());
            });
        }
    }
}
