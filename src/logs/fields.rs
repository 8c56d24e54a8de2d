//! The fields of log records, and how a record's values become a [`LogLine`], whatever the format.
//!
//! `schemas/logs/fields.toml` lists what is read and is the source of the names.

use std::str;
use std::sync::LazyLock;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime};
use serde::Deserialize;

use super::LogLine;
use super::places::places;

/// Columns that are looked at in a record: what v2 can deliver at most (CloudWatch Logs API, `recordFields`).
const MAX_COLUMNS: usize = 128;

/// Years in which a request can have been. CloudFront began in 2008; what lies far ahead would keep a session
/// young for ever, and beyond 2261 the query engine cannot count.
const YEARS: std::ops::Range<i32> = 2008..2100;

/// Bytes at which real-time logs cut cookies. Source: "Use real-time access logs".
const REALTIME_CUT_BYTES: usize = 800;

/// A field of the log that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    Date,
    Time,
    TimestampMs,
    Timestamp,
    Edge,
    Bytes,
    Ip,
    Method,
    CsHost,
    XHostHeader,
    UriStem,
    Query,
    Cookie,
    Headers,
    CmcdSession,
    Status,
    Referer,
    UserAgent,
    ResultType,
    RequestId,
    ResponseResultType,
    RangeStart,
    Country,
    Asn,
    Distribution,
}

/// How many fields there are: the last one closes the list.
const FIELDS: usize = Field::Distribution as usize + 1;

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(u32);

impl FieldSet {
    pub fn of(fields: impl IntoIterator<Item = Field>) -> FieldSet {
        FieldSet(fields.into_iter().fold(0, |bits, field| bits | 1 << field as u32))
    }

    pub fn has(self, field: Field) -> bool {
        self.0 >> field as u32 & 1 == 1
    }

    pub fn union(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 | other.0)
    }

    pub fn overlaps(self, other: FieldSet) -> bool {
        self.0 & other.0 != 0
    }
}

/// The field with a name as any format spells it.
pub fn field(name: &str) -> Option<Field> {
    let name = canonical(name);
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
}

/// Whether a text can be the name of a field. Source: CloudWatch Logs API, `recordFields`: 64 characters at most.
pub fn is_name(text: &str) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_()".contains(&byte);
    text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(in_name)
}

/// Lower case, every run of other characters than letters and digits as one `_`, none at the end.
pub fn canonical(name: &str) -> String {
    let mut canonical = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            canonical.push(char::from(byte.to_ascii_lowercase()));
        } else if !canonical.is_empty() && !canonical.ends_with('_') {
            canonical.push('_');
        }
    }
    canonical.truncate(canonical.trim_end_matches('_').len());
    canonical
}

static NAMES: LazyLock<Vec<(String, Field)>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct File {
        field: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        field: Field,
        name: String,
    }
    let file: File = toml::from_str(include_str!("../../schemas/logs/fields.toml"))
        .unwrap_or_else(|error| panic!("schemas/logs/fields.toml: {error}"));
    file.field.into_iter().map(|entry| (canonical(&entry.name), entry.field)).collect()
});

/// The columns of a file of `schemas/logs/`, in order.
fn columns(text: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct File {
        columns: Vec<String>,
    }
    toml::from_str::<File>(text).unwrap_or_else(|error| panic!("schemas/logs: {error}")).columns
}

/// The columns of standard logs that have no header.
pub static STANDARD_COLUMNS: LazyLock<Vec<String>> =
    LazyLock::new(|| columns(include_str!("../../schemas/logs/standard.toml")));

/// Every field of real-time logs, in the order of the records.
pub static REALTIME_COLUMNS: LazyLock<Vec<String>> =
    LazyLock::new(|| columns(include_str!("../../schemas/logs/realtime.toml")));

/// Which column of a record holds what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    columns: Vec<Option<Field>>,
    /// The columns that are read, in order.
    read: Vec<(usize, Field)>,
    /// As the log or the config spells them.
    pub names: Vec<String>,
    /// A record of real-time logs: the hosts are swapped, and texts may be cut.
    pub realtime: bool,
}

