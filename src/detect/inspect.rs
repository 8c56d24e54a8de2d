//! The evaluation of detectors on windows: all at once, or of many rows one part of the sessions after the other.
//!
//! What a detector finds of a session depends on its rows, and for some on what everybody does. What these ask of everybody is made
//! first, in few columns, and then each part of the sessions is looked at alone: so much memory is enough for any event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::common::runtime::SpawnedTask;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use serde::Deserialize;
use tracing::Instrument;

use super::Finding;
use super::bench::{Bench, Highest, Task};
use super::evaluate::{DetectError, Detection, Purpose};
use super::everybody::OfEverybody;
use super::file::{Detector, Scope};
use super::load::{Loaded, Loader, Part, REFUSALS, Wanted, chunk};
use super::result::Found;
use super::tables::{Learned, Statements, depends_on, others_can_be_learned};
use super::window::{Window, windows_over};
use crate::alarm::{Alarm, AlarmKind};
use crate::allow::Spared;
use crate::config::Config;
use crate::engine::{Engine, EngineError, Sql, fetch, query_error, register, replace, sql};
use crate::progress::Stage;
use crate::rows;

const TOUCHED_OF: Sql = sql!("engine/touched_of.sql");
pub const TOUCHED_MINUTES: Sql = sql!("engine/touched_minutes.sql");
const ROWS_OF_MINUTES: Sql = sql!("engine/rows_of_minutes.sql");
const PARTS: Sql = sql!("engine/parts.sql");

/// Key of a finding: who, by which detector, in which window.
pub type Key = (String, String, Window);

/// The detectors, by their places, that look at each window.
pub type Jobs = BTreeMap<Window, Vec<usize>>;

#[derive(Deserialize)]
pub struct TouchedMinute {
    minute: DateTime<Utc>,
    batch: i64,
}

/// What detectors found in some windows.
#[derive(Default)]
pub struct Evaluation {
    pub found: Vec<Finding>,
    /// The stored findings whose sessions their detectors looked at again, in their windows.
    pub looked_at: HashSet<Key>,
    /// Detectors that failed, by their place.
    pub failed: BTreeSet<usize>,
}

