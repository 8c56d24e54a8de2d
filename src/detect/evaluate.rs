//! Evaluates the detectors on every window that holds a new row, and on no other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};

use super::Finding;
use super::file::{Detector, Scope, Strength};
use super::result::run;
use super::tables::{Loaded, Statements, WindowTables, sessions_in};
use super::window::{Window, windows_over};
use crate::allow::Spared;
use crate::config::Config;
use crate::engine::{Engine, EngineError, Sql, fetch, query_error, register, replace, sql, timestamp};
use crate::progress::Stage;
use crate::rows;
use crate::schema::Table;
use crate::store::{Store, StoreError, Transaction};

const TOUCHED: Sql = sql!("engine/touched.sql");
const TOUCHED_OF: Sql = sql!("engine/touched_of.sql");
const TOUCHED_MINUTES: Sql = sql!("engine/touched_minutes.sql");
const FINDINGS_BETWEEN: Sql = sql!("engine/findings_between.sql");

/// What one detection did.
#[derive(Debug, Default)]
pub struct Detection {
    pub detectors: BTreeMap<String, DetectorStats>,
    /// Sessions that were active in the evaluated windows.
    pub sessions: u64,
    /// How many sessions with new rows the evaluated windows held, by their ends, of each the longest.
    pub sessions_by_end: BTreeMap<DateTime<Utc>, u64>,
    /// What the allow-list took out of what was evaluated; its sessions once each.
    pub spared: Spared,
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

impl DetectError {
    /// The state itself cannot be used.
    pub fn is_of_the_state(&self) -> bool {
        matches!(self, DetectError::Store(_) | DetectError::Engine(EngineError::Store(_)))
    }
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
    config: &Config,
    now: DateTime<Utc>,
    run_id: &str,
    stage: &Stage,
) -> Result<Detection, DetectError> {
    let mut detection = Detection::default();
    for detector in detectors {
        detection.detectors.insert(detector.name.clone(), DetectorStats::default());
    }
    let batch = store.transaction(Table::Activity, crate::ingest::INGEST).await?.unwrap_or(0);
    let overall = store.transaction(Table::Findings, "detect").await?.unwrap_or(0);
    let mut after = Vec::new();
    for detector in detectors {
        let own = store.transaction(Table::Findings, &own_progress(detector)).await?;
        after.push(own.unwrap_or(overall));
    }
    let Some(first) = after.iter().copied().filter(|after| *after < batch).min() else {
        let sessions = store.transaction(Table::Findings, "sessions").await?.unwrap_or(0);
        detection.sessions = u64::try_from(sessions).unwrap_or(0);
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
    let Evaluation { found, evaluated, failed } =
        evaluate(engine, &session, detectors, config, now, &jobs, &after, run_id, stage, &mut detection).await?;
    let (changed, gone) = compare(&session, &jobs, &found, &evaluated).await?;
    for finding in &changed {
        detection.detectors.entry(finding.detector.clone()).or_default().findings += 1;
    }
    detection.sessions = sessions_in(&session, jobs.keys()).await?;

    // Detections have numbers of their own: one that makes up for a failure sees no new batch.
    let evaluation = evaluations(store).await? + 1;
    let mut transactions = vec![
        Transaction::new("detect", batch),
        Transaction::new("evaluation", evaluation),
        // For the guard, if the decision comes in a later run.
        Transaction::new("sessions", i64::try_from(detection.sessions).unwrap_or(i64::MAX)),
    ];
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

/// What detectors found in some windows.
struct Evaluation {
    found: HashMap<Key, Finding>,
    evaluated: Evaluated,
    /// Detectors that failed, by their place.
    failed: BTreeSet<usize>,
}

/// Evaluates detectors, by their places, on windows. The session has the public tables, and the new rows as `touched`: those of
/// batches after `after`, of each detector.
#[expect(clippy::too_many_arguments, reason = "all that a detection knows")]
async fn evaluate(
    engine: &Engine,
    session: &SessionContext,
    detectors: &[Detector],
    config: &Config,
    now: DateTime<Utc>,
    jobs: &BTreeMap<Window, Vec<usize>>,
    after: &[i64],
    run_id: &str,
    stage: &Stage,
    detection: &mut Detection,
) -> Result<Evaluation, DetectError> {
    stage.set_total(jobs.values().map(|detectors| detectors.len() as u64).sum());
    let statements = Statements::new(engine, session, detectors, &config.lists).await?;
    let mut found: HashMap<Key, Finding> = HashMap::new();
    let mut evaluated = Evaluated::new();
    let mut failed: BTreeSet<usize> = BTreeSet::new();
    for (_, chunk) in chunks_by_hour(jobs) {
        let loaded = Loaded::new(session, &chunk, detectors, &config.allow, now, &mut detection.spared).await?;
        for (window, indexes) in chunk {
            let mut cut = WindowTables::new(&loaded, &statements, window);
            let mut in_window: Vec<(usize, Finding)> = Vec::new();
            for &index in indexes {
                stage.advance(1);
                if failed.contains(&index) {
                    continue;
                }
                let detector = &detectors[index];
                let sessions = cut.sessions(detector.scope, after[index]);
                let rows = match cut.of(detector, after[index]).await {
                    Ok(rows) => rows,
                    Err(error) => {
                        detection.failures.push(format!("detector {} ({}): {error}", detector.name, detector.path));
                        failed.insert(index);
                        continue;
                    }
                };
                if detector.scope == Scope::Session && !detector.scores_only {
                    let most = detection.sessions_by_end.entry(window.end).or_default();
                    *most = (*most).max(sessions.len() as u64);
                }
                let started = Instant::now();
                let result = run(engine, statements.detector(index), detector, window, &rows, run_id).await;
                let stats = detection.detectors.entry(detector.name.clone()).or_default();
                stats.seconds += started.elapsed().as_secs_f64();
                match result {
                    Ok(findings) => {
                        evaluated.insert((detector.name.clone(), window), sessions);
                        in_window.extend(findings.into_iter().map(|finding| (index, finding)));
                    }
                    Err(message) => {
                        detection.failures.push(format!("detector {} ({}): {message}", detector.name, detector.path));
                        failed.insert(index);
                    }
                }
            }
            let told = |index: usize| !detectors[index].scores_only;
            let sessions: BTreeSet<&str> = in_window
                .iter()
                .filter(|(index, _)| told(*index))
                .map(|(_, finding)| finding.session_id.as_str())
                .collect();
            let who = match cut.who(&sessions).await {
                Ok(who) => who,
                Err(error) => {
                    // Whoever is found is found all the same.
                    detection.failures.push(format!("who used what was found is not known: {error}"));
                    HashMap::new()
                }
            };
            for (index, mut finding) in in_window {
                if let Some(who) = who.get(&finding.session_id).filter(|_| told(index)) {
                    finding.add_evidence("who", who);
                }
                found.insert((finding.session_id.clone(), finding.detector.clone(), window), finding);
            }
        }
    }
    detection.spared.sessions.sort();
    detection.spared.sessions.dedup();
    // What a failed detector found before it failed is found again when it works.
    found.retain(|(_, name, _), _| !failed.iter().any(|&index| detectors[index].name == *name));
    evaluated.retain(|(name, _), _| !failed.iter().any(|&index| detectors[index].name == *name));
    Ok(Evaluation { found, evaluated, failed })
}

/// What detectors say of some sessions in every window that holds a row of them, nothing written, and which detectors failed.
/// `session` has the public tables.
pub async fn look_at(
    engine: &Engine,
    session: &SessionContext,
    detectors: &[Detector],
    config: &Config,
    looked_at: &BTreeSet<&str>,
    now: DateTime<Utc>,
) -> Result<(Vec<Finding>, Vec<String>), DetectError> {
    let ids = rows::texts_batch("session_id", looked_at);
    replace(session, "looked_at", ids.schema(), vec![ids]).map_err(|error| query_error(TOUCHED_OF, error))?;
    register(session, "touched", TOUCHED_OF, vec![]).await?;
    let minutes: Vec<TouchedMinute> = fetch(session, TOUCHED_MINUTES, vec![]).await?;
    let mut jobs: BTreeMap<Window, Vec<usize>> = BTreeMap::new();
    for (index, detector) in detectors.iter().enumerate() {
        for window in windows_over(minutes.iter().map(|minute| minute.minute), detector.window, detector.every) {
            jobs.entry(window).or_default().push(index);
        }
    }
    let (after, mut detection) = (vec![i64::MIN; detectors.len()], Detection::default());
    let evaluation =
        evaluate(engine, session, detectors, config, now, &jobs, &after, "", &Stage::hidden(), &mut detection).await?;
    let of_them = |finding: &Finding| looked_at.contains(finding.session_id.as_str());
    let found = evaluation.found.into_values().filter(of_them).collect();
    Ok((found, detection.failures))
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