impl Layout {
    /// The layout of columns with these names.
    ///
    /// # Errors
    ///
    /// Names the fields that are needed and not there.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Layout, String> {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("{wrong:?} is no name of a field"));
        }
        if names.len() > MAX_COLUMNS {
            return Err(format!("{} fields are more than a log can have", names.len()));
        }
        let columns: Vec<Option<Field>> = names.iter().map(|name| field(name)).collect();
        let has = |field| columns.contains(&Some(field));
        let realtime = is_realtime(names.iter().map(String::as_str));
        check_needed(has)?;
        let read = columns.iter().enumerate().filter_map(|(column, field)| Some((column, (*field)?))).collect();
        Ok(Layout { columns, read, names, realtime })
    }

    /// The layout of standard logs without a header.
    pub fn standard() -> Layout {
        Layout::new(STANDARD_COLUMNS.iter().map(String::as_str)).expect("schemas/logs/standard.toml has what is needed")
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The values of a record's columns.
    pub fn values<'a>(&self, columns: impl Iterator<Item = &'a str>) -> Values<'a> {
        let mut values = Values::default();
        for (field, value) in self.columns.iter().zip(columns) {
            if let Some(field) = field {
                values.set(*field, value);
            }
        }
        values
    }

    /// The same of a record whose columns stand between tabs: nearly every log has these, and this is the quickest way.
    pub fn tabbed_values<'a>(&self, record: &'a str) -> Values<'a> {
        let mut tabs = [0; MAX_COLUMNS];
        let last = self.read.last().map_or(0, |(column, _)| column + 1);
        let found = places(b'\t', record.as_bytes(), &mut tabs[..last]);
        let tabs = &tabs[..found];
        let mut values = Values::default();
        for (column, field) in &self.read {
            let start = match column.checked_sub(1).map(|before| tabs.get(before)) {
                None => 0,
                Some(Some(tab)) => *tab as usize + 1,
                Some(None) => break,
            };
            let end = tabs.get(*column).map_or(record.len(), |tab| *tab as usize);
            values.set(*field, &record[start..end]);
        }
        values
    }
}

/// Whether fields with these names are those of real-time logs: a timestamp where others have a date, and no parentheses in
/// names (nor any other sign of a standard log in Parquet, whose names have none).
pub fn is_realtime<'a>(names: impl Iterator<Item = &'a str> + Clone) -> bool {
    let mut fields = names.clone().filter_map(field);
    let has_timestamp = names.clone().any(|name| field(name) == Some(Field::Timestamp));
    let standard = fields.any(|field| matches!(field, Field::Date | Field::TimestampMs));
    has_timestamp && !standard && !names.clone().any(|name| name.contains('('))
}

/// What every log has to have.
pub fn check_needed(has: impl Fn(Field) -> bool) -> Result<(), String> {
    let time = (has(Field::Date) && has(Field::Time)) || has(Field::TimestampMs) || has(Field::Timestamp);
    let missing: Vec<&str> = [
        ("date and time (or a timestamp)", time),
        ("cs-uri-stem", has(Field::UriStem)),
        ("sc-status", has(Field::Status)),
        ("c-ip", has(Field::Ip)),
    ]
    .iter()
    .filter(|(_, present)| !present)
    .map(|(name, _)| *name)
    .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("these fields are missing: {}; add them to the logging configuration", missing.join(", ")))
    }
}

/// The values of one record, by field; `-` and nothing are none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values<'a>([Option<&'a str>; FIELDS]);

impl<'a> Values<'a> {
    pub fn set(&mut self, field: Field, value: &'a str) {
        self.0[field as usize] = (value != "-" && !value.is_empty()).then_some(value);
    }

