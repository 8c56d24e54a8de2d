//! The rows that detectors see: loaded an hour of event time at once (more, where few are looked for), then cut to each window.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Deserialize;
use tokio::sync::RwLock;

use super::blocks::{Cut, Minutes, Numbers, count};
use super::catalog;
use super::everybody::{OfEverybody, PACE, pace, pace_schema};
use super::file::{Detector, Needs, Scope, Variety};
use super::memory_watch::{TooMuchMemory, watched};
use super::statement::{Rows, Statement, Text};
use super::who::{USED, Who, who};
use super::window::Window;
use crate::allow::{AllowList, JUDGED, Spared};
use crate::engine::{Engine, EngineError, Sql, collect, fetch, prepare, query_error, replace, sql, timestamp};
use crate::rows::texts;
use crate::schema::Table;
use crate::store::MemoryStore;

const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const DELIVERIES_BETWEEN: Sql = sql!("engine/deliveries_between.sql");
const DELIVERIES_OF_LOADED: Sql = sql!("engine/deliveries_of_loaded.sql");
const TOUCHED_BETWEEN: Sql = sql!("engine/touched_between.sql");
const NAMED_BY_OTHERS: Sql = sql!("engine/named_by_others.sql");
const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");

const ACTIVITY: &str = "activity";
pub const REFUSALS: &str = "refusals";
const DELIVERIES: &str = "deliveries";

/// Rows that are loaded at once, about: while that lasts, they are in memory some three times.
const LOADED_AT_ONCE: u64 = 150_000;

const MOST_PARTS_OF_AN_HOUR: u64 = 12;

/// Of few rows so many hours are loaded at once: each load costs several statements.
const MOST_HOURS: u64 = 6;

/// The columns of `activity` that are looked at whatever the detectors read: whose requests are whose, and when, and for what the
/// deliveries belong to.
const ALWAYS: [&str; 5] = ["minute", "session_id", "bound", "network", "segments"];

/// Whether a detector depends on a table that is made of what everybody does.
pub fn depends_on(detector: &Detector, table: OfEverybody) -> bool {
    detector.reads(table.name()) || table == OfEverybody::ContentPace && detector.reads(PACE)
}

/// Whether a detector depends on others only by what is made of everybody: shown some sessions and these tables, it finds the same of
/// them. Of detectors that others write nobody knows.
pub fn others_can_be_learned(detector: &Detector) -> bool {
    catalog::is_built_in(&detector.name) && OfEverybody::ALL.iter().any(|table| depends_on(detector, *table))
}

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

/// Ids of sessions.
type Ids = HashSet<String, ahash::RandomState>;

/// The tables [`OfEverybody`] of windows.
pub type Learned = HashMap<(OfEverybody, Window), Rows>;

/// The minute tables that a detector can read, cut to its window.
pub const WINDOWED: [(&str, Table); 3] =
    [(ACTIVITY, Table::Activity), (REFUSALS, Table::Refusals), (DELIVERIES, Table::Deliveries)];

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
    part: Part,
    /// Detectors look at everybody; else at sessions with new rows.
    all: bool,
    /// A detector reads deliveries, and refusals.
    delivers: bool,
    refuses: bool,
    /// The columns of `activity` that are looked at.
    columns: BTreeSet<String>,
    /// What detectors need several of.
    counted: Vec<Variety>,
    loaded: Loaded,
    until: DateTime<Utc>,
}

