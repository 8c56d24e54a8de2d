//! Telling people: what a pass decided and what they should look at, as one digest, to the channels of `[notify]`.
//!
//! [`digest`] is pure; what was told before is in the table `notifications`, and `channel` sends.

mod channel;
pub mod digest;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};

use crate::alarm::{Alarm, AlarmKind};
use crate::config::{Config, Notify};
use crate::engine::{Engine, Sql, fetch, sql};
use crate::history::{Event, stored};
use crate::rows;
use crate::schema::Table;
use crate::store::{Root, Store, TOLD_FAILURE_FILE, Transaction};
use crate::text::printable;
use crate::time::rfc3339;
use channel::Channel;
use digest::{Digest, Key, Memory, Told};

const TOLD: Sql = sql!("engine/told.sql");
const UNTOLD: Sql = sql!("engine/untold.sql");

/// The application transaction of the last event of the history that was told.
const TOLD_UP_TO: &str = "told";

/// Kind of the rows that tell of sessions.
const SESSIONS: &str = "sessions";

/// The channels of a config.
pub struct Notifier<'a> {
    config: &'a Notify,
    channels: Vec<Channel>,
    /// Which state it is about: a team may have several.
    state: String,
}

/// A row of the table `notifications`.
#[derive(Serialize)]
struct Row<'a> {
    time: DateTime<Utc>,
    kind: &'a str,
    subject: &'a str,
    event: &'static str,
    text: String,
    run_id: &'a str,
}

/// The state of the tables as far as telling needs it, and whose pass it is.
pub struct Pass<'a> {
    pub engine: &'a Engine,
    pub store: &'a dyn Store,
    pub root: &'a Root,
    pub now: DateTime<Utc>,
    pub run_id: &'a str,
}

