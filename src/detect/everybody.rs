//! What detectors ask of everybody in a window: the tables `content_pace`, `referer_hosts` and, made of the first, `pace`.
//!
//! What they hold is defined by the SQL of the same names in `queries/engine/`; a test holds this to it. It is here because every
//! window looks at every row for them, and numbers in place of texts spare it most of the work.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use ahash::RandomState;
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::blocks::{Cut, NONE, Numbers};
use super::file::Variety;

const MINUTE_MICROS: i64 = 60_000_000;

/// Minutes alone from which on a session tells the pace of a content, sessions from which on a content has a pace of its own, and those
/// from which on there is one for what is not known enough.
const ENOUGH: usize = 5;

/// Of all that sessions tell, the part that is slower than what is not known enough may be, and that which fetches fewer assets at once.
const SLOWER: f64 = 0.9;
const OF_FEWER_ASSETS: f64 = 0.75;

static CONTENT_PACE: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema([("content", DataType::Utf8), ("segments_per_minute", DataType::Float64), ("assets", DataType::Float64)])
});

static REFERER_HOSTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema([("referer_host", DataType::Utf8), ("sessions", DataType::Int64), ("all_sessions", DataType::Int64)])
});

/// How many times what the others fetch a session may show to be its own, from one network alone: parts of a third of a second, with sound
/// apart, are 36 to a segment of six seconds.
const OWN_PACE: f64 = 40.0;

/// What one viewer of a session's contents fetches in a minute: made of its activity and of [`OfEverybody::ContentPace`].
pub const PACE: &str = "pace";

static PACE_COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema([("session_id", DataType::Utf8), ("segments_per_minute", DataType::Float64), ("assets", DataType::Float64)])
});

fn schema<const N: usize>(columns: [(&str, DataType); N]) -> SchemaRef {
    let fields = columns.into_iter().map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

fn batch(schema: &LazyLock<SchemaRef>, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(SchemaRef::clone(schema), columns).expect("the columns are those of the schema")
}

/// A table that is made of what everybody does in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OfEverybody {
    /// How many segments one viewer of a content fetches in a minute.
    ContentPace,
    /// With how many sessions each referring host came.
    RefererHosts,
}

impl OfEverybody {
    pub const ALL: [OfEverybody; 2] = [OfEverybody::ContentPace, OfEverybody::RefererHosts];

    pub fn name(self) -> &'static str {
        match self {
            OfEverybody::ContentPace => "content_pace",
            OfEverybody::RefererHosts => "referer_hosts",
        }
    }

    pub fn schema(self) -> SchemaRef {
        match self {
            OfEverybody::ContentPace => CONTENT_PACE.clone(),
            OfEverybody::RefererHosts => REFERER_HOSTS.clone(),
        }
    }

    /// The columns of which it needs the numbers.
    pub fn numbered(self) -> &'static [Variety] {
        match self {
            OfEverybody::ContentPace => &[Variety::Contents, Variety::Networks],
            OfEverybody::RefererHosts => &[Variety::Referers, Variety::Networks],
        }
    }

    /// Makes it of the window's rows of `activity`, but for those that count for nobody.
    pub fn of(self, cuts: &[Cut<'_>], numbers: &Numbers, is_left_out: impl Fn(&Cut<'_>, usize) -> bool) -> RecordBatch {
        match self {
            OfEverybody::ContentPace => content_pace(cuts, numbers, is_left_out),
            OfEverybody::RefererHosts => referer_hosts(cuts, numbers, is_left_out),
        }
    }
}

/// Which network of a session fetched how much of a content in a minute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fetched {
    session: u32,
    content: u32,
    /// In minutes since the epoch.
    minute: i32,
    network: u32,
    segments: i64,
}

/// What was fetched of contents, in order; of the rows that are wanted.
fn fetched(cuts: &[Cut<'_>], is_wanted: impl Fn(&Cut<'_>, usize) -> bool) -> Vec<Fetched> {
    let mut fetched = Vec::new();
    for cut in cuts {
        let (sessions, contents, networks) =
            (cut.numbers(), cut.values(Variety::Contents), cut.values(Variety::Networks));
        let (minutes, segments) = (cut.minutes(), cut.segments());
        for row in 0..sessions.len() {
            let (session, content, segments) = (sessions[row], contents[row], segments[row]);
            if session != NONE && content != NONE && segments > 0 && is_wanted(cut, row) {
                let minute = minutes[row].div_euclid(MINUTE_MICROS) as i32;
                fetched.push(Fetched { session, content, minute, network: networks[row], segments });
            }
        }
    }
    fetched.sort_unstable();
    fetched
}

