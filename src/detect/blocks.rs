//! Rows of the minute tables with numbers in place of their sessions, so that they are cut and counted without a look at a text.

use std::sync::Arc;

use ahash::RandomState;
use arrow::array::{Array, AsArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, sort_to_indices, take_record_batch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use indexmap::IndexSet;

use super::file::Variety;
use super::window::Window;
use crate::rows::texts;

/// The number of what is null.
pub const NONE: u32 = u32::MAX;

/// Texts, each with a number.
type Texts = IndexSet<Box<str>, RandomState>;

/// The numbers of sessions, and of what they are different in.
#[derive(Clone, Default)]
pub struct Numbers {
    sessions: Texts,
    values: [Texts; Variety::ALL.len()],
}

impl Numbers {
    /// How many sessions have one.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The number of a session.
    pub fn of(&self, session: &str) -> Option<usize> {
        self.sessions.get_index_of(session)
    }

    /// The session of a number.
    pub fn session(&self, number: u32) -> &str {
        &self.sessions[number as usize]
    }

    /// The number of a value.
    pub fn of_value(&self, variety: Variety, value: &str) -> Option<u32> {
        self.values[variety as usize].get_index_of(value).and_then(|place| u32::try_from(place).ok())
    }

    /// The value of a number.
    pub fn value(&self, variety: Variety, number: u32) -> &str {
        &self.values[variety as usize][number as usize]
    }
}

fn numbered<'a>(texts: &mut Texts, column: impl Iterator<Item = Option<&'a str>>) -> Vec<u32> {
    let mut number = |text: &str| {
        let place = texts.get_index_of(text).unwrap_or_else(|| texts.insert_full(text.into()).0);
        u32::try_from(place).expect("memory ends long before 2^32 texts")
    };
    column.map(|text| text.map_or(NONE, &mut number)).collect()
}

/// Rows in order of time.
struct Block {
    rows: RecordBatch,
    /// The session of each row.
    sessions: Vec<u32>,
    /// What is counted of each row, where it is asked for.
    values: [Vec<u32>; Variety::ALL.len()],
}

impl Block {
    /// Of rows with a minute and a session; `counted` are the columns of which sessions may need several values.
    fn new(rows: &RecordBatch, counted: &[Variety], numbers: &mut Numbers) -> Result<Block, ArrowError> {
        let rows = if minutes(rows).is_sorted() {
            rows.clone()
        } else {
            let minutes = rows.column_by_name("minute").expect("every minute table has it");
            take_record_batch(rows, &sort_to_indices(minutes, None, None)?)?
        };
        let column = |name| texts(&rows, name).map_err(ArrowError::SchemaError);
        let sessions = numbered(&mut numbers.sessions, column("session_id")?);
        let mut values: [Vec<u32>; Variety::ALL.len()] = Default::default();
        for variety in counted {
            let place = *variety as usize;
            values[place] = match variety {
                Variety::Operators => {
                    let asn = rows.column_by_name("asn").expect("activity has it").as_primitive::<Int64Type>();
                    // Autonomous systems have numbers of 32 bits; the last one is nobody's (RFC 7300).
                    asn.iter().map(|asn| asn.map_or(NONE, |asn| u32::try_from(asn).unwrap_or(NONE - 1))).collect()
                }
                _ => numbered(&mut numbers.values[place], column(variety.column())?),
            };
        }
        Ok(Block { rows, sessions, values })
    }
}

/// Blocks of a table.
#[derive(Clone, Default)]
pub struct Minutes(Vec<Arc<Block>>);

impl Minutes {
    /// Appends batches of rows.
    pub fn extend(
        &mut self,
        batches: &[RecordBatch],
        counted: &[Variety],
        numbers: &mut Numbers,
    ) -> Result<(), ArrowError> {
        for batch in batches {
            self.0.push(Arc::new(Block::new(batch, counted, numbers)?));
        }
        Ok(())
    }

    /// Lets go of the blocks of which nothing is of `start` or later.
    pub fn drop_before(&mut self, start: DateTime<Utc>) {
        let start = start.timestamp_micros();
        self.0.retain(|block| minutes(&block.rows).last().is_some_and(|last| *last >= start));
    }

    /// Whether a row in any of them is not bound to its token.
    pub fn has_unbound(&self) -> bool {
        let bound = |block: &Arc<Block>| block.rows.column_by_name("bound").is_some_and(|b| b.as_boolean().has_false());
        self.0.iter().any(bound)
    }

    /// The rows of a window; nothing is copied.
    pub fn within(&self, window: Window) -> Vec<Cut<'_>> {
        let (start, end) = (window.start.timestamp_micros(), window.end.timestamp_micros());
        let cut = |block: &'_ Arc<Block>| {
            let minutes = minutes(&block.rows);
            let from = minutes.partition_point(|minute| *minute < start);
            (from, minutes.partition_point(|minute| *minute < end))
        };
        let cuts = self.0.iter().map(|block| (block, cut(block))).filter(|(_, (from, until))| from < until);
        cuts.map(|(block, (from, until))| Cut { block, from, until }).collect()
    }
}