/// Detectors that are ready to look at sessions, again and again.
pub struct Inspection<'a> {
    engine: &'a Engine,
    config: &'a Config,
    /// Shared by the threads on which windows are evaluated.
    bench: Arc<Bench>,
    learned: Option<Arc<Learned>>,
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
            learns: vec![],
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
    pub fn jobs(&self, minutes: &[TouchedMinute], after: &[i64]) -> Jobs {
        let mut jobs = Jobs::default();
        for (index, detector) in self.bench.detectors.iter().enumerate() {
            let new = minutes.iter().filter(|minute| minute.batch > after[index]).map(|minute| minute.minute);
            for window in windows_over(new, detector.window, detector.every) {
                jobs.entry(window).or_default().push(index);
            }
        }
        jobs
    }

    /// Evaluates the detectors on windows. The session has the new rows as `touched`: those of batches after `after`, of each
    /// detector. `stored` are the findings of these windows that are known.
    #[expect(clippy::too_many_arguments, reason = "all that a detection knows")]
    pub async fn evaluate(
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
        let mut known: HashMap<Window, Vec<Key>> = HashMap::new();
        for key in stored.keys() {
            known.entry(key.2).or_default().push(key.clone());
        }
        let size = Size::of(session, jobs).await?;
        let mut work = Work {
            inspection: self,
            session,
            now,
            size,
            after: Arc::from(after),
            run_id: Arc::from(run_id),
            known,
            failed: Arc::default(),
            highest: Highest::default(),
            evaluation: Evaluation::default(),
            stage,
            detection,
        };
        let parts = work.parts(jobs).await?;
        let steps = |jobs: &Jobs| jobs.values().map(|detectors| detectors.len() as u64).sum::<u64>();
        let sessions = if let [everybody] = parts.as_slice() {
            stage.set_total(steps(jobs));
            let all = Phase::of(jobs.clone(), everybody.clone(), self.learned.clone());
            let done = work.run(all, Some(Untold::new())).await?;
            work.detection.spared += done.spared;
            done.sessions
        } else {
            tracing::debug!("sessions are looked at in {} parts", parts.len());
            let (of_all, of_parts) = self.divided(jobs);
            stage.set_total(steps(&of_all.jobs) + parts.len() as u64 * steps(&of_parts));
            let mut all = work.run(of_all, None).await?;
            let learned = self.learned.clone().unwrap_or_else(|| Arc::new(work.detection.learned.clone()));
            let mut of_them: HashMap<Window, u64> = HashMap::new();
            for part in parts {
                let found = all.take(&part);
                let phase = Phase::of(of_parts.clone(), part, Some(learned.clone()));
                let done = work.run(phase, Some(found)).await?;
                work.detection.spared += done.spared;
                done.sessions
                    .into_iter()
                    .for_each(|(window, sessions)| *of_them.entry(window).or_default() += sessions);
            }
            all.sessions.extend(of_them);
            all.sessions
        };
        for (window, sessions) in sessions {
            let most = work.detection.sessions_by_end.entry(window.end).or_default();
            *most = (*most).max(sessions);
        }
        let Work { mut evaluation, detection, .. } = work;
        detection.spared.sessions.sort();
        detection.spared.sessions.dedup();
        // What a failed detector found before it failed is found again when it works.
        let failed = |name: &str| evaluation.failed.iter().any(|&index| self.bench.detectors[index].name == name);
        evaluation.found.retain(|finding| !failed(&finding.detector));
        evaluation.looked_at.retain(|(_, name, _)| !failed(name));
        Ok(evaluation)
    }

    /// What has to see everybody, with what is to be learned for the rest; and the rest, which is evaluated for each part of the
    /// sessions.
    fn divided(&self, jobs: &Jobs) -> (Phase, Jobs) {
        let detectors = &self.bench.detectors;
        // Refusals are no rows of a session alone.
        let divides = |index: &usize| {
            let detector = &detectors[*index];
            !detector.reads(REFUSALS) && (detector.scope == Scope::Session || others_can_be_learned(detector))
        };
        let (mut of_all, mut of_parts) = (Jobs::new(), Jobs::new());
        let mut learns: BTreeMap<Window, Vec<OfEverybody>> = BTreeMap::new();
        for (window, indexes) in jobs {
            let (divided, whole): (Vec<usize>, Vec<usize>) = indexes.iter().partition(|index| divides(index));
            let asked = OfEverybody::ALL.into_iter();
            let asked = asked.filter(|table| divided.iter().any(|index| depends_on(&detectors[*index], *table)));
            // What an earlier detection has learned needs not be learned again.
            let asked: Vec<OfEverybody> = if self.learned.is_none() { asked.collect() } else { vec![] };
            if !whole.is_empty() || !asked.is_empty() {
                of_all.insert(*window, whole);
                learns.insert(*window, asked);
            }
            of_parts.insert(*window, divided);
        }
        (Phase { learns, ..Phase::of(of_all, Part::default(), self.learned.clone()) }, of_parts)
    }

    /// What the detectors say of some sessions in every window that holds a row of them, nothing written, and which detectors
    /// failed. `session` has the public tables.
    pub async fn look_at(
        &self,
        session: &SessionContext,
        looked_at: &BTreeSet<&str>,
        now: DateTime<Utc>,
    ) -> Result<(Vec<Finding>, Vec<Alarm>), DetectError> {
        let ids = rows::texts_batch("session_id", looked_at);
        replace(session, "looked_at", ids.schema(), vec![ids]).map_err(|error| query_error(TOUCHED_OF, error))?;
        register(session, "touched", TOUCHED_OF, vec![]).await?;
        let minutes: Vec<TouchedMinute> = fetch(session, TOUCHED_MINUTES, vec![]).await?;
        let (after, mut detection) = (vec![i64::MIN; self.bench.detectors.len()], Detection::default());
        let jobs = self.jobs(&minutes, &after);
        let evaluation =
            self.evaluate(session, now, &jobs, &after, &HashMap::new(), "", &Stage::hidden(), &mut detection).await?;
        let of_them = |finding: &Finding| looked_at.contains(finding.session_id.as_str());
        let found = evaluation.found.into_iter().filter(of_them).collect();
        Ok((found, detection.failures))
    }
}

