//! Evaluates the detectors on every window that holds a new row, and on no other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{AsArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Finding;
use super::catalog;
use super::file::{Detector, Scope, Strength};
use super::memory_watch::watched;
use super::window::{Window, windows_over};
use crate::engine::{Engine, EngineError, Sql, fetch, prepare, query_error, sql, timestamp};
use crate::progress::Stage;
use crate::rows;
use crate::schema::Table;
use crate::store::{Store, StoreError, Transaction};

const TOUCHED: Sql = sql!("engine/touched.sql");
const TOUCHED_MINUTES: Sql = sql!("engine/touched_minutes.sql");
const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const WINDOW_OF_TOUCHED: Sql = sql!("engine/window_of_touched.sql");
const WINDOW_OF_ALL: Sql = sql!("engine/window_of_all.sql");
const WINDOW_OF_REFUSALS: Sql = sql!("engine/window_of_refusals.sql");
const FINDINGS_BETWEEN: Sql = sql!("engine/findings_between.sql");
const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");

/// What one detection did.
#[derive(Debug, Default)]
pub struct Detection {
    pub detectors: BTreeMap<String, DetectorStats>,
    /// Sessions that were active in the evaluated windows.
    pub sessions: u64,
    /// How many sessions with new rows each evaluated window held, by its end.
    pub sessions_by_end: BTreeMap<DateTime<Utc>, u64>,
    /// Detectors that failed, and why. Their windows are evaluated again next time.
    pub failures: Vec<String>,
}

/// What `run --output json` says of a detector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DetectorStats {
    /// Findings that are new or have changed.
    pub findings: u64,
    pub seconds: f64,
}

/// A row of the stored table `findings`.
#[derive(Serialize)]
struct FindingRow<'a> {
    evaluation: i64,
    session_id: &'a str,
    detector: &'a str,
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
    /// Null: no longer found.
    score: Option<f64>,
    strength: Option<Strength>,
    family: Option<&'a str>,
    evidence: Option<&'a str>,
    run_id: &'a str,
}

#[derive(Deserialize)]
struct TouchedMinute {
    minute: DateTime<Utc>,
    batch: i64,
}

/// Why detection stopped. A detector that fails does not stop it.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("findings cannot be stored: {0}")]
    Rows(String),
}

/// Key of a finding: who, by which detector, in which window.
type Key = (String, String, Window);

/// The sessions that a detector looked at in a window.
type Evaluated = HashMap<(String, Window), Arc<HashSet<String>>>;

