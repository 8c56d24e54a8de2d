//! What the state records of the rule group: what was put there, and which sessions are in the rules since when.
//!
//! By it a change that somebody else made to our rules is told from one that is due, and a removal that nothing in the
//! history explains from one that something does. A row is written before an update and one after it, so that a program that
//! was killed in between is no stranger to itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aws_sdk_wafv2::types::Rule;
use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::pack::patterns;
use super::plan::{Block, Desired, Plan};
use crate::config::Mode;
use crate::engine::{EngineError, Sql, fetch, sql};
use crate::rows;
use crate::schema::Table;
use crate::store::{Store, StoreError};

const KNOWN_RULES: Sql = sql!("engine/known_rules.sql");
/// The sessions that are in the rules of `$group`.
pub const ENFORCED: Sql = sql!("engine/enforced.sql");
const ENFORCEMENT_STATE: Sql = sql!("engine/enforcement_state.sql");

/// What was put into one group before.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Id of the group.
    group: String,
    /// Digests that our rules may have there; none if nothing was ever put there.
    known: Option<HashSet<String>>,
    /// The last row, if it is a confirmed one.
    confirmed: Option<(String, BTreeSet<String>)>,
    /// When the last row was written.
    pub last: Option<DateTime<Utc>>,
    /// Names of rules of ours that were found there, that this state knows nothing of.
    pub kept: BTreeSet<String>,
    /// The sessions in the rules.
    enforced: BTreeMap<String, (Mode, i64)>,
    last_sync: i64,
    last_enforcement: i64,
}

/// Who writes, and when.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    pub store: &'a dyn Store,
    pub now: DateTime<Utc>,
    pub run_id: &'a str,
}

/// What is recorded of an update of the group.
pub struct Update<'a> {
    pub plan: &'a Plan,
    pub fingerprint: String,
    pub kept: BTreeSet<String>,
}

impl Journal {
    pub async fn read(session: &SessionContext, group: &str) -> Result<Journal, EngineError> {
        #[derive(Deserialize)]
        struct Row {
            time: DateTime<Utc>,
            event: String,
            fingerprint: String,
            kept: String,
        }
        #[derive(Deserialize)]
        struct Enforced {
            session_id: String,
            mode: Mode,
            credentials: Option<i64>,
        }
        #[derive(Deserialize)]
        struct State {
            syncs: i64,
            enforcement: i64,
        }
        let of_group = || vec![("group", group.into())];
        let rows: Vec<Row> = fetch(session, KNOWN_RULES, of_group()).await?;
        let enforced: Vec<Enforced> = fetch(session, ENFORCED, of_group()).await?;
        let states: Vec<State> = fetch(session, ENFORCEMENT_STATE, vec![]).await?;
        let (last_sync, last_enforcement) = states.first().map_or((0, 0), |state| (state.syncs, state.enforcement));
        let last = rows.last();
        let kept: BTreeSet<String> = last.and_then(|row| serde_json::from_str(&row.kept).ok()).unwrap_or_default();
        let mut known: HashSet<String> = rows.iter().map(|row| row.fingerprint.clone()).collect();
        if rows.iter().all(|row| row.event != "confirmed") {
            known.insert(nothing());
        }
        let confirmed = last.filter(|row| row.event == "confirmed").map(|row| (row.fingerprint.clone(), kept.clone()));
        Ok(Journal {
            group: group.to_owned(),
            last: last.map(|row| row.time),
            confirmed,
            kept,
            known: (!rows.is_empty()).then_some(known),
            enforced: enforced
                .into_iter()
                .map(|row| (row.session_id, (row.mode, row.credentials.unwrap_or(0))))
                .collect(),
            last_sync,
            last_enforcement,
        })
    }

    /// Whether anything was ever put into the group from this state.
    pub fn is_new(&self) -> bool {
        self.known.is_none()
    }

    /// Whether our rules have this digest after what was put there.
    pub fn knows(&self, fingerprint: &str) -> bool {
        self.known.as_ref().is_some_and(|known| known.contains(fingerprint))
    }

    /// Id of the group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether all of the sessions are in the rules already, so that only others can go.
    pub fn has_all(&self, desired: &Desired) -> bool {
        desired.blocks.iter().all(|block| self.enforced.contains_key(&block.session_id))
    }

    /// To be called before an update.
    pub async fn intend(&mut self, author: Author<'_>, update: &Update<'_>) -> Result<(), StoreError> {
        self.confirmed = None;
        self.append_sync(author, update, "intended").await?;
        self.known.get_or_insert_with(|| HashSet::from([nothing()])).insert(update.fingerprint.clone());
        Ok(())
    }