impl<'a> Notifier<'a> {
    /// None where the config names no channel.
    pub async fn connect(config: &'a Config) -> Option<Notifier<'a>> {
        let channels = channel::connect(&config.notify).await;
        let state = config.state.to_string();
        (!channels.is_empty()).then_some(Notifier { config: &config.notify, channels, state })
    }

    /// Tells what this pass decided and what is to be looked at, as far as it was not told before. Gives back what could not be
    /// told; that is tried again by the next pass, unless another channel took it.
    pub async fn tell(&self, pass: &Pass<'_>, events: &[Event], alarms: &[Alarm]) -> anyhow::Result<Vec<Alarm>> {
        let Pass { store, now, run_id, .. } = *pass;
        let session = pass.engine.session_over(store, now).await?;
        let told_up_to = match store.transaction(Table::Notifications, TOLD_UP_TO).await? {
            Some(sequence) => sequence,
            // What was decided before there was anybody to tell is old.
            None => {
                let sequence = match events.first() {
                    Some(event) => event.sequence - 1,
                    None => stored::length(&session, now).await?.sequence,
                };
                let progress = Transaction::new(TOLD_UP_TO, sequence);
                store.append(Table::Notifications, vec![], &[progress]).await?;
                sequence
            }
        };
        let sequence = vec![("sequence", ScalarValue::Int64(Some(told_up_to)))];
        let untold: Vec<Event> = fetch(&session, UNTOLD, sequence).await?;
        let mut memory = memory(fetch(&session, TOLD, vec![]).await?);
        let failed = pass.root.read(TOLD_FAILURE_FILE).await?;
        memory.extend(failed.as_deref().and_then(told_failure));

        let digest = Digest::new(&self.state, pass.run_id, now, untold, alarms, &memory, self.config.mute.delta());
        let problems = match &digest {
            Some(digest) => self.send(digest).await,
            None => vec![],
        };
        if digest.is_some() && problems.len() == self.channels.len() {
            return Ok(problems);
        }
        let mut rows: Vec<Row> = Vec::new();
        if let Some(digest) = &digest {
            let row = |kind, subject, event, text: &str| Row {
                time: now,
                kind,
                subject,
                event,
                text: text.to_owned(),
                run_id,
            };
            if !digest.sessions.is_empty() {
                rows.push(row(SESSIONS, "", "told", &digest.headline()));
            }
            rows.extend(digest.alarms.iter().map(|alarm| row(alarm.kind, &alarm.subject, "told", &alarm.text)));
            rows.extend(digest.over.iter().map(|key| row(&key.kind, &key.subject, "over", "")));
        }
        let last = digest.as_ref().and_then(|digest| digest.sessions.iter().map(|event| event.sequence).max());
        let progress: Vec<Transaction> =
            last.map(|sequence| Transaction::new(TOLD_UP_TO, sequence)).into_iter().collect();
        if !rows.is_empty() {
            let batch = rows::encode(Table::Notifications.schema().stored(), &rows).map_err(anyhow::Error::msg)?;
            store.append(Table::Notifications, vec![batch], &progress).await?;
        }
        if failed.is_some() {
            pass.root.remove(TOLD_FAILURE_FILE).await?;
        }
        Ok(problems)
    }

    /// Tells of a pass that failed before it could write, or was cut off.
    pub async fn tell_failure(&self, root: &Root, alarm: &Alarm, run_id: &str, now: DateTime<Utc>) -> Vec<Alarm> {
        // Where not even the note can be read, it is told each time: better twice than never.
        let told = root.read(TOLD_FAILURE_FILE).await.ok().flatten();
        let memory: Memory = told.as_deref().and_then(told_failure).into_iter().collect();
        let digest = Digest::new(
            &self.state,
            run_id,
            now,
            vec![],
            std::slice::from_ref(alarm),
            &memory,
            self.config.mute.delta(),
        );
        let Some(digest) = digest.filter(|digest| !digest.alarms.is_empty()) else { return vec![] };
        let problems = self.send(&digest).await;
        if problems.len() < self.channels.len()
            && let Err(error) =
                root.write(TOLD_FAILURE_FILE, &format!("{} {}\n", alarm.kind.name(), rfc3339(now))).await
        {
            tracing::warn!("that this failure was told cannot be noted, it will be told again: {error}");
        }
        problems
    }

    /// Where messages go.
    pub fn names(&self) -> Vec<String> {
        self.channels.iter().map(Channel::name).collect()
    }

    /// Sends one message to each channel, and says by channel what became of it.
    pub async fn test(&self, now: DateTime<Utc>) -> Vec<(String, Result<(), String>)> {
        let digest = Digest::test(&self.state, now);
        let mut results = Vec::new();
        for channel in &self.channels {
            results.push((channel.name(), channel.send(&digest).await));
        }
        results
    }

    /// An alarm for each channel that did not take it.
    async fn send(&self, digest: &Digest) -> Vec<Alarm> {
        let sent = self.channels.iter().map(|channel| async move { (channel.name(), channel.send(digest).await) });
        let failed = futures::future::join_all(sent).await.into_iter().filter_map(|(channel, result)| {
            let reason = result.err()?;
            let text = format!("{channel} does not take notifications: {}", printable(&reason));
            Some(Alarm::about(AlarmKind::NotifyFailed, channel, text))
        });
        failed.collect()
    }
}

/// A row of [`TOLD`].
#[derive(Deserialize)]
struct ToldRow {
    kind: String,
    subject: String,
    told_at: Option<DateTime<Utc>>,
    over_at: Option<DateTime<Utc>>,
}

fn memory(rows: Vec<ToldRow>) -> Memory {
    let told = rows.into_iter().filter_map(|row| {
        let at = row.told_at?;
        Some((
            Key { kind: row.kind, subject: row.subject },
            Told { at, over: row.over_at.is_some_and(|over| over >= at) },
        ))
    });
    BTreeMap::from_iter(told)
}

/// What the note in the state says: the kind of failure, and when it was told.
fn told_failure(bytes: &[u8]) -> Option<(Key, Told)> {
    let (kind, at) = std::str::from_utf8(bytes).ok()?.trim().split_once(' ')?;
    Some((Key::of(kind, ""), Told { at: at.parse().ok()?, over: false }))
}
