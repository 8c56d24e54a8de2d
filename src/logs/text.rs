//! Records of separated columns: standard logs (w3c, plain, raw) and real-time logs.
//!
//! Which column holds what comes from a header (`#Fields:`, or a bare line of names), else from the position, else from
//! the config. CloudFront encodes tabs and line ends in values, so nothing is quoted and nothing needs to be.

use std::str;

use super::fields::{Field, Layout, Times, check_needed, field, is_name};
use super::{Pieces, Rows};

/// Longest separator between columns. Source: CloudWatch Logs API, `fieldDelimiter`.
const MAX_DELIMITER_BYTES: usize = 5;

/// Reads records of separated columns.
pub struct TextReader {
    layout: Option<Layout>,
    /// What stands between columns; none as long as it is not known.
    delimiter: Option<String>,
    /// The bare line of names, which concatenated objects repeat.
    header: Option<String>,
    /// What to take records for that no header precedes and that are not standard ones.
    realtime: Option<Layout>,
    records: Records,
    times: Times,
}

/// How the records of an object are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Records {
    /// A header names their columns.
    Named,
    /// Standard ones without a header, of as many columns as the first.
    Raw { columns: usize },
    /// Real-time ones, by the config; how they end is not known yet.
    Realtime,
    /// Real-time ones, one a line.
    RealtimeLines,
    /// Real-time ones, nothing between them.
    RealtimeJoined,
}

impl TextReader {
    /// `realtime` is the layout of the real-time fields of the config, if it has any.
    pub fn new(realtime: Option<Layout>) -> Self {
        TextReader {
            layout: None,
            delimiter: None,
            header: None,
            realtime,
            records: Records::Named,
            times: Times::default(),
        }
    }

    /// Finds out what an object without `#` line holds, from its first line; an error if it is no log.
    fn begin(&mut self, line: &str) -> Result<Begun, String> {
        if let Some((names, delimiter)) = bare_header(line) {
            self.layout = Some(Layout::new(names)?);
            self.delimiter = delimiter;
            self.header = Some(line.to_owned());
            return Ok(Begun::Header);
        }
        if let Some(delimiter) = raw_delimiter(line) {
            self.layout = Some(Layout::standard());
            self.records = Records::Raw { columns: line.split(delimiter).count() };
            self.delimiter = Some(delimiter.to_owned());
            return Ok(Begun::Record);
        }
        match &self.realtime {
            Some(layout) => {
                self.layout = Some(layout.clone());
                self.records = Records::Realtime;
                Ok(Begun::Record)
            }
            None => {
                Err("no CloudFront log that can be told by its content: neither a line of field names, nor standard \
                         columns, nor JSON; for real-time logs name their `fields` in the config"
                    .to_owned())
            }
        }
    }

    /// Records of real-time logs from `text`; gives how much of it was used.
    fn realtime_records(&mut self, text: &str, complete: bool, rows: &mut dyn Rows) -> Result<usize, String> {
        let Some(layout) = &self.layout else { return Ok(text.len()) };
        let width = layout.width();
        let tabs = memchr::memchr_iter(b'\t', text.as_bytes()).count();
        if self.records == Records::Realtime {
            self.records = match (tabs + 1 > width, complete) {
                (true, _) => Records::RealtimeJoined,
                (false, true) => Records::RealtimeLines,
                (false, false) => return Ok(0),
            };
        }
        if self.records == Records::RealtimeLines {
            if !complete {
                return Ok(0);
            }
            let whole = tabs + 1 == width;
            let mut line = || layout.tabbed_values(text).line(true, &mut self.times);
            rows.row(if whole { line() } else { Err("not as many columns as the config lists fields") });
            return Ok(text.len());
        }
        // The last value and the next timestamp share a column.
        let mut rest = text;
        loop {
            let columns = memchr::memchr_iter(b'\t', rest.as_bytes()).take(width).count() + 1;
            if columns > width {
                // Where one cannot be told from the next, no other can be: better none than a wrong one.
                let (record, next) = first_of_joined(rest, width).ok_or(
                    "records without line ends, and one of them has not as many columns as the config lists fields",
                )?;
                rows.row(layout.tabbed_values(record).line(true, &mut self.times));
                rest = next;
            } else if !complete {
                return Ok(text.len() - rest.len());
            } else if columns == width {
                rows.row(layout.tabbed_values(rest).line(true, &mut self.times));
                return Ok(text.len());
            } else {
                return Err("the last of its records is cut off".to_owned());
            }
        }
    }

