//! Log objects into rows of `requests`.
//!
//! [`read_object`] takes the bytes of one object, finds out what they are, and hands requests to a
//! sink. It is synchronous and pure: bytes, a context and a sink in, a report out. A line that cannot be
//! read is counted; an object that cannot be read to its end is an error, and the caller drops what the
//! sink got of it.

mod builder;
mod columnar;
mod container;
mod decode;
pub mod fields;
pub mod gunzip;
mod json;
mod places;
mod request;
pub mod spare;
mod text;

use std::io::Read;
use std::ops::AddAssign;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::config::LogFormat;
use crate::content::SegmentEnding;
use crate::geo::Geo;
use crate::privacy::Disguise;
use crate::session::Scheme;
pub use builder::Batches;
use columnar::read as read_parquet;
use container::{Container, Lines, Next};
pub use decode::decode;
use fields::{Field, FieldSet, Layout};
use json::JsonReader;
use request::RequestReader;
pub use request::{LoggedRequest, user_agent};
use spare::Spare;
use text::TextReader;

/// So many bad lines, and more than good ones, make a bad object.
const MOSTLY_BAD_LINES: u64 = 100;

/// What every object is read with.
#[derive(Clone)]
pub struct ReadContext {
    sessions: Arc<[Scheme]>,
    geo: Arc<Geo>,
    /// The statuses with which the edge's token check refuses.
    refused_status: Arc<[u16]>,
    /// Of media segments, beside those that every service has.
    segment_endings: Arc<[SegmentEnding]>,
    /// What becomes of addresses.
    pub disguise: Disguise,
    /// Of what was read with the same context.
    spare: Arc<Spare>,
}

impl ReadContext {
    pub fn new(sessions: Arc<[Scheme]>, geo: Arc<Geo>, refused_status: Arc<[u16]>, disguise: Disguise) -> ReadContext {
        let (segment_endings, spare) = (Arc::default(), Arc::default());
        ReadContext { sessions, geo, refused_status, segment_endings, disguise, spare }
    }

    /// Segments have these endings, too.
    pub fn with_segment_endings(self, segment_endings: Arc<[SegmentEnding]>) -> ReadContext {
        ReadContext { segment_endings, ..self }
    }

    /// The same but for the schemes.
    pub fn with_sessions(&self, sessions: Arc<[Scheme]>) -> ReadContext {
        ReadContext { sessions, spare: Arc::default(), ..self.clone() }
    }

    /// What was read leaves nothing.
    pub fn clear_spare(&self) {
        self.spare.clear();
    }
}

/// How the log objects of a place are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogForm {
    pub format: LogFormat,
    /// The fields of real-time logs, in order, if the config names them.
    pub realtime: Option<Layout>,
}

/// How many requests of each sort were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    pub accepted: u64,
    pub refused: u64,
    pub without_session: u64,
    /// Of the accepted ones: without a country, without an autonomous system, and with a session that is not bound, or
    /// derived.
    pub without_country: u64,
    pub without_asn: u64,
    pub unbound: u64,
    pub derived: u64,
    /// Of the accepted ones with a session: for playlists, and for media segments.
    pub manifests: u64,
    pub segments: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.rows += other.rows;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.without_session += other.without_session;
        self.without_country += other.without_country;
        self.without_asn += other.without_asn;
        self.unbound += other.unbound;
        self.derived += other.derived;
        self.manifests += other.manifests;
        self.segments += other.segments;
    }
}

/// What was read from an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectReport {
    /// SHA-256 of the object's bytes as stored, hexadecimal.
    pub digest: String,
    /// Bytes as stored.
    pub size: u64,
    /// What it was: `standard`, `standard-json`, `parquet` or `realtime`.
    pub format: Option<LogFormat>,
    /// The names of its columns or keys, or of the fields that the config gives it.
    pub fields: Vec<String>,
    pub counts: Counts,
    /// The fields that had a value in any record, of those that not every log has.
    pub seen: FieldSet,
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
    #[error("broken gzip ({bytes} bytes were read): {source}")]
    Gzip { bytes: u64, source: std::io::Error },
    #[error("{0}")]
    Format(String),
    /// The sink wanted no more.
    #[error("reading was stopped")]
    Stopped,
}

