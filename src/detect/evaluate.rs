//! Evaluates the detectors on every window that holds a new row, and on no other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::common::runtime::SpawnedTask;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::Finding;
use super::everybody::OfEverybody;
use super::file::{Detector, Scope, Strength};
use super::result::{Found, run};
use super::statement::Rows;
use super::tables::{Learned, Loaded, Loader, Statements, WindowTables, sessions_in};
use super::who::Who;
use super::window::{Window, windows_over};
use crate::alarm::{Alarm, AlarmKind};
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
    /// Of a replay: what was found, in order of the windows' ends, sessions and detectors.
    pub found: Vec<Finding>,
    /// Of a replay: what detectors asked of everybody in each window.
    pub learned: Learned,
    /// What the allow-list took out of what was evaluated; its sessions once each.
    pub spared: Spared,
    /// Detectors that failed, and why. Their windows are evaluated again next time.
    pub failures: Vec<Alarm>,
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
    sessions: u64,
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
    #[error("a window was not evaluated to its end: {0}")]
    Cancelled(tokio::task::JoinError),
}

impl DetectError {
    /// The state itself cannot be used.
    pub fn is_of_the_state(&self) -> bool {
        matches!(self, DetectError::Store(_) | DetectError::Engine(EngineError::Store(_)))
    }
}

/// What a detection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What is new is stored, with who used the session.
    Record,
    /// Everything is handed over and nothing stored. Who used a session is told where a detector's score is the highest so far:
    /// nobody looks at the others, and they would take most of the time and the memory.
    Replay,
}

/// Key of a finding: who, by which detector, in which window.
type Key = (String, String, Window);

/// What is to be evaluated.
#[derive(Default)]
struct Jobs {
    /// The detectors, by their places, that look at a window.
    windows: BTreeMap<Window, Vec<usize>>,
    /// Of the hour that has most of them, how many minutes of sessions have new rows.
    fullest_hour: u64,
}

/// Evaluates what was ingested since each detector last ran, and appends what is new to `findings`, or hands it over.
#[expect(clippy::too_many_arguments, reason = "all that a detection knows")]
pub async fn detect(
    engine: &Engine,
    store: &dyn Store,
    detectors: &[Detector],
    config: &Config,
    now: DateTime<Utc>,
    run_id: &str,
    stage: &Stage,
    purpose: Purpose,
) -> Result<Detection, DetectError> {
    let mut detection = Detection::default();
    for detector in detectors {
        detection.detectors.insert(detector.name.clone(), DetectorStats::default());
    }
    let batch = store.transaction(Table::Activity, crate::ingest::INGEST).await?.unwrap_or(0);
    let overall = store.transaction(Table::Findings, "detect").await?.unwrap_or(0);
    let after = progress(store, detectors, overall).await?;
    let Some(first) = after.iter().copied().filter(|after| *after < batch).min() else {
        let sessions = store.transaction(Table::Findings, "sessions").await?.unwrap_or(0);
        detection.sessions = u64::try_from(sessions).unwrap_or(0);
        return Ok(detection);
    };

    let session = engine.session_over(store, now).await?;
    register(&session, "touched", TOUCHED, vec![("after", ScalarValue::Int64(Some(first)))]).await?;
    let minutes: Vec<TouchedMinute> = fetch(&session, TOUCHED_MINUTES, vec![]).await?;
    let inspection = Inspection::new(engine, &session, detectors, config, purpose).await?;
    let jobs = inspection.jobs(&minutes, &after);
    let known = stored_findings(&session, &jobs).await?;
    let Evaluation { found, looked_at, failed } =
        inspection.evaluate(&session, now, &jobs, &after, &known, run_id, stage, &mut detection).await?;
    if purpose == Purpose::Replay {
        detection.found = found.into_values().collect();
        detection.found.sort_by(|a, b| {
            (a.window_end, &a.session_id, &a.detector).cmp(&(b.window_end, &b.session_id, &b.detector))
        });
        return Ok(detection);
    }
    let changed = changed(&known, &found);
    let gone = looked_at.into_iter().filter(|key| !found.contains_key(key)).collect::<BTreeSet<Key>>();
    for finding in &changed {
        detection.detectors.entry(finding.detector.clone()).or_default().findings += 1;
    }
    detection.sessions = sessions_in(&session, jobs.windows.keys()).await?;

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
    let level = if failed.is_empty() { digest_of_names(detectors) } else { 0 };
    transactions.push(Transaction::new(LEVEL, level));
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
#[derive(Default)]
struct Evaluation {
    found: HashMap<Key, Finding>,
    /// The stored findings whose sessions their detectors looked at again, in their windows.
    looked_at: HashSet<Key>,
    /// Detectors that failed, by their place.
    failed: BTreeSet<usize>,
}

/// What came of one window.
#[derive(Default)]
struct InWindow {
    found: Vec<(usize, Found)>,
    looked_at: Vec<Key>,
    /// The seconds of each detector, by its place.
    seconds: Vec<(usize, f64)>,
    /// Sessions with new rows that detectors looked at, of each the most.
    sessions: Option<u64>,
    /// Detectors that failed, by their place, and why.
    failed: Vec<(usize, String)>,
    /// What detectors asked of everybody.
    learned: Vec<(OfEverybody, Rows)>,
}

/// Detectors that are ready to look at sessions, again and again.
pub struct Inspection<'a> {
    engine: &'a Engine,
    config: &'a Config,
    /// Shared by the threads on which windows are evaluated.
    bench: Arc<Bench>,
    learned: Option<Arc<Learned>>,
}

