//! The rows that detectors see: loaded an hour of event time at once, in order of time, then cut to each window.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::catalog;
use super::file::{Detector, Scope};
use super::statement::{Rows, Statement};
use super::window::Window;
use crate::allow::{AllowList, Spared};
use crate::engine::{Engine, EngineError, Sql, collect, fetch, query_error, replace, select, sql, timestamp};
use crate::rows::{self, texts};
use crate::schema::Table;

const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const DELIVERIES_OF_LOADED: Sql = sql!("engine/deliveries_of_loaded.sql");
const TOUCHED_BETWEEN: Sql = sql!("engine/touched_between.sql");
const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");
pub const PACE: Sql = sql!("engine/pace.sql");
const EVIDENCE: Sql = sql!("engine/evidence.sql");

const ACTIVITY: &str = "activity";
const REFUSALS: &str = "refusals";
const DELIVERIES: &str = "deliveries";
const FOUND: &str = "found";

/// What one viewer of a session's contents fetches in a minute: a table for detectors with scope = "all".
pub const PACE_TABLE: &str = "pace";

/// The minute tables that a detector can read, cut to its window.
pub const WINDOWED: [(&str, Table); 3] =
    [(ACTIVITY, Table::Activity), (REFUSALS, Table::Refusals), (DELIVERIES, Table::Deliveries)];

/// Rows in order of their minutes.
#[derive(Default)]
struct Minutes(Vec<RecordBatch>);

impl Minutes {
    async fn load(
        session: &SessionContext,
        sql: Sql,
        (start, end): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<(SchemaRef, Minutes), EngineError> {
        let bounds = vec![("start", timestamp(start)), ("end", timestamp(end))];
        let (schema, batches) = collect(session, sql, bounds).await?;
        Ok((schema, Minutes(batches)))
    }

    /// Takes out what the allow-list spares.
    fn retain(&mut self, allow: &AllowList, now: DateTime<Utc>, spared: &mut Spared) -> Result<(), EngineError> {
        for batch in &mut self.0 {
            let left = allow.filter(batch, now, spared);
            *batch = left.map_err(|message| EngineError::Rows { file: ACTIVITY_BETWEEN.file, message })?;
        }
        Ok(())
    }

    /// The rows of a window; nothing is copied.
    fn within(&self, window: Window) -> Vec<RecordBatch> {
        let (start, end) = (window.start.timestamp_micros(), window.end.timestamp_micros());
        let cut = |batch: &RecordBatch| {
            let minutes = batch.column_by_name("minute").expect("every minute table has it");
            let minutes = minutes.as_primitive::<TimestampMicrosecondType>().values();
            let from = minutes.partition_point(|minute| *minute < start);
            let until = minutes.partition_point(|minute| *minute < end);
            (from < until).then(|| batch.slice(from, until - from))
        };
        self.0.iter().filter_map(cut).collect()
    }
}

/// The folded rows that the windows of a chunk can see.
pub struct Loaded {
    activity: Minutes,
    refusals: Minutes,
    deliveries: Minutes,
    /// Which sessions have rows of which batch in which minute.
    touched: Minutes,
}

impl Loaded {
    pub async fn new(
        session: &SessionContext,
        chunk: &[(Window, &Vec<usize>)],
        detectors: &[Detector],
        allow: &AllowList,
        now: DateTime<Utc>,
        spared: &mut Spared,
    ) -> Result<Loaded, EngineError> {
        let start = chunk.iter().map(|(window, _)| window.start).min().unwrap_or_default();
        let end = chunk.iter().map(|(window, _)| window.end).max().unwrap_or_default();
        let of_chunk = || chunk.iter().flat_map(|(_, indexes)| indexes.iter().map(|&index| &detectors[index]));
        let all = of_chunk().any(|detector| detector.scope == Scope::All);
        let sql = if all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED };
        let (schema, mut activity) = Minutes::load(session, sql, (start, end)).await?;
        if allow.takes_requests(now) {
            activity.retain(allow, now, spared)?;
            spared.counted_until = spared.counted_until.max(end.timestamp_micros());
        }
        let deliveries = match of_chunk().any(|detector| detector.reads(DELIVERIES)) {
            true => {
                replace(session, "loaded_activity", schema, activity.0.clone())
                    .map_err(|error| query_error(DELIVERIES_OF_LOADED, error))?;
                Minutes::load(session, DELIVERIES_OF_LOADED, (start, end)).await?.1
            }
            false => Minutes::default(),
        };
        Ok(Loaded {
            activity,
            deliveries,
            refusals: Minutes::load(session, REFUSALS_BETWEEN, (start, end)).await?.1,
            touched: Minutes::load(session, TOUCHED_BETWEEN, (start, end)).await?.1,
        })
    }
}