/// Takes the requests of an object, in the order of its lines.
pub trait RequestSink {
    /// The fields of a record that it looks at, beside those that are always read.
    fn needed_fields(&self) -> FieldSet;

    /// Whether it wants to know where the viewers are.
    fn wants_place(&self) -> bool {
        true
    }

    fn take(&mut self, request: &LoggedRequest<'_>);

    /// The object was read to its end.
    fn finish(&mut self) {}

    /// Nobody wants more.
    fn stopped(&self) -> bool {
        false
    }
}

/// Takes the records that a reader finds.
trait Rows {
    /// One record, or why it is none.
    fn row(&mut self, line: Result<LogLine<'_>, &'static str>);

    /// Nobody wants more.
    fn stopped(&self) -> bool {
        false
    }
}

/// Reads the records of a text, line by line.
trait Pieces {
    /// Takes a line, or with `complete` not set what there is of one. Gives how many bytes were used: all of a complete
    /// line; what is left of another comes again, with more behind it.
    ///
    /// # Errors
    ///
    /// The object is not of this format.
    fn take(&mut self, piece: &[u8], complete: bool, rows: &mut dyn Rows) -> Result<usize, String>;

    /// Whether records may follow each other without a line end.
    fn joins_records(&self) -> bool;

    /// Whether its records are those of real-time logs.
    fn is_realtime(&self) -> bool {
        false
    }

    /// At the end of the object: an error if it was none of this format.
    fn finish(&self) -> Result<(), String>;

    /// The names of the columns or keys that were seen.
    fn fields(&self) -> Vec<String>;
}

/// Reads one object.
///
/// `name` is what it is called in the column `object`. What the sink got of an object with an error is not to be used.
pub fn read_object(
    bytes: impl Read,
    name: &str,
    form: &LogForm,
    context: &ReadContext,
    sink: &mut impl RequestSink,
) -> Result<ObjectReport, ReadError> {
    let mut taker = Taker {
        reader: RequestReader::new(context, name, sink.wants_place()),
        report: ObjectReport::default(),
        record: "line",
        number: 0,
        sink,
    };
    let other = |is: &str| {
        let wanted = form.format.name();
        ReadError::Format(format!("{is}, where the config says format = \"{wanted}\""))
    };
    let (digest, size) = match Container::open(bytes, &context.spare)? {
        Container::Parquet(mut raw) => {
            if !matches!(form.format, LogFormat::Auto | LogFormat::Parquet) {
                return Err(other("a Parquet object"));
            }
            taker.report.format = Some(LogFormat::Parquet);
            taker.record = "row";
            let wanted = taker.reader.needed_fields().union(taker.sink.needed_fields());
            let read = read_parquet(&mut raw.bytes, wanted, &mut taker);
            // What the store said comes first: a file that is cut off looks broken.
            let read_to_end = raw.finish();
            if let Err(error @ ReadError::Store { .. }) = read_to_end {
                return Err(error);
            }
            taker.report.fields = read?;
            read_to_end?
        }
        Container::Text(mut lines) => {
            let is_json = lines.first_byte()? == Some(b'{');
            match form.format {
                LogFormat::Parquet => return Err(other("no Parquet object")),
                LogFormat::StandardJson if !is_json => return Err(other("no JSON")),
                LogFormat::Standard | LogFormat::Realtime if is_json => return Err(other("JSON")),
                _ => {}
            }
            let realtime = (form.format != LogFormat::Standard).then(|| form.realtime.clone()).flatten();
            let mut reader: Box<dyn Pieces> =
                if is_json { Box::new(JsonReader::default()) } else { Box::new(TextReader::new(realtime)) };
            read_lines(&mut lines, reader.as_mut(), &mut taker)?;
            reader.finish().map_err(ReadError::Format)?;
            taker.report.format = Some(match is_json {
                true => LogFormat::StandardJson,
                false if reader.is_realtime() => LogFormat::Realtime,
                false => LogFormat::Standard,
            });
            taker.report.fields = reader.fields();
            lines.finish()?
        }
    };
    taker.finish(digest, size)
}

/// Reads a text to its end.
fn read_lines<R: Read>(
    lines: &mut Lines<R>,
    reader: &mut dyn Pieces,
    taker: &mut Taker<'_, impl RequestSink>,
) -> Result<(), ReadError> {
    loop {
        let next = lines.next_line(reader.joins_records())?;
        let complete = match next {
            Next::End => return Ok(()),
            Next::TooLong => {
                taker.number = lines.number();
                taker.row(Err("longer than 1 MiB"));
                lines.consume(lines.line().len());
                continue;
            }
            Next::Line => true,
            Next::Piece => false,
        };
        taker.number = lines.number() + u64::from(!complete);
        let used = reader.take(lines.line(), complete, taker).map_err(ReadError::Format)?;
        lines.consume(used);
        if taker.stopped() {
            return Err(ReadError::Stopped);
        }
    }
}

/// Makes requests of records, and the report.
struct Taker<'a, S> {
    reader: RequestReader,
    report: ObjectReport,
    /// What a record is called, and the number of the one at hand.
    record: &'static str,
    number: u64,
    sink: &'a mut S,
}

