//! The step from findings to the history: loads what decisions need, decides, records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::Warden;
use crate::alarm::{Alarm, AlarmKind};
use crate::allow::Spared;
use crate::decide::{Binding, Draft, Facts, Policy, Proposal, guard_trips, propose, sufficient_mode};
use crate::detect::window::Window;
use crate::detect::{DetectError, Detection, Finding, Inspection, Key, Purpose, evaluations};
use crate::engine::{EngineError, Sql, begin, collect, fetch, query_error, register, replace, sql};
use crate::history::{Event, EventKind, Origin, Recorder, Standing, stored};
use crate::rows;
use crate::schema::Table;
use crate::store::{Store, StoreError, Transaction};

const CANDIDATES: Sql = sql!("engine/candidates.sql");
const FINDINGS_OF: Sql = sql!("engine/findings_of.sql");
const FACTS_OF: Sql = sql!("engine/facts_of.sql");
const ACTIVITY_OF_ASKED: Sql = sql!("engine/activity_of_asked.sql");
const BOUND_MINUTES: Sql = sql!("engine/bound_minutes.sql");
const UNDECIDED: Sql = sql!("engine/undecided.sql");

/// The application transaction of the last detection whose findings were decided on.
const DECIDED_UP_TO: &str = "decide";

/// What the guard counts blocks in.
const GUARDED: TimeDelta = TimeDelta::hours(1);

/// What was recorded.
#[derive(Default)]
pub struct Recorded {
    pub events: Vec<Event>,
    pub alarms: Vec<Alarm>,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Detect(#[from] DetectError),
    #[error("events cannot be written: {0}")]
    Rows(String),
}

impl RecordError {
    /// The state itself cannot be used.
    pub fn is_of_the_state(&self) -> bool {
        match self {
            RecordError::Detect(error) => error.is_of_the_state(),
            error => matches!(error, RecordError::Store(_) | RecordError::Engine(EngineError::Store(_))),
        }
    }
}

/// What the tables hold of the sessions that are to be decided on.
pub struct Case {
    pub session_id: String,
    pub findings: Vec<Finding>,
    pub standing: Standing,
    pub facts: Facts,
}

/// Ends the blocks whose time is over, decides on the sessions with new findings, and appends the events.
pub async fn record(
    warden: &Warden,
    store: &dyn Store,
    detection: &Detection,
    now: DateTime<Utc>,
    run_id: &str,
    release_held: bool,
    one_form_since: Option<DateTime<Utc>>,
) -> Result<Recorded, RecordError> {
    let session = warden.engine.session_over(store, now).await?;
    let evaluated = evaluations(store).await?;
    let decided = store.transaction(Table::Revocations, DECIDED_UP_TO).await?.unwrap_or(0);
    let (blocks, held) = (stored::begin_standing_blocks(&session), stored::begin_held(&session));
    let length = stored::length(&session, now - GUARDED).await?;
    let recorder =
        Recorder { now, next_sequence: length.sequence + 1, run_id, actor: "streamwarden", events: Vec::new() };
    let (blocks, held) = (blocks.rows().await?, held.rows().await?);
    let (policy, alarms) = (warden.policy(), Vec::new());
    let mut record = Record { warden, session: &session, policy, blocks, held, release_held, now, recorder, alarms };
    record.end_blocks().await?;

    // An automatic block that goes on now may have been refuted while another one stood before it.
    let resumed = record.blocks.iter().filter(|block| block.origin == Origin::Auto && block.run_id == run_id);
    let resumed = rows::texts_batch("session_id", resumed.map(|block| &block.session_id));
    let mut is_unsure = false;
    if decided < evaluated || release_held || resumed.num_rows() > 0 {
        replace(&session, "resumed", resumed.schema(), vec![resumed])
            .map_err(|error| query_error(CANDIDATES, error))?;
        let decisions = record.decide(decided, one_form_since).await?;
        is_unsure = decisions.is_unsure;
        record.block(decisions.first_blocks, length.blocks, detection.sessions);
    }
    record.tell_waiting();

    let Record { recorder: Recorder { events, .. }, alarms, .. } = record;
    // Who waits is decided on again by the next run.
    let progress = (decided < evaluated && !is_unsure).then(|| Transaction::new(DECIDED_UP_TO, evaluated));
    if !events.is_empty() || progress.is_some() {
        let rows = stored::rows_of(&events).map_err(RecordError::Rows)?;
        store.append(Table::Revocations, rows, progress.as_slice()).await?;
    }
    Ok(Recorded { events, alarms })
}

/// A record at work.
struct Record<'a> {
    warden: &'a Warden,
    session: &'a SessionContext,
    /// What blocks were made by, wherever addresses stand in whatever form.
    policy: Policy<'a>,
    /// The events on which the blocks stand, and those by which sessions are held, as the pass found them.
    blocks: Vec<Event>,
    held: Vec<Event>,
    release_held: bool,
    now: DateTime<Utc>,
    recorder: Recorder<'a>,
    alarms: Vec<Alarm>,
}