/// What it takes to evaluate a window.
struct Bench {
    detectors: Vec<Detector>,
    statements: Statements,
    purpose: Purpose,
}

/// A window, and what its evaluation depends on.
struct Task {
    window: Window,
    /// The detectors, by their places, that look at it.
    indexes: Vec<usize>,
    loaded: Arc<Loaded>,
    /// Of each detector the last batch that it has evaluated.
    after: Arc<[i64]>,
    /// The findings of the window that are stored.
    known: Vec<Key>,
    /// Detectors that failed before, in any window: they need not be tried.
    failed: Arc<Mutex<BTreeSet<usize>>>,
    run_id: Arc<str>,
}

impl<'a> Inspection<'a> {
    /// `session` has the public tables; others with these tables may be looked at.
    pub async fn new(
        engine: &'a Engine,
        session: &SessionContext,
        detectors: &[Detector],
        config: &'a Config,
        purpose: Purpose,
    ) -> Result<Self, DetectError> {
        let statements = Statements::new(engine, session, detectors, &config.lists).await?;
        let bench = Bench { detectors: detectors.to_vec(), statements, purpose };
        Ok(Inspection { engine, config, bench: Arc::new(bench), learned: None })
    }

    /// Runs every detector over a window without rows: the names of those that fail, and why.
    pub async fn try_without_rows(&self, now: DateTime<Utc>) -> Vec<(String, String)> {
        let detectors = &self.bench.detectors;
        let task = Task {
            window: Window { start: now - TimeDelta::minutes(1), end: now },
            indexes: (0..detectors.len()).collect(),
            loaded: Arc::default(),
            after: vec![0; detectors.len()].into(),
            known: vec![],
            failed: Arc::default(),
            run_id: "".into(),
        };
        let failed = self.bench.evaluate(task).await.failed;
        failed.into_iter().map(|(index, reason)| (detectors[index].name.clone(), reason)).collect()
    }

    /// Judges whoever is looked at by what an earlier detection learned of everybody, whatever the tables have of the others.
    pub fn with_learned(self, learned: Learned) -> Self {
        Inspection { learned: Some(Arc::new(learned)), ..self }
    }

    /// The windows that hold these minutes, each with the detectors that look at it, by their places.
    fn jobs(&self, minutes: &[TouchedMinute], after: &[i64]) -> Jobs {
        let mut jobs = Jobs::default();
        for (index, detector) in self.bench.detectors.iter().enumerate() {
            let new = minutes.iter().filter(|minute| minute.batch > after[index]).map(|minute| minute.minute);
            for window in windows_over(new, detector.window, detector.every) {
                jobs.windows.entry(window).or_default().push(index);
            }
        }
        let mut hours: HashMap<i64, u64> = HashMap::new();
        for minute in minutes {
            *hours.entry(minute.minute.timestamp().div_euclid(3_600)).or_default() += minute.sessions;
        }
        jobs.fullest_hour = hours.into_values().max().unwrap_or(0);
        jobs
    }