/// Evaluates what was ingested since each detector last ran, and appends what is new to `findings`.
pub async fn detect(
    engine: &Engine,
    store: &dyn Store,
    detectors: &[Detector],
    lists: &BTreeMap<String, Vec<String>>,
    now: DateTime<Utc>,
    run_id: &str,
    stage: &Stage,
) -> Result<Detection, DetectError> {
    let mut detection = Detection::default();
    for detector in detectors {
        detection.detectors.insert(detector.name.clone(), DetectorStats::default());
    }
    let batch = store.transaction(Table::Activity, "ingest").await?.unwrap_or(0);
    let overall = store.transaction(Table::Findings, "detect").await?.unwrap_or(0);
    let mut after = Vec::new();
    for detector in detectors {
        let own = store.transaction(Table::Findings, &own_progress(detector)).await?;
        after.push(own.unwrap_or(overall));
    }
    let Some(first) = after.iter().copied().filter(|after| *after < batch).min() else {
        return Ok(detection);
    };

    let session = engine.session_over(store, now).await?;
    register(&session, "touched", TOUCHED, vec![("after", ScalarValue::Int64(Some(first)))]).await?;
    let minutes: Vec<TouchedMinute> = fetch(&session, TOUCHED_MINUTES, vec![]).await?;
    let mut jobs: BTreeMap<Window, Vec<usize>> = BTreeMap::new();
    for (index, detector) in detectors.iter().enumerate() {
        let new = minutes.iter().filter(|minute| minute.batch > after[index]).map(|minute| minute.minute);
        for window in windows_over(new, detector.window, detector.every) {
            jobs.entry(window).or_default().push(index);
        }
    }
    stage.set_total(jobs.values().map(|detectors| detectors.len() as u64).sum());

    let mut found: HashMap<Key, Finding> = HashMap::new();
    let mut evaluated = Evaluated::new();
    let mut failed: BTreeSet<usize> = BTreeSet::new();
    for (_, chunk) in chunks_by_hour(&jobs) {
        load(&session, &chunk, detectors).await?;
        for (window, indexes) in chunk {
            let mut cut = WindowTables { session: &session, window, cut: HashMap::new() };
            for &index in indexes {
                stage.advance(1);
                if failed.contains(&index) {
                    continue;
                }
                let detector = &detectors[index];
                let (activity, sessions) = cut.activity(detector.scope, after[index]).await?;
                let refusals = cut.refusals().await?;
                if detector.scope == Scope::Session {
                    detection.sessions_by_end.insert(window.end, sessions.len() as u64);
                }
                let started = Instant::now();
                let result = run(engine, detector, window, activity, refusals, lists, run_id).await;
                let stats = detection.detectors.entry(detector.name.clone()).or_default();
                stats.seconds += started.elapsed().as_secs_f64();
                match result {
                    Ok(findings) => {
                        evaluated.insert((detector.name.clone(), window), sessions);
                        found.extend(
                            findings.into_iter().map(|finding| {
                                ((finding.session_id.clone(), finding.detector.clone(), window), finding)
                            }),
                        );
                    }
                    Err(message) => {
                        detection.failures.push(format!("detector {} ({}): {message}", detector.name, detector.path));
                        failed.insert(index);
                    }
                }
            }
        }
    }
    // What a failed detector found before it failed is found again when it works.
    found.retain(|(_, name, _), _| !failed.iter().any(|&index| detectors[index].name == *name));
    evaluated.retain(|(name, _), _| !failed.iter().any(|&index| detectors[index].name == *name));

    let (changed, gone) = compare(&session, &jobs, &found, &evaluated).await?;
    for finding in &changed {
        detection.detectors.entry(finding.detector.clone()).or_default().findings += 1;
    }
    detection.sessions = sessions_in(&session, jobs.keys()).await?;

    // Detections have numbers of their own: one that makes up for a failure sees no new batch.
    let evaluation = evaluations(store).await? + 1;
    let mut transactions = vec![Transaction::new("detect", batch), Transaction::new("evaluation", evaluation)];
    for (index, detector) in detectors.iter().enumerate() {
        let version = if failed.contains(&index) { after[index] } else { batch };
        transactions.push(Transaction::new(own_progress(detector), version));
    }
    let stored: Vec<FindingRow> = changed
        .iter()
        .map(|finding| row(finding, evaluation))
        .chain(gone.iter().map(|key| withdrawn(key, evaluation, run_id)))
        .collect();
    let rows = match stored.is_empty() {
        true => vec![],
        false => vec![rows::encode(Table::Findings.schema().stored(), &stored).map_err(DetectError::Rows)?],
    };
    store.append(Table::Findings, rows, &transactions).await?;
    Ok(detection)
}

/// How many detections there were.
pub async fn evaluations(store: &dyn Store) -> Result<i64, StoreError> {
    Ok(store.transaction(Table::Findings, "evaluation").await?.unwrap_or(0))
}

/// The transaction that tells how far one detector has come: it stays behind when the detector fails.
fn own_progress(detector: &Detector) -> String {
    format!("detect:{}", detector.name)
}

fn row(finding: &Finding, evaluation: i64) -> FindingRow<'_> {
    FindingRow {
        evaluation,
        session_id: &finding.session_id,
        detector: &finding.detector,
        window_start: finding.window_start,
        window_end: finding.window_end,
        score: Some(finding.score),
        strength: Some(finding.strength),
        family: Some(&finding.family),
        evidence: Some(&finding.evidence),
        run_id: &finding.run_id,
    }
}

fn withdrawn<'a>((session_id, detector, window): &'a Key, evaluation: i64, run_id: &'a str) -> FindingRow<'a> {
    FindingRow {
        evaluation,
        session_id,
        detector,
        window_start: window.start,
        window_end: window.end,
        score: None,
        strength: None,
        family: None,
        evidence: None,
        run_id,
    }
}

/// The jobs in groups of an hour of event time: what is in memory at once is an hour and a window.
fn chunks_by_hour(jobs: &BTreeMap<Window, Vec<usize>>) -> BTreeMap<i64, Vec<(Window, &Vec<usize>)>> {
    let mut chunks: BTreeMap<i64, Vec<(Window, &Vec<usize>)>> = BTreeMap::new();
    for (window, detectors) in jobs {
        chunks.entry(window.end.timestamp().div_euclid(3_600)).or_default().push((*window, detectors));
    }
    chunks
}

