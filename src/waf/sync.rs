//! Reconciliation: read the group, plan, compare, and update only what differs.

use std::time::Duration;

use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::pack::{Target, is_ours};
use super::plan::{Desired, Plan, is_in_force, plan, rules_for_group};
use super::{MAX_CAPACITY, RuleGroup, Snapshot, WafError};
use crate::config::Mode;
use crate::engine::{EngineError, Sql, fetch, sql};

const TARGETS: Sql = sql!("engine/waf_targets.sql");

/// Attempts at an update that others keep from succeeding.
const ATTEMPTS: u32 = 6;

/// What a sync did.
#[derive(Debug)]
pub struct Synced {
    pub plan: Plan,
    /// The group was changed.
    pub changed: bool,
}

/// What is to be in force, from the active revocations and the credentials of their sessions.
pub async fn desired(session: &SessionContext) -> Result<Desired, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        mode: Mode,
        credential: Option<String>,
        sessions: i64,
    }
    let mut desired = Desired::default();
    for row in fetch::<Row>(session, TARGETS, vec![]).await? {
        let Some(credential) = row.credential else {
            desired.unmatchable.push((row.session_id, "no credential of it is known"));
            continue;
        };
        if row.sessions > 1 {
            desired.unmatchable.push((row.session_id, "its credential was seen with another session too"));
            continue;
        }
        let target = Target { session_id: row.session_id, credential };
        match row.mode {
            Mode::Enforce => desired.block.push(target),
            _ => desired.count.push(target),
        }
    }
    Ok(desired)
}

/// The plan for a group as it is; without a group for one of the greatest capacity.
pub async fn plan_for(desired: &Desired, group: Option<(&dyn RuleGroup, &Snapshot)>) -> Result<Plan, WafError> {
    let Some((group, snapshot)) = group else {
        return Ok(plan(desired, MAX_CAPACITY, 0));
    };
    let foreign: Vec<_> = snapshot.rules.iter().filter(|rule| !is_ours(rule)).cloned().collect();
    // Only WAF knows what rules of others cost.
    let foreign_wcu = if foreign.is_empty() { 0 } else { group.cost(foreign).await? };
    Ok(plan(desired, snapshot.capacity, foreign_wcu))
}

/// Brings the group in step. A conflict or a busy WAF is tried again, from the reading on, with growing pauses.
pub async fn sync(desired: &Desired, group: &dyn RuleGroup) -> Result<Synced, WafError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_sync(desired, group).await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS => {
                tracing::warn!("{error}; attempt {attempt} of {ATTEMPTS}, trying again");
                tokio::time::sleep(pause(attempt, uuid::Uuid::new_v4().as_u128())).await;
            }
            result => return result,
        }
    }
}

async fn try_sync(desired: &Desired, group: &dyn RuleGroup) -> Result<Synced, WafError> {
    let snapshot = group.read().await?;
    let plan = plan_for(desired, Some((group, &snapshot))).await?;
    let wanted = rules_for_group(&plan, &snapshot.rules);
    if is_in_force(&wanted, &snapshot.rules) {
        return Ok(Synced { plan, changed: false });
    }
    group.update(&snapshot, wanted).await?;
    Ok(Synced { plan, changed: true })
}

/// At least a second, as WAF takes one update a second in the whole account, doubling, with up to half as
/// much again by chance so that two programs do not stay in step.
fn pause(attempt: u32, chance: u128) -> Duration {
    let base = 1_000u64 << (attempt - 1).min(4);
    Duration::from_millis(base + (chance % u128::from(base / 2)) as u64)
}