    /// Evaluates the detectors on windows. The session has the new rows as `touched`: those of batches after `after`, of each
    /// detector. `stored` are the findings of these windows that are known.
    #[expect(clippy::too_many_arguments, reason = "all that a detection knows")]
    async fn evaluate(
        &self,
        session: &SessionContext,
        now: DateTime<Utc>,
        jobs: &Jobs,
        after: &[i64],
        stored: &HashMap<Key, Finding>,
        run_id: &str,
        stage: &Stage,
        detection: &mut Detection,
    ) -> Result<Evaluation, DetectError> {
        let detectors = &self.bench.detectors;
        stage.set_total(jobs.windows.values().map(|detectors| detectors.len() as u64).sum());
        let mut known: HashMap<Window, Vec<Key>> = HashMap::new();
        for key in stored.keys() {
            known.entry(key.2).or_default().push(key.clone());
        }
        let mut evaluation = Evaluation::default();
        let mut highest = Highest::default();
        let (after, run_id, failed) = (Arc::from(after), Arc::from(run_id), Arc::default());
        let used: BTreeSet<usize> = jobs.windows.values().flatten().copied().collect();
        let used: Vec<&Detector> = used.into_iter().map(|index| &detectors[index]).collect();
        let mut loader = Loader::new(session, &used, self.learned.clone(), &self.config.allow, now);
        let length = loader.chunk(jobs.fullest_hour);
        // Some wait for their turn, so that no thread does while the results come in order; but what they see takes memory.
        let at_once = if length < TimeDelta::hours(1) { self.engine.threads() } else { 2 * self.engine.threads() };
        for chunk in chunks(jobs, length) {
            let started = Instant::now();
            let loaded = loader.show(chunk.start, chunk.end, &mut detection.spared).await?;
            tracing::debug!("rows of {} windows loaded in {:.2?}", chunk.windows.len(), started.elapsed());
            let started = Instant::now();
            // Each window is evaluated on a thread of its own: that is quicker than to share a small one out among threads.
            let mut found = Vec::new();
            let mut windows = stream::iter(chunk.windows)
                .map(|(window, indexes)| {
                    let task = Task {
                        window,
                        indexes: indexes.clone(),
                        loaded: Arc::clone(&loaded),
                        after: Arc::clone(&after),
                        known: known.remove(&window).unwrap_or_default(),
                        failed: Arc::clone(&failed),
                        run_id: Arc::clone(&run_id),
                    };
                    let bench = self.bench.clone();
                    let evaluated = SpawnedTask::spawn(async move { bench.evaluate(task).await }.in_current_span());
                    async move { (window, indexes.len(), evaluated.join_unwind().await) }
                })
                .buffered(at_once);
            while let Some((window, detectors_of_it, in_window)) = windows.next().await {
                stage.advance(detectors_of_it as u64);
                let in_window = in_window.map_err(DetectError::Cancelled)?;
                if self.bench.purpose == Purpose::Replay {
                    in_window.found.iter().for_each(|(index, found)| highest.take(*index, found));
                }
                found.push((window, in_window.found));
                evaluation.looked_at.extend(in_window.looked_at);
                let learned = in_window.learned.into_iter().map(|(table, rows)| ((table, window), rows));
                detection.learned.extend(learned);
                for (index, seconds) in in_window.seconds {
                    detection.detectors.entry(detectors[index].name.clone()).or_default().seconds += seconds;
                }
                if let Some(sessions) = in_window.sessions {
                    let most = detection.sessions_by_end.entry(window.end).or_default();
                    *most = (*most).max(sessions);
                }
                for (index, reason) in in_window.failed {
                    if evaluation.failed.insert(index) {
                        let Detector { name, path, .. } = &detectors[index];
                        let text = format!("detector {name} ({path}): {reason}");
                        detection.failures.push(Alarm::about(AlarmKind::DetectorFailed, name, text));
                    }
                }
            }
            let tell = |(window, found): (Window, Vec<(usize, Found)>)| {
                let told = self.bench.told(&found, &highest);
                let (bench, loaded) = (self.bench.clone(), Arc::clone(&loaded));
                let telling = SpawnedTask::spawn_blocking(move || bench.tell(&loaded, window, found, &told));
                async move { (window, telling.join_unwind().await) }
            };
            let mut told = stream::iter(found).map(tell).buffered(self.engine.threads());
            while let Some((window, told)) = told.next().await {
                let (findings, unknown) = told.map_err(DetectError::Cancelled)?;
                let key = |finding: &Finding| (finding.session_id.clone(), finding.detector.clone(), window);
                evaluation.found.extend(findings.into_iter().map(|finding| (key(&finding), finding)));
                // Whoever is found is found all the same.
                detection.failures.extend(unknown.map(|error| {
                    Alarm::new(AlarmKind::DetectionFailed, format!("who used what was found is not known: {error}"))
                }));
            }
            tracing::debug!("windows evaluated in {:.2?}", started.elapsed());
        }
        detection.spared.sessions.sort();
        detection.spared.sessions.dedup();
        // What a failed detector found before it failed is found again when it works.
        let failed = |name: &str| evaluation.failed.iter().any(|&index| detectors[index].name == name);
        evaluation.found.retain(|(_, name, _), _| !failed(name));
        evaluation.looked_at.retain(|(_, name, _)| !failed(name));
        Ok(evaluation)
    }

