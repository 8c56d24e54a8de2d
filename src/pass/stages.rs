//! The stages of a pass, in their order. Whatever fails in one of them but the state itself, the others are gone through: blocks must still
//! end in time and WAF be brought in step.

use std::time::Instant;

use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};

use super::enforce::{Enforced, How, enforce, served};
use super::summary::{Spared, Summary};
use super::{Options, Outcome, Warden, revoke};
use crate::alarm::{Alarm, AlarmKind};
use crate::by_hand::{self, TakenIn};
use crate::config::Dynamodb;
use crate::detect::{Detection, Purpose, detect};
use crate::engine::{EngineError, Sql, fetch, sql, timestamp};
use crate::history::Event;
use crate::ingest::{INGEST, Ingested, Ingestion};
use crate::notices::{Severity, notices};
use crate::notify::{self, Notifier};
use crate::progress::Stage;
use crate::requests;
use crate::rows;
use crate::schema::Table;
use crate::silence::silent;
use crate::smd_table;
use crate::store::{DeltaStore, Root, Store, StoreError, Transaction};
use crate::time::rfc3339;
use crate::upkeep::upkeep;
use crate::waf::WafError;
use crate::waf::journal::Author;

/// The application transaction of the last batch whose rows were looked through for blocked sessions that are served.
const SERVED_UP_TO: &str = "served";

const LAST_GOOD_RUN: Sql = sql!("engine/last_good_run.sql");

/// A pass at work.
pub struct Stages<'a> {
    warden: &'a Warden,
    store: &'a dyn Store,
    /// The store once more, where it is one that is kept.
    kept: Option<&'a DeltaStore>,
    /// Where the state is.
    root: &'a Root,
    now: DateTime<Utc>,
    run_id: &'a str,
    options: Options,
    summary: Summary,
    events: Vec<Event>,
}

impl<'a> Stages<'a> {
    pub fn new(
        warden: &'a Warden,
        (store, kept, root): (&'a dyn Store, Option<&'a DeltaStore>, &'a Root),
        now: DateTime<Utc>,
        run_id: &'a str,
        options: Options,
    ) -> Stages<'a> {
        let (summary, events) = (Summary::new(run_id), Vec::new());
        Stages { warden, store, kept, root, now, run_id, options, summary, events }
    }

    /// Goes through all of them.
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let one_form_since = self.addresses().await?;
        // Detectors are planned while objects are read.
        let plan = self.warden.plans_ahead();
        self.read(&plan).await?;
        self.summary.seconds.ingest = started.elapsed().as_secs_f64();

        let detecting = Instant::now();
        let detection = self.detect().await?;
        self.summary.seconds.detect = detecting.elapsed().as_secs_f64();

        let recording = Instant::now();
        self.take_in().await?;
        self.record(&detection, one_form_since).await?;
        self.summary.take_events(&self.events);
        self.summary.seconds.record = recording.elapsed().as_secs_f64();

        let enforcing = Instant::now();
        let enforced = self.enforce().await?;
        self.summary.seconds.enforce = enforcing.elapsed().as_secs_f64();