/// The minutes in which one network alone fetched a content of a session, and how many segments: there was one viewer. None where that
/// are too few to tell.
fn alone(watched: &[Fetched]) -> Option<Vec<(i32, f64)>> {
    let of_minutes = watched.chunk_by(|a, b| a.minute == b.minute);
    let alone = of_minutes.filter(|rows| rows[0].network == rows[rows.len() - 1].network);
    let segments = |rows: &[Fetched]| rows.iter().map(|row| row.segments).sum::<i64>() as f64;
    let alone: Vec<(i32, f64)> = alone.map(|rows| (rows[0].minute, segments(rows))).collect();
    (alone.len() >= ENOUGH).then_some(alone)
}

/// What a session tells of a content: the segments of a minute, and the assets that it fetched at once.
#[derive(Clone, Copy, Default)]
struct Voice {
    segments: f64,
    assets: f64,
}

impl Voice {
    fn max(self, other: Voice) -> Voice {
        Voice { segments: self.segments.max(other.segments), assets: self.assets.max(other.assets) }
    }
}

fn content_pace(cuts: &[Cut<'_>], numbers: &Numbers, is_left_out: impl Fn(&Cut<'_>, usize) -> bool) -> RecordBatch {
    let fetched = fetched(cuts, |cut, row| !is_left_out(cut, row));
    // Of each session the quickest: nobody can outvote the others.
    let mut all_voices = Vec::new();
    let mut of_content: HashMap<u32, Vec<Voice>, RandomState> = HashMap::default();
    for of_session in fetched.chunk_by(|a, b| a.session == b.session) {
        // One as a rule, of whoever fetches one content only.
        let mut assets: HashMap<i32, u32, RandomState> = HashMap::default();
        if of_session[0].content != of_session[of_session.len() - 1].content {
            for rows in of_session.chunk_by(|a, b| (a.content, a.minute) == (b.content, b.minute)) {
                *assets.entry(rows[0].minute).or_default() += 1;
            }
        }
        let mut most: Option<Voice> = None;
        for watched in of_session.chunk_by(|a, b| a.content == b.content) {
            let Some(alone) = alone(watched) else { continue };
            let of_minute = |(minute, _): &(i32, f64)| f64::from(assets.get(minute).copied().unwrap_or(1));
            // One voice a session, however long it watches.
            let voice = Voice {
                segments: median(alone.iter().map(|(_, segments)| *segments)),
                assets: median(alone.iter().map(of_minute)),
            };
            most = Some(most.map_or(voice, |most| most.max(voice)));
            of_content.entry(watched[0].content).or_default().push(voice);
        }
        all_voices.extend(most);
    }
    let paces = of_content.into_iter().map(|(content, voices)| {
        let pace = Voice {
            segments: median(voices.iter().map(|voice| voice.segments)),
            assets: median(voices.iter().map(|voice| voice.assets)),
        };
        (content, voices.len(), pace)
    });
    let paces: Vec<(u32, usize, Voice)> = paces.collect();
    // Of what is not known enough nobody is held to the pace of the rest, but to that of its quickest tenth: of the viewers, or of the
    // contents, where most of the viewers watch one of a kind. What a few say holds for nobody else.
    let overall = (all_voices.len() >= ENOUGH).then(|| {
        let of_viewers = Voice {
            segments: above(SLOWER, all_voices.iter().map(|voice| voice.segments)),
            assets: above(OF_FEWER_ASSETS, all_voices.iter().map(|voice| voice.assets)),
        };
        let of_contents = above(SLOWER, paces.iter().map(|(.., pace)| pace.segments));
        Voice { segments: of_viewers.segments.max(of_contents), ..of_viewers }
    });
    let known = paces.into_iter().filter_map(|(content, voices, pace)| {
        let pace = match overall {
            _ if voices >= ENOUGH => pace,
            // Of the assets their own word does not count: one token on many is perhaps the only one on each.
            Some(overall) => Voice { segments: pace.segments.max(overall.segments), ..overall },
            None => return None,
        };
        Some((Some(numbers.value(Variety::Contents, content)), pace))
    });
    let paces = known.chain(overall.map(|overall| (None, overall)));
    let (contents, paces): (Vec<Option<&str>>, Vec<Voice>) = paces.unzip();
    batch(&CONTENT_PACE, [vec![Arc::new(StringArray::from(contents)) as ArrayRef], columns(&paces)].concat())
}

