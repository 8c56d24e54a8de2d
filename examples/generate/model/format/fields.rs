//! The fields of a request, as log files spell them.
//!
//! Percent-encoding, `-` for nothing, IPv6 addresses in several spellings.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use chrono::{DateTime, Utc};

use super::super::addresses::{Operator, Plan};
use super::super::encoding::{address, encode};
use super::super::request::{HOST, Request};

/// The distribution's own host name.
pub const DOMAIN: &str = "d111111abcdef8.cloudfront.net";

/// The columns of legacy standard logs, in their order.
#[rustfmt::skip]
pub const STANDARD: &[&str] = &[
    "date", "time", "x-edge-location", "sc-bytes", "c-ip", "cs-method", "cs(Host)", "cs-uri-stem", "sc-status",
    "cs(Referer)", "cs(User-Agent)", "cs-uri-query", "cs(Cookie)", "x-edge-result-type", "x-edge-request-id",
    "x-host-header", "cs-protocol", "cs-bytes", "time-taken", "x-forwarded-for", "ssl-protocol", "ssl-cipher",
    "x-edge-response-result-type", "cs-protocol-version", "fle-status", "fle-encrypted-fields", "c-port",
    "time-to-first-byte", "x-edge-detailed-result-type", "sc-content-type", "sc-content-len", "sc-range-start",
    "sc-range-end",
];

/// The columns that a delivery of standard logs v2 was configured with, in the order that somebody chose.
#[rustfmt::skip]
pub const DELIVERED: &[&str] = &[
    "timestamp(ms)", "c-ip", "c-country", "asn", "date", "time", "x-edge-location", "cs-method", "x-host-header",
    "cs-uri-stem", "cs-uri-query", "sc-status", "sc-bytes", "cs(User-Agent)", "cs(Referer)", "cs(Host)", "cs(Cookie)",
    "cache-behavior-path-pattern", "x-edge-request-id", "x-edge-result-type", "x-edge-response-result-type",
    "x-edge-detailed-result-type", "cs-protocol", "cs-protocol-version", "ssl-protocol", "ssl-cipher", "cs-bytes",
    "time-taken", "time-to-first-byte", "x-forwarded-for", "c-port", "sc-content-type", "sc-content-len",
    "sc-range-start", "sc-range-end", "fle-status", "fle-encrypted-fields",
];

/// A request that is to be written down.
pub struct Row<'a> {
    pub request: &'a Request,
    /// Knows whose the addresses are.
    pub plan: &'a Plan,
}

impl Row<'_> {
    /// A field by its name in standard logs, or in real-time logs where they have the same in it.
    pub fn field(&self, name: &str) -> String {
        let request = self.request;
        match name {
            "date" => self.time().format("%Y-%m-%d").to_string(),
            "time" => self.time().format("%H:%M:%S").to_string(),
            "timestamp(ms)" => request.finished.to_string(),
            "x-edge-location" => request.edge.to_owned(),
            "sc-bytes" => request.bytes_sent.to_string(),
            "c-ip" => address(request.client, request.id[0] < 26),
            "cs-method" => request.method.to_owned(),
            "cs(Host)" => DOMAIN.to_owned(),
            "cs-uri-stem" => encode(&request.full_path()),
            "sc-status" => format!("{:03}", request.status),
            "cs(Referer)" | "cs-referer" => encode_or_dash(request.referer.as_deref()),
            "cs(User-Agent)" | "cs-user-agent" => encode_or_dash(request.agent.as_deref()),
            "cs-uri-query" => encode_or_dash(request.full_query().as_deref()),
            "cs(Cookie)" => encode_or_dash(request.grant.as_ref().and_then(|grant| grant.cookies.as_deref())),
            "x-edge-result-type" => request.outcome.result.to_owned(),
            "x-edge-response-result-type" => request.outcome.response.to_owned(),
            "x-edge-detailed-result-type" => request.outcome.detail.to_owned(),
            "x-edge-request-id" => URL_SAFE.encode(request.id),
            "x-host-header" => HOST.to_owned(),
            "cs-protocol" => if request.secure { "https" } else { "http" }.to_owned(),
            "cs-bytes" => request.bytes_received.to_string(),
            "time-taken" => seconds(request.time_taken_ms),
            "time-to-first-byte" => seconds(request.first_byte_ms),
            "x-forwarded-for" => request.forwarded_for.unwrap_or("-").replace(' ', "\\x20"),
            "ssl-protocol" => self.tls().0.to_owned(),
            "ssl-cipher" => self.tls().1.to_owned(),
            "cs-protocol-version" => request.http.to_owned(),
            "fle-status" | "fle-encrypted-fields" => "-".to_owned(),
            "c-port" => request.port.to_string(),
            "sc-content-type" => encode_or_dash(request.content_type),
            "sc-content-len" => or_dash(request.content_length),
            "sc-range-start" => or_dash(request.range.map(|(first, _)| first)),
            "sc-range-end" => or_dash(request.range.map(|(_, last)| last)),
            "c-country" => or_dash(self.operator().map(|operator| operator.country)),
            "asn" => or_dash(self.operator().map(|operator| operator.asn)),
            "cache-behavior-path-pattern" => "*".to_owned(),
            _ => unreachable!("no format has a field {name}"),
        }
    }

    fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.request.finished).unwrap_or_default()
    }

    /// Protocol and cipher.
    fn tls(&self) -> (&'static str, &'static str) {
        match (self.request.secure, self.request.http) {
            (false, _) => ("-", "-"),
            (true, "HTTP/1.0" | "HTTP/1.1") => ("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256"),
            (true, _) => ("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        }
    }

    fn operator(&self) -> Option<&Operator> {
        self.plan.operator_of(self.request.client)
    }
}

/// A value, or what stands for nothing.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn encode_or_dash(text: Option<&str>) -> String {
    or_dash(text.map(encode))
}

/// Milliseconds as seconds with three decimals.
pub fn seconds(ms: impl Into<i64>) -> String {
    let ms = ms.into();
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}
