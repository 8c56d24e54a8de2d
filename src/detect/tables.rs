//! The rows that detectors see: loaded an hour of event time at once, then cut to each window.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, TimestampMicrosecondArray};
use arrow::compute::{filter_record_batch, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::RwLock;

use super::catalog;
use super::file::{Detector, Scope};
use super::memory_watch::{TooMuchMemory, watched};
use super::statement::{Rows, Statement};
use super::window::Window;
use crate::allow::{AllowList, Spared};
use crate::engine::{Engine, EngineError, Sql, collect, fetch, query_error, replace, select, sql, timestamp};
use crate::rows::{self, texts};
use crate::schema::Table;

const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const DELIVERIES_BETWEEN: Sql = sql!("engine/deliveries_between.sql");
const DELIVERIES_OF_LOADED: Sql = sql!("engine/deliveries_of_loaded.sql");
const TOUCHED_BETWEEN: Sql = sql!("engine/touched_between.sql");
const NAMED_BY_OTHERS: Sql = sql!("engine/named_by_others.sql");
const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");
const EVIDENCE: Sql = sql!("engine/evidence.sql");

const ACTIVITY: &str = "activity";
const REFUSALS: &str = "refusals";
const DELIVERIES: &str = "deliveries";

/// Tables for detectors with scope = "all", made of what everybody does in the window.
pub const OF_EVERYBODY: [(&str, Sql); 2] =
    [(CONTENT_PACE, sql!("engine/content_pace.sql")), ("referer_hosts", sql!("engine/referer_hosts.sql"))];

const CONTENT_PACE: &str = "content_pace";

/// What one viewer of a session's contents fetches in a minute: made of its activity and of [`CONTENT_PACE`].
pub const PACE: (&str, Sql) = ("pace", sql!("engine/pace.sql"));

/// Whether a detector depends on a table of [`OF_EVERYBODY`].
pub fn depends_on(detector: &Detector, name: &str) -> bool {
    detector.reads(name) || name == CONTENT_PACE && detector.reads(PACE.0)
}

/// Ids of sessions.
pub type Sessions = HashSet<String, ahash::RandomState>;

/// The tables [`OF_EVERYBODY`] of windows, by name.
pub type Learned = HashMap<(&'static str, Window), Rows>;

/// The minute tables that a detector can read, cut to its window.
pub const WINDOWED: [(&str, Table); 3] =
    [(ACTIVITY, Table::Activity), (REFUSALS, Table::Refusals), (DELIVERIES, Table::Deliveries)];

/// Rows of a minute table, in batches that are each in order of time.
#[derive(Clone, Default)]
struct Minutes(Vec<RecordBatch>);

impl Minutes {
    /// Appends what a statement gives for a span of time.
    async fn load(&mut self, session: &SessionContext, sql: Sql, span: Span) -> Result<(), EngineError> {
        let (_, batches) = collect(session, sql, span.parameters()).await?;
        let rows = |error: ArrowError| EngineError::Rows { file: sql.file, message: error.to_string() };
        for batch in batches {
            self.0.push(in_order(&batch).map_err(rows)?);
        }
        Ok(())
    }

    /// Lets go of the batches of which nothing is of `start` or later.
    fn drop_before(&mut self, start: DateTime<Utc>) {
        let start = start.timestamp_micros();
        self.0.retain(|batch| minutes(batch).last().is_some_and(|last| *last >= start));
    }

    /// The rows of a window; nothing is copied.
    fn within(&self, window: Window) -> Vec<RecordBatch> {
        let (start, end) = (window.start.timestamp_micros(), window.end.timestamp_micros());
        let cut = |batch: &RecordBatch| {
            let minutes = minutes(batch);
            let from = minutes.partition_point(|minute| *minute < start);
            let until = minutes.partition_point(|minute| *minute < end);
            (from < until).then(|| batch.slice(from, until - from))
        };
        self.0.iter().filter_map(cut).collect()
    }
}

fn minutes(batch: &RecordBatch) -> &[i64] {
    let minutes = batch.column_by_name("minute").expect("every minute table has it");
    minutes.as_primitive::<TimestampMicrosecondType>().values()
}

fn in_order(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if minutes(batch).is_sorted() {
        return Ok(batch.clone());
    }
    let minutes = batch.column_by_name("minute").expect("every minute table has it");
    take_record_batch(batch, &sort_to_indices(minutes, None, None)?)
}

/// From a time on, until before another.
#[derive(Clone, Copy)]
struct Span {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

impl Span {
    fn parameters(self) -> Vec<(&'static str, ScalarValue)> {
        vec![("start", timestamp(self.start)), ("end", timestamp(self.end))]
    }
}

/// Loads the folded rows that windows can see: each once, and kept while a window to come can see it.
pub struct Loader<'a> {
    session: &'a SessionContext,
    allow: &'a AllowList,
    now: DateTime<Utc>,
    /// Detectors look at everybody; else at sessions with new rows.
    all: bool,
    /// A detector reads deliveries.
    delivers: bool,
    loaded: Loaded,
    until: DateTime<Utc>,
}

/// What windows can see.
#[derive(Clone, Default)]
pub struct Loaded {
    activity: Minutes,
    refusals: Minutes,
    deliveries: Minutes,
    /// Which sessions have rows of which batch in which minute.
    touched: Minutes,
    /// Where a session is used with a token that covers its id, requests that merely name it are somebody else's: these
    /// sessions have both.
    others: Sessions,
    /// What is known of everybody; else it is found out.
    learned: Option<Arc<Learned>>,
}

impl<'a> Loader<'a> {
    /// Nothing is loaded yet. `session` has the public tables and `touched`.
    pub fn new(
        session: &'a SessionContext,
        detectors: &[&Detector],
        learned: Option<Arc<Learned>>,
        allow: &'a AllowList,
        now: DateTime<Utc>,
    ) -> Self {
        let all =
            |detector: &&&Detector| detector.scope == Scope::All && !(detector.others_are_learned && learned.is_some());
        Loader {
            session,
            allow,
            now,
            all: detectors.iter().any(|detector| all(&detector)),
            delivers: detectors.iter().any(|detector| detector.reads(DELIVERIES)),
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
        let Loaded { activity, refusals, deliveries, touched, .. } = &mut self.loaded;
        for minutes in [activity, refusals, deliveries, touched] {
            minutes.drop_before(start);
        }
        if self.until < end {
            self.load(Span { start: start.max(self.until), end }, spared).await?;
            self.until = end;
        }
        self.loaded.others = self.named_by_others(Span { start, end }).await?;
        Ok(Arc::new(self.loaded.clone()))
    }

    async fn load(&mut self, span: Span, spared: &mut Spared) -> Result<(), EngineError> {
        let session = self.session;
        let mut new = Minutes::default();
        new.load(session, if self.all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED }, span).await?;
        let takes_requests = self.allow.takes_requests(self.now);
        if takes_requests {
            for batch in &mut new.0 {
                let left = self.allow.filter(batch, self.now, spared);
                *batch = left.map_err(|message| EngineError::Rows { file: ACTIVITY_BETWEEN.file, message })?;
            }
            spared.counted_until = spared.counted_until.max(span.end.timestamp_micros());
        }
        if self.delivers {
            let sql = if self.all && !takes_requests { DELIVERIES_BETWEEN } else { DELIVERIES_OF_LOADED };
            let activity = session.table(ACTIVITY).await.map_err(|error| query_error(sql, error))?;
            let schema = Arc::new(activity.schema().as_arrow().clone());
            replace(session, "loaded_activity", schema, new.0.clone()).map_err(|error| query_error(sql, error))?;
            self.loaded.deliveries.load(session, sql, span).await?;
        }
        self.loaded.activity.0.extend(new.0);
        self.loaded.refusals.load(session, REFUSALS_BETWEEN, span).await?;
        self.loaded.touched.load(session, TOUCHED_BETWEEN, span).await
    }

    /// The sessions that somebody merely names while others use them, whatever the allow-list takes out.
    async fn named_by_others(&self, span: Span) -> Result<Sessions, EngineError> {
        let has_unbound =
            |batch: &RecordBatch| batch.column_by_name("bound").expect("it is selected").as_boolean().has_false();
        if !self.loaded.activity.0.iter().any(has_unbound) {
            return Ok(Sessions::default());
        }
        #[derive(Deserialize)]
        struct Row {
            session_id: String,
        }
        let rows: Vec<Row> = fetch(self.session, NAMED_BY_OTHERS, span.parameters()).await?;
        Ok(rows.into_iter().map(|row| row.session_id).collect())
    }
}

impl Loaded {
    /// The rows of a window.
    fn within(&self, table: &str, window: Window) -> Vec<RecordBatch> {
        let rows = match table {
            ACTIVITY => self.activity.within(window),
            DELIVERIES => self.deliveries.within(window),
            _ => return self.refusals.within(window),
        };
        if self.others.is_empty() {
            rows
        } else {
            rows.iter().map(|batch| without_others(batch, &self.others)).collect()
        }
    }
}

/// The rows without the requests that merely name one of these sessions.
fn without_others(batch: &RecordBatch, sessions: &Sessions) -> RecordBatch {
    let bound = batch.column_by_name("bound").expect("it is selected").as_boolean();
    let ids = texts(batch, "session_id").expect("minute tables have it");
    let is_named = |id: Option<&str>| id.is_some_and(|id| sessions.contains(id));
    let left: BooleanArray =
        bound.iter().zip(ids).map(|(bound, id)| Some(bound == Some(true) || !is_named(id))).collect();
    filter_record_batch(batch, &left).expect("the mask is as long as the batch")
}

/// The statements of a detection, each planned once.
pub struct Statements {
    detectors: Vec<Statement>,
    of_everybody: Vec<Statement>,
    pace: Statement,
    evidence: Statement,
    /// Beyond which growth of the process a run is stopped.
    limit_bytes: usize,
    /// Runs share it; one that lacked memory beside the others has it to itself when it is tried again.
    alone: RwLock<()>,
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
            let table = session.table(name).await.map_err(|error| query_error(EVIDENCE, error))?;
            schemas.push((name, Arc::new(table.schema().as_arrow().clone())));
        }
        let over = async |tables: &[(&'static str, SchemaRef)], sql: Sql| {
            let session = engine.session_of_one_thread();
            let made = Statement::new(session, tables.to_vec(), async |session| select(session, sql.text).await).await;
            made.map_err(|error| query_error(sql, error))
        };
        let evidence = over(&schemas, EVIDENCE).await?;
        let mut of_everybody = Vec::new();
        for (_, sql) in OF_EVERYBODY {
            of_everybody.push(over(&schemas, sql).await?);
        }
        let made = OF_EVERYBODY.iter().zip(&of_everybody).map(|((name, _), statement)| (*name, statement.schema()));
        let mut seen: Vec<_> = schemas.iter().cloned().chain(made).collect();
        let pace = over(&seen, PACE.1).await?;
        seen.push((PACE.0, pace.schema()));
        let mut statements = Vec::new();
        for detector in detectors {
            let session = engine.session_of_one_thread();
            let planned = async {
                catalog::register_lists(&session, lists)?;
                Statement::new(session, seen.clone(), async |session| catalog::plan(session, detector).await).await
            };
            // It was compiled at the start: what fails now is the engine.
            statements.push(planned.await.map_err(|error| query_error(EVIDENCE, error))?);
        }
        let limit_bytes = 2 * engine.memory_bytes();
        Ok(Statements { detectors: statements, of_everybody, pace, evidence, limit_bytes, alone: RwLock::new(()) })
    }

    /// Runs one of the statements, beside others; alone where memory did not suffice for that.
    pub async fn run(
        &self,
        statement: &Statement,
        rows: &[(&'static str, Rows)],
    ) -> Result<Vec<RecordBatch>, DataFusionError> {
        let watched = async || match watched(self.limit_bytes, statement.run(rows)).await {
            Ok(batches) => batches,
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        };
        let lacks_memory = |error: &DataFusionError| match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => true,
            DataFusionError::External(error) => error.is::<TooMuchMemory>(),
            _ => false,
        };
        let beside_others = {
            let _shared = self.alone.read().await;
            watched().await
        };
        match beside_others {
            Err(error) if lacks_memory(&error) => {
                let _alone = self.alone.write().await;
                watched().await
            }
            result => result,
        }
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
    sessions: HashMap<Option<i64>, Arc<Sessions>>,
}

impl<'a> WindowTables<'a> {
    pub fn new(loaded: &'a Loaded, statements: &'a Statements, window: Window) -> Self {
        WindowTables { loaded, statements, window, cut: HashMap::new(), sessions: HashMap::new() }
    }

    /// Every table that a detector reads, which has evaluated the rows of batches until `after`.
    pub async fn of(&mut self, detector: &Detector, after: i64) -> Result<Vec<(&'static str, Rows)>, EngineError> {
        // With scope = "all" everybody is looked at again.
        let after = (detector.scope == Scope::Session || detector.others_are_learned).then_some(after);
        let mut tables = Vec::new();
        for (name, _) in WINDOWED {
            if detector.reads(name) {
                tables.push((name, self.rows(name, after)));
            }
        }
        for (place, (name, _)) in OF_EVERYBODY.into_iter().enumerate() {
            if depends_on(detector, name) {
                tables.push((name, self.of_everybody(place).await?));
            }
        }
        if detector.reads(PACE.0) {
            let pace = self.pace(after, &tables).await?;
            tables.push((PACE.0, pace));
        }
        Ok(tables)
    }

    /// The sessions that a detector looks at: with scope = "session" those with rows of a batch after `after` in the window.
    pub fn sessions(&mut self, scope: Scope, after: i64) -> Arc<Sessions> {
        self.sessions_after((scope == Scope::Session).then_some(after))
    }

    fn sessions_after(&mut self, after: Option<i64>) -> Arc<Sessions> {
        let (loaded, window) = (self.loaded, self.window);
        let made = || {
            let rows = match after {
                Some(_) => loaded.touched.within(window),
                None => loaded.within(ACTIVITY, window),
            };
            let mut sessions = Sessions::default();
            for batch in rows {
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
        let mut rows = self.loaded.within(name, self.window);
        if after.is_some() {
            let sessions = self.sessions_after(after);
            rows = rows.iter().map(|batch| of_sessions(batch, &sessions)).collect();
        }
        let rows = Arc::new(rows);
        self.cut.insert((name, after), rows.clone());
        rows
    }

    async fn pace(&mut self, after: Option<i64>, made: &[(&'static str, Rows)]) -> Result<Rows, EngineError> {
        let (name, sql) = PACE;
        if let Some(known) = self.cut.get(&(name, after)) {
            return Ok(known.clone());
        }
        let of_contents = made.iter().filter(|(name, _)| *name == CONTENT_PACE).cloned();
        let tables: Vec<_> = of_contents.chain([(ACTIVITY, self.rows(ACTIVITY, after))]).collect();
        let made =
            self.statements.run(&self.statements.pace, &tables).await.map_err(|error| query_error(sql, error))?;
        let made = Arc::new(made);
        self.cut.insert((name, after), made.clone());
        Ok(made)
    }

    /// The tables of [`OF_EVERYBODY`] that were made.
    pub fn learned(&self) -> Vec<(&'static str, Rows)> {
        let made = |(name, _): &(&'static str, Sql)| Some((*name, self.cut.get(&(*name, None))?.clone()));
        OF_EVERYBODY.iter().filter_map(made).collect()
    }

    /// The table of this place in [`OF_EVERYBODY`].
    async fn of_everybody(&mut self, place: usize) -> Result<Rows, EngineError> {
        let (name, sql) = OF_EVERYBODY[place];
        if let Some(learned) = &self.loaded.learned {
            return Ok(learned.get(&(name, self.window)).cloned().unwrap_or_default());
        }
        if let Some(known) = self.cut.get(&(name, None)) {
            return Ok(known.clone());
        }
        let activity = self.rows(ACTIVITY, None);
        let made = self.statements.run(&self.statements.of_everybody[place], &[(ACTIVITY, activity)]).await;
        let made = Arc::new(made.map_err(|error| query_error(sql, error))?);
        self.cut.insert((name, None), made.clone());
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
        let found: Sessions = sessions.iter().map(|&session| session.to_owned()).collect();
        let used = self.rows(ACTIVITY, None).iter().map(|batch| of_sessions(batch, &found)).collect();
        let made = self
            .statements
            .evidence
            .run(&[(ACTIVITY, Arc::new(used))])
            .await
            .map_err(|error| query_error(EVIDENCE, error))?;
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
fn of_sessions(batch: &RecordBatch, sessions: &Sessions) -> RecordBatch {
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
