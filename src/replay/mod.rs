//! Replay: the top half of a pass over any logs, with nothing written. Its now is the end of each window.

pub mod baseline;
pub mod delivery;
pub mod labels;
pub mod report;
pub mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::alarm::Alarm;
use crate::config::{Guard, Mode};
use crate::decide::{Facts, Policy, Proposal, guard_trips, propose, sufficient_mode};
use crate::detect::file::{Detector, Strength};
use crate::detect::{Detection, Finding, Purpose, detect};
use crate::engine::{Sql, begin, sql};
use crate::history::Standing;
use crate::ingest::{Ingested, Ingestion};
use crate::logs::LogForm;
use crate::pass::Warden;
use crate::pass::revoke::{Case, cases_of};
use crate::progress::Stage;
use crate::requests::Place;
use crate::source;
use crate::store::MemoryStore;
use baseline::{Baseline, Changes};
use delivery::Delivery;
use labels::{Evaluation, Labels};
use sweep::{Combination, Grid, Sweep, Swept, is_of_trial};

const COUNT_SESSIONS: Sql = sql!("replay/count_sessions.sql");

/// What a replay found: the object of `replay --output json`.
#[derive(Debug, Serialize)]
pub struct Replayed {
    pub rows: u64,
    pub sessions: u64,
    /// A session once per detector, at its highest score.
    pub findings: Vec<Found>,
    /// What a run in mode `enforce` would have blocked, once per session.
    pub revocations: Vec<Revocation>,
    /// Of these, the sessions that the blast-radius guard would have held.
    pub held: Vec<String>,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// With `--sweep`: a row for each combination of values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<Swept>,
    /// With `--baseline`.
    #[serde(rename = "baseline", skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    pub delivery: Delivery,
    #[serde(skip)]
    pub insight: Option<report::Insight>,
    #[serde(skip)]
    pub ingested: Ingested,
    /// What a person should look at, failures among it.
    #[serde(skip)]
    pub alarms: Vec<Alarm>,
}

#[derive(Debug, Serialize)]
pub struct Found {
    pub session_id: String,
    pub detector: String,
    pub score: f64,
    pub strength: Strength,
    pub window_start: DateTime<Utc>,
    pub window_end: DateTime<Utc>,
    /// A JSON object as text: of many thousands, values would take several times the memory.
    #[serde(serialize_with = "as_json")]
    pub evidence: String,
}

/// Text that is JSON, as what it is.
fn as_json<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serde_transcode::transcode(&mut serde_json::Deserializer::from_str(text), serializer)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revocation {
    pub session_id: String,
    pub detectors: Vec<String>,
    pub score: f64,
    /// The end of the window that decided.
    pub decided_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// The first minute in which two networks used it (of one whose networks never meet, that of the second; of one with a
    /// single network, its first).
    #[serde(default)]
    pub shared_at: Option<DateTime<Utc>>,
    /// The pass that would have blocked it, under the real delivery of its logs and the schedule; null where that is not known.
    #[serde(default)]
    pub blocked_at: Option<DateTime<Utc>>,
    /// Why that pass would not have blocked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_blocked: Option<String>,
}

impl Revocation {
    /// What was decided, without what the delivery made of it.
    fn decision(&self) -> (&[String], f64, DateTime<Utc>, DateTime<Utc>) {
        (&self.detectors, self.score, self.decided_at, self.expires_at)
    }
}

/// What a replay is asked for.
#[derive(Default)]
pub struct Request<'a> {
    /// What to read; else the places of the config.
    pub locations: &'a [source::Location],
    pub labels: Option<&'a Labels>,
    pub sweeps: &'a [Sweep],
    pub baseline: Option<&'a Baseline>,
    /// What only the report shows is gathered too.
    pub report: bool,
    /// Bars on stderr.
    pub progress: bool,
}

