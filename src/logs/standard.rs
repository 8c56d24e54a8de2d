//! Standard logs: tab-separated lines whose columns the `#Fields` line names.
//!
//! Source: CloudFront Developer Guide, "Standard logs reference"; `schemas/logs/standard.toml` lists what
//! is read. Older files have fewer columns, newer ones may have more, so nothing here counts columns.

use std::str;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime};

use super::LogLine;

/// Columns that are looked at in a line. The 33 of today, the real-time extras and room to spare.
const MAX_COLUMNS: usize = 128;

/// Years in which a request can have been. CloudFront began in 2008; what lies far ahead would keep a session
/// young for ever, and beyond 2261 the query engine cannot count.
const YEARS: std::ops::Range<i32> = 2008..2100;

/// A field of the log that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Date,
    Time,
    TimestampMs,
    Edge,
    Bytes,
    Ip,
    Method,
    DistributionHost,
    UriStem,
    Status,
    Referer,
    UserAgent,
    ResultType,
    RequestId,
    HostHeader,
    ResponseResultType,
    Country,
    Asn,
    Distribution,
}

/// Names as CloudFront writes them; they are compared without regard to case.
const FIELDS: [(&str, Field); 19] = [
    ("date", Field::Date),
    ("time", Field::Time),
    ("timestamp(ms)", Field::TimestampMs),
    ("x-edge-location", Field::Edge),
    ("sc-bytes", Field::Bytes),
    ("c-ip", Field::Ip),
    ("cs-method", Field::Method),
    ("cs(Host)", Field::DistributionHost),
    ("cs-uri-stem", Field::UriStem),
    ("sc-status", Field::Status),
    ("cs(Referer)", Field::Referer),
    ("cs(User-Agent)", Field::UserAgent),
    ("x-edge-result-type", Field::ResultType),
    ("x-edge-request-id", Field::RequestId),
    ("x-host-header", Field::HostHeader),
    ("x-edge-response-result-type", Field::ResponseResultType),
    ("c-country", Field::Country),
    ("asn", Field::Asn),
    ("DistributionId", Field::Distribution),
];

/// Which column holds what, as the header lines of the object said.
#[derive(Default)]
pub struct Header {
    columns: Option<Vec<Option<Field>>>,
    /// The date of the line before: nearly always that of the next.
    date: Option<([u8; 10], NaiveDate)>,
}

