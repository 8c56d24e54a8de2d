//! Reconciliation: read the group, plan, compare, update only what differs, and read back.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use aws_sdk_wafv2::types::Rule;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::journal::{Author, ENFORCED, Journal, Update, fingerprint};
use super::pack::{TOO_LONG, Target, fits, is_ours};
use super::plan::{Block, Desired, Plan, Room, is_in_force, plan, rules_for_group};
use super::{RuleGroup, Snapshot, WafError};
use crate::config::Mode;
use crate::decide::Policy;
use crate::detect::file::Strength;
use crate::engine::{EngineError, Sql, fetch, register, sql, timestamp};
use crate::history::Origin;
use crate::session::component::Credential;
use crate::store::StoreError;

const TARGETS: Sql = sql!("engine/waf_targets.sql");
const UNEXPLAINED: Sql = sql!("engine/unexplained.sql");
const LAST_TRIES: Sql = sql!("engine/last_tries.sql");

/// How long an update is tried that others keep from succeeding.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long after its last request a session counts as active, by the time that the logs have reached.
const ACTIVE_FOR: TimeDelta = TimeDelta::hours(1);

/// How often WAF is asked what rules cost, before what it allowed last is taken.
const ASKED: usize = 4;

/// How often the group is read after an update, until it shows the update.
const READ_BACK: u32 = 4;

/// What is to be in force, from the active revocations, the credentials of their sessions and the modes of now.
pub async fn desired(
    session: &SessionContext,
    policy: &Policy<'_>,
    journal: Option<&Journal>,
    now: DateTime<Utc>,
) -> Result<Desired, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        mode: Mode,
        origin: Origin,
        detector: Option<String>,
        strength: Option<Strength>,
        score: Option<f64>,
        revoked_at: Option<DateTime<Utc>>,
        component: Option<String>,
        credential: Option<String>,
        sessions: i64,
    }
    let mut desired = Desired::default();
    for row in fetch::<Row>(session, TARGETS, vec![("now", timestamp(now))]).await? {
        let spared = policy.allow.of_session(&row.session_id, now).is_some();
        let mode = match row.origin {
            Origin::Auto if spared => continue,
            Origin::Auto => policy.mode_of_block(row.mode, row.detector.as_deref().unwrap_or_default()),
            // A person's word does not depend on detectors.
            Origin::Manual | Origin::Dynamodb => row.mode,
        };
        if mode < Mode::Count {
            continue;
        }
        let (Some(text), Some(component)) = (row.credential, row.component) else {
            desired.unmatchable.push((row.session_id, "no credential of it is known"));
            continue;
        };
        let Ok(component) = component.parse() else {
            desired.unmatchable.push((row.session_id, "another program wrote where its credential is found"));
            continue;
        };
        if row.sessions > 1 {
            desired.unmatchable.push((row.session_id, "a credential of it was seen with another session too"));
            continue;
        }
        let credential = Credential { component, text };
        if !fits(&credential) {
            desired.unmatchable.push((row.session_id, TOO_LONG));
            continue;
        }
        let target = Target { session_id: row.session_id.clone(), credential };
        let block = Block {
            session_id: row.session_id,
            mode,
            origin: row.origin,
            strength: row.strength,
            score: row.score.unwrap_or_default(),
            revoked_at: row.revoked_at,
            still_active: true,
            targets: vec![],
        };
        desired.add(block, target);
    }
    if let Some(journal) = journal {
        add_unexplained(&mut desired, session, journal).await?;
    }
    Ok(desired)
}

/// Sessions that are in the rules but not in the history: what was lost there must not let them go.
async fn add_unexplained(
    desired: &mut Desired,
    session: &SessionContext,
    journal: &Journal,
) -> Result<(), EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        mode: Mode,
        revoked_at: Option<DateTime<Utc>>,
        component: String,
        credential: String,
    }
    register(session, "enforced", ENFORCED, vec![("group", journal.group().into())]).await?;
    for row in fetch::<Row>(session, UNEXPLAINED, vec![]).await? {
        let Ok(component) = row.component.parse() else { continue };
        let target =
            Target { session_id: row.session_id.clone(), credential: Credential { component, text: row.credential } };
        desired.unexplained.insert(row.session_id.clone());
        let block = Block {
            session_id: row.session_id,
            mode: row.mode,
            origin: Origin::Auto,
            strength: None,
            score: 0.0,
            revoked_at: row.revoked_at,
            still_active: true,
            targets: vec![],
        };
        desired.add(block, target);
    }
    Ok(())
}