    /// To be called when the group was seen to hold it.
    pub async fn confirm(&mut self, author: Author<'_>, update: &Update<'_>) -> Result<(), StoreError> {
        let state = (update.fingerprint.clone(), update.kept.clone());
        if self.confirmed.as_ref() != Some(&state) {
            self.append_sync(author, update, "confirmed").await?;
            self.known = Some(HashSet::from([update.fingerprint.clone()]));
            self.confirmed = Some(state);
        }
        Ok(())
    }

    async fn append_sync(&mut self, author: Author<'_>, update: &Update<'_>, event: &str) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Row<'a> {
            time: DateTime<Utc>,
            sequence: i64,
            event: &'a str,
            rule_group: &'a str,
            fingerprint: &'a str,
            kept: String,
            rules: usize,
            sessions: u64,
            wcu: u64,
            foreign_wcu: u64,
            capacity: u64,
            left_out: usize,
            run_id: &'a str,
        }
        self.last_sync += 1;
        self.last = Some(author.now);
        let plan = update.plan;
        let row = Row {
            time: author.now,
            sequence: self.last_sync,
            event,
            rule_group: &self.group,
            fingerprint: &update.fingerprint,
            kept: serde_json::to_string(&update.kept).expect("texts become JSON"),
            rules: plan.rules.len(),
            sessions: plan.sessions,
            wcu: plan.wcu,
            foreign_wcu: plan.foreign_wcu,
            capacity: plan.capacity,
            left_out: plan.left_out.len(),
            run_id: author.run_id,
        };
        append(author.store, Table::Syncs, &[row]).await
    }

    /// Records that nobody is in the rules any more: somebody emptied or deleted the group. Gives how many were.
    pub async fn forget(&mut self, author: Author<'_>) -> Result<usize, StoreError> {
        self.record(author, &Plan::default(), &[]).await?;
        Ok(self.enforced.len())
    }

    /// Records the sessions that came into the rules and those that went out of them.
    pub async fn record(&mut self, author: Author<'_>, plan: &Plan, blocks: &[Block]) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Row<'a> {
            time: DateTime<Utc>,
            sequence: i64,
            event: &'a str,
            session_id: &'a str,
            mode: Mode,
            credentials: Option<i64>,
            revoked_at: Option<DateTime<Utc>>,
            rule_group: &'a str,
            run_id: &'a str,
        }
        let Author { now: time, run_id, .. } = author;
        let in_rules: BTreeSet<&str> = plan.rules.iter().flat_map(|rule| &rule.sessions).map(String::as_str).collect();
        let mut rows = Vec::new();
        let mut sequence = self.last_enforcement;
        let mut row = |event, session_id, mode, credentials, revoked_at| {
            sequence += 1;
            rows.push(Row {
                time,
                sequence,
                event,
                session_id,
                mode,
                credentials,
                revoked_at,
                rule_group: &self.group,
                run_id,
            });
        };
        for (session, (mode, _)) in self.enforced.iter().filter(|(session, _)| !in_rules.contains(session.as_str())) {
            row("lifted", session, *mode, None, None);
        }
        for block in blocks.iter().filter(|block| in_rules.contains(block.session_id.as_str())) {
            let credentials = block.targets.len() as i64;
            let event = match self.enforced.get(&block.session_id) {
                Some((mode, before)) if *mode == block.mode && *before >= credentials => continue,
                Some((mode, _)) if *mode == block.mode => "widened",
                _ => "applied",
            };
            row(event, &block.session_id, block.mode, Some(credentials), block.revoked_at);
        }
        append(author.store, Table::Enforcement, &rows).await?;
        self.last_enforcement = sequence;
        Ok(())
    }
}

async fn append<T: Serialize>(store: &dyn Store, table: Table, values: &[T]) -> Result<(), StoreError> {
    if values.is_empty() {
        return Ok(());
    }
    let batch = rows::encode(table.schema().stored(), values).expect("the rows have the columns of the table");
    store.append(table, vec![batch], &[]).await
}

/// The digest of no rules: what a group has of ours before the first update.
fn nothing() -> String {
    fingerprint(std::iter::empty())
}

/// A digest of what rules do, by their names, priorities, actions and patterns.
pub fn fingerprint<'a>(rules: impl Iterator<Item = &'a Rule>) -> String {
    let mut lines: Vec<String> = rules
        .map(|rule| {
            let action = rule.action().map(|action| (action.block.is_some(), action.count.is_some()));
            format!("{} {} {action:?} {:?}\n", rule.priority(), rule.name(), patterns(rule))
        })
        .collect();
    lines.sort();
    let digest = Sha256::digest(lines.concat());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
