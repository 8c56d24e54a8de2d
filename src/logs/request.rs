//! What a log line says of a request: the one reading that the table `requests` and the roll-up share.

use std::borrow::Cow;
use std::net::IpAddr;

use super::decode::decode;
use super::fields::{Field, FieldSet};
use super::spare::Known;
use super::{Counts, LogLine, ReadContext};
use crate::content::{self, Kind};
use crate::geo::Place;
use crate::session::Playback;
use crate::session::request::Request;

/// A request as a log line tells of it: a row of `requests`, with what costs something to make not made yet.
pub struct LoggedRequest<'a> {
    pub line: &'a LogLine<'a>,
    /// The log object that the line is in.
    pub object: &'a str,
    pub distribution: Option<&'a str>,
    /// 0 where the viewer left before there was one.
    pub status: i64,
    /// Bytes sent, headers included.
    pub bytes: i64,
    pub address: Option<IpAddr>,
    /// Nothing, where the sink does not want it.
    pub place: Place,
    /// Status 200 or 206, and no error page.
    pub accepted: bool,
    /// The edge's token check said no.
    pub refused: bool,
    pub playback: Option<&'a Playback<'a>>,
    /// Without the token, decoded once.
    pub path: &'a str,
    /// Of the path.
    pub kind: Kind,
    /// The first byte of what was sent, 0 where that is the whole file; none of a part that the log does not tell.
    pub first_byte: Option<u64>,
}

/// Reads lines of one object.
pub struct RequestReader {
    context: ReadContext,
    object: String,
    /// From the object's name.
    distribution: Option<String>,
    wants_place: bool,
    /// What the schemes look at.
    looked_at: FieldSet,
    known: Known,
    counts: Counts,
    /// The first and the last request, in microseconds.
    span: Option<(i64, i64)>,
}

impl RequestReader {
    /// `object` is the key of the log object.
    pub fn new(context: &ReadContext, object: &str, wants_place: bool) -> Self {
        RequestReader {
            context: context.clone(),
            object: object.to_owned(),
            distribution: crate::source::names::distribution(object).map(str::to_owned),
            wants_place,
            looked_at: context
                .sessions
                .iter()
                .fold(FieldSet::default(), |fields, scheme| fields.union(scheme.fields())),
            known: context.spare.known.take().unwrap_or_else(|| Known::new(context.sessions.clone())),
            counts: Counts::default(),
            span: None,
        }
    }

    /// The object was read to its end: what was found out serves the next one. Gives the counts, and when the first and the last
    /// request were, in microseconds since the epoch.
    pub fn finish(self) -> (Counts, Option<(i64, i64)>) {
        self.context.spare.known.give(self.known);
        (self.counts, self.span)
    }

    /// The fields of a record that are looked at: by the schemes, and by what decides whether a record is a request.
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
            Field::RangeStart,
        ];
        FieldSet::of(always).union(self.looked_at)
    }

    /// Hands on the request of a line, or says why it is none.
    pub fn read(&mut self, line: &LogLine<'_>, take: impl FnOnce(&LoggedRequest<'_>)) -> Result<(), &'static str> {
        let status: i64 = match line.status.parse::<u16>() {
            Ok(status) if status <= 999 => i64::from(status),
            _ => return Err("bad status"),
        };
        let (address, place) = match line.ip {
            Some(ip) => {
                let (address, place) = self.known.address(ip, &self.context.geo).ok_or("bad address")?;
                (Some(address), place)
            }
            None => (None, Place::default()),
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
        let playback = self.known.identifier.identify(&request);
        let of_scheme = playback.as_ref().and_then(|playback| playback.refused_status);
        let refused = self.context.refused_status.iter().chain(&of_scheme).any(|refused| i64::from(*refused) == status);
        let bare_path: &str = playback.as_ref().map_or(&path, |playback| playback.path.as_ref());

        let first_byte = if status == 206 { line.range_start.and_then(|start| start.parse().ok()) } else { Some(0) };
        let kind = content::kind(bare_path, &self.context.segment_endings);

        self.counts.rows += 1;
        self.counts.accepted += u64::from(accepted);
        self.counts.refused += u64::from(refused);
        self.counts.without_session += u64::from(playback.is_none());
        let (first, last) = self.span.unwrap_or((line.time, line.time));
        self.span = Some((first.min(line.time), last.max(line.time)));

        let place = if self.wants_place { self.place(place, line) } else { Place::default() };
        // From here on the true one is nobody's business.
        let address = address.map(|address| self.context.disguise.address(address));
        let playback = playback.as_ref();
        if accepted {
            let session = playback.map(|playback| &playback.session);
            self.counts.manifests += u64::from(kind == Kind::Manifest && session.is_some());
            self.counts.segments += u64::from(kind == Kind::Segment && session.is_some());
            self.counts.without_country += u64::from(place.country.is_none());
            self.counts.without_asn += u64::from(place.asn.is_none());
            self.counts.unbound += u64::from(session.is_some_and(|session| !session.bound && !session.derived));
            self.counts.derived += u64::from(session.is_some_and(|session| session.derived));
        }
        take(&LoggedRequest {
            line,
            object: &self.object,
            distribution: self.distribution.as_deref().or(line.distribution),
            status,
            bytes,
            address,
            place,
            accepted,
            refused,
            playback,
            path: bare_path,
            kind,
            first_byte,
        });
        Ok(())
    }

    /// Country and ASN: from the log where it has them, else what the GeoIP files say.
    fn place(&self, mut place: Place, line: &LogLine<'_>) -> Place {
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

/// Result types (before the answer was sent) of an answer that is an error page, whatever its status.
/// `Error` in x-edge-result-type alone is a viewer who left in the middle of a good answer.
/// Source: CloudFront Developer Guide, "Standard logs reference", x-edge-response-result-type.
fn is_error_page(response_result_type: &str) -> bool {
    matches!(response_result_type, "Error" | "LimitExceeded" | "CapacityExceeded" | "LambdaExecutionError")
}

/// A user agent, decoded. Until the end of 2019 it was escaped twice; no client escapes its blanks.
pub fn user_agent(field: &str) -> Cow<'_, str> {
    match decode(field) {
        Cow::Owned(once) if once.contains("%20") && !once.contains(' ') => Cow::Owned(decode(&once).into_owned()),
        once => once,
    }
}