/// Replays all objects of some places.
pub async fn replay(warden: &Warden, request: &Request<'_>, now: DateTime<Utc>) -> anyhow::Result<Replayed> {
    let started = Instant::now();
    let config = &warden.config;
    let grid = Grid::new(request.sweeps, &warden.detectors)?;
    let store = MemoryStore::default();
    // Detectors are planned while objects are read.
    let plan = warden.plans_ahead();
    let ingested = read(warden, request, &store, now, &plan).await?;

    tracing::debug!("read after {:.2?}", started.elapsed());

    let mut detectors = warden.detectors.clone();
    detectors.extend(grid.trials.iter().cloned());
    if request.report {
        // What decides nothing finds too many to keep.
        let measured = |detector: &&Detector| detector.mode >= Mode::Count && !detector.thresholds.is_empty();
        let enforced = warden.detectors.iter().filter(measured);
        detectors.extend(enforced.map(report::near_misses));
    }
    let stage = if request.progress { Stage::steps("detect") } else { Stage::hidden() };
    let run_id = uuid::Uuid::new_v4().to_string();
    let mut detection =
        detect(&warden.engine, &store, &detectors, config, now, &run_id, &stage, Purpose::Replay).await?;
    drop(stage);

    tracing::debug!("detected after {:.2?}", started.elapsed());
    let session = warden.engine.session_over(&store, now).await?;
    #[derive(Deserialize)]
    struct Count {
        sessions: u64,
    }
    let counting = begin(&session, COUNT_SESSIONS, vec![]);
    let mut found = std::mem::take(&mut detection.found);
    delivery::candidates(&session, found.iter().map(|finding| finding.session_id.as_str()).collect())?;
    let of_trial = |finding: &&Finding| is_of_trial(&finding.detector);
    let tried: Vec<Finding> = found.iter().filter(of_trial).cloned().collect();
    let findings = highest(&mut found);
    let mut cases = cases_of(&session, found, &[]).await?;
    let tried_cases = take_trials(&mut cases);
    let sessions = counting.rows::<Count>().await?.first().map_or(0, |count| count.sessions);
    let guard = Guard { mode: Mode::Enforce, ..config.guard.clone() };
    let policy = Policy::new(&guard, &warden.detectors, &config.allow);
    let mut revocations = revocations(&cases, &policy);
    let held = would_be_held(&revocations, &detection, &guard);

    tracing::debug!("judged after {:.2?}", started.elapsed());
    let stage = if request.progress { Stage::steps("delivery") } else { Stage::hidden() };
    let learned = std::mem::take(&mut detection.learned);
    let delivery = delivery::follow(warden, &store, &policy, &cases, &mut revocations, learned, now, &stage).await?;
    drop(stage);

    let evaluation = request.labels.map(|labels| labels.evaluate(&revocations, &findings, &warden.detectors));
    let logs = (ingested.facts.counts.rows, sessions);
    let changes = request.baseline.map(|baseline| baseline.changes(&revocations, logs, request.labels));
    let before = revocations.iter().map(|revocation| revocation.session_id.as_str()).collect();
    let row = |tried: &Combination| swept(tried, &cases, &tried_cases, &before, &policy, request.labels);
    let sweep = grid.combinations.iter().map(row).collect();
    let insight = match request.report {
        true => Some(report::Insight::gather(warden, &session, &revocations, &findings, &tried, request.labels).await?),
        false => None,
    };

    let mut alarms = ingested.alarms.clone();
    alarms.extend(detection.failures);
    Ok(Replayed {
        rows: logs.0,
        sessions,
        findings,
        revocations,
        held,
        seconds: started.elapsed().as_secs_f64(),
        evaluation,
        sweep,
        changes,
        delivery,
        insight,
        ingested,
        alarms,
    })
}

