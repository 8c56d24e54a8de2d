//! Log objects into rows of `requests`.
//!
//! [`read_object`] takes the bytes of one object, finds out what they are, and hands Arrow batches to a
//! sink. It is synchronous and pure: bytes, a context and a sink in, a report out. A line that cannot be
//! read is counted; an object that cannot be read to its end is an error, and the caller drops what the
//! sink got of it.

mod builder;
mod container;
mod decode;
mod standard;

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};

use crate::geo::Geo;
use crate::session::Scheme;
use builder::RequestBuilder;
use container::{Container, Lines};

/// Rows in a batch, at most.
pub const BATCH_ROWS: usize = 8_192;

/// Bytes of log lines in a batch, beyond the last line: viewers choose how long their headers are.
const BATCH_BYTES: usize = 4 << 20;

/// What every object is read with.
#[derive(Clone)]
pub struct ReadContext {
    pub sessions: Arc<[Scheme]>,
    pub geo: Arc<Geo>,
    /// The statuses with which the edge's token check refuses.
    pub refused_status: Arc<[u16]>,
}

/// What was read from an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectReport {
    /// SHA-256 of the object's bytes as stored, hexadecimal.
    pub digest: String,
    /// Bytes as stored.
    pub size: u64,
    pub rows: u64,
    pub accepted: u64,
    pub refused: u64,
    pub without_session: u64,
    pub rejected: u64,
    /// The first rejected lines: number and reason, never their content.
    pub rejected_examples: Vec<String>,
    pub first_time: Option<DateTime<Utc>>,
    pub last_time: Option<DateTime<Utc>>,
}

/// Why an object was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store failed in the middle: not the object's fault.
    #[error("reading stopped after {bytes} bytes: {source}")]
    Store { bytes: u64, source: std::io::Error },
    #[error("broken gzip after {bytes} bytes: {source}")]
    Gzip { bytes: u64, source: std::io::Error },
    #[error("{0}")]
    Format(String),
    /// The sink wanted no more.
    #[error("reading was stopped")]
    Stopped,
}

/// Reads one object.
///
/// `name` is what it is called in the column `object`; `schema` holds the wanted columns of `requests`, others are not
/// built. The sink gets batches of at most [`BATCH_ROWS`] rows, in the order of the lines.
pub fn read_object(
    bytes: impl Read,
    name: &str,
    context: &ReadContext,
    schema: SchemaRef,
    mut sink: impl FnMut(RecordBatch) -> ControlFlow<()>,
) -> Result<ObjectReport, ReadError> {
    let mut builder = RequestBuilder::new(schema, context, name);
    let container = Container::open(bytes)?;
    let mut lines = Lines::new(container);
    let mut header = standard::Header::default();
    let mut report = ObjectReport::default();
    let mut bytes = 0;

    while let Some(line) = lines.next_line()? {
        let parsed = match line.text {
            Ok(text) => {
                bytes += text.len();
                header.parse(text)
            }
            Err(reason) => standard::Parsed::Bad(reason),
        };
        let outcome = match parsed {
            standard::Parsed::Row(line) => builder.push(&line),
            standard::Parsed::Bad(reason) => Err(reason),
            standard::Parsed::Nothing => continue,
            standard::Parsed::Unknown(reason) => return Err(ReadError::Format(reason)),
        };
        if let Err(reason) = outcome {
            report.rejected += 1;
            if report.rejected_examples.len() < 3 {
                report.rejected_examples.push(format!("line {}: {reason}", line.number));
            }
        }
        if (builder.len() == BATCH_ROWS || bytes >= BATCH_BYTES)
            && flush(&mut builder, &mut bytes, &mut sink).is_break()
        {
            return Err(ReadError::Stopped);
        }
    }
    if !header.is_known() {
        return Err(ReadError::Format("no #Fields line: not a standard CloudFront log".into()));
    }
    if flush(&mut builder, &mut bytes, &mut sink).is_break() {
        return Err(ReadError::Stopped);
    }
    let (digest, size) = lines.finish()?;
    let counts = builder.counts();
    report.digest = digest;
    report.size = size;
    report.rows = counts.rows;
    report.accepted = counts.accepted;
    report.refused = counts.refused;
    report.without_session = counts.without_session;
    report.first_time = counts.first_micros.and_then(DateTime::from_timestamp_micros);
    report.last_time = counts.last_micros.and_then(DateTime::from_timestamp_micros);
    // Every line bad: a wrong format rather than some broken lines, and nothing to lose by setting it aside.
    if report.rows == 0 && report.rejected > 0 {
        return Err(ReadError::Format(format!(
            "none of {} lines can be read; {}",
            report.rejected,
            report.rejected_examples.join("; ")
        )));
    }
    Ok(report)
}

/// Hands the rows so far to the sink.
fn flush(
    builder: &mut RequestBuilder,
    bytes: &mut usize,
    sink: &mut impl FnMut(RecordBatch) -> ControlFlow<()>,
) -> ControlFlow<()> {
    *bytes = 0;
    if builder.len() == 0 { ControlFlow::Continue(()) } else { sink(builder.finish()) }
}

/// A line of a log, whatever its format: fields as they are logged, percent-encoded once.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLine<'a> {
    /// Microseconds since the epoch.
    pub time: i64,
    pub distribution: Option<&'a str>,
    pub edge: Option<&'a str>,
    pub bytes: Option<&'a str>,
    pub ip: Option<&'a str>,
    pub method: Option<&'a str>,
    /// The host that the viewer asked for.
    pub host: Option<&'a str>,
    /// The path with the token, without the query.
    pub uri_stem: &'a str,
    pub status: &'a str,
    pub referer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub result_type: Option<&'a str>,
    pub response_result_type: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub country: Option<&'a str>,
    pub asn: Option<&'a str>,
}