impl<S: RequestSink> Rows for Taker<'_, S> {
    fn row(&mut self, line: Result<LogLine<'_>, &'static str>) {
        if self.record == "row" {
            self.number += 1;
        }
        let outcome = line.and_then(|line| {
            self.report.seen = self.report.seen.union(line.optional());
            self.reader.read(&line, |request| self.sink.take(request))
        });
        if let Err(reason) = outcome {
            self.report.rejected += 1;
            if self.report.rejected_examples.len() < 3 {
                self.report.rejected_examples.push(format!("{} {}: {reason}", self.record, self.number));
            }
        }
    }

    fn stopped(&self) -> bool {
        self.sink.stopped()
    }
}

impl<S: RequestSink> Taker<'_, S> {
    fn finish(self, digest: String, size: u64) -> Result<ObjectReport, ReadError> {
        self.sink.finish();
        if self.sink.stopped() {
            return Err(ReadError::Stopped);
        }
        let mut report = self.report;
        report.digest = digest;
        report.size = size;
        let (counts, span) = self.reader.finish();
        report.counts = counts;
        if let Some((first, last)) = span {
            report.first_time = DateTime::from_timestamp_micros(first);
            report.last_time = DateTime::from_timestamp_micros(last);
        }
        let rows = report.counts.rows;
        // All or most lines bad: a wrong format rather than some broken lines. What seems right among many wrong ones may
        // be what a viewer made to look so.
        let all = rows == 0 && report.rejected > 0;
        if all || report.rejected > rows.max(MOSTLY_BAD_LINES) {
            return Err(ReadError::Format(format!(
                "{} of {} {}s cannot be read; {}",
                report.rejected,
                report.rejected + rows,
                self.record,
                report.rejected_examples.join("; ")
            )));
        }
        Ok(report)
    }
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
    pub query: Option<&'a str>,
    /// The Cookie header, without a cookie that was cut off.
    pub cookie: Option<&'a str>,
    /// There were more cookies than the log shows.
    pub cookie_cut: bool,
    /// `name:value` items, each ended by `%0A`.
    pub headers: Option<&'a str>,
    /// There were more headers than the log shows.
    pub headers_cut: bool,
    pub cmcd_session: Option<&'a str>,
    pub status: &'a str,
    pub referer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub result_type: Option<&'a str>,
    pub response_result_type: Option<&'a str>,
    /// The first byte of a part of the file.
    pub range_start: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub country: Option<&'a str>,
    pub asn: Option<&'a str>,
}

impl LogLine<'_> {
    /// The fields with a value, of those that not every log has.
    fn optional(&self) -> FieldSet {
        let fields = [
            (Field::Query, self.query),
            (Field::Cookie, self.cookie),
            (Field::Headers, self.headers),
            (Field::CmcdSession, self.cmcd_session),
            (Field::Country, self.country),
            (Field::Asn, self.asn),
            (Field::UserAgent, self.user_agent),
            (Field::RequestId, self.request_id),
        ];
        FieldSet::of(fields.into_iter().filter(|(_, value)| value.is_some()).map(|(field, _)| field))
    }

    /// Bytes of the values that viewers choose, which a batch may hold.
    fn bytes_held(&self) -> usize {
        let texts = [self.query, self.cookie, self.headers, self.referer, self.user_agent, self.host];
        self.uri_stem.len() + texts.into_iter().flatten().map(str::len).sum::<usize>()
    }
}