/// What windows can see.
#[derive(Clone, Default)]
pub struct Loaded {
    numbers: Arc<Numbers>,
    activity: Minutes,
    refusals: Minutes,
    deliveries: Minutes,
    /// Which sessions have rows of which batch in which minute.
    touched: Minutes,
    /// Where a session is used with a token that covers its id, requests that merely name it are somebody else's: these
    /// sessions have both.
    others: Ids,
    /// What is known of everybody; else it is found out.
    learned: Option<Arc<Learned>>,
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
        let bounds = || span.parameters().into_iter().chain(self.part.parameters()).collect();
        let sql = if self.all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED };
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let frame = prepare(session, sql, bounds()).await?;
        let frame = frame.select_columns(&columns).map_err(|error| query_error(sql, error))?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let mut new = frame.collect().await.map_err(|error| query_error(sql, error))?;
        let takes_requests = self.allow.takes_requests(self.now);
        if takes_requests {
            for batch in &mut new {
                let left = self.allow.filter(batch, self.now, spared);
                *batch = left.map_err(|message| EngineError::Rows { file: sql.file, message })?;
            }
            spared.counted_until = spared.counted_until.max(span.end.timestamp_micros());
        }
        let rows = |sql: Sql, error: ArrowError| EngineError::Rows { file: sql.file, message: error.to_string() };
        let Loaded { numbers, activity, refusals, deliveries, touched, .. } = &mut self.loaded;
        let numbers = Arc::make_mut(numbers);
        activity.extend(&new, &self.counted, numbers).map_err(|error| rows(sql, error))?;
        if self.delivers {
            let all = self.all && !takes_requests;
            let (sql, bounds) =
                if all { (DELIVERIES_BETWEEN, bounds()) } else { (DELIVERIES_OF_LOADED, span.parameters()) };
            replace(session, "loaded_activity", schema, new).map_err(|error| query_error(sql, error))?;
            let (_, new) = collect(session, sql, bounds).await?;
            deliveries.extend(&new, &[], numbers).map_err(|error| rows(sql, error))?;
        }
        let refusals = self.refuses.then(|| (REFUSALS_BETWEEN, span.parameters(), refusals));
        for (sql, bounds, table) in refusals.into_iter().chain([(TOUCHED_BETWEEN, bounds(), touched)]) {
            let (_, new) = collect(session, sql, bounds).await?;
            table.extend(&new, &[], numbers).map_err(|error| rows(sql, error))?;
        }
        Ok(())
    }

    /// The sessions that somebody merely names while others use them, whatever the allow-list takes out.
    async fn named_by_others(&self, span: Span) -> Result<Ids, EngineError> {
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
    detector.needed()[variety as usize] > 0 || OfEverybody::ALL.iter().any(numbered)
}

impl Loaded {
    fn table(&self, table: &str) -> &Minutes {
        match table {
            ACTIVITY => &self.activity,
            DELIVERIES => &self.deliveries,
            _ => &self.refusals,
        }
    }
}

/// The rows without the requests that merely name one of these sessions.
fn without_others(batch: &RecordBatch, sessions: &Ids) -> RecordBatch {
    let bound = batch.column_by_name("bound").expect("it is selected").as_boolean();
    let ids = texts(batch, "session_id").expect("minute tables have it");
    let is_named = |id: Option<&str>| id.is_some_and(|id| sessions.contains(id));
    let left: BooleanArray =
        bound.iter().zip(ids).map(|(bound, id)| Some(bound == Some(true) || !is_named(id))).collect();
    filter_record_batch(batch, &left).expect("the mask is as long as the batch")
}

/// The statements of a detection, each planned once.
pub struct Statements {
    detectors: Vec<Arc<Statement>>,
    /// Of each table the columns that detectors read with such needs; what they are shown may lack the others.
    read: HashMap<(&'static str, Needs), BTreeSet<String>>,
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
            let table = session.table(name).await.map_err(|error| query_error(ACTIVITY_BETWEEN, error))?;
            schemas.push((name, Arc::new(table.schema().as_arrow().clone())));
        }
        let of_everybody = OfEverybody::ALL.map(|table| (table.name(), table.schema()));
        let seen: Vec<_> = schemas.into_iter().chain(of_everybody).chain([(PACE, pace_schema())]).collect();
        // To plan one takes milliseconds of one thread.
        let planning: Vec<_> = detectors
            .iter()
            .map(|detector| {
                let (engine, detector) = (engine.clone(), detector.clone());
                let text = Text {
                    sql: detector.sql.clone(),
                    parameters: detector
                        .parameters()
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                    lists: lists.clone(),
                    tables: seen.clone(),
                };
                SpawnedTask::spawn(async move {
                    let plan = async || {
                        let session = engine.session_of_one_thread();
                        catalog::register_lists(&session, &text.lists)?;
                        Statement::new(session, text.tables.clone(), async |session| {
                            catalog::plan(session, &detector).await
                        })
                        .await
                    };
                    detector.planned.get_or_plan(text.clone(), &engine, plan).await
                })
            })
            .collect();
        let mut statements = Vec::new();
        for planned in planning {
            let planned = planned.join().await.map_err(|error| DataFusionError::External(Box::new(error)));
            // It was compiled at the start: what fails now is the engine.
            statements.push(planned.flatten().map_err(|error| query_error(ACTIVITY_BETWEEN, error))?);
        }
        let mut read: HashMap<(&'static str, Needs), BTreeSet<String>> = HashMap::new();
        for (detector, statement) in detectors.iter().zip(&statements) {
            for (name, _) in WINDOWED {
                // Whose requests are whose is told by these two.
                let columns = statement.columns(name).chain(["session_id", "bound"]).map(str::to_owned);
                read.entry((name, detector.needed())).or_default().extend(columns);
            }
        }
        let limit_bytes = 2 * engine.memory_bytes();
        Ok(Statements { detectors: statements, read, limit_bytes, alone: RwLock::new(()) })
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

/// Plans detectors, so that they need not be planned when they are run. What fails is told then.
pub fn plan_ahead(engine: &Engine, detectors: &[Detector], lists: &BTreeMap<String, Vec<String>>) -> SpawnedTask<()> {
    let (engine, detectors, lists) = (engine.clone(), detectors.to_vec(), lists.clone());
    SpawnedTask::spawn(async move {
        if let Ok(session) = engine.session_over(&MemoryStore::default(), DateTime::UNIX_EPOCH).await {
            let _ = Statements::new(&engine, &session, &detectors, &lists).await;
        }
    })
}

/// Whom a detector is shown in a window.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Shown {
    /// Those with rows of a batch after this one; else everybody.
    after: Option<i64>,
    /// Those with so many different values.
    needs: Needs,
}

/// Sessions of a window.
#[derive(Clone)]
pub struct Sessions {
    numbers: Arc<Numbers>,
    /// By their numbers.
    kept: Arc<Vec<bool>>,
}

impl Sessions {
    pub fn count(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }

