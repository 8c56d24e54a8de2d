//! Real-time logs: records without a header, in CloudFront's own order of fields.

use super::super::encoding::encode;
use super::super::request::{HOST, Request};
use super::fields::{DOMAIN, Row, or_dash, seconds};
use super::text::join;

/// The fields that the logs were configured with.
#[rustfmt::skip]
pub const REALTIME_FIELDS: &[&str] = &[
    "timestamp", "c-ip", "time-to-first-byte", "sc-status", "sc-bytes", "cs-method", "cs-protocol", "cs-host",
    "cs-uri-stem", "cs-bytes", "x-edge-location", "x-edge-request-id", "x-host-header", "time-taken",
    "cs-protocol-version", "c-ip-version", "cs-user-agent", "cs-referer", "cs-cookie", "cs-uri-query",
    "x-edge-response-result-type", "x-forwarded-for", "ssl-protocol", "ssl-cipher", "x-edge-result-type",
    "fle-encrypted-fields", "fle-status", "sc-content-type", "sc-content-len", "sc-range-start", "sc-range-end",
    "c-port", "x-edge-detailed-result-type", "c-country", "cs-accept-encoding", "cs-accept",
    "cache-behavior-path-pattern", "cs-headers", "cs-header-names", "cs-headers-count", "asn", "cmcd-session-id",
];

/// Bytes that are kept of cookies, headers and names of headers.
const KEPT: usize = 800;

const ACCEPT: &str = "*/*";
const ACCEPT_ENCODING: &str = "gzip, deflate, br";

/// The records, and `end` after each.
pub fn records(rows: &[Row], end: &str) -> String {
    join(rows, end, |row| REALTIME_FIELDS.iter().map(|name| field(row, name)).collect())
}

fn field(row: &Row, name: &str) -> String {
    let request = row.request;
    match name {
        "timestamp" => seconds(request.finished),
        "cs-host" => HOST.to_owned(),
        "x-host-header" => DOMAIN.to_owned(),
        "cs-uri-stem" => match request.full_query() {
            Some(query) => encode(&format!("{}?{query}", request.full_path())),
            None => encode(&request.full_path()),
        },
        "c-ip-version" => if request.client.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned(),
        "cs-cookie" => cut(row.field("cs(Cookie)")),
        "cs-accept-encoding" => encode(ACCEPT_ENCODING),
        "cs-accept" => ACCEPT.to_owned(),
        "cs-headers" => {
            // Cookies are named, but their values are not among the headers.
            let headers = headers(request).into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("cookie"));
            items(headers.map(|(name, value)| format!("{name}:{value}")))
        }
        "cs-header-names" => items(headers(request).into_iter().map(|(name, _)| name)),
        "cs-headers-count" => headers(request).len().to_string(),
        "cmcd-session-id" => or_dash(request.grant.as_ref().and_then(|grant| grant.cmcd_session_id.as_ref())),
        _ => row.field(name),
    }
}

/// All headers, their names in lower case where the protocol wants it.
fn headers(request: &Request) -> Vec<(String, &str)> {
    let grant = request.grant.as_deref();
    let before = [("Host", Some(HOST)), ("User-Agent", request.agent.as_deref()), ("Accept", Some(ACCEPT))];
    let own = grant.map_or(&[][..], |grant| &grant.headers);
    let after = [
        ("Accept-Encoding", Some(ACCEPT_ENCODING)),
        ("Referer", request.referer.as_deref()),
        ("X-Forwarded-For", request.forwarded_for),
        ("Cookie", grant.and_then(|grant| grant.cookies.as_deref())),
    ];
    let own = own.iter().map(|(name, value)| (*name, Some(value.as_str())));
    let upper = request.http.starts_with("HTTP/1");
    let spelt = |name: &str| if upper { name.to_owned() } else { name.to_ascii_lowercase() };
    before.into_iter().chain(own).chain(after).filter_map(|(name, value)| Some((spelt(name), value?))).collect()
}

/// Items of which each ends with a newline, the last one too.
fn items(items: impl Iterator<Item = String>) -> String {
    cut(encode(&items.map(|item| item + "\n").collect::<String>()))
}

/// The beginning of an encoded text. The end may be half an escape.
fn cut(mut text: String) -> String {
    text.truncate(KEPT);
    text
}