/// What is left to do of the decisions.
struct Decisions {
    /// The guard has a word in these.
    first_blocks: Vec<Draft>,
    /// Some sessions are not decided on.
    is_unsure: bool,
}

impl Record<'_> {
    /// Ends the blocks whose time is over, and what the allow-list speaks for.
    async fn end_blocks(&mut self) -> Result<(), RecordError> {
        let automatic = self.blocks.iter().filter(|block| block.origin == Origin::Auto).chain(&self.held);
        let asked = automatic.map(|event| event.session_id.as_str());
        let anew = Anew::look(self.warden, self.session, asked, self.now).await?;
        for block in &self.blocks {
            if block.expires_at.is_some_and(|expires_at| expires_at <= self.now) {
                self.recorder.expire(block);
            } else if block.origin == Origin::Auto
                && let Some(reason) = spared(&self.policy, block, &anew, self.now)
            {
                self.recorder.restore(block, reason);
            }
        }
        let blocked: HashSet<&str> = self.blocks.iter().map(|block| block.session_id.as_str()).collect();
        for event in self.held.iter().filter(|event| !blocked.contains(event.session_id.as_str())) {
            if let Some(reason) = spared(&self.policy, event, &anew, self.now) {
                self.recorder.restore(event, reason);
            }
        }
        Ok(())
    }

    /// Decides on the sessions with findings of detections after `decided`, and on those of the table `resumed`. What is no first block
    /// is recorded.
    async fn decide(&mut self, decided: i64, one_form_since: Option<DateTime<Utc>>) -> Result<Decisions, RecordError> {
        let (session, now) = (self.session, self.now);
        let after = ("after", ScalarValue::Int64(Some(decided)));
        let held = ("held", ScalarValue::Boolean(Some(self.release_held)));
        register(session, "candidates", CANDIDATES, vec![after.clone(), held]).await?;
        let undecided = begin(session, UNDECIDED, vec![after]);
        let mut cases = cases(session, &self.recorder.events).await?;
        let undecided = Undecided::of(undecided.rows().await?);
        cases.iter_mut().for_each(|case| undecided.mark(&mut case.findings));
        let policy = Policy { one_form_since, ..self.policy.clone() };
        let unsure = look_again(self.warden, session, &mut cases, &undecided, &policy, now).await?;
        let is_unsure = unsure.is_some();

        let standing_on: HashMap<&str, &Event> =
            self.held.iter().chain(&self.blocks).map(|event| (event.session_id.as_str(), event)).collect();
        // Of what was before, nobody knows any more whose tokens were used.
        let kept_since = now - self.warden.config.activity_retention.delta();
        let mut first_blocks = Vec::new();
        for case in cases {
            // What a detector that failed has found before stands. Who waits is looked at again.
            let event = standing_on.get(case.session_id.as_str()).filter(|_| !is_unsure);
            if let Some(event) = event.filter(|event| is_refuted(&self.policy, &case, event, kept_since)) {
                self.recorder.restore(event, "nothing that suffices is found any more".to_owned());
                continue;
            }
            let was_held = case.standing.held;
            match propose(&case.session_id, &case.findings, &case.standing, &case.facts, &policy, now) {
                Some(Proposal::Block(draft)) if was_held && self.release_held => {
                    self.recorder.record(EventKind::Released, draft);
                }
                // Only a person lets it go, however few come with it this time.
                Some(Proposal::Block(_)) if was_held => {}
                Some(Proposal::Block(draft)) => first_blocks.push(draft),
                Some(Proposal::Extend(draft)) => self.recorder.record(EventKind::Extended, draft),
                Some(Proposal::Observe(draft)) => self.recorder.record(EventKind::Observed, draft),
                None => {}
            }
        }
        if let Some((why, sessions)) = unsure {
            let text = format!(
                "{} sessions are not decided on, as what the allow-list leaves of them may not suffice ({}): {why}",
                sessions.len(),
                sessions.join(", ")
            );
            self.alarms.push(Alarm::new(AlarmKind::SessionsUndecided, text));
        }
        Ok(Decisions { first_blocks, is_unsure })
    }

    /// Records first blocks, or holds them all where that are too many: with `recent_blocks` of the last hour, for so many sessions in
    /// the windows.
    fn block(&mut self, first_blocks: Vec<Draft>, recent_blocks: u64, sessions: u64) {
        let guard = &self.warden.config.guard;
        // Those that were held in that hour would have been blocks.
        let is_recent = |event: &&Event| event.time > self.now - GUARDED && !self.release_held;
        let recent_blocks = recent_blocks + self.held.iter().filter(is_recent).count() as u64;
        if !guard_trips(first_blocks.len(), recent_blocks, sessions, guard) {
            first_blocks.into_iter().for_each(|draft| self.recorder.record(EventKind::Revoked, draft));
            return;
        }
        let reason = format!(
            "{} new blocks, {recent_blocks} (blocked or held) in the last hour: more than the greater of guard.max_new_revocations = {} and \
             guard.max_share = {} of {sessions} sessions",
            first_blocks.len(),
            guard.max_new_revocations,
            guard.max_share,
        );
        let text = format!(
            "held {} sessions: {reason}; look at them and let them through with run --release-held",
            first_blocks.len()
        );
        self.alarms.push(Alarm::new(AlarmKind::SessionsHeld, text));
        for mut draft in first_blocks {
            draft.reason = format!("{}; held by the guard", draft.reason);
            draft.expires_at = None;
            self.recorder.record(EventKind::Held, draft);
        }
    }

    /// Tells of the sessions that were held before, and of which nothing came.
    fn tell_waiting(&mut self) {
        let settled: HashSet<&str> = self.recorder.events.iter().map(|event| event.session_id.as_str()).collect();
        let waiting = self.held.iter().filter(|held| !settled.contains(held.session_id.as_str())).count();
        if waiting > 0 {
            let text = format!(
                "{waiting} sessions are held since earlier runs; look at them (history) and let them through with run --release-held"
            );
            self.alarms.push(Alarm::new(AlarmKind::SessionsHeld, text));
        }
    }
}