    pub fn contains(&self, session: &str) -> bool {
        self.numbers.of(session).is_some_and(|number| self.kept[number])
    }
}

/// The tables of one window, each made once for all detectors that see the same.
pub struct WindowTables<'a> {
    loaded: &'a Loaded,
    statements: &'a Statements,
    window: Window,
    cut: HashMap<(&'static str, Shown), Rows>,
    of_everybody: HashMap<OfEverybody, Rows>,
    sessions: HashMap<Option<i64>, Sessions>,
    counts: HashMap<usize, Vec<u32>>,
}

impl<'a> WindowTables<'a> {
    pub fn new(loaded: &'a Loaded, statements: &'a Statements, window: Window) -> Self {
        let (cut, of_everybody, sessions, counts) = Default::default();
        WindowTables { loaded, statements, window, cut, of_everybody, sessions, counts }
    }

    /// Every table that a detector reads, which has evaluated the rows of batches until `after`; none if nobody is there whom it
    /// could find.
    pub fn of(&mut self, detector: &Detector, after: i64) -> Option<Vec<(&'static str, Rows)>> {
        // With scope = "all" everybody is looked at again.
        let after = (detector.scope == Scope::Session || detector.others_are_learned).then_some(after);
        let shown = Shown { after, needs: detector.needed() };
        if shown.needs != Needs::default() && !self.kept(shown).contains(&true) {
            return None;
        }
        let mut tables = Vec::new();
        for (name, _) in WINDOWED {
            if detector.reads(name) {
                tables.push((name, self.rows(name, shown)));
            }
        }
        for table in OfEverybody::ALL {
            if depends_on(detector, table) {
                tables.push((table.name(), self.of_everybody(table)));
            }
        }
        if detector.reads(PACE) {
            tables.push((PACE, self.pace(shown)));
        }
        Some(tables)
    }

    /// The sessions that a detector looks at: with scope = "session" those with rows of a batch after `after` in the window.
    pub fn sessions(&mut self, scope: Scope, after: i64) -> Sessions {
        self.sessions_after((scope == Scope::Session).then_some(after))
    }

    fn sessions_after(&mut self, after: Option<i64>) -> Sessions {
        let (loaded, window) = (self.loaded, self.window);
        let made = || {
            let mut kept = vec![false; loaded.numbers.sessions()];
            match after {
                None => {
                    for cut in loaded.activity.within(window) {
                        cut.sessions().flatten().for_each(|session| kept[session] = true);
                    }
                }
                Some(after) => {
                    for cut in loaded.touched.within(window) {
                        let rows = cut.rows();
                        let batches = rows.column_by_name("batch").expect("it is selected").as_primitive::<Int64Type>();
                        let new = cut.sessions().zip(batches.iter()).filter(|(_, batch)| *batch > Some(after));
                        new.filter_map(|(session, _)| session).for_each(|session| kept[session] = true);
                    }
                }
            }
            Sessions { numbers: loaded.numbers.clone(), kept: Arc::new(kept) }
        };
        self.sessions.entry(after).or_insert_with(made).clone()
    }

