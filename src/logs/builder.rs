//! Log lines into Arrow columns: only those that are wanted, and only the work that these need.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::decode::decode;
use super::fields::{Field, FieldSet};
use super::{Counts, LogLine, ReadContext};
use crate::geo::Place;
use crate::network_type::NetworkType;
use crate::session::request::Request;
use crate::session::{self, Playback};
use crate::viewer;

/// Addresses whose place is remembered while an object is read.
const REMEMBERED_ADDRESSES: usize = 1 << 16;

/// Fills the wanted columns of `requests`.
pub struct RequestBuilder {
    schema: SchemaRef,
    columns: Vec<(Source, ColumnBuilder)>,
    context: ReadContext,
    object: String,
    distribution: Option<String>,
    wants_place: bool,
    /// What the schemes look at.
    looked_at: FieldSet,
    places: HashMap<IpAddr, Place>,
    rows: usize,
    counts: Counts,
    /// The first and the last request, in microseconds.
    span: Option<(i64, i64)>,
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
    Text(StringBuilder),
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
            DataType::Utf8 => ColumnBuilder::Text(StringBuilder::new()),
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
    /// `schema` holds the wanted columns of `requests`; `object` is the key of the log object.
    pub fn new(schema: SchemaRef, context: &ReadContext, object: &str) -> Self {
        let columns: Vec<(Source, ColumnBuilder)> = schema
            .fields()
            .iter()
            .map(|field| (Source::of(field.name()), ColumnBuilder::new(field.data_type())))
            .collect();
        RequestBuilder {
            wants_place: columns.iter().any(|(source, _)| source.is_of_place()),
            schema,
            columns,
            context: context.clone(),
            object: object.to_owned(),
            looked_at: context
                .sessions
                .iter()
                .fold(FieldSet::default(), |fields, scheme| fields.union(scheme.fields())),
            distribution: crate::source::names::distribution(object).map(str::to_owned),
            places: HashMap::new(),
            rows: 0,
            counts: Counts::default(),
            span: None,
        }
    }

