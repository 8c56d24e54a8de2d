//! Writes standard logs (legacy, "v1"): gzipped objects of 33 tab-separated columns.
//!
//! Traits of the real ones that readers trip over: rows out of order, rows that arrive in a
//! later object, rows of the next hour's first minute, no newline at the end of some objects,
//! percent-encoding, `-` for nothing, IPv6 addresses in several spellings.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use chrono::DateTime;
use flate2::{Compression, GzBuilder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::encoding::{address, encode};
use super::networks::MINUTE;
use super::request::{HOST, Request};

/// The distribution that the objects are named after.
pub const DISTRIBUTION: &str = "EDFDVBD6EXAMPLE";

const DOMAIN: &str = "d111111abcdef8.cloudfront.net";

const HOUR: i64 = 60 * MINUTE;

const HEADER: &str = "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len sc-range-start sc-range-end\n";

/// Writes objects into a folder.
pub struct Writer {
    folder: PathBuf,
    /// About how many rows an object has.
    object_rows: usize,
    rng: ChaCha8Rng,
    /// Rows that will be delivered later than the others of their time.
    late: Vec<Request>,
    written: Written,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub objects: usize,
    pub rows: usize,
    /// Of the compressed objects.
    pub bytes: usize,
}

impl Writer {
    /// A writer into an existing folder.
    pub fn new(folder: PathBuf, seed: u64, object_rows: usize) -> Self {
        Writer {
            folder,
            object_rows: object_rows.max(1),
            rng: ChaCha8Rng::seed_from_u64(seed),
            late: vec![],
            written: Written::default(),
        }
    }

    /// Writes the requests of a slice of time within one hour, but for some that are late.
    pub fn write(&mut self, requests: Vec<Request>) -> io::Result<()> {
        let mut late = std::mem::take(&mut self.late);
        let late_hour = late.first().map(|request| request.finished / HOUR);
        let count = requests.len().div_ceil(self.object_rows);
        let mut objects: Vec<Vec<Request>> = vec![vec![]; count];
        for request in requests {
            let hour = request.finished / HOUR;
            let early = request.finished % HOUR < MINUTE;
            if early && late_hour.is_some_and(|late| late < hour) && self.rng.random_ratio(1, 5) {
                // Slips into the last object of the hour before.
                late.push(request);
            } else if self.rng.random_ratio(1, 40) {
                self.late.push(request);
            } else {
                // A server's log holds the rows of the viewers that it served.
                objects[server(&request) % count].push(request);
            }
        }
        if let Some(hour) = late_hour {
            self.object(hour, late)?;
        }
        for object in objects {
            if let Some(hour) = object.first().map(|request| request.finished / HOUR) {
                self.object(hour, object)?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(mut self) -> io::Result<Written> {
        let late = std::mem::take(&mut self.late);
        if let Some(hour) = late.first().map(|request| request.finished / HOUR) {
            self.object(hour, late)?;
        }
        Ok(self.written)
    }

    fn object(&mut self, hour: i64, mut requests: Vec<Request>) -> io::Result<()> {
        requests.sort_by_cached_key(|request| request.finished + self.rng.random_range(0..40_000));
        let mut text = String::with_capacity(requests.len() * 1_200);
        text.push_str(HEADER);
        for request in &requests {
            row(request, &mut text);
        }
        if self.rng.random_ratio(1, 5) {
            text.pop();
        }
        let hour = DateTime::from_timestamp_millis(hour * HOUR).unwrap_or_default();
        let name = format!("{DISTRIBUTION}.{}.{:08x}.gz", hour.format("%Y-%m-%d-%H"), self.rng.random::<u32>(),);
        let compression = Compression::new(6);
        let mut gzip = GzBuilder::new().mtime(0).write(vec![], compression);
        gzip.write_all(text.as_bytes())?;
        let bytes = gzip.finish()?;
        self.written.objects += 1;
        self.written.rows += requests.len();
        self.written.bytes += bytes.len();
        fs::write(self.folder.join(name), bytes)
    }
}

/// The server of an edge location that serves a viewer (FNV-1a: the same for ever).
fn server(request: &Request) -> usize {
    let viewer = match request.client {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6) >> 64,
    };
    let edge = request.edge.bytes();
    let hash = edge
        .chain(viewer.to_be_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize
}

/// Adds the row of a request, with its newline.
fn row(request: &Request, out: &mut String) {
    let time = DateTime::from_timestamp_millis(request.finished).unwrap_or_default();
    let (protocol, tls, cipher) = match (request.secure, request.http) {
        (false, _) => ("http", "-", "-"),
        (true, "HTTP/1.0" | "HTTP/1.1") => ("https", "TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256"),
        (true, _) => ("https", "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    };
    let forwarded = request.forwarded_for.unwrap_or("-").replace(' ', "\\x20");
    let (first, last) = request.range.unzip();
    let outcome = request.outcome;
    let columns = [
        time.format("%Y-%m-%d").to_string(),
        time.format("%H:%M:%S").to_string(),
        request.edge.to_owned(),
        request.bytes_sent.to_string(),
        address(request.client, request.id[0] < 26),
        request.method.to_owned(),
        DOMAIN.to_owned(),
        encode(&request.full_path()),
        format!("{:03}", request.status),
        encode_or_dash(request.referer.as_deref()),
        encode_or_dash(request.agent.as_deref()),
        encode_or_dash(request.query.as_deref()),
        "-".to_owned(),
        outcome.result.to_owned(),
        URL_SAFE.encode(request.id),
        HOST.to_owned(),
        protocol.to_owned(),
        request.bytes_received.to_string(),
        seconds(request.time_taken_ms),
        forwarded,
        tls.to_owned(),
        cipher.to_owned(),
        outcome.response.to_owned(),
        request.http.to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        request.port.to_string(),
        seconds(request.first_byte_ms),
        outcome.detail.to_owned(),
        encode_or_dash(request.content_type),
        or_dash(request.content_length),
        or_dash(first),
        or_dash(last),
    ];
    out.push_str(&columns.join("\t"));
    out.push('\n');
}

fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn encode_or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), encode)
}

fn seconds(ms: u32) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use chrono::TimeDelta;
    use flate2::read::GzDecoder;

    use super::super::token::Scheme;
    use super::super::traffic::{Scenario, Stream};
    use super::super::views::Views;
    use super::*;

    fn objects(seed: u64) -> (BTreeMap<String, Vec<u8>>, Written) {
        let folder = tempfile::tempdir().unwrap();
        let scenario = Scenario {
            seed,
            start: "2026-11-20T18:30:00Z".parse().unwrap(),
            duration: TimeDelta::minutes(100),
            sessions: 40,
            pirates: 4,
            grey: 1,
            visits: 60,
            views: Views { least: MINUTE, most: 6 * MINUTE },
            scheme: Scheme::SecureMediaDelivery { bound: true },
        };
        let mut writer = Writer::new(folder.path().to_owned(), seed, 150);
        for slice in Stream::new(&scenario) {
            writer.write(slice.requests).unwrap();
        }
        let written = writer.finish().unwrap();
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        let objects = entries.map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        });
        (objects.collect(), written)
    }

    fn text(object: &[u8]) -> String {
        let mut text = String::new();
        GzDecoder::new(object).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn objects_are_well_formed_and_have_the_traits_of_real_ones() {
        let (objects, written) = objects(1);
        assert_eq!(objects.len(), written.objects);
        let (mut rows, mut next_hour, mut unended, mut unsorted) = (0, 0, 0, 0);
        for (name, object) in &objects {
            let text = text(object);
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], "#Version: 1.0");
            assert_eq!(lines[1].split(' ').count(), 34);
            let (date, hour) = (&name[16..26], &name[27..29]);
            let mut times = vec![];
            for line in &lines[2..] {
                let columns: Vec<&str> = line.split('\t').collect();
                assert_eq!(columns.len(), 33, "{line}");
                assert!(columns.iter().all(|column| !column.is_empty()), "{line}");
                assert!(line.bytes().all(|b| b == b'\t' || (33..127).contains(&b)), "{line}");
                columns[4].parse::<IpAddr>().unwrap();
                assert_eq!(columns[0], date);
                next_hour += usize::from(&columns[1][..2] != hour);
                times.push(columns[1].to_owned());
            }
            rows += lines.len() - 2;
            unended += usize::from(!text.ends_with('\n'));
            unsorted += usize::from(!times.is_sorted());
        }
        assert_eq!(rows, written.rows);
        assert!(next_hour > 0 && unended > 0 && unsorted > 0);
    }

    #[test]
    fn a_seed_is_the_same_bytes() {
        let (first, _) = objects(1);
        assert_eq!(first, objects(1).0);
        assert!(objects(2).0.keys().all(|name| !first.contains_key(name)));
    }
}
