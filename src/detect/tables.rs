//! The rows that detectors see: what is loaded, cut to each window; and the statements that see them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, TimeDelta};
use datafusion::common::DataFusionError;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Deserialize;
use tokio::sync::RwLock;

use super::blocks::{Cut, Numbers, count};
use super::catalog;
use super::everybody::{OfEverybody, PACE, pace, pace_schema};
use super::file::{Detector, Needed, Needs, Scope, Variety};
use super::load::{ACTIVITY, ACTIVITY_BETWEEN, DELIVERIES, Ids, Loaded, REFUSALS};
use super::memory_watch::{TooMuchMemory, watched};
use super::statement::{Rows, Statement, Text};
use super::who::{USED, Who, who};
use super::window::Window;
use crate::engine::{Begun, Engine, EngineError, Sql, begin, query_error, sql};
use crate::rows::texts;
use crate::schema::Table;
use crate::store::MemoryStore;

const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");

/// Whether a detector depends on a table that is made of what everybody does.
pub fn depends_on(detector: &Detector, table: OfEverybody) -> bool {
    detector.reads(table.name()) || table == OfEverybody::ContentPace && detector.reads(PACE)
}

/// Whether a detector depends on others only by what is made of everybody: shown some sessions and these tables, it finds the same of
/// them. Of detectors that others write nobody knows.
pub fn others_can_be_learned(detector: &Detector) -> bool {
    catalog::is_built_in(&detector.name) && OfEverybody::ALL.iter().any(|table| depends_on(detector, *table))
}

/// The tables [`OfEverybody`] of windows.
pub type Learned = HashMap<(OfEverybody, Window), Rows>;

/// The minute tables that a detector can read, cut to its window.
pub const WINDOWED: [(&str, Table); 3] =
    [(ACTIVITY, Table::Activity), (REFUSALS, Table::Refusals), (DELIVERIES, Table::Deliveries)];

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
    /// Those who have what it needs.
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
    /// How many different values each session has.
    counts: HashMap<usize, Vec<u32>>,
    /// In how many minutes it has at least so many.
    minutes: HashMap<(usize, u32), Vec<u32>>,
}

impl<'a> WindowTables<'a> {
    pub fn new(loaded: &'a Loaded, statements: &'a Statements, window: Window) -> Self {
        let (cut, of_everybody, sessions, counts, minutes) = Default::default();
        WindowTables { loaded, statements, window, cut, of_everybody, sessions, counts, minutes }
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
            let Needed { values, minutes } = shown.needs[variety as usize];
            let (loaded, window, sessions) = (self.loaded, self.window, self.loaded.numbers.sessions());
            let counts = match minutes {
                _ if values == 0 => continue,
                0 => self
                    .counts
                    .entry(variety as usize)
                    .or_insert_with(|| count(&loaded.activity.within(window), variety, sessions)),
                _ => self
                    .minutes
                    .entry((variety as usize, values))
                    .or_insert_with(|| loaded.several.minutes(window, variety, values, sessions)),
            };
            let least = if minutes == 0 { values } else { minutes };
            kept.iter_mut().zip(counts).for_each(|(kept, count)| *kept &= *count >= least);
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

/// Begins to count the sessions that were active in any of the windows; none if there is no window.
pub fn begin_sessions_in<'a>(
    session: &SessionContext,
    windows: impl Iterator<Item = &'a Window>,
) -> Result<Option<Begun>, EngineError> {
    let (mut minutes, mut span) = (BTreeSet::new(), None::<Window>);
    for window in windows {
        let known = span.unwrap_or(*window);
        span = Some(Window { start: known.start.min(window.start), end: known.end.max(window.end) });
        let mut minute = window.start;
        while minute < window.end {
            minutes.insert(minute.timestamp_micros());
            minute += TimeDelta::minutes(1);
        }
    }
    let Some(span) = span else { return Ok(None) };
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
    Ok(Some(begin(session, SESSIONS_IN_MINUTES, span.parameters())))
}

/// How many these are.
pub async fn sessions_in(begun: Option<Begun>) -> Result<u64, EngineError> {
    #[derive(Deserialize)]
    struct Count {
        sessions: u64,
    }
    let Some(begun) = begun else { return Ok(0) };
    Ok(begun.rows::<Count>().await?.first().map_or(0, |count| count.sessions))
}
