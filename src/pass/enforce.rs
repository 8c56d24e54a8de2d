//! The step from the history to the rule group: what is due, what is sent, and what a person should know of it.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::Warden;
use crate::alarm::{Alarm, AlarmKind};
use crate::engine::{Begun, EngineError, Sql, begin, fetch, register, sql, timestamp};
use crate::store::StoreError;
use crate::time::rfc3339;
use crate::waf::forecast::Rate;
use crate::waf::journal::{Author, ENFORCED, Journal};
use crate::waf::plan::{Desired, Plan, Room, plan};
use crate::waf::sync::{Due, Reconciliation, desired};
use crate::waf::{AwsRuleGroup, RuleGroup, WafError};

const BLOCK_RATE: Sql = sql!("engine/block_rate.sql");
const SERVED: Sql = sql!("engine/served.sql");
const LEFT_BEHIND: Sql = sql!("engine/left_behind.sql");

/// What the forecast takes for the present.
const PRESENT: TimeDelta = TimeDelta::hours(6);

/// A group that will be full so soon is an alarm.
const FULL_SOON: TimeDelta = TimeDelta::days(1);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing is sent and nothing recorded.
    Look,
    Sync {
        /// Rules of ours that the state knows nothing of go, too.
        drop_unknown: bool,
    },
}

/// Where the rule group stands.
#[derive(Clone, Debug)]
pub struct Enforced {
    pub plan: Plan,
    pub waf: WafState,
    /// When the group will be full at the present rate, if within a week.
    pub full_at: Option<DateTime<Utc>>,
    /// What a person should look at.
    pub alarms: Vec<Alarm>,
}

/// Where the rule group stands after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WafState {
    /// The config names none: there is a plan only.
    NoGroup,
    /// Nothing was to be sent, and the group does not hold what is due.
    Planned,
    Updated,
    /// It holds what is due.
    Unchanged,
    /// It could not be reached or refused the update; what it holds is not known.
    NotInStep,
}

impl Enforced {
    /// The group could not be brought in step.
    pub fn failed() -> Enforced {
        Enforced { plan: Plan::default(), waf: WafState::NotInStep, full_at: None, alarms: vec![] }
    }
}

/// Brings the rule group of the config in step with the history, or tells what that would do. `held` tells whether the state
/// is still ours.
pub async fn enforce(
    warden: &Warden,
    group: Option<&AwsRuleGroup>,
    author: Author<'_>,
    held: &(dyn Fn() -> Result<(), StoreError> + Sync),
    how: How,
) -> Result<Enforced, WafError> {
    let Author { store, now, .. } = author;
    let session = warden.engine.session_over(store, now).await?;
    let policy = warden.policy();
    let behind = LeftBehind::begin(&session, group.map_or("", AwsRuleGroup::id));
    let Some(group) = group else {
        let desired = desired(&session, &policy, None, now).await?;
        let plan = plan(&desired, &Room { manual_share: warden.manual_share(), ..Room::of(warden.assumed_capacity()) });
        return finish(&session, plan, WafState::NoGroup, &desired, behind.alarms().await?, now).await;
    };
    let journal = Journal::read(&session, group.id()).await?;
    let desired = desired(&session, &policy, Some(&journal), now).await?;
    let mut reconciliation = Reconciliation::new(&session, group, desired, journal);
    reconciliation.manual_share = warden.manual_share();
    let (due, waf) = match how {
        How::Look => {
            let (_, due) = reconciliation.due().await?;
            let waf = if due.in_force { WafState::Unchanged } else { WafState::Planned };
            (due, waf)
        }
        How::Sync { drop_unknown } => {
            reconciliation.drop_unknown = drop_unknown;
            let synced = reconciliation.sync(author, held).await?;
            (synced.due, if synced.changed { WafState::Updated } else { WafState::Unchanged })
        }
    };
    let mut alarms = due_alarms(&due, group.name());
    alarms.extend(behind.alarms().await?);
    finish(&session, due.plan, waf, &reconciliation.desired, alarms, now).await
}

/// The alarms of what is left behind in other groups.
struct LeftBehind(Begun);

impl LeftBehind {
    fn begin(session: &SessionContext, group: &str) -> LeftBehind {
        LeftBehind(begin(session, LEFT_BEHIND, vec![("group", group.into())]))
    }

    async fn alarms(self) -> Result<Vec<Alarm>, EngineError> {
        #[derive(Deserialize)]
        struct Row {
            rule_group: String,
            sessions: u64,
        }
        let rows: Vec<Row> = self.0.rows().await?;
        let alarm = |Row { rule_group: other, sessions }: Row| {
            let text = format!(
                "{sessions} sessions are still in the rules of the rule group with the id {other}, which the config does not name: \
                 nobody takes them out; empty that group, or delete it, and then say so by `streamwarden waf forget {other}`"
            );
            Alarm::about(AlarmKind::WafLeftBehind, other, text)
        };
        Ok(rows.into_iter().map(alarm).collect())
    }
}