/// The findings that no decision has seen.
struct Undecided(HashSet<Key>);

#[derive(Deserialize)]
struct UndecidedRow {
    session_id: String,
    detector: String,
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
}

impl Undecided {
    fn of(rows: Vec<UndecidedRow>) -> Undecided {
        let key =
            |row: UndecidedRow| (row.session_id, row.detector, Window { start: row.window_start, end: row.window_end });
        Undecided(rows.into_iter().map(key).collect())
    }

    fn mark(&self, findings: &mut [Finding]) {
        for finding in findings {
            finding.undecided = self.0.contains(&finding.key());
        }
    }
}

/// Whether an automatic block, or what is held, has lost what it stands on: by the findings of now, of activity that is kept since then, it
/// would not be. `event` is the one that it stands on.
fn is_refuted(policy: &Policy<'_>, case: &Case, event: &Event, kept_since: DateTime<Utc>) -> bool {
    let is_of_us = match &case.standing.active {
        Some(active) => active.origin == Origin::Auto,
        None => case.standing.held,
    };
    is_of_us
        && event.window_start.is_some_and(|start| start >= kept_since)
        && !is_lowered(policy, event)
        && sufficient_mode(&case.facts.own(&case.findings), policy) < Some(event.mode)
}

/// Whether a mode was lowered since: that lifts the block for as long as it is, not for good.
fn is_lowered(policy: &Policy<'_>, event: &Event) -> bool {
    policy.mode_of_block(event.mode, event.detector.as_deref().unwrap_or_default()) < event.mode
}

