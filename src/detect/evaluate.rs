//! Evaluates the detectors on every window that holds a new row, and on no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};

use super::Finding;
use super::file::{Detector, Strength};
use super::inspect::{Evaluation, Inspection, Jobs, Key, TOUCHED_MINUTES, TouchedMinute};
use super::tables::{Learned, begin_sessions_in, sessions_in};
use crate::alarm::Alarm;
use crate::allow::Spared;
use crate::config::Config;
use crate::engine::{Engine, EngineError, Sql, fetch, register, sql, timestamp};
use crate::progress::Stage;
use crate::rows;
use crate::schema::Table;
use crate::store::{Store, StoreError, Transaction};

const TOUCHED: Sql = sql!("engine/touched.sql");
const FINDINGS_BETWEEN: Sql = sql!("engine/findings_between.sql");

/// The application transactions of a detection: the last batch that it looked at, its number, and how many sessions were active in
/// its windows, for the guard, if the decision comes in a later run.
const DETECTED: &str = "detect";
const EVALUATION: &str = "evaluation";
const SESSIONS: &str = "sessions";

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
    /// Everything is handed over and nothing stored. Where a detector's score of a session is the highest so far there are evidence
    /// and who used it: nobody looks at that of the others, and it would take most of the time and the memory.
    Replay,
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
    let overall = store.transaction(Table::Findings, DETECTED).await?.unwrap_or(0);
    let after = progress(store, detectors, overall).await?;
    let Some(first) = after.iter().copied().filter(|after| *after < batch).min() else {
        let sessions = store.transaction(Table::Findings, SESSIONS).await?.unwrap_or(0);
        detection.sessions = u64::try_from(sessions).unwrap_or(0);
        return Ok(detection);
    };

    let session = engine.session_over(store, now).await?;
    register(&session, "touched", TOUCHED, vec![("after", ScalarValue::Int64(Some(first)))]).await?;
    let minutes: Vec<TouchedMinute> = fetch(&session, TOUCHED_MINUTES, vec![]).await?;
    let inspection = Inspection::new(engine, &session, detectors, config, purpose).await?;
    let jobs = inspection.jobs(&minutes, &after);
    let active = if purpose == Purpose::Record { begin_sessions_in(&session, jobs.keys())? } else { None };
    let known = stored_findings(&session, &jobs).await?;
    let Evaluation { found, looked_at, failed } =
        inspection.evaluate(&session, now, &jobs, &after, &known, run_id, stage, &mut detection).await?;
    if purpose == Purpose::Replay {
        detection.found = found;
        detection.found.sort_by(|a, b| {
            (a.window_end, &a.session_id, &a.detector).cmp(&(b.window_end, &b.session_id, &b.detector))
        });
        return Ok(detection);
    }
    let found = by_key(found);
    let changed = changed(&known, &found);
    let gone = looked_at.into_iter().filter(|key| !found.contains_key(key)).collect::<BTreeSet<Key>>();
    for finding in &changed {
        detection.detectors.entry(finding.detector.clone()).or_default().findings += 1;
    }
    detection.sessions = sessions_in(active).await?;

    // Detections have numbers of their own: one that makes up for a failure sees no new batch.
    let evaluation = evaluations(store).await? + 1;
    let mut transactions = vec![
        Transaction::new(DETECTED, batch),
        Transaction::new(EVALUATION, evaluation),
        Transaction::new(SESSIONS, i64::try_from(detection.sessions).unwrap_or(i64::MAX)),
    ];
    for (index, detector) in detectors.iter().enumerate() {
        let version = if failed.contains(&index) { after[index] } else { batch };
        transactions.push(Transaction::new(own_progress(detector), version));
    }
    transactions.push(Transaction::new(LEVEL, i64::from(failed.is_empty())));
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
    Ok(store.transaction(Table::Findings, EVALUATION).await?.unwrap_or(0))
}

/// The transaction that tells how far one detector has come: it stays behind when the detector fails.
fn own_progress(detector: &Detector) -> String {
    format!("{DETECTED}:{}", detector.name)
}

/// The transaction that tells whether all detectors of the last detection came as far as it did, so that nobody needs to ask for each: the
/// Delta library goes through the log of the table for every transaction that it is asked for.
const LEVEL: &str = "level";