/// Loads the folded rows that the windows of a chunk can see.
async fn load(
    session: &SessionContext,
    chunk: &[(Window, &Vec<usize>)],
    detectors: &[Detector],
) -> Result<(), EngineError> {
    let start = chunk.iter().map(|(window, _)| window.start).min().unwrap_or_default();
    let end = chunk.iter().map(|(window, _)| window.end).max().unwrap_or_default();
    let bounds = || vec![("start", timestamp(start)), ("end", timestamp(end))];
    let all = chunk.iter().any(|(_, indexes)| indexes.iter().any(|&index| detectors[index].scope == Scope::All));
    register(session, "loaded_activity", if all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED }, bounds()).await?;
    register(session, "loaded_refusals", REFUSALS_BETWEEN, bounds()).await
}

/// Runs a statement and registers its rows as a table, in place of one that had the name before.
async fn register(
    session: &SessionContext,
    name: &str,
    sql: Sql,
    parameters: Vec<(&'static str, ScalarValue)>,
) -> Result<(), EngineError> {
    let table = memory_table(session, sql, parameters).await?;
    session.deregister_table(name).map_err(|error| query_error(sql, error))?;
    session.register_table(name, Arc::new(table)).map_err(|error| query_error(sql, error))?;
    Ok(())
}

async fn memory_table(
    session: &SessionContext,
    sql: Sql,
    parameters: Vec<(&'static str, ScalarValue)>,
) -> Result<MemTable, EngineError> {
    let frame = prepare(session, sql, parameters).await?;
    let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.map_err(|error| query_error(sql, error))?;
    MemTable::try_new(schema, vec![batches]).map_err(|error| query_error(sql, error))
}

/// A minute table cut to a window, and the sessions in it.
type Cut = (Arc<MemTable>, Arc<HashSet<String>>);

/// The minute tables cut to one window, made once for all detectors that see the same.
struct WindowTables<'a> {
    session: &'a SessionContext,
    window: Window,
    cut: HashMap<(Table, Option<i64>), Cut>,
}

impl WindowTables<'_> {
    fn bounds(&self) -> Vec<(&'static str, ScalarValue)> {
        vec![("start", timestamp(self.window.start)), ("end", timestamp(self.window.end))]
    }

    /// The window's activity, and the sessions in it.
    async fn activity(&mut self, scope: Scope, after: i64) -> Result<Cut, EngineError> {
        let key = (Table::Activity, (scope == Scope::Session).then_some(after));
        if let Some(known) = self.cut.get(&key) {
            return Ok(known.clone());
        }
        let mut parameters = self.bounds();
        let sql = match scope {
            Scope::Session => {
                parameters.push(("after", ScalarValue::Int64(Some(after))));
                WINDOW_OF_TOUCHED
            }
            Scope::All => WINDOW_OF_ALL,
        };
        let frame = prepare(self.session, sql, parameters).await?;
        let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(|error| query_error(sql, error))?;
        let mut sessions = HashSet::new();
        for batch in &batches {
            let ids =
                text_column(batch, "session_id").map_err(|message| EngineError::Rows { file: sql.file, message })?;
            sessions.extend(ids.into_iter().flatten());
        }
        let table = MemTable::try_new(schema, vec![batches]).map_err(|error| query_error(sql, error))?;
        let made = (Arc::new(table), Arc::new(sessions));
        self.cut.insert(key, made.clone());
        Ok(made)
    }

    async fn refusals(&mut self) -> Result<Arc<MemTable>, EngineError> {
        let key = (Table::Refusals, None);
        if let Some((table, _)) = self.cut.get(&key) {
            return Ok(table.clone());
        }
        let table = Arc::new(memory_table(self.session, WINDOW_OF_REFUSALS, self.bounds()).await?);
        self.cut.insert(key, (table.clone(), Arc::default()));
        Ok(table)
    }
}

/// Runs one detector on one window. The error is for people: it says what was wrong with the result.
async fn run(
    engine: &Engine,
    detector: &Detector,
    window: Window,
    activity: Arc<MemTable>,
    refusals: Arc<MemTable>,
    lists: &BTreeMap<String, Vec<String>>,
    run_id: &str,
) -> Result<Vec<Finding>, String> {
    let session = engine.session();
    let query = async {
        session.register_table(Table::Activity.name(), activity)?;
        session.register_table(Table::Refusals.name(), refusals)?;
        catalog::register_lists(&session, lists)?;
        catalog::plan(&session, detector).await?.collect().await
    };
    let batches = watched(2 * engine.memory_bytes(), query)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.strip_backtrace())?;
    let mut findings: HashMap<String, Finding> = HashMap::new();
    for batch in &batches {
        for finding in read_findings(batch, detector, window, run_id)? {
            match findings.get(&finding.session_id) {
                Some(known) if known.score >= finding.score => {}
                _ => {
                    findings.insert(finding.session_id.clone(), finding);
                }
            }
        }
    }
    Ok(findings.into_values().collect())
}