    pub fn get(&self, field: Field) -> Option<&'a str> {
        self.0[field as usize]
    }

    /// The record as a line, or why it is none.
    pub fn line(&self, realtime: bool, times: &mut Times) -> Result<LogLine<'a>, &'static str> {
        let get = |field| self.get(field);
        let (requested, own) = match realtime {
            true => (Field::CsHost, Field::XHostHeader),
            false => (Field::XHostHeader, Field::CsHost),
        };
        // Real-time logs put the query behind the path; elsewhere a path holds no question mark.
        let uri_stem = get(Field::UriStem).ok_or("no path")?;
        let (uri_stem, behind) = match memchr::memchr(b'?', uri_stem.as_bytes()) {
            Some(end) => (&uri_stem[..end], Some(&uri_stem[end + 1..]).filter(|query| !query.is_empty())),
            None => (uri_stem, None),
        };
        Ok(LogLine {
            time: times.read(self)?,
            distribution: get(Field::Distribution),
            edge: get(Field::Edge),
            bytes: get(Field::Bytes),
            ip: get(Field::Ip),
            method: get(Field::Method),
            host: get(requested).or(get(own)),
            uri_stem,
            query: get(Field::Query).or(behind),
            cookie: if realtime { get(Field::Cookie).and_then(whole_cookies) } else { get(Field::Cookie) },
            cookie_cut: realtime && get(Field::Cookie).is_some_and(is_cut),
            headers: get(Field::Headers),
            headers_cut: get(Field::Headers).is_some_and(is_cut),
            cmcd_session: get(Field::CmcdSession),
            status: get(Field::Status).ok_or("no status")?,
            referer: get(Field::Referer),
            user_agent: get(Field::UserAgent),
            result_type: get(Field::ResultType),
            response_result_type: get(Field::ResponseResultType),
            range_start: get(Field::RangeStart),
            request_id: get(Field::RequestId),
            country: get(Field::Country),
            asn: get(Field::Asn),
        })
    }
}

/// Whether a text was cut off, or may have been: an escape is not cut in its middle.
fn is_cut(text: &str) -> bool {
    text.len() + 2 >= REALTIME_CUT_BYTES
}

/// A cookie that was cut off in the middle is another cookie: it must not name a session.
fn whole_cookies(cookies: &str) -> Option<&str> {
    if is_cut(cookies) { cookies.rfind(';').map(|end| &cookies[..end]) } else { Some(cookies) }
}

/// Reads the instants of records.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// The date of the record before: nearly always that of the next.
    date: Option<([u8; 10], NaiveDate)>,
}

