//! Who used the sessions that were found in a window, and from where.
//!
//! What that is, is defined by the SQL of `queries/engine/evidence.sql`; a test holds this to it. It is here because five
//! groupings and their ranks cost more than most detectors, in each window anew.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use ahash::RandomState;
use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use crate::rows::texts;

/// What a session is used with several of: as the evidence calls it, and the columns of `activity` that have the value and what
/// else is told of it.
const WHAT: [(&str, &str, &[&str]); 5] = [
    ("networks", "network", &["country", "asn", "network_type"]),
    ("countries", "country", &[]),
    ("operators", "asn", &["network_type"]),
    ("user_agents", "user_agent", &[]),
    ("devices", "device", &[]),
];

/// The columns of `activity` that it takes.
pub const USED: [&str; 11] = [
    "session_id",
    "network",
    "country",
    "asn",
    "network_type",
    "user_agent",
    "device",
    "segments",
    "requests",
    "first_seen",
    "last_seen",
];

/// Of each of them, at most: those that fetched most.
const MOST: usize = 5;

/// By session: `{"networks": {"different": 7, "most": [{…}]}, "countries": …}`.
pub type Who = HashMap<String, Map<String, Value>>;

/// A value of a column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Cell<'a> {
    Text(&'a str),
    Number(i64),
}

impl<'a> Cell<'a> {
    fn text(self) -> Cow<'a, str> {
        match self {
            Cell::Text(text) => Cow::Borrowed(text),
            Cell::Number(number) => Cow::Owned(number.to_string()),
        }
    }
}

impl From<Cell<'_>> for Value {
    fn from(cell: Cell<'_>) -> Value {
        match cell {
            Cell::Text(text) => text.into(),
            Cell::Number(number) => number.into(),
        }
    }
}

/// The use of a session with one value. Instants are microseconds since the epoch.
struct Use<'a> {
    /// The least values of the columns that are told, too.
    told: [Option<Cell<'a>>; 3],
    segments: i64,
    requests: i64,
    first_seen: i64,
    last_seen: i64,
}

type Uses<'a> = HashMap<Cell<'a>, Use<'a>, RandomState>;

fn cells<'a>(rows: &'a RecordBatch, name: &str) -> Result<Vec<Option<Cell<'a>>>, String> {
    if name == "asn" {
        let numbers = rows.column_by_name(name).ok_or("no column asn")?.as_primitive::<Int64Type>();
        return Ok(numbers.iter().map(|number| number.map(Cell::Number)).collect());
    }
    Ok(texts(rows, name)?.map(|text| text.map(Cell::Text)).collect())
}