    fn record(&mut self, line: &str, rows: &mut dyn Rows) {
        let Some(layout) = &self.layout else { return };
        let delimiter = match &self.delimiter {
            Some(delimiter) => delimiter,
            None => self.delimiter.insert(guess_delimiter(line, layout)),
        };
        let is_tab = delimiter == "\t";
        let columns = match self.records {
            Records::Raw { columns } => columns,
            _ => layout.width(),
        };
        // A viewer may have sent the delimiter, and then no column behind it is what it seems to be. No one can send a tab.
        let parsed = if is_tab {
            layout.tabbed_values(line).line(layout.realtime, &mut self.times)
        } else if line.matches(delimiter.as_str()).count() >= columns {
            Err("more columns than there are: a value holds the delimiter; tabs (the default) cannot occur in values")
        } else {
            layout.values(line.split(delimiter.as_str())).line(layout.realtime, &mut self.times)
        };
        rows.row(parsed);
    }
}

enum Begun {
    Header,
    Record,
}

impl Pieces for TextReader {
    fn take(&mut self, piece: &[u8], complete: bool, rows: &mut dyn Rows) -> Result<usize, String> {
        // The one that is quick does not tell where a text that is none goes wrong.
        let text = match simdutf8::basic::from_utf8(piece).or_else(|_| str::from_utf8(piece)) {
            Ok(text) => text,
            // The piece may end in the middle of a character.
            Err(error) if !complete && error.error_len().is_none() => {
                str::from_utf8(&piece[..error.valid_up_to()]).expect("it was just checked")
            }
            Err(_) if self.records == Records::RealtimeJoined => return Err("its records are not UTF-8".to_owned()),
            Err(_) if self.layout.is_some() || self.realtime.is_some() => {
                rows.row(Err("not UTF-8"));
                return Ok(piece.len());
            }
            Err(_) => return Err("not text: not a CloudFront log".to_owned()),
        };
        if text.is_empty() {
            return Ok(0);
        }
        if let Some(comment) = text.strip_prefix('#') {
            if complete && let Some(names) = comment.strip_prefix("Fields:") {
                self.layout = Some(Layout::new(header_names(names))?);
                (self.delimiter, self.records) = (None, Records::Named);
            }
            return Ok(if complete { piece.len() } else { 0 });
        }
        if self.layout.is_none() && matches!(self.begin(text)?, Begun::Header) {
            return Ok(piece.len());
        }
        if matches!(self.records, Records::Realtime | Records::RealtimeLines | Records::RealtimeJoined) {
            return self.realtime_records(text, complete, rows);
        }
        if !complete {
            return Ok(0);
        }
        if self.header.as_deref() != Some(text) {
            self.record(text, rows);
        }
        Ok(piece.len())
    }

    fn joins_records(&self) -> bool {
        matches!(self.records, Records::Realtime | Records::RealtimeJoined)
            || (self.layout.is_none() && self.realtime.is_some())
    }

    fn is_realtime(&self) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.realtime)
    }

    fn finish(&self) -> Result<(), String> {
        match &self.layout {
            Some(_) => Ok(()),
            None => Err("it holds neither a line of field names nor a record".to_owned()),
        }
    }

    fn fields(&self) -> Vec<String> {
        self.layout.as_ref().map(|layout| layout.names.clone()).unwrap_or_default()
    }
}