/// How far each detector has come; one that is new, or was off, begins with what is new.
async fn progress(store: &dyn Store, detectors: &[Detector], overall: i64) -> Result<Vec<i64>, StoreError> {
    if store.transaction(Table::Findings, LEVEL).await?.is_some_and(|level| level > 0) {
        return Ok(vec![overall; detectors.len()]);
    }
    let mut progress = Vec::new();
    for detector in detectors {
        let own = store.transaction(Table::Findings, &own_progress(detector)).await?;
        progress.push(own.unwrap_or(overall));
    }
    Ok(progress)
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

/// The findings of these windows that are stored.
async fn stored_findings(session: &SessionContext, jobs: &Jobs) -> Result<HashMap<Key, Finding>, EngineError> {
    let (Some((first, _)), Some((last, _))) = (jobs.first_key_value(), jobs.last_key_value()) else {
        return Ok(HashMap::new());
    };
    let bounds = vec![("after", timestamp(first.end - TimeDelta::microseconds(1))), ("until", timestamp(last.end))];
    Ok(by_key(fetch(session, FINDINGS_BETWEEN, bounds).await?))
}

fn by_key(findings: Vec<Finding>) -> HashMap<Key, Finding> {
    findings.into_iter().map(|finding| (finding.key(), finding)).collect()
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
            let [networks, countries, operators, agents] = [0; 4].map(|_| random.random_range(1..7));
            // Nearly everybody watches one thing at a time: what is several at once is told by that.
            let contents = if session % 15 == 0 { 6 } else { 1 };
            for minute in 0..40 {
                let most = if contents > 1 { 20 } else { networks };
                for _ in 0..random.random_range(0..=most) {
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
        assert_eq!(store.transaction(Table::Findings, DETECTED).await.unwrap(), None, "nothing is stored");
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
                expected.clear();
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

    /// What many sessions are found for does not depend on how many of them are looked at together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn parts_of_the_sessions_are_judged_as_all_are() {
        let config = CONFIG.to_owned() + "[[allow]]\nasn = 2\nreason = \"r\"\n";
        let config = Config::parse(&config, Path::new("/nowhere/streamwarden.toml")).unwrap();
        let (mut activity, deliveries) = traffic(&mut StdRng::seed_from_u64(7));
        // Some requests merely name a session that others use.
        activity.iter_mut().step_by(97).for_each(|row| row["bound"] = json!(false));
        let (now, stage) = ("2026-11-20T23:00:00Z".parse().unwrap(), Stage::hidden());
        let detected = async |window_rows: u64, purpose| {
            let engine = Engine::new(&config.engine).unwrap().with_window_rows(window_rows);
            let mut detectors = catalog::load(&config, &engine).await.unwrap();
            // One that others write, and that looks at everybody.
            let own = detectors.iter().find(|detector| detector.name == "concurrent_networks").unwrap();
            detectors.push(Detector { name: "own".to_owned(), scores_only: false, ..own.relaxed(0.5) });
            let store = store_of(&activity, &deliveries).await;
            let detection = detect(&engine, &store, &detectors, &config, now, "run", &stage, purpose).await.unwrap();
            assert_eq!(detection.failures, []);
            let session = engine.session_over(&store, now).await.unwrap();
            let sql = "SELECT * EXCLUDE (run_id) FROM findings ORDER BY detector, session_id, window_end";
            let stored = rows::to_json(&session.sql(sql).await.unwrap().collect().await.unwrap()).unwrap();
            (detection, stored)
        };
        for purpose in [Purpose::Record, Purpose::Replay] {
            let ((all, all_stored), (parts, parts_stored)) =
                (detected(1_000_000, purpose).await, detected(1_000, purpose).await);
            assert!(all.sessions_by_end.values().any(|sessions| *sessions > 50));
            assert_eq!(parts.sessions_by_end, all.sessions_by_end);
            assert_eq!(parts.spared, all.spared);
            assert!(all.spared.requests > 0);
            assert_eq!(parts_stored, all_stored);
            let of = |detection: &Detection| -> BTreeMap<String, u64> {
                detection.detectors.iter().map(|(name, stats)| (name.clone(), stats.findings)).collect()
            };
            assert_eq!(of(&parts), of(&all));
            if purpose == Purpose::Record {
                assert!(all_stored.len() > 1_000, "{}", all_stored.len());
                continue;
            }
            let told = |finding: &Finding| finding.evidence.contains("\"who\"");
            let bare = |finding: &Finding| Finding { evidence: String::new(), ..finding.clone() };
            assert_eq!(
                parts.found.iter().map(bare).collect::<Vec<_>>(),
                all.found.iter().map(bare).collect::<Vec<_>>()
            );
            // Who used it is told where its score is highest, at least.
            let mut highest: BTreeMap<(&str, &str), &Finding> = BTreeMap::new();
            for (part, all) in parts.found.iter().zip(&all.found) {
                assert!(part.evidence == all.evidence || told(part) != told(all), "{part:?} {all:?}");
                let known = highest.entry((&part.session_id, &part.detector)).or_insert(part);
                if part.score > known.score {
                    *known = part;
                }
            }
            assert!(highest.values().all(|finding| told(finding)));
        }
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