/// Fills a store with the objects, in order of their arrival.
async fn read(
    warden: &Warden,
    request: &Request<'_>,
    store: &MemoryStore,
    now: DateTime<Utc>,
    on_news: &(dyn Fn() + Sync),
) -> anyhow::Result<Ingested> {
    let mut places = Vec::new();
    let of_config: Vec<source::Location> = warden.config.logs.iter().map(|logs| logs.location.clone()).collect();
    for location in if request.locations.is_empty() { &of_config } else { request.locations } {
        let named = warden.config.logs.iter().find(|logs| logs.location == *location).map(|logs| logs.form.clone());
        // Other places are read by their content, real-time logs with the first fields that the config names.
        let realtime = || warden.config.logs.iter().find_map(|logs| logs.form.realtime.clone());
        let form = named.unwrap_or_else(|| LogForm { realtime: realtime(), ..LogForm::default() });
        places.push(Place { source: source::connect(location).await, form: Arc::new(form), since: None });
    }
    let stage = if request.progress { Stage::bytes("read") } else { Stage::hidden() };
    let ingestion = Ingestion {
        engine: &warden.engine,
        store,
        context: &warden.context,
        now,
        retry_quarantined: false,
        by_arrival: Some(&warden.config.schedule),
        on_news,
    };
    Ok(ingestion.run(&places, &stage).await?)
}

/// What a run in mode `enforce` would have blocked, in order of time.
fn revocations(cases: &[Case], policy: &Policy<'_>) -> Vec<Revocation> {
    let mut revocations: Vec<Revocation> =
        cases.iter().filter_map(|case| suffices(&case.session_id, &case.findings, &case.facts, policy)).collect();
    revocations.sort_by(|a, b| (a.decided_at, &a.session_id).cmp(&(b.decided_at, &b.session_id)));
    revocations
}

/// When a session would first have been blocked: at the end of the first window by which its findings suffice. They come in
/// order of their windows' ends.
fn suffices(session_id: &str, findings: &[Finding], facts: &Facts, policy: &Policy<'_>) -> Option<Revocation> {
    // What does not suffice at last never did.
    sufficient_mode(&facts.own(findings), policy)?;
    let ends: BTreeSet<DateTime<Utc>> = findings.iter().map(|finding| finding.window_end).collect();
    ends.into_iter().find_map(|end| {
        let known = &findings[..findings.partition_point(|finding| finding.window_end <= end)];
        match propose(session_id, known, &Standing::default(), facts, policy, end) {
            Some(Proposal::Block(draft)) => Some(Revocation {
                session_id: draft.session_id,
                detectors: draft.verdict.detectors,
                score: draft.verdict.score,
                decided_at: end,
                expires_at: draft.expires_at.unwrap_or(end),
                shared_at: None,
                blocked_at: None,
                not_blocked: None,
            }),
            _ => None,
        }
    })
}

/// What trials found, by trial and session, under the names of their detectors.
type Tried = HashMap<String, HashMap<String, Vec<Finding>>>;

/// Takes what trials found out of the cases.
fn take_trials(cases: &mut [Case]) -> Tried {
    let mut tried = Tried::new();
    for case in cases {
        for mut finding in case.findings.extract_if(.., |finding| is_of_trial(&finding.detector)) {
            let detector = sweep::detector_of(&finding.detector).to_owned();
            let trial = std::mem::replace(&mut finding.detector, detector);
            tried.entry(trial).or_default().entry(case.session_id.clone()).or_default().push(finding);
        }
    }
    tried
}