/// What a line of the text is.
// Rows are nearly all there is, so nothing is gained by a smaller one.
#[allow(clippy::large_enum_variant)]
pub enum Parsed<'a> {
    Row(LogLine<'a>),
    /// A comment, a header or an empty line.
    Nothing,
    /// A line that cannot be read, and why.
    Bad(&'static str),
    /// The object is not of this format.
    Unknown(String),
}

impl Header {
    /// Whether a `#Fields` line was seen.
    pub fn is_known(&self) -> bool {
        self.columns.is_some()
    }

    pub fn parse<'a>(&mut self, line: &'a [u8]) -> Parsed<'a> {
        if line.is_empty() {
            return Parsed::Nothing;
        }
        let Ok(line) = str::from_utf8(line) else {
            return if self.is_known() {
                Parsed::Bad("not UTF-8")
            } else {
                Parsed::Unknown("not text: not a standard CloudFront log".into())
            };
        };
        if let Some(comment) = line.strip_prefix('#') {
            return match comment.strip_prefix("Fields:") {
                Some(names) => self.read_names(names),
                None => Parsed::Nothing,
            };
        }
        match self.columns.take() {
            None => Parsed::Unknown("no #Fields line before the first row: not a standard CloudFront log".into()),
            Some(columns) => {
                let row = self.parse_row(line, &columns);
                self.columns = Some(columns);
                row.map_or_else(Parsed::Bad, Parsed::Row)
            }
        }
    }

    fn read_names(&mut self, names: &str) -> Parsed<'static> {
        let columns: Vec<Option<Field>> = names
            .split_ascii_whitespace()
            .take(MAX_COLUMNS)
            .map(|name| FIELDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, field)| *field))
            .collect();
        let has = |field| columns.contains(&Some(field));
        let missing: Vec<&str> = [
            ("date and time", (has(Field::Date) && has(Field::Time)) || has(Field::TimestampMs)),
            ("cs-uri-stem", has(Field::UriStem)),
            ("sc-status", has(Field::Status)),
            ("c-ip", has(Field::Ip)),
        ]
        .iter()
        .filter(|(_, present)| !present)
        .map(|(name, _)| *name)
        .collect();
        if !missing.is_empty() {
            return Parsed::Unknown(format!(
                "the #Fields line lacks {}: add them to the logging configuration",
                missing.join(", ")
            ));
        }
        self.columns = Some(columns);
        Parsed::Nothing
    }

    fn parse_row<'a>(&mut self, line: &'a str, columns: &[Option<Field>]) -> Result<LogLine<'a>, &'static str> {
        let mut row = LogLine::default();
        let (mut date, mut time, mut millis, mut distribution_host) = (None, None, None, None);
        let (mut uri_stem, mut status) = (None, None);
        for (value, column) in line.split('\t').zip(columns) {
            let (Some(field), true) = (column, value != "-" && !value.is_empty()) else {
                continue;
            };
            match field {
                Field::Date => date = Some(value),
                Field::Time => time = Some(value),
                Field::TimestampMs => millis = Some(value),
                Field::Edge => row.edge = Some(value),
                Field::Bytes => row.bytes = Some(value),
                Field::Ip => row.ip = Some(value),
                Field::Method => row.method = Some(value),
                Field::DistributionHost => distribution_host = Some(value),
                Field::UriStem => uri_stem = Some(value),
                Field::Status => status = Some(value),
                Field::Referer => row.referer = Some(value),
                Field::UserAgent => row.user_agent = Some(value),
                Field::ResultType => row.result_type = Some(value),
                Field::RequestId => row.request_id = Some(value),
                Field::HostHeader => row.host = Some(value),
                Field::ResponseResultType => row.response_result_type = Some(value),
                Field::Country => row.country = Some(value),
                Field::Asn => row.asn = Some(value),
                Field::Distribution => row.distribution = Some(value),
            }
        }
        row.host = row.host.or(distribution_host);
        row.uri_stem = uri_stem.ok_or("no path")?;
        row.status = status.ok_or("no status")?;
        row.time = match (millis, date, time) {
            (Some(millis), ..) => parse_millis(millis)?,
            (None, Some(date), Some(time)) => self.parse_time(date, time)?,
            _ => return Err("no time"),
        };
        Ok(row)
    }

    fn parse_time(&mut self, date: &str, time: &str) -> Result<i64, &'static str> {
        let bytes: [u8; 10] = date.as_bytes().try_into().map_err(|_| "bad date")?;
        let day = match self.date {
            Some((known, day)) if known == bytes => day,
            _ => {
                let day = NaiveDate::parse_from_str(date, "%Y-%m-%d").map_err(|_| "bad date")?;
                if !YEARS.contains(&day.year()) {
                    return Err("bad date");
                }
                self.date = Some((bytes, day));
                day
            }
        };
        let two = |at: usize| match time.as_bytes()[at..at + 2] {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(u32::from(tens - b'0') * 10 + u32::from(ones - b'0')),
            _ => None,
        };
        let [_, _, b':', _, _, b':', _, _] = time.as_bytes() else {
            return Err("bad time");
        };
        let time = two(0)
            .zip(two(3))
            .zip(two(6))
            .and_then(|((hour, minute), second)| NaiveTime::from_hms_opt(hour, minute, second))
            .ok_or("bad time")?;
        Ok(day.and_time(time).and_utc().timestamp_micros())
    }
}

