//! The rows that windows can see: loaded some hours of event time at once, or some minutes where there are many.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::error::ArrowError;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::blocks::{Minutes, Numbers, Several};
use super::everybody::OfEverybody;
use super::file::{Detector, Scope, Variety};
use super::statement::Statement;
use super::tables::{Learned, depends_on};
use super::who::USED;
use super::window::Window;
use crate::allow::{AllowList, JUDGED, Spared};
use crate::engine::{EngineError, Sql, begin, collect, fetch, prepare, query_error, replace, sql};

const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const DELIVERIES_BETWEEN: Sql = sql!("engine/deliveries_between.sql");
const DELIVERIES_OF_LOADED: Sql = sql!("engine/deliveries_of_loaded.sql");
const TOUCHED_BETWEEN: Sql = sql!("engine/touched_between.sql");
const NAMED_BY_OTHERS: Sql = sql!("engine/named_by_others.sql");
pub const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");

pub const ACTIVITY: &str = "activity";
pub const REFUSALS: &str = "refusals";
pub const DELIVERIES: &str = "deliveries";

/// Rows that are loaded at once, about: while that lasts, they are in memory some three times.
const LOADED_AT_ONCE: u64 = 150_000;

const MOST_PARTS_OF_AN_HOUR: u64 = 12;

/// Of few rows so many hours are loaded at once: each load costs several statements.
const MOST_HOURS: u64 = 6;

/// The columns of `activity` that are looked at whatever the detectors read: whose requests are whose, and when, and for what the
/// deliveries belong to.
const ALWAYS: [&str; 5] = ["minute", "session_id", "bound", "network", "segments"];

/// Ids of sessions.
pub type Ids = HashSet<String, ahash::RandomState>;

/// How much event time is loaded at once, if the fullest hour has so many rows.
pub fn chunk(rows_of_hour: u64) -> TimeDelta {
    if rows_of_hour * MOST_HOURS <= LOADED_AT_ONCE {
        return TimeDelta::hours(MOST_HOURS as i64);
    }
    let parts = rows_of_hour.div_ceil(LOADED_AT_ONCE).clamp(1, MOST_PARTS_OF_AN_HOUR);
    TimeDelta::minutes(60 / parts as i64)
}

/// The sessions whose ids lie between two others in the order of their bytes; by default all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// The last one before them.
    after: Option<String>,
    /// The last of them.
    until: Option<String>,
}

impl Part {
    /// The parts that end with these sessions, but for the last one, which has no end: nobody is left out.
    pub fn between(lasts: impl Iterator<Item = String>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut after = None;
        for last in lasts {
            parts.push(Part { after: after.replace(last.clone()), until: Some(last) });
        }
        match parts.last_mut() {
            Some(last) => last.until = None,
            None => parts.push(Part::default()),
        }
        parts
    }

    pub fn has(&self, session: &str) -> bool {
        self.after.as_deref().is_none_or(|after| session > after)
            && self.until.as_deref().is_none_or(|until| session <= until)
    }

    fn parameters(&self) -> [(&'static str, ScalarValue); 2] {
        [("after", ScalarValue::Utf8(self.after.clone())), ("until", ScalarValue::Utf8(self.until.clone()))]
    }
}

/// What windows are loaded for.
pub struct Wanted<'a> {
    pub detectors: Vec<(&'a Detector, &'a Statement)>,
    /// What is made of everybody, whether a detector asks for it or not.
    pub learns: BTreeSet<OfEverybody>,
    /// It is told who used the sessions that are found.
    pub tells: bool,
    pub part: Part,
    /// What is known of everybody; else it is found out.
    pub learned: Option<Arc<Learned>>,
}

/// Loads the folded rows that windows can see: each once, and kept while a window to come can see it.
pub struct Loader<'a> {
    session: &'a SessionContext,
    allow: &'a AllowList,
    now: DateTime<Utc>,
    part: Part,
    /// Detectors look at everybody; else at sessions with new rows.
    all: bool,
    /// A detector reads deliveries, and refusals.
    delivers: bool,
    refuses: bool,
    /// The columns of `activity` that are looked at.
    columns: BTreeSet<String>,
    /// What detectors need several of, and what of these in one minute.
    counted: Vec<Variety>,
    counted_in_minutes: Vec<Variety>,
    loaded: Loaded,
    until: DateTime<Utc>,
}

/// What windows can see.
#[derive(Clone, Default)]
pub struct Loaded {
    pub numbers: Arc<Numbers>,
    pub activity: Minutes,
    pub refusals: Minutes,
    pub deliveries: Minutes,
    /// Which sessions have rows of which batch in which minute.
    pub touched: Minutes,
    /// Who had several of what in which minutes of `activity`.
    pub several: Several,
    /// Where a session is used with a token that covers its id, requests that merely name it are somebody else's: these
    /// sessions have both.
    pub others: Ids,
    /// What is known of everybody; else it is found out.
    pub learned: Option<Arc<Learned>>,
}

