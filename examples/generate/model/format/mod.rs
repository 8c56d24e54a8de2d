//! The log formats: how requests are written down.
//!
//! What a field of a request is spelt like is one concern (`fields`), how fields are put
//! together to an object another, with a file for each family of formats.

mod fields;
mod json;
mod parquet;
mod realtime;
mod text;

use std::io::{self, Write as _};

use clap::ValueEnum;
use flate2::{Compression, GzBuilder};

pub use fields::Row;
#[allow(unused_imports, reason = "for tests, which include these modules by path")]
pub use realtime::REALTIME_FIELDS;

/// A log format of CloudFront.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Standard logs, legacy ("v1").
    Standard,
    /// Standard logs v2: text with a header of two lines.
    W3c,
    /// Standard logs v2: text, with the names of the columns in the first line.
    Plain,
    /// Standard logs v2: text without any header.
    Raw,
    /// Standard logs v2: an object of texts a line.
    Json,
    /// Standard logs v2: columns of texts.
    Parquet,
    /// Real-time logs that Firehose put into objects.
    Realtime,
    /// The same with nothing between the records.
    RealtimeJoined,
}

impl Format {
    /// The word on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no format is hidden").get_name().to_owned()
    }

    /// The bytes of an object with these rows. `unended`: no newline at the end.
    pub fn object(self, rows: &[Row], unended: bool) -> io::Result<Vec<u8>> {
        let mut text = match self {
            Format::Standard => text::w3c(rows, fields::STANDARD),
            Format::W3c => text::w3c(rows, fields::DELIVERED),
            Format::Plain => text::plain(rows, fields::DELIVERED),
            Format::Raw => text::raw(rows, fields::STANDARD),
            Format::Json => json::lines(rows, fields::DELIVERED)?,
            Format::Parquet => return parquet::file(rows, fields::DELIVERED),
            Format::Realtime => realtime::records(rows, "\n"),
            Format::RealtimeJoined => realtime::records(rows, ""),
        };
        if unended && text.ends_with('\n') {
            text.pop();
        }
        let mut gzip = GzBuilder::new().mtime(0).write(vec![], Compression::new(6));
        gzip.write_all(text.as_bytes())?;
        gzip.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Seek};

    use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use arrow::array::{Array, AsArray};
    use flate2::read::GzDecoder;

    use super::super::addresses::Plan;
    use super::super::encoding::encode;
    use super::super::request::Request;
    use super::super::token::Scheme;
    use super::super::traffic::tests::scenario;
    use super::super::traffic::{Scenario, generate};
    use super::*;

    type Record = BTreeMap<String, String>;

    fn requests(scheme: Scheme) -> Vec<Request> {
        let mut requests = generate(&Scenario { scheme, ..scenario(1) }).requests;
        requests.truncate(500);
        requests
    }

    fn unpack(object: &[u8]) -> String {
        let mut text = String::new();
        GzDecoder::new(object).read_to_string(&mut text).unwrap();
        text
    }

    fn record<'a>(names: &[&str], cells: impl Iterator<Item = &'a str>) -> Record {
        let cells: Vec<&str> = cells.collect();
        assert_eq!(cells.len(), names.len(), "{cells:?}");
        names.iter().zip(cells).map(|(name, cell)| (name.to_string(), cell.to_owned())).collect()
    }

    /// Reads an object as the documentation of its format says.
    fn read(format: Format, object: &[u8]) -> Vec<Record> {
        if format == Format::Parquet {
            return read_parquet(object);
        }
        let text = unpack(object);
        let mut lines = text.lines();
        let names: Vec<&str> = match format {
            Format::Standard | Format::W3c => {
                assert_eq!(lines.next(), Some("#Version: 1.0"));
                lines.next().unwrap().strip_prefix("#Fields: ").unwrap().split(' ').collect()
            }
            Format::Plain => lines.next().unwrap().split('\t').collect(),
            Format::Json => return lines.map(|line| serde_json::from_str(line).unwrap()).collect(),
            Format::RealtimeJoined => return read_joined(&text),
            Format::Realtime => REALTIME_FIELDS.to_vec(),
            _ => fields::STANDARD.to_vec(),
        };
        lines.map(|line| record(&names, line.split('\t'))).collect()
    }

    /// The last field of a record runs into the first of the next, which has 14 characters.
    fn read_joined(text: &str) -> Vec<Record> {
        let ends = REALTIME_FIELDS.len() - 1;
        let (first, rest) = text.split_once('\t').unwrap();
        let cells: Vec<&str> = rest.split('\t').collect();
        let count = cells.len();
        let mut timestamp = first;
        let records = cells.chunks(ends).enumerate().map(|(number, cells)| {
            let (last, inner) = cells.split_last().unwrap();
            let at = if (number + 1) * ends < count { last.len() - 14 } else { last.len() };
            let (last, next) = last.split_at(at);
            let timestamp = std::mem::replace(&mut timestamp, next);
            record(REALTIME_FIELDS, [timestamp].into_iter().chain(inner.iter().copied()).chain([last]))
        });
        records.collect()
    }

    fn read_parquet(object: &[u8]) -> Vec<Record> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(object).unwrap();
        file.rewind().unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let mut records = vec![];
        for batch in batches.map(Result::unwrap) {
            let schema = batch.schema();
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let columns: Vec<_> = batch.columns().iter().map(|column| column.as_string::<i32>()).collect();
            records.extend(
                (0..batch.num_rows()).map(|row| record(&names, columns.iter().map(|column| column.value(row)))),
            );
            assert!(columns.iter().all(|column| column.null_count() == 0));
        }
        records
    }

    #[test]
    fn every_object_reads_back() {
        let plan = Plan::new();
        for scheme in [Scheme::SecureMediaDelivery { bound: true }, Scheme::SignedCookieId, Scheme::CmcdQuery] {
            let requests = requests(scheme);
            let rows: Vec<Row> = requests.iter().map(|request| Row { request, plan: &plan }).collect();
            for &format in Format::value_variants() {
                let records = read(format, &format.object(&rows, true).unwrap());
                assert_eq!(records.len(), rows.len(), "{format:?}");
                assert_eq!(records, read(format, &format.object(&rows, false).unwrap()), "{format:?}");
                let written: Vec<_> = rows.iter().map(|row| row.field("x-edge-request-id")).collect();
                let id = if format == Format::Parquet { "x_edge_request_id" } else { "x-edge-request-id" };
                assert_eq!(records.iter().map(|record| record[id].clone()).collect::<Vec<_>>(), written);
                for cell in records.iter().flat_map(BTreeMap::values) {
                    assert!(!cell.is_empty() && cell.bytes().all(|byte| (33..127).contains(&byte)), "{cell:?}");
                }
            }
        }
    }

    #[test]
    fn formats_have_names_of_their_own_for_one_thing() {
        let plan = Plan::new();
        let requests = requests(Scheme::JwtQuery);
        let request = requests.iter().find(|request| request.grant.is_some() && request.referer.is_some()).unwrap();
        let row = [Row { request, plan: &plan }];
        let records: BTreeMap<String, Record> = Format::value_variants()
            .iter()
            .map(|format| (format.name(), read(*format, &format.object(&row, false).unwrap()).remove(0)))
            .collect();
        assert_eq!(records["raw"], records["standard"]);
        assert_eq!(records["plain"], records["w3c"]);
        assert_eq!(records["w3c"], records["json"]);
        assert_eq!(records["realtime"], records["realtime-joined"]);
        assert_eq!([33, 37, 37, 42], ["raw", "json", "parquet", "realtime"].map(|format| records[format].len()));
        let agent = encode(request.agent.as_deref().unwrap());
        for (format, name) in [
            ("standard", "cs(User-Agent)"),
            ("json", "cs(User-Agent)"),
            ("parquet", "cs_user_agent"),
            ("realtime", "cs-user-agent"),
        ] {
            assert_eq!(records[format][name], agent);
        }
        let finished = request.finished.to_string();
        assert_eq!((&records["json"]["timestamp(ms)"], &records["parquet"]["timestamp_ms"]), (&finished, &finished));
        assert_eq!(records["realtime"]["timestamp"].replace('.', ""), finished);
        let holder = plan.operator_of(request.client).unwrap();
        for (format, country) in [("w3c", "c-country"), ("parquet", "c_country"), ("realtime", "c-country")] {
            assert_eq!(records[format][country], holder.country);
            assert_eq!(records[format]["asn"], holder.asn.to_string());
        }
    }

    #[test]
    fn real_time_logs_have_hosts_and_paths_the_other_way_round() {
        let plan = Plan::new();
        let requests = requests(Scheme::JwtQuery);
        let request = requests.iter().find(|request| request.grant.is_some()).unwrap();
        let row = [Row { request, plan: &plan }];
        let [standard, realtime] = [Format::Standard, Format::Realtime]
            .map(|format| read(format, &format.object(&row, false).unwrap()).remove(0));
        assert!(standard["cs-uri-query"].starts_with("token=eyJ"));
        assert_eq!(realtime["cs-uri-stem"], format!("{}?{}", standard["cs-uri-stem"], standard["cs-uri-query"]));
        assert_eq!(realtime["cs-uri-query"], standard["cs-uri-query"]);
        assert_eq!(realtime["cs-host"], standard["x-host-header"]);
        assert_eq!(realtime["x-host-header"], standard["cs(Host)"]);
    }

    #[test]
    fn real_time_logs_hold_headers_and_the_beginning_of_cookies() {
        let plan = Plan::new();
        let field = |scheme, name: &str| {
            let mut requests = requests(scheme);
            let request = requests.iter_mut().find(|request| request.grant.is_some()).unwrap();
            request.http = "HTTP/2.0";
            let row = [Row { request, plan: &plan }];
            let object = Format::Realtime.object(&row, false).unwrap();
            (read(Format::Realtime, &object).remove(0).remove(name).unwrap(), request.clone())
        };
        let (headers, request) = field(Scheme::JwtHeader, "cs-headers");
        let items: Vec<&str> = headers.split("%0A").collect();
        let (name, token) = &request.grant.as_ref().unwrap().headers[0];
        assert!(items.contains(&format!("{}:{}", name.to_lowercase(), encode(token)).as_str()), "{headers}");
        assert_eq!((items[0], items.last()), ("host:media.example.com", Some(&"")));
        let (names, _) = field(Scheme::JwtHeader, "cs-header-names");
        let (count, _) = field(Scheme::JwtHeader, "cs-headers-count");
        assert!(names.contains("accept%0Aauthorization%0Aaccept-encoding%0A"), "{names}");
        assert_eq!((count, items.len()), ((names.split("%0A").count() - 1).to_string(), names.split("%0A").count()));

        let (cookies, request) = field(Scheme::SignedCookieId, "cs-cookie");
        let whole = encode(request.grant.as_ref().unwrap().cookies.as_ref().unwrap());
        assert!(whole.len() > 800 && cookies == whole[..800]);
        assert!(cookies.contains("CloudFront-Key-Pair-Id=K2JCJMDEHXQW5F;"), "{cookies}");
        let (headers, _) = field(Scheme::SignedCookieId, "cs-headers");
        assert!(!headers.contains("CloudFront"), "{headers}");
        assert!(field(Scheme::SignedCookieId, "cs-header-names").0.ends_with("cookie%0A"));

        let (id, request) = field(Scheme::CmcdQuery, "cmcd-session-id");
        assert_eq!(request.grant.as_ref().unwrap().session_id, id);
        let (query, _) = field(Scheme::CmcdQuery, "cs-uri-query");
        assert!(query.contains(&format!("%252Csid%253D%2522{id}%2522%252C")), "{query}");
    }
}