fn parse_millis(text: &str) -> Result<i64, &'static str> {
    text.parse::<i64>()
        .ok()
        .and_then(|millis| millis.checked_mul(1_000))
        .filter(|micros| DateTime::from_timestamp_micros(*micros).is_some_and(|time| YEARS.contains(&time.year())))
        .ok_or("bad timestamp(ms)")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NAMES: &[u8] = b"#Fields: date time c-ip cs-uri-stem sc-status cs(User-Agent)";

    fn row<'a>(header: &mut Header, line: &'a str) -> Result<LogLine<'a>, String> {
        match header.parse(line.as_bytes()) {
            Parsed::Row(row) => Ok(row),
            Parsed::Bad(reason) => Err(reason.to_owned()),
            Parsed::Unknown(reason) => Err(reason),
            Parsed::Nothing => Err("nothing".to_owned()),
        }
    }

    #[test]
    fn the_schema_file_lists_what_is_read() {
        #[derive(serde::Deserialize)]
        struct LogSchema {
            field: Vec<LogField>,
        }
        #[derive(serde::Deserialize)]
        struct LogField {
            name: String,
        }
        let schema: LogSchema = toml::from_str(include_str!("../../schemas/logs/standard.toml")).unwrap();
        let documented: BTreeSet<&str> = schema.field.iter().map(|field| field.name.as_str()).collect();
        let read: BTreeSet<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(documented, read);
    }

    #[test]
    fn columns_follow_the_header_whatever_their_number_and_order() {
        let mut header = Header::default();
        assert!(matches!(header.parse(b"#Version: 1.0"), Parsed::Nothing));
        assert!(matches!(header.parse(NAMES), Parsed::Nothing));
        let line = row(&mut header, "2026-11-20\t19:00:01\t198.18.0.1\t/a\t200\tx\tmore\tcolumns").unwrap();
        assert_eq!((line.uri_stem, line.status, line.user_agent), ("/a", "200", Some("x")));
        assert_eq!(line.time, 1_795_201_201_000_000);
        let short = row(&mut header, "2026-11-20\t19:00:01\t198.18.0.1\t/a\t000").unwrap();
        assert_eq!((short.status, short.user_agent), ("000", None));
        // The tab after #Fields: and between the names, as in a real file of 2019.
        header.parse(b"#Fields:\tsc-status\tcs-uri-stem\tdate\ttime\tc-ip");
        let line = row(&mut header, "206\t/b\t2026-11-20\t19:00:01\t-").unwrap();
        assert_eq!((line.uri_stem, line.status, line.ip), ("/b", "206", None));
    }

    #[test]
    fn milliseconds_beat_seconds() {
        let mut header = Header::default();
        header.parse(b"#Fields: date time timestamp(ms) c-ip cs-uri-stem sc-status");
        let line = row(&mut header, "2026-11-20\t19:00:01\t1795201201234\t-\t/a\t200").unwrap();
        assert_eq!(line.time, 1_795_201_201_234_000);
    }

    #[test]
    fn bad_lines_say_why() {
        let mut header = Header::default();
        assert!(row(&mut header, "2026-11-20\t19:00:01").unwrap_err().contains("#Fields"));
        header.parse(NAMES);
        for (line, reason) in [
            ("2026-11-20\t19:00:01\t-\t/a", "no status"),
            ("2026-11-20\t19:00:01\t-\t-\t200", "no path"),
            ("2026-13-20\t19:00:01\t-\t/a\t200", "bad date"),
            ("0001-01-01\t19:00:01\t-\t/a\t200", "bad date"),
            ("2300-01-01\t19:00:01\t-\t/a\t200", "bad date"),
            ("2026-11-20\t25:00:01\t-\t/a\t200", "bad time"),
            ("2026-11-20\t19:00\t-\t/a\t200", "bad time"),
            ("-\t19:00:01\t-\t/a\t200", "no time"),
        ] {
            assert_eq!(row(&mut header, line).unwrap_err(), reason, "{line}");
        }
        assert!(matches!(header.parse(b"\xff\xfe\t"), Parsed::Bad("not UTF-8")));
    }

    #[test]
    fn a_header_without_the_needed_fields_is_refused() {
        match Header::default().parse(b"#Fields: date time cs-uri-stem") {
            Parsed::Unknown(reason) => assert!(reason.contains("sc-status, c-ip"), "{reason}"),
            _ => panic!("taken"),
        }
    }

    proptest! {
        #[test]
        fn takes_any_bytes(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8)) {
            let mut header = Header::default();
            header.parse(NAMES);
            for line in &lines {
                header.parse(line);
            }
        }

        #[test]
        fn takes_mutated_lines(position in 0usize..60, byte in any::<u8>()) {
            let mut line = b"2026-11-20\t19:00:01\t198.18.0.1\t/a/b.ts\t200\tMozilla/5.0%20(X11)".to_vec();
            let position = position % line.len();
            line[position] = byte;
            let mut header = Header::default();
            header.parse(NAMES);
            header.parse(&line);
        }
    }
}