/// The columns `segments_per_minute` and `assets`.
fn columns(voices: &[Voice]) -> Vec<ArrayRef> {
    let column = |value: fn(&Voice) -> f64| Arc::new(Float64Array::from_iter_values(voices.iter().map(value)));
    vec![column(|voice| voice.segments), column(|voice| voice.assets)]
}

/// The least of some values, of one at least, that this share of them does not exceed.
fn above(share: f64, values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let place = (share * values.len() as f64).ceil() as usize;
    values[place.max(1) - 1]
}

/// The median of some values; of an even number the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

fn referer_hosts(cuts: &[Cut<'_>], numbers: &Numbers, is_left_out: impl Fn(&Cut<'_>, usize) -> bool) -> RecordBatch {
    let mut pairs: HashSet<(u32, u32), RandomState> = HashSet::default();
    for cut in cuts {
        let (sessions, referers, networks) =
            (cut.numbers(), cut.values(Variety::Referers), cut.values(Variety::Networks));
        for row in 0..sessions.len() {
            let pair = (referers[row], sessions[row]);
            if pair.0 != NONE && pair.1 != NONE && networks[row] != NONE && !is_left_out(cut, row) {
                pairs.insert(pair);
            }
        }
    }
    let everybody = pairs.iter().map(|(_, session)| *session).collect::<HashSet<u32, RandomState>>().len() as i64;
    let mut sessions: HashMap<u32, i64, RandomState> = HashMap::default();
    for (referer, _) in &pairs {
        *sessions.entry(*referer).or_default() += 1;
    }
    let (hosts, sessions): (Vec<&str>, Vec<i64>) =
        sessions.into_iter().map(|(referer, sessions)| (numbers.value(Variety::Referers, referer), sessions)).unzip();
    let all = Int64Array::from_value(everybody, sessions.len());
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(hosts)), Arc::new(Int64Array::from(sessions)), Arc::new(all)];
    batch(&REFERER_HOSTS, columns)
}

/// The columns of the table `pace`.
pub fn pace_schema() -> SchemaRef {
    PACE_COLUMNS.clone()
}