/// What detectors say now of sessions with requests that the allow-list takes out: findings may be older than its entries.
#[derive(Default)]
struct Anew {
    /// The sessions that were looked at, with what was found.
    findings: HashMap<String, Vec<Finding>>,
    /// A detector failed, and why. What the others find counts, its silence speaks for nobody.
    incomplete: Option<String>,
}

impl Anew {
    /// Looks at those of the sessions that the allow-list speaks for.
    async fn look(
        warden: &Warden,
        session: &SessionContext,
        asked: impl Iterator<Item = &str>,
        now: DateTime<Utc>,
    ) -> Result<Anew, RecordError> {
        let allow = &warden.config.allow;
        if !allow.takes_requests(now) {
            return Ok(Anew::default());
        }
        let asked = rows::texts_batch("session_id", asked);
        if asked.num_rows() == 0 {
            return Ok(Anew::default());
        }
        replace(session, "asked", asked.schema(), vec![asked])
            .map_err(|error| query_error(ACTIVITY_OF_ASKED, error))?;
        let mut spared = Spared::default();
        let (_, batches) = collect(session, ACTIVITY_OF_ASKED, vec![]).await?;
        for batch in &batches {
            allow.filter(batch, now, &mut spared).map_err(RecordError::Rows)?;
        }
        let mut findings: HashMap<String, Vec<Finding>> =
            spared.sessions.into_iter().map(|session| (session, Vec::new())).collect();
        if findings.is_empty() {
            return Ok(Anew::default());
        }
        let looked_at: BTreeSet<&str> = findings.keys().map(String::as_str).collect();
        let (found, failures) =
            Inspection::new(&warden.engine, session, &warden.detectors, &warden.config, Purpose::Record)
                .await?
                .look_at(session, &looked_at, now)
                .await?;
        for finding in found {
            findings.entry(finding.session_id.clone()).or_default().push(finding);
        }
        Ok(Anew { findings, incomplete: failures.into_iter().next().map(|alarm| alarm.text) })
    }
}

/// What would be blocked and has requests that the allow-list takes out, as a session that was held before there was the
/// entry, is judged by what detectors say now. While a detector fails: why, and the sessions for which that does not suffice.
async fn look_again(
    warden: &Warden,
    session: &SessionContext,
    cases: &mut [Case],
    undecided: &Undecided,
    policy: &Policy<'_>,
    now: DateTime<Utc>,
) -> Result<Option<(String, Vec<String>)>, RecordError> {
    let would_block = |case: &Case| {
        let proposal = propose(&case.session_id, &case.findings, &case.standing, &case.facts, policy, now);
        matches!(proposal, Some(Proposal::Block(_) | Proposal::Extend(_)))
    };
    let asked = cases.iter().filter(|case| would_block(case)).map(|case| case.session_id.as_str());
    let mut anew = Anew::look(warden, session, asked, now).await?;
    let mut unsure = Vec::new();
    for case in cases {
        if let Some(findings) = anew.findings.remove(&case.session_id) {
            case.findings = findings;
            undecided.mark(&mut case.findings);
            if anew.incomplete.is_some() && !would_block(case) {
                unsure.push(case.session_id.clone());
            }
        }
    }
    Ok(anew.incomplete.map(|why| (why, unsure)).filter(|(_, unsure)| !unsure.is_empty()))
}

