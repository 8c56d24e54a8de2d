//! Records as JSON (v2 `json`): one object a line, its keys the names of the fields.
//!
//! Values are texts, as CloudFront writes them, or numbers, as others pass them on; null, `-` and a missing key are the
//! same. Objects that follow each other without a line end are taken too (Firehose joins records).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::fields::{Field, FieldSet, Times, Values, check_needed, field, is_realtime};
use super::{Pieces, Rows};

/// Keys that are remembered: more than a log can have.
const REMEMBERED_KEYS: usize = 128;

/// Reads JSON records.
#[derive(Default)]
pub struct JsonReader {
    times: Times,
    /// The keys that were seen, and the fields that they name.
    keys: HashMap<String, Option<Field>>,
    /// Of the first record that has what is needed: whether it is one of real-time logs, in JSON by somebody's
    /// transformation.
    realtime: Option<bool>,
    /// What the first record lacks.
    lacks: Option<String>,
    /// There was a record on this line already.
    joined: bool,
}

impl JsonReader {
    fn field(&mut self, key: &str) -> Option<Field> {
        if let Some(known) = self.keys.get(key) {
            return *known;
        }
        let field = field(key);
        if self.keys.len() < REMEMBERED_KEYS {
            self.keys.insert(key.to_owned(), field);
        }
        field
    }

    /// Takes one object as a record.
    fn record(&mut self, record: &Record<'_>, rows: &mut dyn Rows) {
        let mut values = Values::default();
        let mut fields = FieldSet::default();
        for (key, value) in &record.0 {
            if let Some(field) = self.field(key) {
                values.set(field, value.as_deref().unwrap_or("-"));
                fields = fields.union(FieldSet::of([field]));
            }
        }
        if self.realtime.is_none() {
            match check_needed(|wanted| fields.has(wanted)) {
                Ok(()) => self.realtime = Some(is_realtime(record.0.iter().map(|(key, _)| key.as_ref()))),
                Err(reason) => drop(self.lacks.get_or_insert(reason)),
            }
        }
        rows.row(values.line(self.realtime == Some(true), &mut self.times));
    }
}

impl Pieces for JsonReader {
    fn take(&mut self, piece: &[u8], complete: bool, rows: &mut dyn Rows) -> Result<usize, String> {
        let mut records = serde_json::Deserializer::from_slice(piece).into_iter::<Record<'_>>();
        let mut used = 0;
        while let Some(record) = records.next() {
            match record {
                Ok(record) => self.record(&record, rows),
                // The rest comes with the next piece.
                Err(error) if error.is_eof() && !complete => return Ok(used),
                Err(_) if self.realtime.is_none() => {
                    return Err("not JSON objects, one a line: not a CloudFront log".to_owned());
                }
                // Where the next record begins cannot be told any more.
                Err(_) if self.joined || !complete => {
                    return Err("a record in the middle of a line of several cannot be read".to_owned());
                }
                Err(_) => {
                    rows.row(Err("not a JSON object"));
                    return Ok(piece.len());
                }
            }
            self.joined = true;
            used = records.byte_offset();
        }
        if complete {
            self.joined = false;
        }
        Ok(if complete { piece.len() } else { used })
    }

