//! Requests into Arrow columns: only those that are wanted, and only the work that these need.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringViewBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::RequestSink;
use super::decode::decode;
use super::fields::{Field, FieldSet};
use super::request::{LoggedRequest, user_agent};
use crate::content::{asset_of_folder, content, part};
use crate::network_type::NetworkType;
use crate::viewer;

/// Rows in a batch, at most.
const BATCH_ROWS: usize = 8_192;

/// Bytes of log lines in a batch, beyond the last line: viewers choose how long their headers are.
const BATCH_BYTES: usize = 4 << 20;

/// Hands on requests in batches of columns of `requests`.
pub struct Batches<F> {
    builder: RequestBuilder,
    /// Of the lines in the batch, about.
    bytes: usize,
    stopped: bool,
    hand_on: F,
}

impl<F: FnMut(RecordBatch) -> ControlFlow<()>> Batches<F> {
    /// `schema` holds the wanted columns of `requests`: others are not built. `hand_on` gets batches until it wants no more.
    pub fn new(schema: SchemaRef, hand_on: F) -> Self {
        Batches { builder: RequestBuilder::new(schema), bytes: 0, stopped: false, hand_on }
    }
}

impl<F: FnMut(RecordBatch) -> ControlFlow<()>> RequestSink for Batches<F> {
    fn needed_fields(&self) -> FieldSet {
        self.builder.needed_fields()
    }

    fn wants_place(&self) -> bool {
        self.builder.wants_place()
    }

    fn take(&mut self, request: &LoggedRequest<'_>) {
        self.bytes += request.line.bytes_held();
        self.builder.push(request);
        if self.builder.rows == BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.bytes = 0;
        if self.builder.rows > 0 {
            let batch = self.builder.finish();
            self.stopped = self.stopped || (self.hand_on)(batch).is_break();
        }
    }

    fn stopped(&self) -> bool {
        self.stopped
    }
}

/// Fills the wanted columns of `requests`.
struct RequestBuilder {
    schema: SchemaRef,
    columns: Vec<(Source, ColumnBuilder)>,
    rows: usize,
}

/// Where the value of a column comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Time,
    Distribution,
    SessionId,
    Bound,
    Derived,
    Scheme,
    Credential,
    Component,
    TokenExpires,
    Ip,
    Network,
    Country,
    Asn,
    NetworkType,
    Latitude,
    Longitude,
    AccuracyKm,
    UserAgent,
    Device,
    RefererHost,
    Method,
    Host,
    Path,
    Content,
    Segment,
    Kind,
    Status,
    Bytes,
    Accepted,
    Refused,
    Edge,
    ResultType,
    RequestId,
    Object,
}

impl Source {
    /// It is looked up by the address.
    fn is_of_place(&self) -> bool {
        matches!(
            self,
            Source::Country
                | Source::Asn
                | Source::NetworkType
                | Source::Latitude
                | Source::Longitude
                | Source::AccuracyKm
        )
    }

    /// The column of `schemas/requests.toml` with that name. A column without a source is a mistake in the
    /// program, which the first test that reads a log shows.
    fn of(column: &str) -> Source {
        match column {
            "time" => Source::Time,
            "distribution" => Source::Distribution,
            "session_id" => Source::SessionId,
            "bound" => Source::Bound,
            "derived" => Source::Derived,
            "scheme" => Source::Scheme,
            "credential" => Source::Credential,
            "component" => Source::Component,
            "token_expires" => Source::TokenExpires,
            "ip" => Source::Ip,
            "network" => Source::Network,
            "country" => Source::Country,
            "asn" => Source::Asn,
            "network_type" => Source::NetworkType,
            "latitude" => Source::Latitude,
            "longitude" => Source::Longitude,
            "accuracy_km" => Source::AccuracyKm,
            "user_agent" => Source::UserAgent,
            "device" => Source::Device,
            "referer_host" => Source::RefererHost,
            "method" => Source::Method,
            "host" => Source::Host,
            "path" => Source::Path,
            "content" => Source::Content,
            "segment" => Source::Segment,
            "kind" => Source::Kind,
            "status" => Source::Status,
            "bytes" => Source::Bytes,
            "accepted" => Source::Accepted,
            "refused" => Source::Refused,
            "edge" => Source::Edge,
            "result_type" => Source::ResultType,
            "request_id" => Source::RequestId,
            "object" => Source::Object,
            other => unreachable!("schemas/requests.toml has a column {other} that nothing fills"),
        }
    }
}

