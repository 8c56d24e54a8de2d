//! Replay: the top half of a pass over any logs, with nothing written. Its now is the end of each window.

pub mod labels;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::config::{Guard, Mode};
use crate::decide::{Policy, Proposal, guard_trips, propose};
use crate::detect::file::Strength;
use crate::detect::{Detection, Finding, detect};
use crate::engine::{Sql, fetch, register, sql};
use crate::history::Standing;
use crate::ingest::{Ingested, Ingestion};
use crate::logs::LogForm;
use crate::pass::Warden;
use crate::pass::revoke::{Case, cases};
use crate::progress::Stage;
use crate::requests::Place;
use crate::source;
use crate::store::MemoryStore;
use labels::{Evaluation, Labels};

const ALL_FINDINGS: Sql = sql!("engine/all_findings.sql");
const ALL_SESSIONS: Sql = sql!("engine/all_sessions.sql");

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
    #[serde(skip)]
    pub ingested: Ingested,
    #[serde(skip)]
    pub failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Found {
    pub session_id: String,
    pub detector: String,
    pub score: f64,
    pub strength: Strength,
    pub window_start: DateTime<Utc>,
    pub window_end: DateTime<Utc>,
    pub evidence: Value,
}

#[derive(Clone, Debug, Serialize)]
pub struct Revocation {
    pub session_id: String,
    pub detectors: Vec<String>,
    pub score: f64,
    /// The end of the window that decided.
    pub decided_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Replays all objects of these locations, or of those of the config.
pub async fn replay(
    warden: &Warden,
    locations: &[source::Location],
    labels: Option<&Labels>,
    now: DateTime<Utc>,
    progress: bool,
) -> anyhow::Result<Replayed> {
    let started = Instant::now();
    let store = MemoryStore::default();
    let mut places = Vec::new();
    let of_config: Vec<source::Location> = warden.config.logs.iter().map(|logs| logs.location.clone()).collect();
    for location in if locations.is_empty() { &of_config } else { locations } {
        let named = warden.config.logs.iter().find(|logs| logs.location == *location).map(|logs| logs.form.clone());
        // Other places are read by their content, real-time logs with the first fields that the config names.
        let realtime = || warden.config.logs.iter().find_map(|logs| logs.form.realtime.clone());
        let form = named.unwrap_or_else(|| LogForm { realtime: realtime(), ..LogForm::default() });
        places.push(Place { source: source::connect(location).await, form: Arc::new(form), since: None });
    }
    let stage = if progress { Stage::bytes("read") } else { Stage::hidden() };
    let ingestion =
        Ingestion { engine: &warden.engine, store: &store, context: &warden.context, now, retry_quarantined: false };
    let ingested = ingestion.run(&places, &stage).await?;
    drop(stage);

    let stage = if progress { Stage::steps("detect") } else { Stage::hidden() };
    let run_id = uuid::Uuid::new_v4().to_string();
    let detection = detect(&warden.engine, &store, &warden.detectors, &warden.config, now, &run_id, &stage).await?;
    drop(stage);

    let session = warden.engine.session_over(&store, now).await?;
    let findings: Vec<Finding> = fetch(&session, ALL_FINDINGS, vec![]).await?;
    register(&session, "candidates", ALL_SESSIONS, vec![]).await?;
    let cases = cases(&session, &[]).await?;
    let sessions = cases.len() as u64;
    let guard = Guard { mode: Mode::Enforce, ..warden.config.guard.clone() };
    let policy = Policy::new(&guard, &warden.detectors, &warden.config.allow);
    let mut revocations: Vec<Revocation> = cases.iter().filter_map(|case| first_block(case, &policy)).collect();
    revocations.sort_by(|a, b| (a.decided_at, &a.session_id).cmp(&(b.decided_at, &b.session_id)));
    let held = would_be_held(&revocations, &detection, &guard);
    let findings = highest(findings)?;
    let evaluation = labels.map(|labels| labels.evaluate(&revocations, &findings, &warden.detectors));

    let mut failures = ingested.failures.clone();
    failures.extend(detection.failures);
    Ok(Replayed {
        rows: ingested.facts.counts.rows,
        sessions,
        findings,
        revocations,
        held,
        seconds: started.elapsed().as_secs_f64(),
        evaluation,
        ingested,
        failures,
    })
}

/// When a session would first have been blocked: at the end of the first window by which its findings suffice.
fn first_block(case: &Case, policy: &Policy<'_>) -> Option<Revocation> {
    let ends: BTreeSet<DateTime<Utc>> = case.findings.iter().map(|finding| finding.window_end).collect();
    ends.into_iter().find_map(|end| {
        let known: Vec<Finding> = case.findings.iter().filter(|finding| finding.window_end <= end).cloned().collect();
        match propose(&case.session_id, &known, &Standing::default(), &case.facts, policy, end) {
            Some(Proposal::Block(draft)) => Some(Revocation {
                session_id: draft.session_id,
                detectors: draft.verdict.detectors,
                score: draft.verdict.score,
                decided_at: end,
                expires_at: draft.expires_at.unwrap_or(end),
            }),
            _ => None,
        }
    })
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

/// Of each session and detector the finding with the highest score, the earliest of equals.
fn highest(findings: Vec<Finding>) -> anyhow::Result<Vec<Found>> {
    let mut best: HashMap<(String, String), Finding> = HashMap::new();
    for finding in findings {
        let key = (finding.session_id.clone(), finding.detector.clone());
        match best.get(&key) {
            Some(known) if known.score >= finding.score => {}
            _ => {
                best.insert(key, finding);
            }
        }
    }
    let mut findings: Vec<Finding> = best.into_values().collect();
    findings.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then_with(|| (&a.session_id, &a.detector).cmp(&(&b.session_id, &b.detector)))
    });
    findings
        .into_iter()
        .map(|finding| {
            Ok(Found {
                evidence: serde_json::from_str(&finding.evidence)?,
                session_id: finding.session_id,
                detector: finding.detector,
                score: finding.score,
                strength: finding.strength,
                window_start: finding.window_start,
                window_end: finding.window_end,
            })
        })
        .collect()
}