/// The first of several records without anything between them, and what follows it. The last value of the one and
/// the timestamp of the next, ten digits with decimals, are one column.
fn first_of_joined(text: &str, columns: usize) -> Option<(&str, &str)> {
    let mut tabs = memchr::memchr_iter(b'\t', text.as_bytes());
    let before = if columns > 1 { tabs.nth(columns - 2)? + 1 } else { 0 };
    let shared = &text[before..tabs.next()?];
    let (whole, decimals) = shared.rsplit_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let start = whole.len().checked_sub(10)?;
    let is_timestamp = (1..=6).contains(&decimals.len()) && digits(decimals) && digits(whole.get(start..)?);
    // A value is there, if only a dash: without one a column is missing.
    (is_timestamp && start > 0).then(|| text.split_at(before + start))
}

/// The names behind `#Fields:`. Blanks stand between them, but some write the delimiter of the records.
fn header_names(names: &str) -> Vec<&str> {
    let by_blanks: Vec<&str> = names.split_ascii_whitespace().collect();
    match by_blanks.as_slice() {
        [one] => one.split(not_in_name).filter(|name| !name.is_empty()).collect(),
        // A carriage return is no blank here: behind it comes a record.
        _ => names.split([' ', '\t']).filter(|name| !name.is_empty()).collect(),
    }
}

fn not_in_name(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || "-_()".contains(c))
}

/// The names in a bare line of names, as v2 `plain` has it, and what stands between them. Names and nothing else,
/// the path and the status among them: no record looks like that, as it begins with a time.
fn bare_header(line: &str) -> Option<(Vec<&str>, Option<String>)> {
    let first_end = line.find(not_in_name)?;
    let length = line[first_end..].find(|c| !not_in_name(c))?;
    let between = &line[first_end..first_end + length];
    let names: Vec<&str> = line.split(between).collect();
    let has = |wanted| names.iter().any(|name| field(name) == Some(wanted));
    let is_header = (1..=MAX_DELIMITER_BYTES).contains(&between.len())
        && names.iter().all(|name| is_name(name))
        && has(Field::UriStem)
        && has(Field::Status);
    is_header.then(|| (names, Some(between.to_owned())))
}

/// What stands between date and time at the beginning of a standard record without header; none if it begins otherwise.
fn raw_delimiter(line: &str) -> Option<&str> {
    let digits = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                wanted => byte == wanted,
            })
    };
    let rest = line.get(10..)?;
    let length = rest.find(|c: char| c.is_ascii_digit())?;
    let is_record = digits(&line[..10], "0000-00-00")
        && (1..=MAX_DELIMITER_BYTES).contains(&length)
        && digits(rest.get(length..length + 8)?, "00:00:00")
        && rest[length + 8..].starts_with(&rest[..length]);
    is_record.then_some(&rest[..length])
}