/// Finds out which sessions are still active. Only needed where not all of them fit: it reads the whole activity.
async fn look_who_is_active(desired: &mut Desired, session: &SessionContext) -> Result<(), EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        tried_at: DateTime<Utc>,
        latest: Option<DateTime<Utc>>,
    }
    let tries: HashMap<String, Row> =
        fetch::<Row>(session, LAST_TRIES, vec![]).await?.into_iter().map(|row| (row.session_id.clone(), row)).collect();
    let latest = tries.values().filter_map(|row| row.latest).max();
    for block in &mut desired.blocks {
        let tried_at = tries.get(&block.session_id).map(|row| row.tried_at);
        // Who is blocked by hand need not be known from logs.
        let since = if block.origin == Origin::Auto { tried_at } else { tried_at.max(block.revoked_at) };
        block.still_active = latest.is_none_or(|latest| since.is_some_and(|since| since >= latest - ACTIVE_FOR));
    }
    Ok(())
}

/// How a group is brought in step, or would be.
pub struct Reconciliation<'a> {
    pub session: &'a SessionContext,
    pub group: &'a dyn RuleGroup,
    pub desired: Desired,
    pub journal: Journal,
    pub manual_share: f64,
    /// Rules of ours that this state knows nothing of are removed, too.
    pub drop_unknown: bool,
    looked_who_is_active: bool,
}

/// What the group should hold.
#[derive(Clone, Debug)]
pub struct Due {
    pub plan: Plan,
    /// All rules of the group.
    pub rules: Vec<Rule>,
    /// The group holds them.
    pub in_force: bool,
    /// Names of rules of ours that this state knows nothing of; they stay.
    pub kept: BTreeSet<String>,
    /// What somebody else did to our rules.
    pub tampered: Option<String>,
}

/// What a sync did.
#[derive(Debug)]
pub struct Synced {
    pub due: Due,
    /// The group was changed.
    pub changed: bool,
}

impl<'a> Reconciliation<'a> {
    pub fn new(session: &'a SessionContext, group: &'a dyn RuleGroup, desired: Desired, journal: Journal) -> Self {
        Reconciliation {
            session,
            group,
            desired,
            journal,
            manual_share: 0.0,
            drop_unknown: false,
            looked_who_is_active: false,
        }
    }

    /// What the group should hold, as it is now. Sends nothing.
    pub async fn due(&mut self) -> Result<(Snapshot, Due), WafError> {
        let snapshot = self.group.read().await?;
        let due = self.due_for(&snapshot).await?;
        Ok((snapshot, due))
    }

    /// At WAF's documented prices.
    fn room(&self, capacity: u64, foreign_wcu: u64) -> Room {
        Room { capacity, foreign_wcu, manual_share: self.manual_share, price: 1.0 }
    }