/// What one viewer of the contents of each session that is kept fetches in a minute; `content_pace` as [`OfEverybody`] made it.
pub fn pace(
    cuts: &[Cut<'_>],
    numbers: &Numbers,
    kept: impl Fn(usize) -> bool,
    content_pace: &[RecordBatch],
    is_left_out: impl Fn(&Cut<'_>, usize) -> bool,
) -> RecordBatch {
    let mut known: HashMap<u32, Voice, RandomState> = HashMap::default();
    let mut rest = None;
    for batch in content_pace {
        let contents = batch.column(0).as_string::<i32>();
        let (segments, assets) =
            (batch.column(1).as_primitive::<Float64Type>(), batch.column(2).as_primitive::<Float64Type>());
        for ((content, segments), assets) in contents.iter().zip(segments.values()).zip(assets.values()) {
            let pace = Voice { segments: *segments, assets: *assets };
            match content {
                Some(content) => {
                    known.extend(numbers.of_value(Variety::Contents, content).map(|content| (content, pace)))
                }
                None => rest = Some(pace),
            }
        }
    }
    let Some(rest) = rest else { return RecordBatch::new_empty(PACE_COLUMNS.clone()) };
    let fetched = fetched(cuts, |cut, row| kept(cut.numbers()[row] as usize) && !is_left_out(cut, row));
    let of_content = |watched: &[Fetched]| {
        let pace = known.get(&watched[0].content).copied().unwrap_or(rest);
        // A player of another kind than those of the others may fetch sound and text in segments of their own: where the session is
        // used from one network alone it shows that.
        let own = alone(watched).map_or(0.0, |alone| median(alone.into_iter().map(|(_, segments)| segments)));
        Voice { segments: pace.segments.max(own.min(OWN_PACE * pace.segments)), ..pace }
    };
    // Of several contents the quickest: advertisements in a film are no second film.
    let of_session = |of_session: &[Fetched]| {
        let contents = of_session.chunk_by(|a, b| a.content == b.content);
        (numbers.session(of_session[0].session), contents.map(of_content).fold(Voice::default(), Voice::max))
    };
    let (sessions, paces): (Vec<&str>, Vec<Voice>) =
        fetched.chunk_by(|a, b| a.session == b.session).map(of_session).unzip();
    batch(&PACE_COLUMNS, [vec![Arc::new(StringArray::from(sessions)) as ArrayRef], columns(&paces)].concat())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::super::blocks::Minutes;
    use super::super::window::Window;
    use super::*;
    use crate::engine::{Engine, Sql, prepare, replace, sql};
    use crate::rows;
    use crate::schema::Table;

    /// The definitions.
    const CONTENT_PACE: Sql = sql!("engine/content_pace.sql");
    const REFERER_HOSTS: Sql = sql!("engine/referer_hosts.sql");
    const PACE: Sql = sql!("engine/pace.sql");

    fn sorted(batch: &RecordBatch) -> Vec<Map<String, Value>> {
        let mut rows = rows::to_json(std::slice::from_ref(batch)).unwrap();
        rows.sort_by_key(|row| serde_json::to_string(row).unwrap());
        rows
    }

    fn at(minute: u32) -> DateTime<Utc> {
        "2026-11-20T20:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minute.into())
    }

    prop_compose! {
        /// Few values of each, so that they meet.
        fn row()(
            minute in 0u32..8,
            session in 0u8..14,
            network in prop::option::weighted(0.9, 0u8..3),
            content in prop::option::weighted(0.9, 0u8..3),
            referer in prop::option::of(0u8..3),
            agent in 0u8..2,
            segments in 0i64..9,
            bound in prop::bool::weighted(0.8),
        ) -> Value {
            json!({
                "minute": at(minute), "session_id": format!("s{session}"), "network": network.map(|n| format!("{session}.{n}")),
                "content": content.map(|n| format!("film{n}")), "referer_host": referer.map(|n| format!("{n}.example")),
                "user_agent": format!("a{agent}"), "bound": bound, "derived": false, "device": "other", "requests": 1,
                "manifests": 0, "segments": segments, "bytes": 1, "first_seen": at(minute), "last_seen": at(minute),
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn as_the_sql_defines(found in prop::collection::vec(row(), 0..600), split in 0usize..600, left_out in 0u8..14) {
            let schema = Table::Activity.schema().public();
            let (mut numbers, mut minutes) = (Numbers::default(), Minutes::default());
            let (one, other) = found.split_at(split.min(found.len()));
            for part in [one, other] {
                minutes.extend(&[rows::encode(schema.clone(), part).unwrap()], &Variety::ALL, &mut numbers).unwrap();
            }
            let cuts = minutes.within(Window { start: at(0), end: at(8) });
            // Requests that merely name a session are left out.
            let named = format!("s{left_out}");
            let is_left_out = |cut: &Cut<'_>, row: usize| {
                numbers.session(cut.numbers()[row]) == named && !cut.is_bound(row)
            };
            let counted: Vec<&Value> =
                found.iter().filter(|row| row["session_id"] != named.as_str() || row["bound"] == true).collect();
            let kept = |session: usize| numbers.session(session as u32) != "s1";
            let made_pace = OfEverybody::ContentPace.of(&cuts, &numbers, is_left_out);
            let made = [
                sorted(&made_pace),
                sorted(&OfEverybody::RefererHosts.of(&cuts, &numbers, is_left_out)),
                sorted(&pace(&cuts, &numbers, kept, &[made_pace], is_left_out)),
            ];

            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let defined = runtime.block_on(async {
                let session = Engine::new(&Default::default()).unwrap().session();
                let activity = rows::encode(schema.clone(), &counted).unwrap();
                replace(&session, "activity", schema.clone(), vec![activity]).unwrap();
                let of = async |sql: Sql, columns: SchemaRef| {
                    let batches = prepare(&session, sql, vec![]).await.unwrap().collect().await.unwrap();
                    let Some(first) = batches.first() else { return RecordBatch::new_empty(columns) };
                    let batch = arrow::compute::concat_batches(&first.schema(), &batches).unwrap();
                    rows::conform(&batch, &columns).unwrap()
                };
                let content_pace = of(CONTENT_PACE, OfEverybody::ContentPace.schema()).await;
                let referer_hosts = of(REFERER_HOSTS, OfEverybody::RefererHosts.schema()).await;
                replace(&session, "content_pace", content_pace.schema(), vec![content_pace.clone()]).unwrap();
                let shown: Vec<&&Value> = counted.iter().filter(|row| row["session_id"] != "s1").collect();
                let activity = rows::encode(schema.clone(), &shown).unwrap();
                replace(&session, "activity", schema.clone(), vec![activity]).unwrap();
                [sorted(&content_pace), sorted(&referer_hosts), sorted(&of(PACE, pace_schema()).await)]
            });
            prop_assert_eq!(made, defined);
        }
    }
}