fn read_findings(
    batch: &RecordBatch,
    detector: &Detector,
    window: Window,
    run_id: &str,
) -> Result<Vec<Finding>, String> {
    let ids = text_column(batch, "session_id")?;
    let scores = batch.column_by_name("score").ok_or("the result has no column score")?;
    let scores = cast(scores, &DataType::Float64).map_err(|error| error.to_string())?;
    let scores = scores.as_primitive::<arrow::datatypes::Float64Type>();
    let strengths = match batch.column_by_name("strength") {
        Some(_) => Some(text_column(batch, "strength")?),
        None => None,
    };
    // The JSON writer leaves nulls out, so rows keep their places.
    let evidence = rows::to_json(std::slice::from_ref(batch))?;
    let mut findings = Vec::with_capacity(ids.len());
    for (place, (id, mut evidence)) in ids.into_iter().zip(evidence).enumerate() {
        // The refusals that share a row have no session; there is nobody to find.
        let Some(session_id) = id else { continue };
        let score = (!arrow::array::Array::is_null(scores, place)).then(|| scores.value(place));
        let score = score.filter(|score| score.is_finite()).ok_or("a row of the result has no finite score")?;
        let own = match &strengths {
            Some(strengths) => parse_strength(strengths[place].as_deref())?,
            None => detector.strength,
        };
        for column in ["session_id", "score", "strength"] {
            evidence.remove(column);
        }
        findings.push(Finding {
            session_id,
            detector: detector.name.clone(),
            window_start: window.start,
            window_end: window.end,
            score,
            strength: detector.strength_override.unwrap_or(own),
            family: detector.family.clone(),
            evidence: Value::Object(evidence as Map<String, Value>).to_string(),
            run_id: run_id.to_owned(),
        });
    }
    Ok(findings)
}

fn parse_strength(text: Option<&str>) -> Result<Strength, String> {
    match text {
        Some("strong") => Ok(Strength::Strong),
        Some("medium") => Ok(Strength::Medium),
        Some("weak") => Ok(Strength::Weak),
        other => Err(format!("the column strength holds {other:?}, not strong, medium or weak")),
    }
}

fn text_column(batch: &RecordBatch, name: &str) -> Result<Vec<Option<String>>, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("the result has no column {name}"))?;
    let column = cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
    Ok(column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect())
}

/// What is new or has changed against the stored findings, and what is no longer found.
async fn compare(
    session: &SessionContext,
    jobs: &BTreeMap<Window, Vec<usize>>,
    found: &HashMap<Key, Finding>,
    evaluated: &Evaluated,
) -> Result<(Vec<Finding>, Vec<Key>), EngineError> {
    let (Some((first, _)), Some((last, _))) = (jobs.first_key_value(), jobs.last_key_value()) else {
        return Ok((vec![], vec![]));
    };
    let bounds = vec![("after", timestamp(first.end - TimeDelta::microseconds(1))), ("until", timestamp(last.end))];
    let stored: Vec<Finding> = fetch(session, FINDINGS_BETWEEN, bounds).await?;
    let stored: HashMap<Key, Finding> = stored
        .into_iter()
        .map(|finding| ((finding.session_id.clone(), finding.detector.clone(), finding.window()), finding))
        .collect();
    let same = |a: &Finding, b: &Finding| {
        (a.score, a.strength, &a.family, &a.evidence) == (b.score, b.strength, &b.family, &b.evidence)
    };
    let mut changed: Vec<Finding> = found
        .iter()
        .filter(|(key, finding)| !stored.get(*key).is_some_and(|stored| same(stored, finding)))
        .map(|(_, finding)| finding.clone())
        .collect();
    changed.sort_by(|a, b| (a.window_end, &a.detector, &a.session_id).cmp(&(b.window_end, &b.detector, &b.session_id)));
    let mut gone: Vec<Key> = stored
        .into_keys()
        .filter(|key| {
            let (session, detector, window) = key;
            let looked_at =
                evaluated.get(&(detector.clone(), *window)).is_some_and(|sessions| sessions.contains(session));
            looked_at && !found.contains_key(key)
        })
        .collect();
    gone.sort();
    Ok((changed, gone))
}

/// Sessions that were active in any of the windows.
async fn sessions_in(session: &SessionContext, windows: impl Iterator<Item = &Window>) -> Result<u64, EngineError> {
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