    /// What the detectors say of some sessions in every window that holds a row of them, nothing written, and which detectors
    /// failed. `session` has the public tables.
    pub async fn look_at(
        &self,
        session: &SessionContext,
        looked_at: &BTreeSet<&str>,
        now: DateTime<Utc>,
    ) -> Result<(Vec<Finding>, Vec<Alarm>), DetectError> {
        let minutes = touch(session, looked_at).await?;
        let (after, mut detection) = (vec![i64::MIN; self.bench.detectors.len()], Detection::default());
        let jobs = self.jobs(&minutes, &after);
        let evaluation =
            self.evaluate(session, now, &jobs, &after, &HashMap::new(), "", &Stage::hidden(), &mut detection).await?;
        let of_them = |finding: &Finding| looked_at.contains(finding.session_id.as_str());
        let found = evaluation.found.into_values().filter(of_them).collect();
        Ok((found, detection.failures))
    }
}

impl Bench {
    /// Evaluates the detectors on a window.
    async fn evaluate(&self, task: Task) -> InWindow {
        let Task { window, indexes, loaded, after, known, failed, run_id } = task;
        let mut cut = WindowTables::new(&loaded, &self.statements, window);
        let mut in_window = InWindow::default();
        let mut found: Vec<(usize, Found)> = Vec::new();
        for index in indexes {
            if failed.lock().expect("not poisoned").contains(&index) {
                continue;
            }
            let detector = &self.detectors[index];
            let mut fail = |reason: String| {
                failed.lock().expect("not poisoned").insert(index);
                in_window.failed.push((index, reason));
            };
            let rows = cut.of(detector, after[index]);
            if detector.scope == Scope::Session && !detector.scores_only {
                let sessions = cut.sessions(detector.scope, after[index]).count() as u64;
                in_window.sessions = in_window.sessions.max(Some(sessions));
            }
            let started = Instant::now();
            let result = match &rows {
                Some(rows) => run(&self.statements, index, detector, window, rows, &run_id).await,
                None => Ok(vec![]),
            };
            let findings = match result {
                Ok(findings) => findings,
                Err(reason) => {
                    fail(reason);
                    continue;
                }
            };
            in_window.seconds.push((index, started.elapsed().as_secs_f64()));
            let of_detector = known.iter().filter(|(_, name, _)| *name == detector.name);
            for key in of_detector {
                if cut.sessions(detector.scope, after[index]).contains(&key.0) {
                    in_window.looked_at.push(key.clone());
                }
            }
            found.extend(findings.into_iter().map(|finding| (index, finding)));
        }
        if self.purpose == Purpose::Replay {
            in_window.learned = cut.learned().collect();
        }
        in_window.found = found;
        in_window
    }