/// The statements of a detection, each planned once.
pub struct Statements {
    detectors: Vec<Statement>,
    pace: Statement,
    evidence: Statement,
}

impl Statements {
    /// `session` has the public tables, whose rows the windows will hold.
    pub async fn new(
        engine: &Engine,
        session: &SessionContext,
        detectors: &[Detector],
        lists: &BTreeMap<String, Vec<String>>,
    ) -> Result<Statements, EngineError> {
        let mut schemas = Vec::new();
        for (name, _) in WINDOWED {
            let table = session.table(name).await.map_err(|error| query_error(PACE, error))?;
            schemas.push((name, Arc::new(table.schema().as_arrow().clone())));
        }
        let pace = Statement::new(engine.session(), schemas.clone(), async |session| select(session, PACE.text).await);
        let pace = pace.await.map_err(|error| query_error(PACE, error))?;
        let found = rows::texts_batch("session_id", [""; 0]);
        let with_found: Vec<_> = schemas.iter().cloned().chain([(FOUND, found.schema())]).collect();
        let evidence =
            Statement::new(engine.session(), with_found, async |session| select(session, EVIDENCE.text).await);
        let evidence = evidence.await.map_err(|error| query_error(EVIDENCE, error))?;
        schemas.push((PACE_TABLE, pace.schema()));
        let mut statements = Vec::new();
        for detector in detectors {
            let session = engine.session();
            let planned = async {
                catalog::register_lists(&session, lists)?;
                Statement::new(session, schemas.clone(), async |session| catalog::plan(session, detector).await).await
            };
            // It was compiled at the start: what fails now is the engine.
            statements.push(planned.await.map_err(|error| query_error(PACE, error))?);
        }
        Ok(Statements { detectors: statements, pace, evidence })
    }

    pub fn detector(&self, index: usize) -> &Statement {
        &self.detectors[index]
    }
}

/// The tables of one window, each made once for all detectors that see the same.
pub struct WindowTables<'a> {
    loaded: &'a Loaded,
    statements: &'a Statements,
    window: Window,
    cut: HashMap<(&'static str, Option<i64>), Rows>,
    sessions: HashMap<Option<i64>, Arc<HashSet<String>>>,
}

impl<'a> WindowTables<'a> {
    pub fn new(loaded: &'a Loaded, statements: &'a Statements, window: Window) -> Self {
        WindowTables { loaded, statements, window, cut: HashMap::new(), sessions: HashMap::new() }
    }

    /// Every table that a detector reads, which has evaluated the rows of batches until `after`.
    pub async fn of(&mut self, detector: &Detector, after: i64) -> Result<Vec<(&'static str, Rows)>, EngineError> {
        // With scope = "all" everybody is looked at again.
        let after = (detector.scope == Scope::Session || detector.others_by_pace).then_some(after);
        let mut tables = Vec::new();
        for (name, _) in WINDOWED {
            if detector.reads(name) {
                tables.push((name, self.rows(name, after)));
            }
        }
        if detector.reads(PACE_TABLE) {
            tables.push((PACE_TABLE, self.pace().await?));
        }
        Ok(tables)
    }

    /// The sessions that a detector looks at: with scope = "session" those with rows of a batch after `after` in the window.
    pub fn sessions(&mut self, scope: Scope, after: i64) -> Arc<HashSet<String>> {
        self.sessions_after((scope == Scope::Session).then_some(after))
    }

    fn sessions_after(&mut self, after: Option<i64>) -> Arc<HashSet<String>> {
        let (loaded, window) = (self.loaded, self.window);
        let made = || {
            let rows = if after.is_some() { &loaded.touched } else { &loaded.activity };
            let mut sessions = HashSet::new();
            for batch in rows.within(window) {
                let ids = texts(&batch, "session_id").expect("minute tables have it");
                match after {
                    None => sessions.extend(ids.flatten().map(str::to_owned)),
                    Some(after) => {
                        let batches =
                            batch.column_by_name("batch").expect("it is selected").as_primitive::<Int64Type>();
                        let new = ids.zip(batches.iter()).filter(|(_, batch)| batch.is_some_and(|batch| batch > after));
                        sessions.extend(new.filter_map(|(id, _)| id).map(str::to_owned));
                    }
                }
            }
            Arc::new(sessions)
        };
        self.sessions.entry(after).or_insert_with(made).clone()
    }