    async fn due_for(&mut self, snapshot: &Snapshot) -> Result<Due, WafError> {
        let unknown: BTreeSet<&str> = match (self.drop_unknown, self.journal.is_new()) {
            (true, _) => BTreeSet::new(),
            (false, true) => snapshot.rules.iter().filter(|rule| is_ours(rule)).map(Rule::name).collect(),
            (false, false) => self.journal.kept.iter().map(String::as_str).collect(),
        };
        // Those that are due are no strangers, whoever put them there.
        let unknown: BTreeSet<&str> = match unknown.is_empty() {
            true => unknown,
            false => {
                let plan = plan(&self.desired, &self.room(snapshot.capacity, 0));
                let due: BTreeSet<&str> = plan.rules.iter().map(|rule| rule.name.as_str()).collect();
                unknown.into_iter().filter(|name| !due.contains(name)).collect()
            }
        };
        let stays = |rule: &Rule| !is_ours(rule) || unknown.contains(rule.name());
        let staying: Vec<Rule> = snapshot.rules.iter().filter(|rule| stays(rule)).cloned().collect();
        // Only WAF knows what rules of others cost.
        let foreign_wcu = self.cost(staying, 0).await?;
        let mut room = self.room(snapshot.capacity, foreign_wcu);
        let mut allowed: Option<Due> = None;
        for _ in 0..ASKED {
            let mut plan = super::plan::plan(&self.desired, &room);
            if !plan.all_fit && !self.looked_who_is_active {
                look_who_is_active(&mut self.desired, self.session).await?;
                self.looked_who_is_active = true;
                plan = super::plan::plan(&self.desired, &room);
            }
            let names: BTreeSet<&str> = plan.rules.iter().map(|rule| rule.name.as_str()).collect();
            let kept: BTreeSet<String> = snapshot
                .rules
                .iter()
                .map(Rule::name)
                .filter(|name| unknown.contains(name) && !names.contains(name))
                .map(str::to_owned)
                .collect();
            let rules = rules_for_group(&plan, &snapshot.rules, |rule| !is_ours(rule) || kept.contains(rule.name()));
            let in_force = is_in_force(&rules, &snapshot.rules);
            if in_force && plan.left_out.is_empty() {
                return Ok(Due { plan, rules, in_force, kept, tampered: None });
            }
            // What WAF says counts, not our arithmetic.
            let counted = plan.wcu;
            let cost = self.cost(rules.clone(), foreign_wcu + counted).await?;
            plan.wcu = cost.saturating_sub(foreign_wcu);
            let price = plan.wcu as f64 / counted.max(1) as f64;
            let fits = cost <= snapshot.capacity;
            let all = plan.left_out.is_empty();
            if fits && allowed.as_ref().is_none_or(|allowed| plan.sessions > allowed.plan.sessions) {
                let tampered = self.tampered(snapshot, &rules, &kept).filter(|_| !in_force);
                allowed = Some(Due { plan, rules, in_force, kept, tampered });
            }
            if fits && (all || price >= room.price) {
                break;
            }
            room.price = if fits { price } else { price.max(room.price * 1.02) };
        }
        allowed.ok_or_else(|| WafError::Refused {
            group: self.group.name().to_owned(),
            action: "update",
            reason: format!(
                "it asks more for the rules than its documentation says, and not even fewer of them fit {} WCU; look at what \
                 else the group holds, and report this",
                snapshot.capacity
            ),
        })
    }

    /// What WAF asks for rules. Who is to be let go is let go even if it does not say: where no session is new, `else_` is
    /// taken for the answer.
    async fn cost(&self, rules: Vec<Rule>, else_: u64) -> Result<u64, WafError> {
        if rules.is_empty() {
            return Ok(0);
        }
        match self.group.cost(rules).await {
            Err(error @ WafError::Refused { .. }) if self.journal.has_all(&self.desired) => {
                tracing::warn!("{error}; the rules are sent all the same, as no session is new among them");
                Ok(else_)
            }
            answer => answer,
        }
    }

    /// What somebody else did to our rules: they are not what was put there.
    fn tampered(&self, snapshot: &Snapshot, wanted: &[Rule], kept: &BTreeSet<String>) -> Option<String> {
        let stranger = |name: &str| kept.contains(name) || self.journal.kept.contains(name);
        let ours: Vec<&Rule> = snapshot.rules.iter().filter(|rule| is_ours(rule) && !stranger(rule.name())).collect();
        if self.journal.is_new() {
            return None;
        }
        let altered: Vec<&str> = ours
            .iter()
            .filter(|rule| {
                let same = wanted.iter().find(|wanted| wanted.name() == rule.name());
                same.is_some_and(|same| (&same.statement, &same.action) != (&rule.statement, &rule.action))
            })
            .map(|rule| rule.name())
            .collect();
        if altered.is_empty() && self.journal.knows(&fingerprint(ours.iter().copied())) {
            return None;
        }
        let named = match altered.as_slice() {
            [] => String::new(),
            some => format!(", {} of them altered ({})", some.len(), some[..some.len().min(3)].join(", ")),
        };
        let since = self.journal.last.map_or(String::new(), |last| format!(" since {}", crate::time::rfc3339(last)));
        Some(format!(
            "somebody else changed our rules in the rule group {}{since}: it has {} rules of ours{named}; no other program may \
             write them",
            self.group.name(),
            ours.len()
        ))
    }