    /// The findings of a window of which it is told who used the session, by their places.
    fn told(&self, found: &[(usize, Found)], highest: &Highest) -> Vec<bool> {
        let is_told = |(index, found): &(usize, Found)| {
            !self.detectors[*index].scores_only && (self.purpose == Purpose::Record || highest.is(*index, found))
        };
        found.iter().map(is_told).collect()
    }

    /// Tells of the findings of a window who used the sessions; why not, if that is not known.
    fn tell(
        &self,
        loaded: &Loaded,
        window: Window,
        found: Vec<(usize, Found)>,
        told: &[bool],
    ) -> (Vec<Finding>, Option<EngineError>) {
        let sessions = found.iter().zip(told).filter(|(_, told)| **told).map(|((_, found), _)| found.session());
        let (who, error) = match WindowTables::new(loaded, &self.statements, window).who(&sessions.collect()) {
            Ok(who) => (who, None),
            Err(error) => (Who::new(), Some(error)),
        };
        let finding = |((_, found), told): ((usize, Found), &bool)| {
            let who = who.get(found.session()).filter(|_| *told);
            found.with_evidence(who)
        };
        (found.into_iter().zip(told).map(finding).collect(), error)
    }
}

/// The highest score of each session by each detector, by its place, and the end of its window: the first of equals.
#[derive(Default)]
struct Highest(HashMap<(usize, String), (f64, DateTime<Utc>)>);

impl Highest {
    /// They come in order of their windows.
    fn take(&mut self, detector: usize, found: &Found) {
        let Finding { session_id, score, window_end, .. } = &found.finding;
        let known = self.0.entry((detector, session_id.clone())).or_insert((*score, *window_end));
        if *score > known.0 {
            *known = (*score, *window_end);
        }
    }

    fn is(&self, detector: usize, found: &Found) -> bool {
        let key = (detector, found.finding.session_id.clone());
        self.0.get(&key).is_some_and(|(_, end)| *end == found.finding.window_end)
    }
}

/// The minutes of these sessions, as if they were all new: makes the table `touched`.
async fn touch(session: &SessionContext, looked_at: &BTreeSet<&str>) -> Result<Vec<TouchedMinute>, EngineError> {
    let ids = rows::texts_batch("session_id", looked_at);
    replace(session, "looked_at", ids.schema(), vec![ids]).map_err(|error| query_error(TOUCHED_OF, error))?;
    register(session, "touched", TOUCHED_OF, vec![]).await?;
    fetch(session, TOUCHED_MINUTES, vec![]).await
}

/// How many detections there were.
pub async fn evaluations(store: &dyn Store) -> Result<i64, StoreError> {
    Ok(store.transaction(Table::Findings, "evaluation").await?.unwrap_or(0))
}

/// The transaction that tells how far one detector has come: it stays behind when the detector fails.
fn own_progress(detector: &Detector) -> String {
    format!("detect:{}", detector.name)
}

/// The transaction that tells which detectors have all come as far as the whole detection, so that nobody needs to ask for each:
/// the Delta library goes through the log of the table for every transaction that it is asked for.
const LEVEL: &str = "level";

/// How far each detector has come; one that is new begins with what is new.
async fn progress(store: &dyn Store, detectors: &[Detector], overall: i64) -> Result<Vec<i64>, StoreError> {
    if store.transaction(Table::Findings, LEVEL).await? == Some(digest_of_names(detectors)) {
        return Ok(vec![overall; detectors.len()]);
    }
    let mut progress = Vec::new();
    for detector in detectors {
        let own = store.transaction(Table::Findings, &own_progress(detector)).await?;
        progress.push(own.unwrap_or(overall));
    }
    Ok(progress)
}

