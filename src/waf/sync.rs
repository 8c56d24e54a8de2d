//! Reconciliation: read the group, plan, compare, and update only what differs.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::pack::{Target, is_ours};
use super::plan::{Desired, Plan, is_in_force, plan, rules_for_group};
use super::{RuleGroup, Snapshot, WafError};
use crate::config::Mode;
use crate::decide::Policy;
use crate::engine::{EngineError, Sql, fetch, sql, timestamp};
use crate::history::Origin;
use crate::session::component::Credential;
use crate::store::StoreError;

const TARGETS: Sql = sql!("engine/waf_targets.sql");

/// How long an update is tried that others keep from succeeding.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a sync did.
#[derive(Debug)]
pub struct Synced {
    pub plan: Plan,
    /// The group was changed.
    pub changed: bool,
}

/// What is to be in force, from the active revocations, the credentials of their sessions and the modes of now.
pub async fn desired(
    session: &SessionContext,
    policy: &Policy<'_>,
    now: DateTime<Utc>,
) -> Result<Desired, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        mode: Mode,
        origin: Origin,
        detector: Option<String>,
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
        let target = Target { session_id: row.session_id, credential: Credential { component, text } };
        match mode {
            Mode::Enforce => desired.block.push(target),
            _ => desired.count.push(target),
        }
    }
    Ok(desired)
}

/// The plan for a group as it is.
pub async fn plan_for(desired: &Desired, group: &dyn RuleGroup, snapshot: &Snapshot) -> Result<Plan, WafError> {
    let foreign: Vec<_> = snapshot.rules.iter().filter(|rule| !is_ours(rule)).cloned().collect();
    // Only WAF knows what rules of others cost.
    let foreign_wcu = if foreign.is_empty() { 0 } else { group.cost(foreign).await? };
    Ok(plan(desired, snapshot.capacity, foreign_wcu))
}

/// Brings the group in step. A conflict or a busy WAF is tried again, from the reading on, with growing pauses
/// and for a bounded time. Before each update `held` tells whether the state is still ours, so that `desired` is what is wanted.
pub async fn sync(
    desired: &Desired,
    group: &dyn RuleGroup,
    held: &(dyn Fn() -> Result<(), StoreError> + Sync),
) -> Result<Synced, WafError> {
    let started = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_sync(desired, group, held).await {
            Err(error) if error.is_retryable() => {
                let pause = pause(attempt, uuid::Uuid::new_v4().as_u128());
                if started.elapsed() + pause > PATIENCE {
                    return Err(error);
                }
                tracing::warn!("{error}; trying again in {pause:.1?}");
                tokio::time::sleep(pause).await;
            }
            result => return result,
        }
    }
}

async fn try_sync(
    desired: &Desired,
    group: &dyn RuleGroup,
    held: &(dyn Fn() -> Result<(), StoreError> + Sync),
) -> Result<Synced, WafError> {
    let snapshot = group.read().await?;
    let plan = plan_for(desired, group, &snapshot).await?;
    let wanted = rules_for_group(&plan, &snapshot.rules);
    if is_in_force(&wanted, &snapshot.rules) {
        return Ok(Synced { plan, changed: false });
    }
    held()?;
    group.update(&snapshot, wanted).await?;
    Ok(Synced { plan, changed: true })
}

/// At least a second, as WAF takes one update a second in the whole account, doubling, with up to half as
/// much again by chance so that two programs do not stay in step.
fn pause(attempt: u32, chance: u128) -> Duration {
    let base = 1_000u64 << (attempt - 1).min(4);
    Duration::from_millis(base + (chance % u128::from(base / 2)) as u64)
}