impl Times {
    /// Microseconds since the epoch.
    fn read(&mut self, values: &Values<'_>) -> Result<i64, &'static str> {
        if let Some(millis) = values.get(Field::TimestampMs) {
            return parse_decimal(millis, 1_000).ok_or("bad timestamp(ms)");
        }
        if let Some(seconds) = values.get(Field::Timestamp) {
            return parse_decimal(seconds, 1_000_000).ok_or("bad timestamp");
        }
        match (values.get(Field::Date), values.get(Field::Time)) {
            (Some(date), Some(time)) => self.parse(date, time),
            _ => Err("no time"),
        }
    }

    fn parse(&mut self, date: &str, time: &str) -> Result<i64, &'static str> {
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

/// A decimal number of units of `micros` microseconds, exactly: a float of this size is off by a microsecond here
/// and there.
fn parse_decimal(text: &str, micros: i64) -> Option<i64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(decimals) {
        return None;
    }
    let mut total = whole.parse::<i64>().ok()?.checked_mul(micros)?;
    let mut unit = micros;
    for digit in decimals.bytes() {
        unit /= 10;
        total = total.checked_add(i64::from(digit - b'0') * unit)?;
    }
    DateTime::from_timestamp_micros(total).filter(|time| YEARS.contains(&time.year()))?;
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_known_in_every_spelling() {
        for (name, expected) in [
            ("cs(User-Agent)", Field::UserAgent),
            ("cs_user_agent", Field::UserAgent),
            ("cs-user-agent", Field::UserAgent),
            ("CS(HOST)", Field::CsHost),
            ("timestamp(ms)", Field::TimestampMs),
            ("timestamp_ms", Field::TimestampMs),
            ("distributionid", Field::Distribution),
            ("cmcd-session-id", Field::CmcdSession),
        ] {
            assert_eq!(field(name), Some(expected), "{name}");
        }
        assert_eq!(field("cs-uri"), None);
        assert_eq!(field(""), None);
    }

    #[test]
    fn every_field_has_a_name_and_the_column_files_are_of_known_fields() {
        for place in 0..FIELDS {
            assert!(NAMES.iter().any(|(_, field)| *field as usize == place), "field {place}");
        }
        assert_eq!(Layout::standard().width(), 35);
        assert_eq!(REALTIME_COLUMNS.iter().filter(|name| field(name).is_some()).count(), 22);
        assert!(Layout::new(REALTIME_COLUMNS.iter().map(String::as_str)).unwrap().realtime);
    }

    proptest! {
        /// Whatever lacks in a record or is too many.
        #[test]
        fn tabs_separate_columns(record in "[a-z\u{e9}\t-]{0,100}", also in "(-?\t|[a-z]\t){20,40}") {
            for layout in [Layout::standard(), Layout::new(["x", "date", "y", "time", "c-ip", "cs-uri-stem", "sc-status", "z"]).unwrap()] {
                for record in [&record, &also] {
                    prop_assert_eq!(layout.tabbed_values(record), layout.values(record.split('\t')));
                }
            }
        }
    }

    #[test]
    fn needed_fields_are_named_where_they_lack() {
        let error = Layout::new(["date", "time", "cs-uri-stem"]).unwrap_err();
        assert!(error.contains("missing: sc-status, c-ip"), "{error}");
    }

    #[test]
    fn instants_are_exact() {
        assert_eq!(parse_decimal("1684226820.937", 1_000_000), Some(1_684_226_820_937_000));
        assert_eq!(parse_decimal("1731620046814", 1_000), Some(1_731_620_046_814_000));
        assert_eq!(parse_decimal("1684226820", 1_000_000), Some(1_684_226_820_000_000));
        assert_eq!(parse_decimal("1684226820.1234567", 1_000_000), Some(1_684_226_820_123_456));
        for bad in ["", ".5", "-1", "1e9", "1684226820.9x", "99999999999999999999", "7", "9999999999.000"] {
            assert_eq!(parse_decimal(bad, 1_000_000), None, "{bad}");
        }
    }

    #[test]
    fn the_hosts_of_real_time_logs_are_swapped_and_the_query_is_cut_off_the_path() {
        let names = ["timestamp", "c-ip", "sc-status", "cs-host", "cs-uri-stem", "x-host-header"];
        let layout = Layout::new(names).unwrap();
        let record = ["1684226820.937", "192.0.2.1", "200", "media.example.com", "/a.ts?token=x", "d1.cloudfront.net"];
        let line = layout.values(record.into_iter()).line(layout.realtime, &mut Times::default()).unwrap();
        assert_eq!((line.host, line.uri_stem, line.query), (Some("media.example.com"), "/a.ts", Some("token=x")));
        let names = ["date", "time", "c-ip", "sc-status", "cs(Host)", "cs-uri-stem", "x-host-header"];
        let layout = Layout::new(names).unwrap();
        let record = ["2026-11-20", "19:00:01", "-", "200", "d1.cloudfront.net", "/a.ts", "media.example.com"];
        let line = layout.values(record.into_iter()).line(layout.realtime, &mut Times::default()).unwrap();
        assert_eq!((line.host, line.ip), (Some("media.example.com"), None));
    }

    #[test]
    fn a_cookie_that_was_cut_off_is_none() {
        let first = format!("a={}", "x".repeat(780));
        let cut = format!("{first};%20session=abcdefghij");
        assert!(cut.len() >= REALTIME_CUT_BYTES);
        assert_eq!(whole_cookies(&cut), Some(first.as_str()));
        assert_eq!(whole_cookies(&"x".repeat(800)), None);
        assert_eq!(whole_cookies("session=abcdefghij"), Some("session=abcdefghij"));
    }
}