/// A number for a set of detectors, never 0. (A transaction has a number, and no text.)
fn digest_of_names(detectors: &[Detector]) -> i64 {
    let mut names: Vec<&str> = detectors.iter().map(|detector| detector.name.as_str()).collect();
    names.sort_unstable();
    let digest = Sha256::digest(names.join(","));
    i64::from_be_bytes(digest[..8].try_into().expect("eight bytes of 32")) | 1
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

/// Jobs of windows that end within some minutes or hours of event time: what is in memory at once is that, and a window.
struct Chunk<'a> {
    /// From when on its windows, and those of the chunks behind it, begin: a longer window of a later hour may begin before the
    /// shorter ones of this.
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    windows: Vec<(Window, &'a Vec<usize>)>,
}

fn chunks(jobs: &Jobs, length: TimeDelta) -> Vec<Chunk<'_>> {
    let mut hours: BTreeMap<i64, Vec<(Window, &Vec<usize>)>> = BTreeMap::new();
    for (window, detectors) in &jobs.windows {
        hours.entry(window.end.timestamp().div_euclid(length.num_seconds())).or_default().push((*window, detectors));
    }
    let mut start = DateTime::<Utc>::MAX_UTC;
    let mut chunks = Vec::new();
    for windows in hours.into_values().rev() {
        start = windows.iter().map(|(window, _)| window.start).fold(start, DateTime::min);
        let end = windows.iter().map(|(window, _)| window.end).fold(start, DateTime::max);
        chunks.push(Chunk { start, end, windows });
    }
    chunks.reverse();
    chunks
}

/// The findings of these windows that are stored.
async fn stored_findings(session: &SessionContext, jobs: &Jobs) -> Result<HashMap<Key, Finding>, EngineError> {
    let (Some((first, _)), Some((last, _))) = (jobs.windows.first_key_value(), jobs.windows.last_key_value()) else {
        return Ok(HashMap::new());
    };
    let bounds = vec![("after", timestamp(first.end - TimeDelta::microseconds(1))), ("until", timestamp(last.end))];
    let stored: Vec<Finding> = fetch(session, FINDINGS_BETWEEN, bounds).await?;
    let key = |finding: &Finding| (finding.session_id.clone(), finding.detector.clone(), finding.window());
    Ok(stored.into_iter().map(|finding| (key(&finding), finding)).collect())
}