/// Why the allow-list ends a block, or lets a held session go: it names the session, or nothing that suffices is left without
/// the requests that it takes out.
fn spared(policy: &Policy<'_>, block: &Event, anew: &Anew, now: DateTime<Utc>) -> Option<String> {
    if let Some(allow) = policy.allow.of_session(&block.session_id, now) {
        return Some(format!("allowed: {}", allow.reason));
    }
    let findings =
        anew.findings.get(&block.session_id).filter(|_| !is_lowered(policy, block) && anew.incomplete.is_none())?;
    (sufficient_mode(findings, policy) < Some(block.mode))
        .then(|| "nothing that suffices is left without the requests that the allow-list takes out".to_owned())
}

/// Loads the sessions of the table `candidates`, in order of their ids. `pending` are events of this pass that are not stored yet.
pub async fn cases(session: &SessionContext, pending: &[Event]) -> Result<Vec<Case>, EngineError> {
    cases_of(session, fetch(session, FINDINGS_OF, vec![]).await?, pending).await
}

/// The same, with the findings at hand: those of a session in order of their windows' ends.
pub async fn cases_of(
    session: &SessionContext,
    findings: Vec<Finding>,
    pending: &[Event],
) -> Result<Vec<Case>, EngineError> {
    #[derive(Deserialize)]
    struct FactsRow {
        session_id: String,
        always_bound: bool,
        ever_bound: bool,
        derived: bool,
        last_seen: DateTime<Utc>,
        token_expires: Option<DateTime<Utc>>,
    }
    let events = stored::of_candidates(session).await?;
    let facts: Vec<FactsRow> = fetch(session, FACTS_OF, vec![]).await?;
    let is_mixed = |row: &&FactsRow| row.ever_bound && !row.always_bound;
    let mut bound_minutes =
        bound_minutes(session, facts.iter().filter(is_mixed).map(|row| row.session_id.as_str())).await?;
    let mut findings_of: HashMap<String, Vec<Finding>> = HashMap::new();
    for finding in findings {
        findings_of.entry(finding.session_id.clone()).or_default().push(finding);
    }
    let mut events_of: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in events.iter().chain(pending) {
        events_of.entry(&event.session_id).or_default().push(event);
    }
    let mut cases: Vec<Case> = facts
        .into_iter()
        .map(|row| Case {
            findings: findings_of.remove(&row.session_id).unwrap_or_default(),
            standing: Standing::of(events_of.remove(row.session_id.as_str()).unwrap_or_default()),
            facts: Facts {
                binding: match (row.always_bound, row.ever_bound) {
                    (true, _) => Binding::Always,
                    (false, false) => Binding::Never,
                    (false, true) => Binding::Sometimes(bound_minutes.remove(&row.session_id).unwrap_or_default()),
                },
                derived: row.derived,
                last_seen: row.last_seen,
                token_expires: row.token_expires,
            },
            session_id: row.session_id,
        })
        .collect();
    cases.sort_by(|a, b| a.session_id.cmp(&b.session_id));
    Ok(cases)
}

/// In which minutes sessions were used with tokens that cover their ids.
async fn bound_minutes(
    session: &SessionContext,
    asked: impl Iterator<Item = &str>,
) -> Result<BTreeMap<String, BTreeSet<DateTime<Utc>>>, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        minute: DateTime<Utc>,
    }
    let asked = rows::texts_batch("session_id", asked);
    let mut minutes: BTreeMap<String, BTreeSet<DateTime<Utc>>> = BTreeMap::new();
    if asked.num_rows() > 0 {
        replace(session, "asked", asked.schema(), vec![asked]).map_err(|error| query_error(BOUND_MINUTES, error))?;
        for row in fetch::<Row>(session, BOUND_MINUTES, vec![]).await? {
            minutes.entry(row.session_id).or_default().insert(row.minute);
        }
    }
    Ok(minutes)
}