/// Who used the sessions of these rows of `activity`.
///
/// # Errors
///
/// A column is missing.
pub fn who(batches: &[RecordBatch]) -> Result<Who, String> {
    let mut sessions: HashMap<&str, [Uses<'_>; WHAT.len()], RandomState> = HashMap::default();
    for rows in batches {
        let column = |name: &str| rows.column_by_name(name).ok_or_else(|| format!("no column {name}"));
        let (segments, requests) = (column("segments")?, column("requests")?);
        let (segments, requests) = (segments.as_primitive::<Int64Type>(), requests.as_primitive::<Int64Type>());
        let (first_seen, last_seen) = (column("first_seen")?, column("last_seen")?);
        let first_seen = first_seen.as_primitive::<TimestampMicrosecondType>();
        let last_seen = last_seen.as_primitive::<TimestampMicrosecondType>();
        let ids: Vec<Option<&str>> = texts(rows, "session_id")?.collect();
        for (place, (_, of, told)) in WHAT.into_iter().enumerate() {
            let values = cells(rows, of)?;
            let told: Vec<Vec<Option<Cell<'_>>>> =
                told.iter().map(|name| cells(rows, name)).collect::<Result<_, _>>()?;
            for (row, (id, value)) in ids.iter().zip(values).enumerate() {
                let (Some(id), Some(value)) = (id, value) else { continue };
                let known = sessions.entry(id).or_default()[place].entry(value).or_insert(Use {
                    told: [None; 3],
                    segments: 0,
                    requests: 0,
                    first_seen: i64::MAX,
                    last_seen: i64::MIN,
                });
                for (known, told) in known.told.iter_mut().zip(&told) {
                    *known = known.iter().copied().chain(told[row]).min();
                }
                known.segments += segments.value(row);
                known.requests += requests.value(row);
                known.first_seen = known.first_seen.min(first_seen.value(row));
                known.last_seen = known.last_seen.max(last_seen.value(row));
            }
        }
    }
    let of_session = |(id, uses): (&str, [Uses<'_>; WHAT.len()])| {
        let of_what = |((what, _, told), uses): (_, Uses<'_>)| (!uses.is_empty()).then(|| (what, most(uses, told)));
        let who = WHAT.into_iter().zip(uses).filter_map(of_what);
        (id.to_owned(), who.map(|(what, most): (&str, Value)| (what.to_owned(), most)).collect())
    };
    Ok(sessions.into_iter().map(of_session).collect())
}

/// Those with which most was fetched, ties by their text, and how many there are.
fn most(uses: Uses<'_>, told: &[&str]) -> Value {
    let different = uses.len();
    let mut ranked: Vec<(Cell<'_>, Use<'_>)> = uses.into_iter().collect();
    ranked.sort_by_cached_key(|(value, used)| (Reverse(used.segments), Reverse(used.requests), value.text()));
    ranked.truncate(MOST);
    let row = |(value, used): (Cell<'_>, Use<'_>)| {
        let told = told.iter().zip(used.told).filter_map(|(name, cell)| Some(((*name).to_owned(), cell?.into())));
        let measured = [
            ("value", Value::from(value.text())),
            ("segments", used.segments.into()),
            ("requests", used.requests.into()),
            ("first_seen", instant(used.first_seen)),
            ("last_seen", instant(used.last_seen)),
        ];
        let measured = measured.into_iter().map(|(name, value)| (name.to_owned(), value));
        Value::Object(told.chain(measured).collect())
    };
    json!({"different": different, "most": ranked.into_iter().map(row).collect::<Vec<Value>>()})
}

/// As Arrow writes it into JSON.
fn instant(micros: i64) -> Value {
    DateTime::from_timestamp_micros(micros).map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::Utc;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Engine, Sql, prepare, replace, sql};
    use crate::rows;
    use crate::schema::Table;

    const EVIDENCE: Sql = sql!("engine/evidence.sql");

    /// Its rows as [`who`] gives them.
    fn nested(rows: Vec<Map<String, Value>>) -> BTreeMap<String, Map<String, Value>> {
        let mut nested: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for mut row in rows {
            let mut take = |column: &str| row.remove(column).unwrap();
            let (session, what, different) = (take("session_id"), take("what"), take("different"));
            let of_session = nested.entry(session.as_str().unwrap().to_owned()).or_default();
            let list = of_session.entry(what.as_str().unwrap()).or_insert(json!({"different": different, "most": []}));
            list["most"].as_array_mut().unwrap().push(Value::Object(row));
        }
        nested
    }

    prop_compose! {
        /// Few values of each, so that they meet and tie.
        fn row()(
            second in 0u32..300,
            micros in prop::sample::select(vec!["", ".250", ".000001"]),
            session in 0u8..4,
            network in prop::option::weighted(0.9, 0u8..9),
            country in prop::option::weighted(0.9, 0usize..3),
            asn in prop::option::weighted(0.9, prop::sample::select(vec![9, 10, 200, 64_500])),
            kind in prop::option::of(prop::sample::select(vec!["mobile", "vpn"])),
            agent in prop::option::weighted(0.9, 0u8..7),
            device in prop::sample::select(vec!["tv", "phone"]),
            (segments, requests) in (0i64..3, 1i64..3),
        ) -> Value {
            let seen: DateTime<Utc> = format!("2026-11-20T20:{:02}:{:02}{micros}Z", second / 60, second % 60).parse().unwrap();
            json!({
                "minute": "2026-11-20T20:00:00Z", "session_id": format!("s{session}"), "network": network.map(|n| format!("n{n}")),
                "country": country.map(|n| ["DE", "FR", "US"][n]), "asn": asn, "network_type": kind,
                "user_agent": agent.map(|n| format!("a{n}")), "device": device, "bound": true, "derived": false, "requests": requests,
                "manifests": 0, "segments": segments, "bytes": 1, "first_seen": seen, "last_seen": seen + chrono::TimeDelta::seconds(7),
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn as_the_sql_defines(used in prop::collection::vec(row(), 0..120), split in 0usize..120) {
            let schema = Table::Activity.schema().public();
            let (one, other) = used.split_at(split.min(used.len()));
            let batches = [one, other].map(|part| rows::encode(schema.clone(), part).unwrap());
            let made: BTreeMap<String, Map<String, Value>> = who(&batches).unwrap().into_iter().collect();

            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let defined = runtime.block_on(async {
                let session = Engine::new(&Default::default()).unwrap().session();
                replace(&session, "activity", schema, batches.to_vec()).unwrap();
                prepare(&session, EVIDENCE, vec![]).await.unwrap().collect().await.unwrap()
            });
            prop_assert_eq!(made, nested(rows::to_json(&defined).unwrap()));
        }
    }
}