/// Some of the jobs, over some of the sessions.
struct Phase {
    jobs: Jobs,
    part: Part,
    /// What is known of everybody; else it is found out.
    learned: Option<Arc<Learned>>,
    /// What is made of everybody in each window, for other phases.
    learns: BTreeMap<Window, Vec<OfEverybody>>,
}

impl Phase {
    fn of(jobs: Jobs, part: Part, learned: Option<Arc<Learned>>) -> Phase {
        Phase { jobs, part, learned, learns: BTreeMap::new() }
    }
}

/// What was found in windows, by detectors, by their places, and who used the sessions is not told yet.
type Untold = HashMap<Window, Vec<(usize, Found)>>;

/// What came of a phase.
#[derive(Default)]
struct Done {
    /// What is still to be told.
    untold: Untold,
    /// How many sessions with new rows the windows held, for each that detectors of one session looked at.
    sessions: Vec<(Window, u64)>,
    spared: Spared,
}

impl Done {
    /// Takes what was found of the sessions of a part.
    fn take(&mut self, part: &Part) -> Untold {
        let of_part =
            |found: &mut Vec<(usize, Found)>| found.extract_if(.., |(_, found)| part.has(found.session())).collect();
        self.untold.iter_mut().map(|(window, found)| (*window, of_part(found))).collect()
    }
}

/// How many rows of `activity` there are.
#[derive(Default)]
struct Size {
    fullest_window: u64,
    fullest_hour: u64,
    /// From the beginning of the first window to the end of the last.
    span: Option<Window>,
}

impl Size {
    async fn of(session: &SessionContext, jobs: &Jobs) -> Result<Size, EngineError> {
        #[derive(Deserialize)]
        struct Minute {
            minute: DateTime<Utc>,
            rows: u64,
        }
        let ends = jobs.keys().map(|window| window.end).max();
        let Some((start, end)) = jobs.keys().map(|window| window.start).min().zip(ends) else {
            return Ok(Size::default());
        };
        let span = Window { start, end };
        let minutes: Vec<Minute> = fetch(session, ROWS_OF_MINUTES, span.parameters()).await?;
        let minutes: BTreeMap<DateTime<Utc>, u64> = minutes.into_iter().map(|row| (row.minute, row.rows)).collect();
        let mut hours: HashMap<i64, u64> = HashMap::new();
        minutes
            .iter()
            .for_each(|(minute, rows)| *hours.entry(minute.timestamp().div_euclid(3_600)).or_default() += rows);
        let of_window = |window: &Window| minutes.range(window.start..window.end).map(|(_, rows)| rows).sum();
        Ok(Size {
            fullest_window: jobs.keys().map(of_window).max().unwrap_or(0),
            fullest_hour: hours.into_values().max().unwrap_or(0),
            span: Some(span),
        })
    }
}

/// An evaluation at work.
struct Work<'a> {
    inspection: &'a Inspection<'a>,
    session: &'a SessionContext,
    now: DateTime<Utc>,
    size: Size,
    /// Of each detector the last batch that it has evaluated.
    after: Arc<[i64]>,
    run_id: Arc<str>,
    /// The findings of each window that are stored.
    known: HashMap<Window, Vec<Key>>,
    /// Detectors that failed, in any window: they need not be tried.
    failed: Arc<Mutex<BTreeSet<usize>>>,
    highest: Highest,
    evaluation: Evaluation,
    stage: &'a Stage,
    detection: &'a mut Detection,
}