/// What is new or has changed against the stored findings.
fn changed<'a>(stored: &HashMap<Key, Finding>, found: &'a HashMap<Key, Finding>) -> Vec<&'a Finding> {
    let same = |a: &Finding, b: &Finding| {
        (a.score, a.strength, &a.family, &a.evidence) == (b.score, b.strength, &b.family, &b.evidence)
    };
    let is_new = |key: &Key, finding: &Finding| !stored.get(key).is_some_and(|stored| same(stored, finding));
    let mut changed: Vec<&Finding> =
        found.iter().filter(|(key, finding)| is_new(key, finding)).map(|(_, finding)| finding).collect();
    changed.sort_by(|a, b| (a.window_end, &a.detector, &a.session_id).cmp(&(b.window_end, &b.detector, &b.session_id)));
    changed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::detect::catalog;
    use crate::ingest::INGEST;
    use crate::store::MemoryStore;

    const CONFIG: &str = "[state]\nlocation = \"state\"\n[[logs]]\nlocation = \"logs\"\n[[session]]\nscheme = \"secure-media-delivery\"\n[lists]\nown_referers = [\"mine.example\"]\n";

    /// Sessions of one to six networks, countries, operators, agents and contents, each as it comes.
    fn traffic(random: &mut StdRng) -> (Vec<Value>, Vec<Value>) {
        let (mut activity, mut deliveries) = (Vec::new(), Vec::new());
        for session in 0..60 {
            let [networks, countries, operators, agents, contents] = [0; 5].map(|_| random.random_range(1..7));
            for minute in 0..40 {
                for _ in 0..random.random_range(0..=networks) {
                    let network = random.random_range(0..networks);
                    let time = format!("2026-11-20T20:{minute:02}:{:02}Z", random.random_range(0..60));
                    let minute = format!("2026-11-20T20:{minute:02}:00Z");
                    let session_id = format!("session{session}");
                    let country = ["DE", "FR", "US", "BR", "JP", "ZA"][network % countries];
                    let kind =
                        [None, None, None, Some("mobile"), Some("hosting"), Some("relay")][random.random_range(0..6)];
                    let (network_id, asn) = (format!("198.18.{session}.{network}"), network % operators);
                    activity.push(json!({
                        "hour": "2026-11-20T20", "batch": 1, "minute": minute, "session_id": session_id, "network": network_id,
                        "country": country, "asn": asn,
                        "user_agent": format!("agent{}", random.random_range(0..agents)), "referer_host": "elsewhere.example",
                        "content": format!("film{}", random.random_range(0..contents)), "bound": true, "derived": false,
                        "ip": network_id, "device": "other", "network_type": kind, "latitude": (network % operators) as f64 * 20.0,
                        "longitude": 0.0, "accuracy_km": 10, "requests": 9, "manifests": 1,
                        "segments": random.random_range(1..12), "bytes": 1, "first_seen": time, "last_seen": time,
                    }));
                    deliveries.push(json!({
                        "hour": "2026-11-20T20", "batch": 1, "minute": minute, "session_id": session_id, "network": network_id,
                        "segment": random.random_range(0..40) * 8, "bound": true, "asn": asn, "network_type": kind, "requests": 1,
                    }));
                }
            }
        }
        (activity, deliveries)
    }

    proptest! {
        /// However much is loaded at once: what a chunk loads holds its windows, and nothing that was dropped for it is asked for
        /// later.
        #[test]
        fn every_window_is_in_one_chunk_that_holds_it(
            windows in prop::collection::btree_set((0i64..300, 1i64..90), 1..40),
            length in 5i64..=60,
        ) {
            let at = |minute| DateTime::from_timestamp(1_800_000_000 + 60 * minute, 0).unwrap();
            let mut jobs = Jobs::default();
            for (start, minutes) in windows {
                jobs.windows.insert(Window { start: at(start), end: at(start + minutes) }, vec![0]);
            }
            let chunks = chunks(&jobs, TimeDelta::minutes(length));
            for chunk in &chunks {
                for (window, _) in &chunk.windows {
                    prop_assert!(chunk.start <= window.start && window.end <= chunk.end);
                }
            }
            prop_assert!(chunks.is_sorted_by_key(|chunk| chunk.start) && chunks.is_sorted_by_key(|chunk| chunk.end));
            let of_chunks = chunks.iter().flat_map(|chunk| chunk.windows.iter().map(|(window, _)| *window));
            prop_assert_eq!(of_chunks.collect::<BTreeSet<Window>>(), jobs.windows.keys().copied().collect());
            prop_assert_eq!(chunks.iter().map(|chunk| chunk.windows.len()).sum::<usize>(), jobs.windows.len());
        }
    }

    async fn store_of(activity: &[Value], deliveries: &[Value]) -> MemoryStore {
        let store = MemoryStore::default();
        for (table, rows) in [(Table::Deliveries, deliveries), (Table::Activity, activity)] {
            let rows = rows::encode(table.schema().stored(), rows).unwrap();
            store.append(table, vec![rows], &[Transaction::new(INGEST, 1)]).await.unwrap();
        }
        store
    }

    /// A replay finds what a run records, and tells who used a session where a detector's score is highest.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replay_finds_what_a_run_records() {
        let config = Config::parse(CONFIG, Path::new("/nowhere/streamwarden.toml")).unwrap();
        let engine = Engine::new(&config.engine).unwrap();
        let detectors = catalog::load(&config, &engine).await.unwrap();
        let (activity, deliveries) = traffic(&mut StdRng::seed_from_u64(9));
        let (now, stage) = ("2026-11-20T23:00:00Z".parse().unwrap(), Stage::hidden());
        let store = store_of(&activity, &deliveries).await;
        let run = detect(&engine, &store, &detectors, &config, now, "run", &stage, Purpose::Replay);
        let replayed = run.await.unwrap();
        assert!(!replayed.learned.is_empty());
        assert_eq!(store.transaction(Table::Findings, "detect").await.unwrap(), None, "nothing is stored");
        let run = detect(&engine, &store, &detectors, &config, now, "run", &stage, Purpose::Record);
        run.await.unwrap();
        let session = engine.session_over(&store, now).await.unwrap();
        let mut recorded: Vec<Finding> = fetch(
            &session,
            FINDINGS_BETWEEN,
            vec![("after", timestamp(DateTime::UNIX_EPOCH)), ("until", timestamp(now))],
        )
        .await
        .unwrap();
        recorded.sort_by(|a, b| {
            (a.window_end, &a.session_id, &a.detector).cmp(&(b.window_end, &b.session_id, &b.detector))
        });
        let evidence = |finding: &Finding| serde_json::from_str::<Map<String, Value>>(&finding.evidence).unwrap();
        let mut highest: BTreeMap<(&str, &str), &Finding> = BTreeMap::new();
        for finding in &recorded {
            assert!(evidence(finding).contains_key("who"), "{finding:?}");
            let known = highest.entry((&finding.session_id, &finding.detector)).or_insert(finding);
            if finding.score > known.score {
                *known = finding;
            }
        }
        assert_eq!(replayed.found.len(), recorded.len());
        let mut not_told = 0;
        for (replayed, recorded) in replayed.found.iter().zip(&recorded) {
            let (mut expected, made) = (evidence(recorded), evidence(replayed));
            let is_highest = *highest[&(recorded.session_id.as_str(), recorded.detector.as_str())] == *recorded;
            if !is_highest && !made.contains_key("who") {
                expected.remove("who");
                not_told += 1;
            }
            assert_eq!(made, expected);
            assert_eq!(
                Finding { evidence: String::new(), ..replayed.clone() },
                Finding { evidence: String::new(), ..recorded.clone() }
            );
        }
        assert!(not_told > recorded.len() / 2, "{not_told} of {}", recorded.len());
    }

    /// What a detector says that it needs, it needs: it finds the same when it is shown everybody.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_is_not_shown_would_not_be_found() {
        let config = Config::parse(CONFIG, Path::new("/nowhere/streamwarden.toml")).unwrap();
        let engine = Engine::new(&config.engine).unwrap();
        let detectors = catalog::load(&config, &engine).await.unwrap();
        let needy: Vec<Detector> = detectors.into_iter().filter(|detector| !detector.needs.is_empty()).collect();
        assert!(needy.len() > 10);
        let (activity, deliveries) = traffic(&mut StdRng::seed_from_u64(8));
        let mut never_found: BTreeSet<String> = needy.iter().map(|detector| detector.name.clone()).collect();
        for share in [0.0, 0.5, 1.0] {
            let found = async |shows_all: bool| {
                let store = store_of(&activity, &deliveries).await;
                let detectors: Vec<Detector> = needy
                    .iter()
                    .map(|detector| Detector {
                        needs: if shows_all { BTreeMap::new() } else { detector.needs.clone() },
                        ..detector.relaxed(share)
                    })
                    .collect();
                let now = "2026-11-20T23:00:00Z".parse().unwrap();
                let stage = Stage::hidden();
                let run = detect(&engine, &store, &detectors, &config, now, "run", &stage, Purpose::Record);
                assert_eq!(run.await.unwrap().failures, []);
                let session = engine.session_over(&store, now).await.unwrap();
                let sql =
                    "SELECT detector, session_id, window_end, score, strength, evidence FROM findings ORDER BY 1, 2, 3";
                let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
                let rows = rows::to_json(&batches).unwrap().into_iter().map(Value::Object);
                rows.map(|row| row.to_string()).collect::<Vec<String>>()
            };
            let (shown, all) = (found(false).await, found(true).await);
            assert_eq!(shown, all, "at {share} of the thresholds");
            never_found.retain(|name| !all.iter().any(|row| row.contains(&format!("{name:?}"))));
        }
        assert_eq!(never_found, BTreeSet::new(), "what finds nobody shows nothing");
    }
}