enum ColumnBuilder {
    Time(TimestampMicrosecondBuilder),
    Text(StringViewBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
}

impl ColumnBuilder {
    fn new(data_type: &DataType) -> ColumnBuilder {
        match data_type {
            DataType::Timestamp(..) => {
                ColumnBuilder::Time(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::Utf8View => ColumnBuilder::Text(StringViewBuilder::new()),
            DataType::Int64 => ColumnBuilder::Int(Int64Builder::new()),
            DataType::Float64 => ColumnBuilder::Float(Float64Builder::new()),
            DataType::Boolean => ColumnBuilder::Bool(BooleanBuilder::new()),
            other => unreachable!("no column of requests is {other}"),
        }
    }

    fn push(&mut self, value: Value<'_>) {
        match (self, value) {
            (ColumnBuilder::Time(builder), Value::Int(value)) => builder.append_option(value),
            (ColumnBuilder::Int(builder), Value::Int(value)) => builder.append_option(value),
            (ColumnBuilder::Float(builder), Value::Float(value)) => builder.append_option(value),
            (ColumnBuilder::Text(builder), Value::Text(value)) => builder.append_option(value),
            (ColumnBuilder::Bool(builder), Value::Bool(value)) => builder.append_value(value),
            _ => unreachable!("the schema and the source of a column of requests differ in type"),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            ColumnBuilder::Time(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Text(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Int(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Float(builder) => Arc::new(builder.finish()),
            ColumnBuilder::Bool(builder) => Arc::new(builder.finish()),
        }
    }
}

enum Value<'a> {
    Int(Option<i64>),
    Float(Option<f64>),
    Text(Option<&'a str>),
    Bool(bool),
}

impl RequestBuilder {
    /// `schema` holds the wanted columns of `requests`.
    fn new(schema: SchemaRef) -> Self {
        let columns: Vec<(Source, ColumnBuilder)> = schema
            .fields()
            .iter()
            .map(|field| (Source::of(field.name()), ColumnBuilder::new(field.data_type())))
            .collect();
        RequestBuilder { schema, columns, rows: 0 }
    }

    /// Whether any of them is looked up by the address.
    fn wants_place(&self) -> bool {
        self.columns.iter().any(|(source, _)| source.is_of_place())
    }

    /// The fields of a record that the wanted columns come from, beside those that are always read.
    fn needed_fields(&self) -> FieldSet {
        let of_columns = self.columns.iter().flat_map(|(source, _)| -> &[Field] {
            match source {
                Source::Distribution => &[Field::Distribution],
                Source::Country | Source::Latitude | Source::Longitude | Source::AccuracyKm => &[Field::Country],
                Source::Asn | Source::NetworkType => &[Field::Asn],
                Source::UserAgent | Source::Device => &[Field::UserAgent],
                Source::RefererHost => &[Field::Referer],
                Source::Method => &[Field::Method],
                Source::Host => &[Field::XHostHeader, Field::CsHost],
                Source::Edge => &[Field::Edge],
                Source::ResultType => &[Field::ResultType],
                Source::RequestId => &[Field::RequestId],
                _ => &[],
            }
        });
        FieldSet::of(of_columns.copied())
    }

    /// Adds a request.
    fn push(&mut self, request: &LoggedRequest<'_>) {
        self.rows += 1;
        let &LoggedRequest { line, address, playback, path, .. } = request;
        let place = &request.place;
        let session = playback.map(|playback| &playback.session);
        let user_agent = line.user_agent.map(user_agent);
        let of = |path| content(path, request.kind, asset_of_folder);
        for (source, column) in &mut self.columns {
            let text;
            column.push(match source {
                Source::Time => Value::Int(Some(line.time)),
                Source::Distribution => Value::Text(request.distribution),
                Source::SessionId => Value::Text(session.map(|session| session.id.as_str())),
                Source::Bound => Value::Bool(session.is_some_and(|session| session.bound)),
                Source::Derived => Value::Bool(session.is_some_and(|session| session.derived)),
                Source::Scheme => Value::Text(playback.map(|playback| playback.scheme)),
                Source::Credential => {
                    Value::Text(session.and_then(|session| Some(session.credential.as_ref()?.text.as_str())))
                }
                Source::Component => {
                    text = session.and_then(|session| Some(session.credential.as_ref()?.component.to_string()));
                    Value::Text(text.as_deref())
                }
                Source::TokenExpires => {
                    Value::Int(session.and_then(|session| session.token_expires).map(|time| time.timestamp_micros()))
                }
                Source::Ip => {
                    text = address.map(|address| address.to_string());
                    Value::Text(text.as_deref())
                }
                Source::Network => {
                    text = address.map(viewer::network);
                    Value::Text(text.as_deref())
                }
                Source::Country => Value::Text(place.country.as_ref().map(|country| country.as_str())),
                Source::Asn => Value::Int(place.asn),
                Source::NetworkType => Value::Text(place.network_type.map(NetworkType::name)),
                Source::Latitude => Value::Float(place.position.map(|position| position.latitude)),
                Source::Longitude => Value::Float(place.position.map(|position| position.longitude)),
                Source::AccuracyKm => Value::Int(place.position.and_then(|position| position.accuracy_km)),
                Source::UserAgent => Value::Text(user_agent.as_deref()),
                Source::Device => Value::Text(Some(viewer::device(user_agent.as_deref()))),
                Source::RefererHost => {
                    text = line.referer.and_then(|referer| viewer::referer_host(&decode(referer)));
                    Value::Text(text.as_deref())
                }
                Source::Method => Value::Text(line.method),
                Source::Host => {
                    text = line.host.map(|host| decode(host).into_owned());
                    Value::Text(text.as_deref())
                }
                Source::Path => Value::Text(Some(path)),
                Source::Content => Value::Text(of(path).asset),
                Source::Segment => Value::Int(of(path).segment.and_then(|segment| part(segment, request.first_byte))),
                Source::Kind => Value::Text(Some(request.kind.name())),
                Source::Status => Value::Int(Some(request.status)),
                Source::Bytes => Value::Int(Some(request.bytes)),
                Source::Accepted => Value::Bool(request.accepted),
                Source::Refused => Value::Bool(request.refused),
                Source::Edge => Value::Text(line.edge),
                Source::ResultType => Value::Text(line.result_type),
                Source::RequestId => Value::Text(line.request_id),
                Source::Object => Value::Text(Some(request.object)),
            });
        }
    }

    /// The rows so far, as a batch; starts the next one.
    fn finish(&mut self) -> RecordBatch {
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(|(_, column)| column.finish()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .expect("every column was given a value of its type for each row")
    }
}