fn due_alarms(due: &Due, group: &str) -> Vec<Alarm> {
    let mut alarms: Vec<Alarm> = due.tampered.iter().map(|text| Alarm::new(AlarmKind::WafTampered, text)).collect();
    if !due.kept.is_empty() {
        let text = format!(
            "{} rules of ours in the rule group {group} are not known to this state and stay, as whom they block is not known \
             either; if the state was lost or is new on purpose, `streamwarden waf sync --drop-unknown` removes them",
            due.kept.len()
        );
        alarms.push(Alarm::new(AlarmKind::WafUnknownRules, text));
    }
    alarms
}

async fn finish(
    session: &SessionContext,
    plan: Plan,
    waf: WafState,
    desired: &Desired,
    mut alarms: Vec<Alarm>,
    now: DateTime<Utc>,
) -> Result<Enforced, WafError> {
    if !desired.unexplained.is_empty() {
        let text = format!(
            "{} blocked sessions are not in the history any more and stay blocked, as nothing there ends their blocks: {}; \
             look what became of the table revocations, and end them with `streamwarden restore`",
            desired.unexplained.len(),
            desired.unexplained.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
        );
        alarms.push(Alarm::new(AlarmKind::BlockUnexplained, text));
    }
    for (session, reason) in &desired.unmatchable {
        let text = format!("session {session} cannot be blocked: {reason}");
        alarms.push(Alarm::about(AlarmKind::BlockImpossible, session, text));
    }
    let without_room =
        plan.left_out.len() - desired.unmatchable.iter().map(|(session, _)| session).collect::<BTreeSet<_>>().len();
    if without_room > 0 {
        let text = format!(
            "{} of {} active sessions do not fit the rule group: {} of {} WCU are used",
            without_room,
            plan.left_out.len() as u64 + plan.sessions,
            plan.wcu + plan.foreign_wcu,
            plan.capacity
        );
        alarms.push(Alarm::new(AlarmKind::WafFull, text));
    }
    let full_at = forecast(session, &plan, now).await?;
    if let Some(full_at) = full_at.filter(|full_at| plan.left_out.is_empty() && *full_at - now < FULL_SOON) {
        let text = format!(
            "at the present rate of blocks the rule group is full at {}: make a larger one, or raise thresholds",
            rfc3339(full_at)
        );
        alarms.push(Alarm::new(AlarmKind::WafFullSoon, text));
    }
    Ok(Enforced { plan, waf, full_at, alarms })
}

/// When the group is full if blocks come and last as at [`PRESENT`].
async fn forecast(
    session: &SessionContext,
    plan: &Plan,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        number: u64,
        /// None: the row tells of blocks that began.
        ends_at: Option<DateTime<Utc>>,
        seconds: Option<f64>,
    }
    if plan.sessions == 0 {
        return Ok(None);
    }
    let mut rate = Rate { ends: vec![], began: 0, over: PRESENT, lasting: TimeDelta::zero() };
    for row in fetch::<Row>(session, BLOCK_RATE, vec![("since", timestamp(now - PRESENT))]).await? {
        match row.ends_at {
            Some(time) => rate.ends.extend(std::iter::repeat_n(time, row.number as usize)),
            None => {
                rate.began = row.number;
                rate.lasting = TimeDelta::seconds(row.seconds.unwrap_or_default() as i64);
            }
        }
    }
    let room = plan.capacity.saturating_sub(plan.foreign_wcu) as f64;
    Ok(rate.full_at(plan.sessions as f64 / plan.wcu.max(1) as f64 * room, now))
}

/// Sessions that were served though they had been blocked for minutes, by what was ingested after `batch`: an alarm each.
pub async fn served(session: &SessionContext, group: &str, batch: i64) -> Result<Option<Alarm>, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        applied_at: DateTime<Utc>,
        last_accepted: DateTime<Utc>,
    }
    register(session, "enforced", ENFORCED, vec![("group", group.into())]).await?;
    let batch = vec![("batch", ScalarValue::Int64(Some(batch)))];
    let rows: Vec<Row> = fetch(session, SERVED, batch).await?;
    let told = rows.iter().take(10).map(|row| {
        format!("{} (blocked {}, served {})", row.session_id, rfc3339(row.applied_at), rfc3339(row.last_accepted))
    });
    let told: Vec<String> = told.collect();
    let number = rows.len();
    Ok((number > 0).then(|| {
        let text = format!(
            "{number} blocked sessions are still served: {}{}; is the rule group in the web ACL of the distribution, and before \
             every rule that allows?",
            told.join(", "),
            if number > told.len() { ", …" } else { "" }
        );
        Alarm::new(AlarmKind::BlockServed, text)
    }))
}