/// What a combination of settings comes to: its trials stand for their detectors.
fn swept(
    combination: &Combination,
    cases: &[Case],
    tried: &Tried,
    before: &HashSet<&str>,
    policy: &Policy<'_>,
    labels: Option<&Labels>,
) -> Swept {
    // Whoever no swept detector has found, in any setting, is judged as before.
    let speaks_of = |case: &Case| {
        case.findings.iter().any(|finding| combination.trial_of.contains_key(&finding.detector))
            || combination
                .trial_of
                .values()
                .any(|trial| tried.get(trial).is_some_and(|found| found.contains_key(&case.session_id)))
    };
    let mut blocked: HashSet<&str> = HashSet::new();
    for case in cases {
        if !speaks_of(case) {
            if before.contains(case.session_id.as_str()) {
                blocked.insert(&case.session_id);
            }
            continue;
        }
        let others = case.findings.iter().filter(|finding| !combination.trial_of.contains_key(&finding.detector));
        let of_trials =
            combination.trial_of.values().filter_map(|trial| tried.get(trial)?.get(&case.session_id)).flatten();
        let mut findings: Vec<Finding> = others.chain(of_trials).cloned().collect();
        findings.sort_by_key(|finding| finding.window_end);
        if suffices(&case.session_id, &findings, &case.facts, policy).is_some() {
            blocked.insert(&case.session_id);
        }
    }
    let found = |trial: &String| -> HashSet<&str> {
        tried.get(trial).map(|found| found.keys().map(String::as_str).collect()).unwrap_or_default()
    };
    Swept {
        settings: combination.settings.clone(),
        revocations: blocked.len() as u64,
        overall: labels.map(|labels| labels.score(&blocked, |_| true)),
        detectors: labels
            .map(|labels| {
                let of = |(name, trial): (&String, &String)| (name.clone(), labels.score(&found(trial), |_| true));
                combination.trial_of.iter().map(of).collect()
            })
            .unwrap_or_default(),
    }
}

/// The sessions whose block would have made too many at its time.
fn would_be_held(revocations: &[Revocation], detection: &Detection, guard: &Guard) -> Vec<String> {
    let mut by_end: BTreeMap<DateTime<Utc>, Vec<&Revocation>> = BTreeMap::new();
    for revocation in revocations {
        by_end.entry(revocation.decided_at).or_default().push(revocation);
    }
    let mut held = Vec::new();
    let mut passed: Vec<DateTime<Utc>> = Vec::new();
    for (end, new) in by_end {
        let recent = passed.iter().filter(|time| **time > end - TimeDelta::hours(1)).count() as u64;
        let sessions = detection.sessions_by_end.get(&end).copied().unwrap_or(0);
        if guard_trips(new.len(), recent, sessions, guard) {
            held.extend(new.iter().map(|revocation| revocation.session_id.clone()));
        } else {
            passed.extend(new.iter().map(|_| end));
        }
    }
    held
}

/// Of each session and detector, but for trials, the finding with the highest score, the earliest of equals. These take the evidence;
/// from here on nobody looks at that of the others.
fn highest(findings: &mut [Finding]) -> Vec<Found> {
    let mut best: HashMap<(&str, &str), (f64, usize)> = HashMap::new();
    for (place, finding) in findings.iter().enumerate().filter(|(_, finding)| !is_of_trial(&finding.detector)) {
        let known = best.entry((&finding.session_id, &finding.detector)).or_insert((finding.score, place));
        if finding.score > known.0 {
            *known = (finding.score, place);
        }
    }
    let mut places: Vec<usize> = best.into_values().map(|(_, place)| place).collect();
    places.sort_unstable_by(|a, b| {
        let (a, b) = (&findings[*a], &findings[*b]);
        b.score.total_cmp(&a.score).then_with(|| (&a.session_id, &a.detector).cmp(&(&b.session_id, &b.detector)))
    });
    let mut evidence: Vec<String> = findings.iter_mut().map(|finding| std::mem::take(&mut finding.evidence)).collect();
    let found = |place: usize| {
        let finding = &findings[place];
        Found {
            session_id: finding.session_id.clone(),
            detector: finding.detector.clone(),
            score: finding.score,
            strength: finding.strength,
            window_start: finding.window_start,
            window_end: finding.window_end,
            evidence: std::mem::take(&mut evidence[place]),
        }
    };
    places.into_iter().map(found).collect()
}