fn minutes(batch: &RecordBatch) -> &[i64] {
    let minutes = batch.column_by_name("minute").expect("every minute table has it");
    minutes.as_primitive::<TimestampMicrosecondType>().values()
}

/// Some rows of a block that follow each other.
pub struct Cut<'a> {
    block: &'a Block,
    from: usize,
    until: usize,
}

impl Cut<'_> {
    pub fn rows(&self) -> RecordBatch {
        self.block.rows.slice(self.from, self.until - self.from)
    }

    /// The numbers of the rows' sessions; none where there is no session.
    pub fn sessions(&self) -> impl Iterator<Item = Option<usize>> {
        self.block.sessions[self.from..self.until].iter().map(|number| (*number != NONE).then_some(*number as usize))
    }

    /// The same, with [`NONE`] where there is no session.
    pub fn numbers(&self) -> &[u32] {
        &self.block.sessions[self.from..self.until]
    }

    /// The numbers of the rows' values, if these are counted; [`NONE`] where there is none. (Of operators their own numbers.)
    pub fn values(&self, variety: Variety) -> &[u32] {
        &self.block.values[variety as usize][self.from..self.until]
    }

    /// The minutes of the rows, in microseconds since the epoch.
    pub fn minutes(&self) -> &[i64] {
        &minutes(&self.block.rows)[self.from..self.until]
    }

    /// How many segments each row of `activity` has.
    pub fn segments(&self) -> &[i64] {
        let segments = self.block.rows.column_by_name("segments").expect("activity has it");
        &segments.as_primitive::<Int64Type>().values()[self.from..self.until]
    }

    /// Whether a row of `activity` is bound to its token.
    pub fn is_bound(&self, row: usize) -> bool {
        let bound = self.block.rows.column_by_name("bound").expect("activity has it").as_boolean();
        bound.is_valid(self.from + row) && bound.value(self.from + row)
    }

    /// The rows of the sessions that are kept, by their numbers: nothing is copied where that are all. Of the others there are
    /// the columns that `is_wanted`.
    pub fn of(&self, kept: &[bool], is_wanted: impl Fn(&str) -> bool) -> RecordBatch {
        let sessions = self.numbers();
        let is_kept = |row: usize| kept.get(sessions[row] as usize).copied().unwrap_or(false);
        let wanted = BooleanArray::new(BooleanBuffer::collect_bool(sessions.len(), is_kept), None);
        let rows = self.rows();
        if wanted.true_count() == rows.num_rows() {
            return rows;
        }
        let names = rows.schema_ref().fields().iter().map(|field| field.name());
        let columns: Vec<usize> =
            names.enumerate().filter(|(_, name)| is_wanted(name)).map(|(column, _)| column).collect();
        let rows = rows.project(&columns).expect("these are columns of it");
        filter_record_batch(&rows, &wanted).expect("the mask is as long as the batch")
    }
}