    /// Who is shown, by numbers.
    fn kept(&mut self, shown: Shown) -> Vec<bool> {
        let mut kept = self.sessions_after(shown.after).kept.to_vec();
        for variety in Variety::ALL {
            let needed = shown.needs[variety as usize];
            if needed > 0 {
                let (loaded, window) = (self.loaded, self.window);
                let made = || count(&loaded.activity.within(window), variety, loaded.numbers.sessions());
                let counts = self.counts.entry(variety as usize).or_insert_with(made);
                kept.iter_mut().zip(counts).for_each(|(kept, count)| *kept &= *count >= needed);
            }
        }
        kept
    }

    fn rows(&mut self, name: &'static str, shown: Shown) -> Rows {
        // Refusals are told of all sessions.
        let shown = if name == REFUSALS { Shown::default() } else { shown };
        if let Some(known) = self.cut.get(&(name, shown)) {
            return known.clone();
        }
        let kept = (shown != Shown::default()).then(|| self.kept(shown));
        let read = self.statements.read.get(&(name, shown.needs));
        let is_wanted = |column: &str| read.is_some_and(|read| read.contains(column));
        let rows = Arc::new(self.rows_of(name, kept.as_deref(), is_wanted));
        self.cut.insert((name, shown), rows.clone());
        rows
    }

    /// The rows of some sessions, by their numbers, in the columns that are wanted at least; or those of all.
    fn rows_of(&self, name: &str, kept: Option<&[bool]>, is_wanted: impl Fn(&str) -> bool) -> Vec<RecordBatch> {
        let cuts = self.loaded.table(name).within(self.window);
        let rows = cuts.iter().map(|cut| kept.map_or_else(|| cut.rows(), |kept| cut.of(kept, &is_wanted)));
        let others = &self.loaded.others;
        let rows = rows.map(|batch| match others.is_empty() || name == REFUSALS {
            true => batch,
            false => without_others(&batch, others),
        });
        rows.filter(|batch| batch.num_rows() > 0).collect()
    }

    fn pace(&mut self, shown: Shown) -> Rows {
        if let Some(known) = self.cut.get(&(PACE, shown)) {
            return known.clone();
        }
        let (content_pace, kept) = (self.of_everybody(OfEverybody::ContentPace), self.kept(shown));
        let cuts = self.loaded.activity.within(self.window);
        let made = pace(&cuts, &self.loaded.numbers, |session| kept[session], &content_pace, self.left_out());
        let made = Arc::new(vec![made]);
        self.cut.insert((PACE, shown), made.clone());
        made
    }

    /// The tables [`OfEverybody`] that were made.
    pub fn learned(self) -> impl Iterator<Item = (OfEverybody, Rows)> {
        self.of_everybody.into_iter()
    }

    /// What is made of everybody.
    pub fn of_everybody(&mut self, table: OfEverybody) -> Rows {
        if let Some(learned) = &self.loaded.learned {
            return learned.get(&(table, self.window)).cloned().unwrap_or_default();
        }
        if let Some(known) = self.of_everybody.get(&table) {
            return known.clone();
        }
        let cuts = self.loaded.activity.within(self.window);
        let made = Arc::new(vec![table.of(&cuts, &self.loaded.numbers, self.left_out())]);
        self.of_everybody.insert(table, made.clone());
        made
    }

    /// The rows that merely name a session that others use.
    fn left_out(&self) -> impl Fn(&Cut<'_>, usize) -> bool + use<> {
        let Loaded { others, numbers, .. } = self.loaded;
        let mut named = vec![false; if others.is_empty() { 0 } else { numbers.sessions() }];
        others.iter().filter_map(|session| numbers.of(session)).for_each(|session| named[session] = true);
        move |cut, row| !named.is_empty() && named[cut.numbers()[row] as usize] && !cut.is_bound(row)
    }

    /// Who used these sessions.
    pub fn who(&self, sessions: &BTreeSet<&str>) -> Result<Who, EngineError> {
        if sessions.is_empty() {
            return Ok(Who::new());
        }
        let mut found = vec![false; self.loaded.numbers.sessions()];
        sessions.iter().filter_map(|session| self.loaded.numbers.of(session)).for_each(|session| found[session] = true);
        let used = self.rows_of(ACTIVITY, Some(&found), |column| USED.contains(&column) || column == "bound");
        who(&used).map_err(|message| EngineError::Rows { file: ACTIVITY_BETWEEN.file, message })
    }
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