/// The delimiter of a record whose `#Fields` line does not show it: a tab nearly always, else what cuts the record
/// into as many columns as there are names with a time, a path and a status among them.
fn guess_delimiter(line: &str, layout: &Layout) -> String {
    if line.contains('\t') {
        return "\t".to_owned();
    }
    let mut candidates: Vec<&str> = Vec::new();
    let mut start = None;
    for (place, c) in line.char_indices() {
        if c.is_ascii_alphanumeric() {
            if let Some(start) = start.take() {
                let run: &str = &line[start..place];
                // Absent values stand between delimiters: `|-|` shows `|`.
                candidates.extend([run, run.split('-').next().unwrap_or(run)]);
            }
        } else if start.is_none() {
            start = Some(place);
        }
    }
    let fits = |delimiter: &&str| {
        let values = layout.values(line.split(*delimiter));
        check_needed(|field| values.get(field).is_some() || field == Field::Ip).is_ok()
            && values.line(layout.realtime, &mut Times::default()).is_ok()
    };
    candidates.retain(|candidate| (1..=MAX_DELIMITER_BYTES).contains(&candidate.len()));
    let cuts = |delimiter: &&&str| line.matches(**delimiter).count() + 1 == layout.width();
    let exact = candidates.iter().filter(cuts).find(|candidate| fits(candidate));
    exact.or_else(|| candidates.iter().find(|candidate| fits(candidate))).map_or("\t", |found| found).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::LogLine;
    use super::*;

    const NAMES: &str = "#Fields: date time c-ip cs-uri-stem sc-status cs(User-Agent)";

    /// What a reader makes of a line: path, status and agent, or the reason.
    type Seen = Result<(String, String, Option<String>), &'static str>;

    #[derive(Default)]
    struct Collected {
        rows: Vec<Seen>,
        times: Vec<i64>,
    }

    impl Rows for Collected {
        fn row(&mut self, line: Result<LogLine<'_>, &'static str>) {
            self.times.extend(line.as_ref().map(|line| line.time));
            let text = str::to_owned;
            self.rows.push(line.map(|line| (text(line.uri_stem), text(line.status), line.user_agent.map(text))));
        }
    }

    fn read(reader: &mut TextReader, lines: &[&str]) -> Result<Vec<Seen>, String> {
        let mut rows = Collected::default();
        for line in lines {
            reader.take(line.as_bytes(), true, &mut rows)?;
        }
        Ok(rows.rows)
    }

    fn row(path: &str, status: &str, agent: Option<&str>) -> Seen {
        Ok((path.to_owned(), status.to_owned(), agent.map(str::to_owned)))
    }

    #[test]
    fn columns_follow_the_header_whatever_their_number_and_order() {
        let mut reader = TextReader::new(None);
        let rows = read(
            &mut reader,
            &[
                "#Version: 1.0",
                NAMES,
                "2026-11-20\t19:00:01\t198.18.0.1\t/a\t200\tx\tmore\tcolumns",
                "2026-11-20\t19:00:01\t198.18.0.1\t/a\t000",
                // The tab after #Fields: and between the names, as in a real file of 2019.
                "#Fields:\tsc-status\tcs-uri-stem\tdate\ttime\tc-ip",
                "206\t/b\t2026-11-20\t19:00:01\t-",
            ],
        )
        .unwrap();
        assert_eq!(rows, [row("/a", "200", Some("x")), row("/a", "000", None), row("/b", "206", None)]);
    }

    #[test]
    fn any_delimiter_with_any_header_or_none() {
        let names = ["date", "time", "c-ip", "cs-uri-stem", "sc-status", "cs(User-Agent)"];
        let values = ["2026-11-20", "19:00:01", "198.18.0.1", "/a-b/c_d", "200", "-"];
        for delimiter in ["\t", " ", ",", ";", "|", "||", " | ", "^", "::", "#"] {
            let record = values.join(delimiter);
            for header in [
                format!("#Fields: {}", names.join(" ")),
                names.join(delimiter),
                format!("#Fields: {}", names.join(",")),
            ] {
                if header == names.join("#") {
                    continue; // it begins a comment
                }
                let rows = read(&mut TextReader::new(None), &[&header, &record]).unwrap();
                assert_eq!(rows, [row("/a-b/c_d", "200", None)], "{delimiter:?} under {header:?}");
            }
        }
        for delimiter in ["\t", " ", ",", ";", "|", "||", " | ", "^", "::"] {
            let mut values = vec!["-"; 33];
            for (place, value) in [(0, "2026-11-20"), (1, "19:00:01"), (4, "198.18.0.1"), (7, "/a"), (8, "200")] {
                values[place] = value;
            }
            let rows = read(&mut TextReader::new(None), &[&values.join(delimiter)]).unwrap();
            assert_eq!(rows, [row("/a", "200", None)], "raw, {delimiter:?}");
        }
    }

    #[test]
    fn a_delimiter_inside_a_value_makes_no_other_columns() {
        let mut reader = TextReader::new(None);
        let header = "date,time,cs(User-Agent),c-ip,cs-uri-stem,sc-status";
        let rows = read(
            &mut reader,
            &[
                header,
                "2026-11-20,19:00:01,x,198.18.0.1,/a,200",
                "2026-11-20,19:00:01,x,203.0.113.9,/framed,200,198.18.0.1,/a,200",
                header,
            ],
        )
        .unwrap();
        assert_eq!(rows[0], row("/a", "200", Some("x")));
        assert!(rows[1].as_ref().unwrap_err().contains("holds the delimiter"));
        assert_eq!(rows.len(), 2, "a repeated header is no row");
    }

    #[test]
    fn milliseconds_beat_seconds() {
        let mut rows = Collected::default();
        let mut reader = TextReader::new(None);
        for line in [
            "#Fields: date time timestamp(ms) c-ip cs-uri-stem sc-status",
            "2026-11-20\t19:00:01\t1795201201234\t-\t/a\t200",
            "2026-11-20\t19:00:01\t-\t-\t/a\t200",
        ] {
            reader.take(line.as_bytes(), true, &mut rows).unwrap();
        }
        assert_eq!(rows.times, [1_795_201_201_234_000, 1_795_201_201_000_000]);
    }

    #[test]
    fn bad_lines_say_why() {
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
            assert_eq!(read(&mut TextReader::new(None), &[NAMES, line]).unwrap(), [Err(reason)], "{line}");
        }
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let refused = |line: &str| read(&mut TextReader::new(None), &[line]).unwrap_err();
        assert!(refused("hello world").contains("no CloudFront log"));
        assert!(
            refused("79a59df900b949e55d96a1e6 bucket [06/Feb/2019:00:00:38 +0000] 192.0.2.3").contains("no CloudFront")
        );
        assert!(refused("#Fields: date time cs-uri-stem").contains("sc-status, c-ip"));
        assert!(refused("date\ttime\tcs-uri-stem\tsc-status").contains("c-ip"));
        let error = TextReader::new(None).take(b"\xff\xfe\x00", true, &mut Collected::default()).unwrap_err();
        assert!(error.contains("not text"), "{error}");
        assert!(TextReader::new(None).finish().is_err());
    }

    fn realtime() -> TextReader {
        TextReader::new(Some(
            Layout::new(["timestamp", "c-ip", "sc-status", "cs-uri-stem", "cs-headers-count"]).unwrap(),
        ))
    }

    #[test]
    fn real_time_records_with_and_without_line_ends() {
        let records = [
            "1684226820.937\t192.0.2.1\t200\t/a?x=1\t8",
            "1684226820.938\t192.0.2.1\t200\t/b\t12",
            "1684226821.000\t192.0.2.1\t403\t/c\t-",
        ];
        let expected = [row("/a", "200", None), row("/b", "200", None), row("/c", "403", None)];
        assert_eq!(read(&mut realtime(), &records).unwrap(), expected);
        assert_eq!(read(&mut realtime(), &[&records.concat()]).unwrap(), expected);
        // In pieces of any length, what is not used is offered again.
        let joined = records.concat();
        for length in 1..joined.len() {
            let (mut reader, mut rows, mut held) = (realtime(), Collected::default(), Vec::new());
            for chunk in joined.as_bytes().chunks(length) {
                held.extend_from_slice(chunk);
                let used = reader.take(&held, false, &mut rows).unwrap();
                held.drain(..used);
            }
            reader.take(&held, true, &mut rows).unwrap();
            assert_eq!(rows.rows.len(), 3, "pieces of {length}");
            assert!(rows.rows.iter().all(Result::is_ok), "pieces of {length}: {:?}", rows.rows);
        }
    }

    #[test]
    fn another_number_of_fields_is_no_record() {
        let (short, long) = ("1684226820.937\t192.0.2.1\t200\t/a", "1684226820.937\t192.0.2.1\t200\t/a\t8\t9");
        let right = "1684226820.937\t192.0.2.1\t200\t/a\t8";
        for lines in [[right, short, right], [right, long, right], [short, right, right]] {
            let rows = read(&mut realtime(), &lines).unwrap();
            assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), 2, "{rows:?}");
            assert!(rows.iter().any(|row| row.as_ref().is_err_and(|reason| reason.contains("as many columns"))));
        }
        // Without line ends one wrong record spoils the object.
        for joined in [[right, short, right].concat(), [right, long, right].concat(), [right, right, short].concat()] {
            let error = read(&mut realtime(), &[&joined]).unwrap_err();
            assert!(error.contains("without line ends") || error.contains("cut off"), "{error}");
        }
    }

    #[test]
    fn what_viewers_send_is_never_taken_for_a_header() {
        for agent in
            ["cs-uri-stem,sc-status", "date,time,c-ip,cs-uri-stem,sc-status", "cs-uri-stem sc-status c-ip date time"]
        {
            let raw = format!("2026-11-20\t19:00:01\tFRA2\t1\t198.18.0.1\tGET\td1\t/a\t200\t-\t{agent}");
            assert_eq!(read(&mut TextReader::new(None), &[&raw]).unwrap(), [row("/a", "200", Some(agent))]);
            let record = format!("1684226820.937\t192.0.2.1\t200\t/a?{agent}\t8");
            assert_eq!(read(&mut realtime(), &[&record]).unwrap(), [row("/a", "200", None)]);
        }
    }

    #[test]
    fn an_added_delimiter_is_noticed_without_a_header_too() {
        let mut values = vec!["-"; 33];
        for (place, value) in [(0, "2026-11-20"), (1, "19:00:01"), (4, "198.18.0.1"), (7, "/a"), (8, "200")] {
            values[place] = value;
        }
        let honest = values.join(",");
        values[10] = "x,token=forged";
        let rows = read(&mut TextReader::new(None), &[&honest, &values.join(",")]).unwrap();
        assert_eq!(rows[0], row("/a", "200", None));
        assert!(rows[1].as_ref().unwrap_err().contains("holds the delimiter"));
    }

    #[test]
    fn a_file_of_carriage_returns_is_refused() {
        let text = "#Fields: date time c-ip cs-uri-stem sc-status\r2026-11-20\t19:00:01\t198.18.0.1\t/a\t200";
        assert!(read(&mut TextReader::new(None), &[text]).unwrap_err().contains("no name of a field"));
    }

    proptest! {
        #[test]
        fn takes_any_bytes(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8),
            complete in any::<bool>(),
            kind in 0..3,
        ) {
            let mut reader = if kind == 0 { realtime() } else { TextReader::new(None) };
            let mut rows = Collected::default();
            if kind == 1 {
                reader.take(NAMES.as_bytes(), true, &mut rows).unwrap();
            }
            for line in &lines {
                match reader.take(line, complete, &mut rows) {
                    Ok(used) => prop_assert!(used <= line.len() && (!complete || used == line.len())),
                    Err(_) => break,
                }
            }
        }

        #[test]
        fn takes_mutated_lines(position in 0usize..60, byte in any::<u8>(), delimiter in "[\\t,; |]") {
            let mut line = ["2026-11-20", "19:00:01", "198.18.0.1", "/a/b.ts", "200", "Mozilla/5.0%20(X11)"]
                .join(&delimiter)
                .into_bytes();
            let position = position % line.len();
            line[position] = byte;
            let mut rows = Collected::default();
            let mut reader = TextReader::new(None);
            reader.take(NAMES.as_bytes(), true, &mut rows).unwrap();
            reader.take(&line, true, &mut rows).unwrap();
            prop_assert!(rows.rows.len() <= 1);
        }
    }
}