impl<'a> Loader<'a> {
    /// Nothing is loaded yet. `session` has the public tables and `touched`.
    pub fn new(session: &'a SessionContext, wanted: Wanted<'_>, allow: &'a AllowList, now: DateTime<Utc>) -> Self {
        let Wanted { detectors, learns, tells, part, learned } = wanted;
        let sees_all =
            |detector: &Detector| detector.scope == Scope::All && !(detector.others_are_learned && learned.is_some());
        let reads = |table| detectors.iter().any(|(detector, _)| detector.reads(table));
        let is_counted = |variety: &Variety| {
            learns.iter().any(|table| table.numbered().contains(variety))
                || detectors.iter().any(|(detector, _)| needs_numbers_of(detector, *variety))
        };
        let counted: Vec<Variety> = Variety::ALL.into_iter().filter(is_counted).collect();
        let in_minutes =
            |variety: &Variety| detectors.iter().any(|(detector, _)| detector.needed()[*variety as usize].minutes > 0);
        let counted_in_minutes = Variety::ALL.into_iter().filter(in_minutes).collect();
        let read = detectors.iter().flat_map(|(_, statement)| statement.columns(ACTIVITY));
        let told = if tells { &USED[..] } else { &[] };
        let judged = if allow.takes_requests(now) { &JUDGED[..] } else { &[] };
        let others = ALWAYS.iter().chain(told).chain(judged).copied().chain(counted.iter().map(|v| v.column()));
        Loader {
            session,
            allow,
            now,
            all: !learns.is_empty() || detectors.iter().any(|(detector, _)| sees_all(detector)),
            delivers: reads(DELIVERIES),
            refuses: reads(REFUSALS),
            columns: read.chain(others).map(str::to_owned).collect(),
            counted,
            counted_in_minutes,
            part,
            loaded: Loaded { learned, ..Loaded::default() },
            until: DateTime::<Utc>::MIN_UTC,
        }
    }

    /// Loads what windows from `start` on and until `end` can see. Those that are asked for later begin no earlier.
    pub async fn show(
        &mut self,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
        spared: &mut Spared,
    ) -> Result<Arc<Loaded>, EngineError> {
        let Loaded { activity, refusals, deliveries, touched, several, .. } = &mut self.loaded;
        for minutes in [activity, refusals, deliveries, touched] {
            minutes.drop_before(start);
        }
        several.drop_before(start);
        if self.until < end {
            self.load(Window { start: start.max(self.until), end }, spared).await?;
            self.until = end;
        }
        self.loaded.others = self.named_by_others(Window { start, end }).await?;
        Ok(Arc::new(self.loaded.clone()))
    }

    async fn load(&mut self, span: Window, spared: &mut Spared) -> Result<(), EngineError> {
        let session = self.session;
        let bounds = || span.parameters().into_iter().chain(self.part.parameters()).collect();
        let sql = if self.all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED };
        let takes_requests = self.allow.takes_requests(self.now);
        // What does not wait for the activity runs beside it.
        let all_deliveries =
            (self.delivers && self.all && !takes_requests).then(|| begin(session, DELIVERIES_BETWEEN, bounds()));
        let new_refusals = self.refuses.then(|| begin(session, REFUSALS_BETWEEN, span.parameters()));
        let new_touched = begin(session, TOUCHED_BETWEEN, bounds());
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let frame = prepare(session, sql, bounds()).await?;
        let frame = frame.select_columns(&columns).map_err(|error| query_error(sql, error))?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let mut new = frame.collect().await.map_err(|error| query_error(sql, error))?;
        if takes_requests {
            for batch in &mut new {
                let left = self.allow.filter(batch, self.now, spared);
                *batch = left.map_err(|message| EngineError::Rows { file: sql.file, message })?;
            }
            spared.counted_until = spared.counted_until.max(span.end.timestamp_micros());
        }
        let rows = |sql: Sql, error: ArrowError| EngineError::Rows { file: sql.file, message: error.to_string() };
        let Loaded { numbers, activity, refusals, deliveries, touched, several, .. } = &mut self.loaded;
        let numbers = Arc::make_mut(numbers);
        activity.extend(&new, &self.counted, numbers).map_err(|error| rows(sql, error))?;
        let of_span = activity.within(span);
        several.extend(&of_span, &self.counted_in_minutes, numbers.sessions());
        if self.delivers {
            let (sql, new) = match all_deliveries {
                Some(begun) => (DELIVERIES_BETWEEN, begun.batches().await?),
                None => {
                    replace(session, "loaded_activity", schema, new)
                        .map_err(|error| query_error(DELIVERIES_OF_LOADED, error))?;
                    (DELIVERIES_OF_LOADED, collect(session, DELIVERIES_OF_LOADED, span.parameters()).await?.1)
                }
            };
            deliveries.extend(&new, &[], numbers).map_err(|error| rows(sql, error))?;
        }
        if let Some(begun) = new_refusals {
            refusals.extend(&begun.batches().await?, &[], numbers).map_err(|error| rows(REFUSALS_BETWEEN, error))?;
        }
        touched.extend(&new_touched.batches().await?, &[], numbers).map_err(|error| rows(TOUCHED_BETWEEN, error))?;
        Ok(())
    }

    /// The sessions that somebody merely names while others use them, whatever the allow-list takes out.
    async fn named_by_others(&self, span: Window) -> Result<Ids, EngineError> {
        if !self.loaded.activity.has_unbound() {
            return Ok(Ids::default());
        }
        #[derive(Deserialize)]
        struct Row {
            session_id: String,
        }
        let rows: Vec<Row> = fetch(self.session, NAMED_BY_OTHERS, span.parameters()).await?;
        Ok(rows.into_iter().map(|row| row.session_id).collect())
    }
}

/// Whether sessions are told apart by it for a detector.
fn needs_numbers_of(detector: &Detector, variety: Variety) -> bool {
    let numbered = |table: &OfEverybody| depends_on(detector, *table) && table.numbered().contains(&variety);
    detector.needed()[variety as usize].values > 0 || OfEverybody::ALL.iter().any(numbered)
}

impl Loaded {
    pub fn table(&self, table: &str) -> &Minutes {
        match table {
            ACTIVITY => &self.activity,
            DELIVERIES => &self.deliveries,
            _ => &self.refusals,
        }
    }
}