    /// Brings the group in step. A conflict or a busy WAF is tried again, from the reading on, with pauses and for a
    /// bounded time. Before each update `held` tells whether the state is still ours, so that `desired` is what is wanted.
    pub async fn sync(
        &mut self,
        author: Author<'_>,
        held: &(dyn Fn() -> Result<(), StoreError> + Sync),
    ) -> Result<Synced, WafError> {
        let started = Instant::now();
        let mut attempt = 0;
        let mut tampered = None;
        loop {
            attempt += 1;
            match self.try_sync(author, held, &mut tampered).await {
                Err(error) if error.is_retryable() => {
                    let pause = pause(&error, attempt, uuid::Uuid::new_v4().as_u128());
                    if started.elapsed() + pause > PATIENCE {
                        return Err(WafError::GivenUp { attempts: attempt, last: Box::new(error) });
                    }
                    tracing::warn!("{error}; trying again in {pause:.1?}");
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
                Ok(mut synced) => {
                    synced.due.tampered = tampered;
                    return Ok(synced);
                }
            }
        }
    }

    async fn try_sync(
        &mut self,
        author: Author<'_>,
        held: &(dyn Fn() -> Result<(), StoreError> + Sync),
        tampered: &mut Option<String>,
    ) -> Result<Synced, WafError> {
        let (snapshot, due) = self.due().await?;
        if tampered.is_none() {
            tampered.clone_from(&due.tampered);
        }
        let ours = due.rules.iter().filter(|rule| is_ours(rule) && !due.kept.contains(rule.name()));
        let update = Update { plan: &due.plan, fingerprint: fingerprint(ours), kept: due.kept.clone() };
        if !due.in_force {
            held()?;
            self.journal.intend(author, &update).await?;
            let version = self.group.update(&snapshot, due.rules.clone()).await?;
            self.read_back(&due.rules, &snapshot.version, &version).await?;
        }
        self.journal.confirm(author, &update).await?;
        self.journal.record(author, &due.plan, &self.desired.blocks).await?;
        let changed = !due.in_force;
        Ok(Synced { due: Due { in_force: true, ..due }, changed })
    }

    /// Whether the group holds what was sent. `before` and `after` are its versions around the update.
    async fn read_back(&self, sent: &[Rule], before: &str, after: &str) -> Result<(), WafError> {
        for attempt in 1..=READ_BACK {
            let snapshot = self.group.read().await?;
            if is_in_force(sent, &snapshot.rules) {
                return Ok(());
            }
            let group = self.group.name().to_owned();
            if snapshot.version == after {
                return Err(WafError::Different { group });
            }
            // Neither the old one nor ours: somebody was quick.
            if snapshot.version != before {
                return Err(WafError::Conflict { group });
            }
            tokio::time::sleep(Duration::from_millis(500) * attempt).await;
        }
        Err(WafError::Different { group: self.group.name().to_owned() })
    }
}

/// At least a second, as WAF takes one update a second in the whole account, with up to half as much again by chance so that
/// two programs do not stay in step. A busy WAF is given ever more time.
fn pause(error: &WafError, attempt: u32, chance: u128) -> Duration {
    let doublings = if matches!(error, WafError::Conflict { .. }) { 0 } else { (attempt - 1).min(4) };
    let base = 1_000u64 << doublings;
    Duration::from_millis(base + (chance % u128::from(base / 2)) as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::engine::Engine;
    use crate::session::component::Component;
    use crate::store::{MemoryStore, Store};

    /// A group that spoils some of the updates that it accepts, as it is told to.
    struct Spoiling {
        group: Mutex<Snapshot>,
        spoil: Mutex<Vec<Spoil>>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Spoil {
        /// It keeps all rules but one.
        LosesOne,
        /// The old rules are read once more.
        IsStale,
        /// Somebody writes right after us.
        IsOverwritten,
    }

    impl Spoiling {
        fn new(spoil: &[Spoil]) -> Spoiling {
            let group = Snapshot { capacity: 100, rules: vec![], version: "0".into() };
            Spoiling { group: Mutex::new(group), spoil: Mutex::new(spoil.to_vec()) }
        }

        fn next(&self, among: &[Spoil]) -> Option<Spoil> {
            let mut spoil = self.spoil.lock().unwrap();
            spoil.first().copied().filter(|next| among.contains(next)).inspect(|_| {
                spoil.remove(0);
            })
        }
    }

    #[async_trait]
    impl RuleGroup for Spoiling {
        fn name(&self) -> &str {
            "spoiling"
        }

        async fn read(&self) -> Result<Snapshot, WafError> {
            let group = self.group.lock().unwrap().clone();
            if group.version != "0" && self.next(&[Spoil::IsStale]).is_some() {
                return Ok(Snapshot { rules: vec![], version: "0".into(), ..group });
            }
            Ok(group)
        }

        async fn cost(&self, rules: Vec<Rule>) -> Result<u64, WafError> {
            Ok(2 * rules.len() as u64)
        }

        async fn update(&self, since: &Snapshot, mut rules: Vec<Rule>) -> Result<String, WafError> {
            let mut group = self.group.lock().unwrap();
            if since.version != group.version {
                return Err(WafError::Conflict { group: "spoiling".into() });
            }
            let next = |version: &str| (version.parse::<u32>().unwrap() + 1).to_string();
            let ours = next(&group.version);
            group.version.clone_from(&ours);
            match self.next(&[Spoil::LosesOne, Spoil::IsOverwritten]) {
                Some(Spoil::LosesOne) => drop(rules.pop()),
                Some(_) => {
                    rules.clear();
                    group.version = next(&ours);
                }
                None => {}
            }
            group.rules = rules;
            Ok(ours)
        }
    }

    async fn sync_with(group: &Spoiling) -> (Result<Synced, WafError>, Vec<String>) {
        let engine = Engine::new(&crate::config::Engine::default()).unwrap();
        let store = MemoryStore::default();
        let now = "2026-11-20T21:00:00Z".parse().unwrap();
        let session = engine.session_over(&store, now).await.unwrap();
        let journal = Journal::read(&session, "id").await.unwrap();
        let mut desired = Desired::default();
        let credential = Credential { component: Component::PathStart, text: "Session00001".into() };
        let block = Block {
            session_id: "Session00001".into(),
            mode: Mode::Enforce,
            origin: Origin::Manual,
            strength: None,
            score: 0.0,
            revoked_at: Some(now),
            still_active: true,
            targets: vec![],
        };
        desired.add(block, Target { session_id: "Session00001".into(), credential });
        let author = Author { store: &store as &dyn Store, now, run_id: "run" };
        let synced = Reconciliation::new(&session, group, desired, journal).sync(author, &|| Ok(())).await;
        let session = engine.session_over(&store, now).await.unwrap();
        #[derive(Deserialize)]
        struct Row {
            event: String,
        }
        const SYNCS: Sql = Sql { file: "test", text: "SELECT event FROM syncs ORDER BY sequence" };
        let rows: Vec<Row> = fetch(&session, SYNCS, vec![]).await.unwrap();
        (synced, rows.into_iter().map(|row| row.event).collect())
    }

    #[tokio::test]
    async fn what_waf_does_not_hold_after_an_update_is_no_success() {
        let (synced, events) = sync_with(&Spoiling::new(&[Spoil::LosesOne])).await;
        assert!(matches!(synced, Err(WafError::Different { .. })), "{synced:?}");
        assert_eq!(events, ["intended"], "and it is not recorded as one");
    }

    #[tokio::test]
    async fn a_reading_that_comes_late_is_waited_for() {
        let (synced, events) = sync_with(&Spoiling::new(&[Spoil::IsStale])).await;
        assert!(synced.is_ok_and(|synced| synced.changed && synced.due.tampered.is_none()));
        assert_eq!(events, ["intended", "confirmed"]);
    }

    #[tokio::test]
    async fn who_overwrites_us_is_no_end_of_it() {
        let group = Spoiling::new(&[Spoil::IsOverwritten]);
        let (synced, events) = sync_with(&group).await;
        assert!(synced.is_ok_and(|synced| synced.changed));
        assert_eq!(group.group.lock().unwrap().rules.len(), 1);
        assert_eq!(events, ["intended", "intended", "confirmed"]);
    }
}