impl Work<'_> {
    /// The parts of the sessions that are looked at one after the other.
    async fn parts(&self, jobs: &Jobs) -> Result<Vec<Part>, EngineError> {
        let parts = self.size.fullest_window.div_ceil(self.inspection.engine.window_rows());
        let Some(span) = self.size.span.filter(|_| parts > 1 && !jobs.is_empty()) else {
            return Ok(vec![Part::default()]);
        };
        #[derive(Deserialize)]
        struct Last {
            session_id: String,
        }
        let parts = ("parts", ScalarValue::Int64(i64::try_from(parts).ok()));
        let lasts: Vec<Last> =
            fetch(self.session, PARTS, span.parameters().into_iter().chain([parts]).collect()).await?;
        Ok(Part::between(lasts.into_iter().map(|last| last.session_id)))
    }

    /// Evaluates a phase. What it finds is told together with what was found `before`; else it is given back.
    async fn run(&mut self, phase: Phase, mut before: Option<Untold>) -> Result<Done, DetectError> {
        let (bench, engine) = (&self.inspection.bench, self.inspection.engine);
        let mut windows = phase.jobs;
        for window in before.iter().flat_map(HashMap::keys) {
            windows.entry(*window).or_default();
        }
        let used: BTreeSet<usize> = windows.values().flatten().copied().collect();
        let is_part = phase.part != Part::default();
        let wanted = Wanted {
            detectors: used
                .into_iter()
                .map(|index| (&bench.detectors[index], bench.statements.detector(index)))
                .collect(),
            learns: phase.learns.values().flatten().copied().collect(),
            tells: before.is_some(),
            part: phase.part,
            learned: phase.learned,
        };
        let mut loader = Loader::new(self.session, wanted, &self.inspection.config.allow, self.now);
        let rows = if is_part {
            self.size.fullest_hour * self.inspection.engine.window_rows() / self.size.fullest_window.max(1)
        } else {
            self.size.fullest_hour
        };
        let length = chunk(rows);
        // Where there is room for it, the rows of the next chunk are loaded meanwhile, and the largest windows come first, so that no
        // thread waits long for the last one: both take memory.
        let has_room = self.size.fullest_window <= engine.window_rows();
        let (mut done, mut spared) = (Done::default(), Spared::default());
        let mut load = async |chunk: &Chunk<'_>| {
            let started = Instant::now();
            let loaded = loader.show(chunk.start, chunk.end, &mut spared).await;
            tracing::debug!("rows of {} windows loaded in {:.2?}", chunk.windows.len(), started.elapsed());
            loaded
        };
        let mut loaded_ahead = None;
        let mut chunks = chunks(&windows, length).into_iter().peekable();
        while let Some(mut chunk) = chunks.next() {
            if has_room {
                chunk.windows.sort_by_key(|(window, used)| Reverse((window.end - window.start) * used.len() as i32));
            }
            let loaded = match loaded_ahead.take() {
                Some(loaded) => loaded,
                None => load(&chunk).await?,
            };
            let started = Instant::now();
            let evaluated = self.evaluate(chunk, &loaded, &phase.learns, &mut done.sessions);
            let mut found = match chunks.peek().filter(|_| has_room) {
                None => evaluated.await?,
                Some(next) => {
                    let (found, ahead) = tokio::try_join!(evaluated, async { Ok(load(next).await?) })?;
                    loaded_ahead = Some(ahead);
                    found
                }
            };
            match &mut before {
                None => {
                    for (index, found) in found.iter_mut().flat_map(|(_, found)| found) {
                        if bench.purpose == Purpose::Replay && !self.highest.is(*index, found) {
                            found.forget_evidence();
                        }
                    }
                    done.untold.extend(found);
                }
                Some(before) => {
                    for (window, found) in &mut found {
                        found.extend(before.remove(window).unwrap_or_default());
                    }
                    self.tell(found, &loaded).await?;
                }
            }
            tracing::debug!("windows evaluated in {:.2?}", started.elapsed());
        }
        done.spared = spared;
        Ok(done)
    }

    /// Evaluates the windows of a chunk: what was found in each.
    async fn evaluate(
        &mut self,
        chunk: Chunk<'_>,
        loaded: &Arc<Loaded>,
        learns: &BTreeMap<Window, Vec<OfEverybody>>,
        sessions: &mut Vec<(Window, u64)>,
    ) -> Result<Vec<(Window, Vec<(usize, Found)>)>, DetectError> {
        let bench = &self.inspection.bench;
        // Each window is evaluated on a thread of its own: that is quicker than to share a small one out among threads.
        let stage = self.stage;
        let mut windows: Vec<_> = stream::iter(chunk.windows)
            .map(|(window, indexes)| {
                let task = Task {
                    window,
                    indexes: indexes.clone(),
                    learns: learns.get(&window).cloned().unwrap_or_default(),
                    loaded: Arc::clone(loaded),
                    after: Arc::clone(&self.after),
                    known: self.known.get(&window).cloned().unwrap_or_default(),
                    failed: Arc::clone(&self.failed),
                    run_id: Arc::clone(&self.run_id),
                };
                let bench = bench.clone();
                let evaluated = SpawnedTask::spawn(async move { bench.evaluate(task).await }.in_current_span());
                async move {
                    let in_window = evaluated.join_unwind().await;
                    stage.advance(indexes.len() as u64);
                    (window, in_window)
                }
            })
            .buffer_unordered(self.inspection.engine.threads())
            .collect()
            .await;
        windows.sort_unstable_by_key(|(window, _)| *window);
        let mut found = Vec::new();
        for (window, in_window) in windows {
            let in_window = in_window.map_err(DetectError::Cancelled)?;
            if bench.purpose == Purpose::Replay {
                in_window.found.iter().for_each(|(index, found)| self.highest.take(*index, found));
            }
            found.push((window, in_window.found));
            self.evaluation.looked_at.extend(in_window.looked_at);
            self.detection.learned.extend(in_window.learned.into_iter().map(|(table, rows)| ((table, window), rows)));
            for (index, seconds) in in_window.seconds {
                self.detection.detectors.entry(bench.detectors[index].name.clone()).or_default().seconds += seconds;
            }
            sessions.extend(in_window.sessions.map(|sessions| (window, sessions)));
            for (index, reason) in in_window.failed {
                if self.evaluation.failed.insert(index) {
                    let Detector { name, path, .. } = &bench.detectors[index];
                    let text = format!("detector {name} ({path}): {reason}");
                    self.detection.failures.push(Alarm::about(AlarmKind::DetectorFailed, name, text));
                }
            }
        }
        Ok(found)
    }

    /// Tells who used the sessions that were found in windows whose rows are loaded.
    async fn tell(
        &mut self,
        found: Vec<(Window, Vec<(usize, Found)>)>,
        loaded: &Arc<Loaded>,
    ) -> Result<(), DetectError> {
        let (bench, highest) = (&self.inspection.bench, &self.highest);
        let tell = |(window, found): (Window, Vec<(usize, Found)>)| {
            let told = bench.told(&found, highest);
            let (bench, loaded) = (bench.clone(), Arc::clone(loaded));
            let telling = SpawnedTask::spawn_blocking(move || bench.tell(&loaded, window, found, &told));
            telling.join_unwind()
        };
        let mut told = stream::iter(found).map(tell).buffered(self.inspection.engine.threads());
        while let Some(told) = told.next().await {
            let (findings, unknown) = told.map_err(DetectError::Cancelled)?;
            self.evaluation.found.extend(findings);
            // Whoever is found is found all the same.
            self.detection.failures.extend(unknown.map(|error| {
                Alarm::new(AlarmKind::DetectionFailed, format!("who used what was found is not known: {error}"))
            }));
        }
        Ok(())
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
    for (window, detectors) in jobs {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                jobs.insert(Window { start: at(start), end: at(start + minutes) }, vec![0]);
            }
            let chunks = chunks(&jobs, TimeDelta::minutes(length));
            for chunk in &chunks {
                for (window, _) in &chunk.windows {
                    prop_assert!(chunk.start <= window.start && window.end <= chunk.end);
                }
            }
            prop_assert!(chunks.is_sorted_by_key(|chunk| chunk.start) && chunks.is_sorted_by_key(|chunk| chunk.end));
            let of_chunks = chunks.iter().flat_map(|chunk| chunk.windows.iter().map(|(window, _)| *window));
            prop_assert_eq!(of_chunks.collect::<BTreeSet<Window>>(), jobs.keys().copied().collect());
            prop_assert_eq!(chunks.iter().map(|chunk| chunk.windows.len()).sum::<usize>(), jobs.len());
        }
    }
}