    fn joins_records(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<(), String> {
        match &self.lacks {
            _ if self.realtime.is_some() => Ok(()),
            Some(reason) => Err(format!("JSON, but not of CloudFront: {reason}")),
            None => Err("it holds no record".to_owned()),
        }
    }

    fn fields(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }
}

/// One object: keys, and values as text.
struct Record<'a>(Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>);

impl<'de> Deserialize<'de> for Record<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Record<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record<'de>, A::Error> {
                let mut entries = Vec::with_capacity(40);
                while let Some(Text(Some(key))) = map.next_key::<Text<'de>>()? {
                    entries.push((key, map.next_value::<Text<'de>>()?.0));
                }
                Ok(Record(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A text, a number as it is written, or nothing.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl<'de> Visitor<'de> for Scalar {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or null")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Text<'de>, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::LogLine;
    use super::*;

    #[derive(Default)]
    struct Collected(Vec<Result<String, &'static str>>);

    impl Rows for Collected {
        fn row(&mut self, line: Result<LogLine<'_>, &'static str>) {
            self.0.push(line.map(|line| {
                format!("{} {} {} {:?} {:?}", line.time, line.status, line.uri_stem, line.country, line.user_agent)
            }));
        }
    }

    fn read(lines: &[&str]) -> Result<Vec<Result<String, &'static str>>, String> {
        let (mut reader, mut rows) = (JsonReader::default(), Collected::default());
        for line in lines {
            assert_eq!(reader.take(line.as_bytes(), true, &mut rows)?, line.len());
        }
        reader.finish()?;
        Ok(rows.0)
    }

    const RECORD: &str = r#"{"date":"2026-11-20","time":"19:00:01","c-ip":"192.0.2.1","cs-uri-stem":"/a","sc-status":"200","cs(User-Agent)":"x%20y","c-country":"-"}"#;

    #[test]
    fn texts_numbers_nulls_and_keys_of_any_case() {
        let row = Ok("1795201201000000 200 /a None Some(\"x%20y\")".to_owned());
        assert_eq!(read(&[RECORD]).unwrap(), std::slice::from_ref(&row));
        let other = r#"{"Timestamp(MS)":1795201201000,"C-IP":null,"CS-URI-STEM":"/a","sc-status":200,"cs(user-agent)":"x%20y","tags":["a",{"b":1}],"ok":true}"#;
        assert_eq!(read(&[other]).unwrap(), std::slice::from_ref(&row));
        assert_eq!(read(&[&RECORD.repeat(3)]).unwrap(), [row.clone(), row.clone(), row]);
    }

    #[test]
    fn broken_lines_are_counted_and_other_services_refused() {
        let rows =
            read(&[r#"{"date":"-"}"#, RECORD, &RECORD[..40], "[1,2]", "null", r#"{"date":"2026-11-20"}"#, RECORD])
                .unwrap();
        assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), 2);
        assert_eq!(rows.len(), 7);
        let broken = RECORD.replace(':', "");
        assert!(read(&[&[RECORD, &broken, RECORD].concat()]).unwrap_err().contains("in the middle of a line"));
        let other = read(&[r#"{"eventVersion":"1.08","eventTime":"2026-11-20T19:00:01Z"}"#]).unwrap_err();
        assert!(other.contains("not of CloudFront") && other.contains("cs-uri-stem"), "{other}");
        assert!(read(&["{not json"]).is_err());
        assert!(read(&[]).is_err());
    }

    #[test]
    fn pieces_of_any_length_give_the_same_rows() {
        let joined = RECORD.repeat(3);
        for length in 1..RECORD.len() + 2 {
            let (mut reader, mut rows, mut held) = (JsonReader::default(), Collected::default(), Vec::new());
            for chunk in joined.as_bytes().chunks(length) {
                held.extend_from_slice(chunk);
                let used = reader.take(&held, false, &mut rows).unwrap();
                held.drain(..used);
            }
            reader.take(&held, true, &mut rows).unwrap();
            assert_eq!(rows.0.len(), 3, "pieces of {length}");
        }
    }

    #[test]
    fn real_time_records_that_somebody_turned_into_json() {
        struct Hosts(Vec<String>);
        impl Rows for Hosts {
            fn row(&mut self, line: Result<LogLine<'_>, &'static str>) {
                self.0.push(line.unwrap().host.unwrap().to_owned());
            }
        }
        let mut hosts = Hosts(vec![]);
        for record in [
            r#"{"timestamp":"1684226820.937","c-ip":"-","cs-uri-stem":"/a","sc-status":"200","cs-host":"asked","x-host-header":"own"}"#,
            r#"{"timestamp":"1684226820","c-ip":"-","cs-uri-stem":"/a","sc-status":"200","cs(Host)":"own","x-host-header":"asked"}"#,
        ] {
            JsonReader::default().take(record.as_bytes(), true, &mut hosts).unwrap();
        }
        assert_eq!(hosts.0, ["asked", "asked"]);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), complete in any::<bool>()) {
            let mut rows = Collected::default();
            if let Ok(used) = JsonReader::default().take(&bytes, complete, &mut rows) {
                prop_assert!(used <= bytes.len());
            }
        }

        #[test]
        fn takes_mutated_records(position in 0usize..200, byte in any::<u8>()) {
            let mut bytes = [RECORD, RECORD].concat().into_bytes();
            let position = position % bytes.len();
            bytes[position] = byte;
            let mut rows = Collected::default();
            let mut reader = JsonReader::default();
            reader.take(RECORD.as_bytes(), true, &mut rows).unwrap();
            let _ = reader.take(&bytes, true, &mut rows);
            prop_assert!(rows.0.len() <= 3);
        }
    }
}