    fn rows(&mut self, name: &'static str, after: Option<i64>) -> Rows {
        // Refusals are told of all sessions.
        let after = after.filter(|_| name != REFUSALS);
        if let Some(known) = self.cut.get(&(name, after)) {
            return known.clone();
        }
        let minutes = match name {
            ACTIVITY => &self.loaded.activity,
            REFUSALS => &self.loaded.refusals,
            _ => &self.loaded.deliveries,
        };
        let mut rows = minutes.within(self.window);
        if after.is_some() {
            let sessions = self.sessions_after(after);
            rows = rows.iter().map(|batch| of_sessions(batch, &sessions)).collect();
        }
        let rows = Arc::new(rows);
        self.cut.insert((name, after), rows.clone());
        rows
    }

    async fn pace(&mut self) -> Result<Rows, EngineError> {
        if let Some(known) = self.cut.get(&(PACE_TABLE, None)) {
            return Ok(known.clone());
        }
        let activity = self.rows(ACTIVITY, None);
        let made = self.statements.pace.run(&[(ACTIVITY, activity)]).await.map_err(|error| query_error(PACE, error))?;
        let made = Arc::new(made);
        self.cut.insert((PACE_TABLE, None), made.clone());
        Ok(made)
    }
}

impl WindowTables<'_> {
    /// Who used these sessions, by session: `{"networks": {"different": 7, "most": [{…}]}, "countries": …}`.
    pub async fn who(&mut self, sessions: &BTreeSet<&str>) -> Result<HashMap<String, Map<String, Value>>, EngineError> {
        if sessions.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = |message: String| EngineError::Rows { file: EVIDENCE.file, message };
        let found = rows::texts_batch("session_id", sessions);
        let tables = [(ACTIVITY, self.rows(ACTIVITY, None)), (FOUND, Arc::new(vec![found]))];
        let made = self.statements.evidence.run(&tables).await.map_err(|error| query_error(EVIDENCE, error))?;
        let mut who: HashMap<String, Map<String, Value>> = HashMap::new();
        for mut row in rows::to_json(&made).map_err(rows)? {
            let mut take = |column: &str| row.remove(column).unwrap_or_default();
            let (session, what, different) = (take("session_id"), take("what"), take("different"));
            let (Some(session), Some(what)) = (session.as_str(), what.as_str()) else { continue };
            let of_session = who.entry(session.to_owned()).or_default();
            let list = of_session.entry(what).or_insert_with(|| json!({"different": different, "most": []}));
            if let Some(most) = list["most"].as_array_mut() {
                most.push(Value::Object(row));
            }
        }
        Ok(who)
    }
}

/// The rows of some sessions.
fn of_sessions(batch: &RecordBatch, sessions: &HashSet<String>) -> RecordBatch {
    let ids = texts(batch, "session_id").expect("minute tables have it");
    let wanted: BooleanArray = ids.map(|id| Some(id.is_some_and(|id| sessions.contains(id)))).collect();
    filter_record_batch(batch, &wanted).expect("the mask is as long as the batch")
}

/// Sessions that were active in any of the windows.
pub async fn sessions_in(session: &SessionContext, windows: impl Iterator<Item = &Window>) -> Result<u64, EngineError> {
    #[derive(Deserialize)]
    struct Count {
        sessions: u64,
    }
    let mut minutes = BTreeSet::new();
    for window in windows {
        let mut minute = window.start;
        while minute < window.end {
            minutes.insert(minute.timestamp_micros());
            minute += TimeDelta::minutes(1);
        }
    }
    let schema = Arc::new(Schema::new(vec![Field::new(
        "minute",
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        false,
    )]));
    let column = TimestampMicrosecondArray::from_iter_values(minutes).with_timezone("UTC");
    let rows = |error: String| EngineError::Rows { file: SESSIONS_IN_MINUTES.file, message: error };
    let batch =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(column)]).map_err(|error| rows(error.to_string()))?;
    let table =
        MemTable::try_new(schema, vec![vec![batch]]).map_err(|error| query_error(SESSIONS_IN_MINUTES, error))?;
    session
        .register_table("evaluated_minutes", Arc::new(table))
        .map_err(|error| query_error(SESSIONS_IN_MINUTES, error))?;
    let counts: Vec<Count> = fetch(session, SESSIONS_IN_MINUTES, vec![]).await?;
    Ok(counts.first().map_or(0, |count| count.sessions))
}