        let session = self.warden.engine.session_over(self.store, self.now).await?;
        self.summary.alarms.extend(silent(&session, &self.warden.config.logs, self.now).await?);
        if let Some(kept) = self.kept {
            self.keep(kept).await?;
        }
        self.summary.seconds.total = started.elapsed().as_secs_f64();
        let (store, now) = (self.store, self.now);
        let outcome = Outcome { now, summary: self.summary, events: self.events, enforced };
        append_run(store, now, &outcome).await?;
        Ok(outcome)
    }

    /// Since when addresses are stored in one form.
    async fn addresses(&mut self) -> anyhow::Result<Option<DateTime<Utc>>> {
        let Warden { context, detectors, .. } = self.warden;
        let one_form_since = context.disguise.since(self.root, self.now, self.kept.is_some()).await?;
        let longest = detectors.iter().map(|detector| detector.window.delta()).max().unwrap_or_default();
        if let Some(since) = one_form_since.filter(|since| self.now < *since + longest) {
            let text = format!(
                "the form of stored addresses changed at {} ([privacy] addresses, or its key): windows from before may count one \
                 network twice, and block nobody; the last of them ends at {}",
                rfc3339(since),
                rfc3339(since + longest)
            );
            self.summary.alarm(AlarmKind::AddressesChanged, text);
        }
        Ok(one_form_since)
    }

    /// Reads what arrived since the last run that read all there was, however long ago that is. With the first news `on_news` is called.
    async fn read(&mut self, on_news: &(dyn Fn() + Sync)) -> anyhow::Result<()> {
        let (warden, now) = (self.warden, self.now);
        let stage = if self.options.progress { Stage::bytes("read") } else { Stage::hidden() };
        let ingestion = Ingestion {
            engine: &warden.engine,
            store: self.store,
            context: &warden.context,
            now,
            retry_quarantined: self.options.retry_quarantined,
            by_arrival: None,
            on_news,
        };
        let last_good = last_good_run(&warden.engine.session_over(self.store, now).await?, now).await?;
        let places = requests::places(&warden.config.logs, last_good.unwrap_or(now)).await;
        if let Some(gap) = self.gap(last_good) {
            self.summary.alarm(AlarmKind::RunsMissing, gap);
        }
        match ingestion.run(&places, &stage).await {
            Ok(ingested) => self.notice(&ingested),
            Err(error) if error.is_of_the_state() => return Err(error.into()),
            Err(error) => self.summary.alarm(AlarmKind::LogsUnreadable, format!("reading logs failed: {error}")),
        }
        Ok(())
    }

    /// What to say of the time without a run, if it was longer than the logs are looked back for.
    fn gap(&self, last_good: Option<DateTime<Utc>>) -> Option<String> {
        let shortest = self.warden.config.logs.iter().map(|logs| logs.lookback).min()?;
        let since = last_good.filter(|last| self.now - *last > shortest.delta())?;
        Some(format!(
            "no run was done whole between {} and {}: what came since is read now; blocks that it gives come late, and \
             objects that were deleted meanwhile are missing",
            rfc3339(since),
            rfc3339(self.now)
        ))
    }

    /// What was read, and what it lacks.
    fn notice(&mut self, ingested: &Ingested) {
        let Warden { config, detectors, hinted, .. } = self.warden;
        self.summary.take_ingested(ingested);
        for notice in notices(&ingested.facts, config, detectors) {
            let text = format!("{}; {}", notice.what, notice.mend);
            match notice.severity {
                // What is lacking has numbers in it, what to do has none.
                Severity::Problem => self.summary.alarms.push(Alarm::about(AlarmKind::LogsLack, notice.mend, text)),
                Severity::Hint if hinted.lock().expect("not poisoned").insert(notice.mend) => tracing::warn!("{text}"),
                Severity::Hint => {}
            }
        }
    }

    async fn detect(&mut self) -> anyhow::Result<Detection> {
        let Warden { engine, detectors, config, .. } = self.warden;
        let (now, run_id) = (self.now, self.run_id);
        let stage = if self.options.progress { Stage::steps("detect") } else { Stage::hidden() };
        let detected = detect(engine, self.store, detectors, config, now, run_id, &stage, Purpose::Record).await;
        let detection = match detected {
            Ok(detection) => detection,
            Err(error) if error.is_of_the_state() => return Err(error.into()),
            Err(error) => {
                self.summary.alarm(AlarmKind::DetectionFailed, format!("detection failed: {error}"));
                Detection::default()
            }
        };
        self.summary.detectors = detection.detectors.clone();
        self.summary.alarms.extend(detection.failures.iter().cloned());
        self.summary.spared = Spared::of(&detection.spared);
        Ok(detection)
    }

    /// Takes in what others have put into the table of Secure Media Delivery.
    async fn take_in(&mut self) -> anyhow::Result<()> {
        match self.taken_in().await {
            Ok(TakenIn { events, refused }) => {
                if !refused.is_empty() {
                    let told: Vec<String> =
                        refused.iter().take(10).map(|(session, why)| format!("{session} ({why})")).collect();
                    let text = format!(
                        "{} manual revocations of the DynamoDB table are not taken in: {}",
                        refused.len(),
                        told.join(", ")
                    );
                    self.summary.alarm(AlarmKind::DynamodbRowsRefused, text);
                }
                self.events.extend(events);
            }
            Err(error) if error.downcast_ref::<StoreError>().is_some() => return Err(error),
            Err(error) => {
                let text = format!("{error:#}; its manual revocations stay as they are");
                self.summary.alarm(AlarmKind::DynamodbFailed, text);
            }
        }
        Ok(())
    }

    async fn taken_in(&self) -> anyhow::Result<TakenIn> {
        let Some(Dynamodb { table, region }) = &self.warden.config.dynamodb else { return Ok(TakenIn::default()) };
        let client = crate::aws::dynamodb_client(region.clone()).await;
        let contents = smd_table::read(&client, table).await?;
        by_hand::take_in(self.warden, self.store, &contents, table, self.now, self.run_id).await
    }

    /// Ends blocks and decides on new ones.
    async fn record(&mut self, detection: &Detection, one_form_since: Option<DateTime<Utc>>) -> anyhow::Result<()> {
        let (now, run_id, release_held) = (self.now, self.run_id, self.options.release_held);
        let recorded =
            revoke::record(self.warden, self.store, detection, now, run_id, release_held, one_form_since).await;
        match recorded {
            Ok(recorded) => {
                self.events.extend(recorded.events);
                self.summary.alarms.extend(recorded.alarms);
            }
            Err(error) if error.is_of_the_state() => return Err(error.into()),
            Err(error) => self.summary.alarm(AlarmKind::DetectionFailed, format!("deciding failed: {error}")),
        }
        Ok(())
    }

    /// Brings the rule group in step, and looks for blocked sessions that are served.
    async fn enforce(&mut self) -> anyhow::Result<Enforced> {
        let Stages { warden, store, kept, now, run_id, .. } = *self;
        let group = warden.rule_group().await;
        let author = Author { store, now, run_id };
        let how = if self.options.dry_run { How::Look } else { How::Sync { drop_unknown: false } };
        let held = || kept.map_or(Ok(()), DeltaStore::check_held);
        let enforced = match enforce(warden, group.as_ref(), author, &held, how).await {
            Ok(enforced) => enforced,
            Err(WafError::State(error)) => return Err(error.into()),
            Err(error) => {
                self.summary.alarm(AlarmKind::WafFailed, format!("{error}; WAF keeps the rules it has"));
                Enforced::failed()
            }
        };
        self.summary.take_enforced(&enforced);
        if let Some(group) = &group {
            let session = warden.engine.session_over(store, now).await?;
            // A run that was cut off has told nobody.
            let told = store.transaction(Table::Runs, SERVED_UP_TO).await?.unwrap_or(0);
            self.summary.alarms.extend(served(&session, group.id(), told).await?);
        }
        Ok(enforced)
    }

    /// Keeps the state small, and tells people.
    async fn keep(&mut self, kept: &DeltaStore) -> anyhow::Result<()> {
        let Stages { warden, store, root, now, run_id, .. } = *self;
        if let Err(error) = upkeep(&warden.engine, kept, now, &warden.config).await {
            self.summary.alarm(AlarmKind::UpkeepFailed, format!("upkeep of the state failed: {error}"));
        }
        let Some(notifier) = Notifier::connect(&warden.config).await else { return Ok(()) };
        let pass = notify::Pass { engine: &warden.engine, store, root, now, run_id };
        match notifier.tell(&pass, &self.events, &self.summary.alarms).await {
            Ok(problems) => self.summary.alarms.extend(problems),
            Err(error) if error.downcast_ref::<StoreError>().is_some() => return Err(error),
            Err(error) => self.summary.alarm(AlarmKind::NotifyFailed, format!("nothing was told: {error:#}")),
        }
        Ok(())
    }
}

/// When the last run began that read all there was, or the first of all.
async fn last_good_run(session: &SessionContext, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        started_at: Option<DateTime<Utc>>,
    }
    let rows: Vec<Row> = fetch(session, LAST_GOOD_RUN, vec![("now", timestamp(now))]).await?;
    Ok(rows.first().and_then(|row| row.started_at))
}

/// The row of this run in `runs`.
async fn append_run(store: &dyn Store, now: DateTime<Utc>, outcome: &Outcome) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Run<'a> {
        run_id: &'a str,
        started_at: DateTime<Utc>,
        outcome: &'static str,
        summary: String,
    }
    let run = Run {
        run_id: &outcome.summary.run_id,
        started_at: now,
        outcome: outcome.ending().name(),
        summary: serde_json::to_string(&outcome.summary)?,
    };
    let rows = rows::encode(Table::Runs.schema().stored(), &[run]).map_err(anyhow::Error::msg)?;
    let read = store.transaction(Table::Activity, INGEST).await?.unwrap_or(0);
    store.append(Table::Runs, vec![rows], &[Transaction::new(SERVED_UP_TO, read)]).await?;
    Ok(())
}