    /// Rows since the last [`Self::finish`].
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When the first and the last request were, in microseconds since the epoch.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.span
    }

    /// The fields of a record that are looked at: by the wanted columns, by the schemes, and by what decides whether a
    /// record is a request.
    pub fn needed_fields(&self) -> FieldSet {
        let always = [
            Field::Date,
            Field::Time,
            Field::TimestampMs,
            Field::Timestamp,
            Field::Ip,
            Field::Bytes,
            Field::UriStem,
            Field::Status,
            Field::ResponseResultType,
        ];
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
        FieldSet::of(of_columns.copied().chain(always)).union(self.looked_at)
    }

    /// Adds a line, or says why it is no request.
    pub fn push(&mut self, line: &LogLine<'_>) -> Result<(), &'static str> {
        let status: i64 = match line.status.parse::<u16>() {
            Ok(status) if status <= 999 => i64::from(status),
            _ => return Err("bad status"),
        };
        let address = match line.ip.map(IpAddr::from_str) {
            Some(Ok(address)) => Some(address.to_canonical()),
            Some(Err(_)) => return Err("bad address"),
            None => None,
        };
        let bytes: i64 = match line.bytes.map(str::parse) {
            // A petabyte in one answer is none; and sums must not run over.
            Some(Ok(bytes)) if (0..1 << 50).contains(&bytes) => bytes,
            Some(_) => return Err("bad sc-bytes"),
            None => 0,
        };
        let accepted = matches!(status, 200 | 206) && !line.response_result_type.is_some_and(is_error_page);
        let path = decode(line.uri_stem);
        // Only what a scheme looks at is decoded.
        let looked_at = |field| self.looked_at.has(field);
        let request = Request {
            path: &path,
            query: line.query.filter(|_| looked_at(Field::Query)).map(decode),
            cookie: line.cookie.filter(|_| looked_at(Field::Cookie)).map(decode),
            cookie_cut: line.cookie_cut,
            headers: line.headers,
            headers_cut: line.headers_cut,
            cmcd_session: line.cmcd_session.filter(|_| looked_at(Field::CmcdSession)).map(decode),
            user_agent: line.user_agent.filter(|_| looked_at(Field::UserAgent)).map(decode),
            referer: line.referer.filter(|_| looked_at(Field::Referer)).map(decode),
            host: line.host.filter(|_| looked_at(Field::XHostHeader)).map(decode),
        };
        let playback = session::identify(&self.context.sessions, &request);
        let of_scheme = playback.as_ref().and_then(|playback| playback.refused_status);
        let refused = self.context.refused_status.iter().chain(&of_scheme).any(|refused| i64::from(*refused) == status);
        let bare_path: &str = playback.as_ref().map_or(&path, |playback| playback.path.as_ref());

        self.rows += 1;
        self.counts.rows += 1;
        self.counts.accepted += u64::from(accepted);
        self.counts.refused += u64::from(refused);
        self.counts.without_session += u64::from(playback.is_none());
        let (first, last) = self.span.unwrap_or((line.time, line.time));
        self.span = Some((first.min(line.time), last.max(line.time)));

        let place = if self.wants_place { self.place(address, line) } else { Place::default() };
        let playback: Option<&Playback<'_>> = playback.as_ref();
        let session = playback.map(|playback| &playback.session);
        if accepted {
            self.counts.without_country += u64::from(place.country.is_none());
            self.counts.without_asn += u64::from(place.asn.is_none());
            self.counts.unbound += u64::from(session.is_some_and(|session| !session.bound && !session.derived));
            self.counts.derived += u64::from(session.is_some_and(|session| session.derived));
        }
        let user_agent = line.user_agent.map(agent);
        for (source, column) in &mut self.columns {
            let text;
            column.push(match source {
                Source::Time => Value::Int(Some(line.time)),
                Source::Distribution => Value::Text(self.distribution.as_deref().or(line.distribution)),
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
                Source::Path => Value::Text(Some(bare_path)),
                Source::Content => Value::Text(crate::content::asset(bare_path)),
                Source::Segment => Value::Int(crate::content::segment(bare_path)),
                Source::Kind => Value::Text(Some(crate::content::kind(bare_path).name())),
                Source::Status => Value::Int(Some(status)),
                Source::Bytes => Value::Int(Some(bytes)),
                Source::Accepted => Value::Bool(accepted),
                Source::Refused => Value::Bool(refused),
                Source::Edge => Value::Text(line.edge),
                Source::ResultType => Value::Text(line.result_type),
                Source::RequestId => Value::Text(line.request_id),
                Source::Object => Value::Text(Some(&self.object)),
            });
        }
        Ok(())
    }

    /// The rows so far, as a batch; starts the next one.
    pub fn finish(&mut self) -> RecordBatch {
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(|(_, column)| column.finish()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .expect("every column was given a value of its type for each row")
    }

    /// Country and ASN: from the log where it has them, else from the GeoIP files.
    fn place(&mut self, address: Option<IpAddr>, line: &LogLine<'_>) -> Place {
        let mut place = match address {
            None => Place::default(),
            Some(address) => match self.places.get(&address) {
                Some(place) => place.clone(),
                None => {
                    if self.places.len() >= REMEMBERED_ADDRESSES {
                        self.places.clear();
                    }
                    let place = self.context.geo.place(address);
                    self.places.insert(address, place.clone());
                    place
                }
            },
        };
        if let Some(country) = line.country.and_then(crate::geo::Country::parse) {
            if place.country != Some(country) {
                // Where the log knows better, the file knows nothing.
                place.position = None;
            }
            place.country = Some(country);
        }
        if let Some(asn) = line.asn.and_then(|asn| asn.parse::<u32>().ok()) {
            let asn = i64::from(asn);
            if place.asn != Some(asn) {
                place.asn = Some(asn);
                place.network_type = self.context.geo.network_type(asn);
            }
        }
        place
    }
}

/// A user agent. Until the end of 2019 it was escaped twice; no client escapes its blanks.
fn agent(field: &str) -> Cow<'_, str> {
    match decode(field) {
        Cow::Owned(once) if once.contains("%20") && !once.contains(' ') => Cow::Owned(decode(&once).into_owned()),
        once => once,
    }
}

/// Result types (before the answer was sent) of an answer that is an error page, whatever its status.
/// `Error` in x-edge-result-type alone is a viewer who left in the middle of a good answer.
/// Source: CloudFront Developer Guide, "Standard logs reference", x-edge-response-result-type.
fn is_error_page(response_result_type: &str) -> bool {
    matches!(response_result_type, "Error" | "LimitExceeded" | "CapacityExceeded" | "LambdaExecutionError")
}