/// How many different values each session has in these rows, by its number. Nulls are not counted.
pub fn count(cuts: &[Cut<'_>], variety: Variety, sessions: usize) -> Vec<u32> {
    let mut first = vec![NONE; sessions];
    let mut counts = vec![0; sessions];
    // Nearly everybody has one: the rest are told apart by sorting.
    let mut others = Vec::new();
    for cut in cuts {
        let values = &cut.block.values[variety as usize][cut.from..cut.until];
        for (session, value) in cut.sessions().zip(values) {
            let Some(session) = session.filter(|_| *value != NONE) else { continue };
            if first[session] == NONE {
                (first[session], counts[session]) = (*value, 1);
            } else if first[session] != *value {
                others.push((session, *value));
            }
        }
    }
    others.sort_unstable();
    others.dedup();
    for (session, _) in others {
        counts[session] += 1;
    }
    counts
}

/// A minute in which a session has several different values.
#[derive(Clone, Copy)]
struct SeveralInMinute {
    /// In microseconds since the epoch.
    minute: i64,
    session: u32,
    values: u32,
}

/// The minutes in which sessions have several different values, in order of time, by what they are different in. What overlapping
/// windows need to know of a minute is found out once.
#[derive(Clone, Default)]
pub struct Several([Vec<Arc<Vec<SeveralInMinute>>>; Variety::ALL.len()]);

impl Several {
    /// Takes minutes that come after those that are known, with all their rows. `sessions` have numbers.
    pub fn extend(&mut self, cuts: &[Cut<'_>], varieties: &[Variety], sessions: usize) {
        for variety in varieties {
            self.0[*variety as usize].push(Arc::new(several_in_minutes(cuts, *variety, sessions)));
        }
    }

    /// Lets go of what is all before `start`.
    pub fn drop_before(&mut self, start: DateTime<Utc>) {
        let start = start.timestamp_micros();
        let is_needed = |known: &Arc<Vec<SeveralInMinute>>| known.last().is_some_and(|last| last.minute >= start);
        self.0.iter_mut().for_each(|known| known.retain(is_needed));
    }

    /// In how many minutes of a window each session has at least so many (2 or more) different values, by its number. Nulls are
    /// not counted.
    pub fn minutes(&self, window: Window, variety: Variety, values: u32, sessions: usize) -> Vec<u32> {
        let (start, end) = (window.start.timestamp_micros(), window.end.timestamp_micros());
        let mut minutes = vec![0; sessions];
        for known in &self.0[variety as usize] {
            let from = known.partition_point(|row| row.minute < start);
            let until = known.partition_point(|row| row.minute < end);
            let enough = known[from..until].iter().filter(|row| row.values >= values);
            enough.for_each(|row| minutes[row.session as usize] += 1);
        }
        minutes
    }
}

fn several_in_minutes(cuts: &[Cut<'_>], variety: Variety, sessions: usize) -> Vec<SeveralInMinute> {
    // Nearly everybody has one in all: the rest are told apart by sorting.
    let counts = count(cuts, variety, sessions);
    let mut found = Vec::new();
    for cut in cuts {
        for ((session, value), minute) in cut.sessions().zip(cut.values(variety)).zip(cut.minutes()) {
            if let Some(session) = session.filter(|session| *value != NONE && counts[*session] > 1) {
                found.push((*minute, session as u32, *value));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    let of_minutes = found.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).filter(|values| values.len() > 1);
    let several = |values: &[(i64, u32, u32)]| SeveralInMinute {
        minute: values[0].0,
        session: values[0].1,
        values: values.len() as u32,
    };
    of_minutes.map(several).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::rows;
    use crate::schema::Table;

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-20T20:{minute:02}:00Z").parse().unwrap()
    }

    proptest! {
        #[test]
        fn different_values_are_counted_in_the_window_alone(
            found in prop::collection::vec((0u32..20, 0u8..4, prop::option::of(0u8..4), prop::option::of(0u8..4)), 0..60),
            split in 0usize..60,
            from in 0u32..20,
            length in 1u32..20,
        ) {
            let rows: Vec<serde_json::Value> = found.iter().map(|(minute, session, network, asn)| json!({
                "minute": at(*minute), "session_id": format!("s{session}"), "network": network.map(|n| format!("n{n}")), "asn": asn,
                "bound": true, "derived": false, "device": "other", "requests": 1, "manifests": 0, "segments": 1, "bytes": 1,
                "first_seen": at(*minute), "last_seen": at(*minute),
            })).collect();
            let (mut numbers, mut minutes) = (Numbers::default(), Minutes::default());
            let (one, other) = rows.split_at(split.min(rows.len()));
            for part in [one, other] {
                let batch = rows::encode(Table::Activity.schema().public(), part).unwrap();
                minutes.extend(&[batch], &[Variety::Networks, Variety::Operators], &mut numbers).unwrap();
            }
            let window = Window { start: at(from), end: at(from) + chrono::TimeDelta::minutes(length.into()) };
            let cuts = minutes.within(window);
            let inside = |minute: u32| window.start <= at(minute) && at(minute) < window.end;
            let of = |variety| -> BTreeMap<String, u32> {
                let counts = count(&cuts, variety, numbers.sessions());
                (0..4).map(|n| format!("s{n}")).filter_map(|id| Some((id.clone(), counts[numbers.of(&id)?]))).collect()
            };
            let (networks, operators) = (of(Variety::Networks), of(Variety::Operators));
            for (id, counted) in &networks {
                let of_it = found.iter().filter(|(minute, session, ..)| format!("s{session}") == *id && inside(*minute));
                let expected: BTreeSet<u8> = of_it.clone().filter_map(|(_, _, network, _)| *network).collect();
                prop_assert_eq!(*counted as usize, expected.len());
                let expected: BTreeSet<u8> = of_it.filter_map(|(_, _, _, asn)| *asn).collect();
                prop_assert_eq!(operators[id] as usize, expected.len());
            }
            // Taken up to some minute, and from there on.
            let mut several = Several::default();
            let cut_at = at(split as u32 % 20);
            for span in [Window { start: at(0), end: cut_at }, Window { start: cut_at, end: at(20) }] {
                several.extend(&minutes.within(span), &[Variety::Networks], numbers.sessions());
            }
            for values in 2..4 {
                let counted = several.minutes(window, Variety::Networks, values, numbers.sessions());
                for (number, counted) in counted.into_iter().enumerate() {
                    let id = numbers.session(number as u32);
                    let mut expected: BTreeMap<u32, BTreeSet<u8>> = BTreeMap::new();
                    for (minute, session, network, _) in &found {
                        if format!("s{session}") == id && inside(*minute) {
                            expected.entry(*minute).or_default().extend(network);
                        }
                    }
                    let expected = expected.values().filter(|networks| networks.len() >= values as usize).count();
                    prop_assert_eq!(counted as usize, expected);
                }
            }
            let kept: Vec<bool> = (0..numbers.sessions()).map(|number| Some(number) == numbers.of("s1")).collect();
            let left: usize = cuts.iter().map(|cut| cut.of(&kept, |_| true).num_rows()).sum();
            prop_assert_eq!(left, found.iter().filter(|(minute, session, ..)| *session == 1 && inside(*minute)).count());
        }
    }
}
