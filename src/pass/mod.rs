//! One pass: from new log objects to the rule group. This is the picture of the design as a function.

pub mod enforce;
pub mod revoke;
pub mod summary;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::alarm::{Alarm, AlarmKind};
use crate::by_hand::{self, TakenIn};
use crate::config::{Config, ConfigError, Dynamodb};
use crate::detect::file::Detector;
use crate::detect::{Detection, Purpose, catalog, detect, plan_ahead};
use crate::engine::{Engine, EngineError, Sql, fetch, sql, timestamp};
use crate::geo::Geo;
use crate::history::Event;
use crate::ingest::{INGEST, Ingestion};
use crate::logs::ReadContext;
use crate::notices::{Severity, notices};
use crate::notify::{self, Notifier};
use crate::privacy::Disguise;
use crate::progress::Stage;
use crate::requests;
use crate::rows;
use crate::schema::Table;
use crate::silence::silent;
use crate::smd_table;
use crate::store::{DeltaStore, MemoryStore, Root, StateLock, Store, StoreError, Transaction};
use crate::time::{Clock, rfc3339};
use crate::upkeep::upkeep;
use crate::waf::journal::Author;
use crate::waf::{AwsRuleGroup, MAX_CAPACITY, WafError};
use enforce::{Enforced, How, enforce, served};
use summary::Summary;

/// The application transaction of the last batch whose rows were looked through for blocked sessions that are served.
const SERVED_UP_TO: &str = "served";

const LAST_GOOD_RUN: Sql = sql!("engine/last_good_run.sql");

/// Everything that is made once from a config, and used by every pass.
pub struct Warden {
    pub config: Config,
    pub engine: Engine,
    pub detectors: Vec<Detector>,
    pub context: ReadContext,
    /// The mends that were hinted at: a daemon says each once.
    hinted: Mutex<HashSet<String>>,
}

/// What `run` was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Nothing is written and nothing sent.
    pub dry_run: bool,
    /// Wait for another run instead of leaving.
    pub wait: bool,
    /// Held sessions are let through, once.
    pub release_held: bool,
    /// Objects that were set aside are tried again.
    pub retry_quarantined: bool,
    /// Bars on stderr.
    pub progress: bool,
}

/// What a pass did.
#[derive(Debug)]
pub struct Outcome {
    /// The instant that the pass took for now.
    pub now: DateTime<Utc>,
    pub summary: Summary,
    /// What was recorded.
    pub events: Vec<Event>,
    /// The rules that are in force, or would be.
    pub enforced: Enforced,
}

/// Why a pass ended before its time.
#[derive(Debug, thiserror::Error)]
#[error("the pass was cut off; the next one takes up where it was")]
pub struct CutOff;

impl Warden {
    /// Opens what the config names and compiles the detectors: all that can be refused is refused here.
    pub async fn new(mut config: Config) -> anyhow::Result<Warden> {
        let engine = Engine::new(&config.engine)?;
        let detectors = catalog::load(&config, &engine).await?;
        for detector in &detectors {
            if detector.window > config.activity_retention {
                return Err(ConfigError::Value {
                    path: config.path.clone(),
                    key: "state.activity_retention".to_owned(),
                    message: format!(
                        "{} is less than the window of {}, {}",
                        config.activity_retention, detector.name, detector.window
                    ),
                }
                .into());
            }
        }
        let disguise = Disguise::open(&config.privacy, &config.path, &config.state).await?;
        config.allow = config.allow.in_disguise(&disguise).map_err(|message| ConfigError::Value {
            path: config.path.clone(),
            key: "allow".to_owned(),
            message,
        })?;
        let geo = Arc::new(Geo::open(&config.geoip, &config.lists)?);
        let refused_status = config.detect.refused_status.clone().into();
        let context = ReadContext::new(config.sessions.clone().into(), geo, refused_status, disguise);
        Ok(Warden { config, engine, detectors, context, hinted: Mutex::default() })
    }

    /// The rule group of the config.
    pub async fn rule_group(&self) -> Option<AwsRuleGroup> {
        let (name, id) = self.config.waf.as_ref()?.group()?;
        Some(AwsRuleGroup::new(crate::aws::waf_client().await, name.to_owned(), id.to_owned()))
    }

    /// WCUs to plan for where no group can be asked.
    pub fn assumed_capacity(&self) -> u64 {
        self.config.waf.as_ref().and_then(|waf| waf.capacity).unwrap_or(MAX_CAPACITY)
    }

    /// Begins to plan the detectors when it is called, and goes on while it lives.
    pub fn plans_ahead(&self) -> impl Fn() + Sync {
        let planning = OnceLock::new();
        move || drop(planning.set(plan_ahead(&self.engine, &self.detectors, &self.config.lists)))
    }

    /// Takes in what others have put into the table of Secure Media Delivery.
    async fn take_in(&self, store: &dyn Store, now: DateTime<Utc>, run_id: &str) -> anyhow::Result<TakenIn> {
        let Some(Dynamodb { table, region }) = &self.config.dynamodb else { return Ok(TakenIn::default()) };
        let client = crate::aws::dynamodb_client(region.clone()).await;
        let contents = smd_table::read(&client, table).await?;
        by_hand::take_in(self, store, &contents, table, now, run_id).await
    }

    /// The share of the group's capacity that is kept for blocks by hand.
    pub fn manual_share(&self) -> f64 {
        self.config.waf.clone().unwrap_or_default().manual_share
    }

    /// Runs once, under the lock of the state. Its now is when it has the lock. Once `cut` is cancelled, the pass is abandoned
    /// where it is ([`CutOff`]) and the lock given back: the tables are as after a kill.
    pub async fn pass(
        &self,
        clock: Clock,
        run_id: &str,
        options: Options,
        cut: &CancellationToken,
    ) -> anyhow::Result<Outcome> {
        let root = Root::connect(&self.config.state).await;
        let outcome = self.locked_pass(&root, clock, run_id, options, cut).await;
        if let Err(error) = &outcome
            && !options.dry_run
            && let alarm = alarm_of(error)
            && alarm.kind == AlarmKind::RunFailed
        {
            self.tell_failure(&alarm, run_id, clock.now()).await;
        }
        outcome
    }

    /// Tells the channels of the config of a pass that could not tell them itself.
    pub async fn tell_failure(&self, alarm: &Alarm, run_id: &str, now: DateTime<Utc>) {
        if let Some(notifier) = Notifier::connect(&self.config).await {
            let root = Root::connect(&self.config.state).await;
            notifier.tell_failure(&root, alarm, run_id, now).await.iter().for_each(Alarm::log);
        }
    }

    async fn locked_pass(
        &self,
        root: &Root,
        clock: Clock,
        run_id: &str,
        options: Options,
        cut: &CancellationToken,
    ) -> anyhow::Result<Outcome> {
        if options.dry_run {
            let store = match DeltaStore::open(root).await {
                Ok(state) => MemoryStore::over(Arc::new(state)),
                Err(StoreError::Missing(_)) => MemoryStore::default(),
                Err(error) => return Err(error.into()),
            };
            let pass = self.pass_on(&store, None, root, clock.now(), run_id, options);
            return unless_cut(cut, pass).await;
        }
        let lock =
            unless_cut(cut, async { Ok(StateLock::acquire(root, options.wait, self.config.lease).await?) }).await?;
        let outcome = unless_cut(cut, async {
            let store = DeltaStore::open_or_create(root, &lock).await?;
            self.context.disguise.keep_key(&self.config.privacy, root).await?;
            self.pass_on(&store, Some(&store), root, clock.now(), run_id, options).await
        });
        let outcome = outcome.await;
        lock.release().await;
        outcome
    }

    /// What to say of the time without a run, if it was longer than the logs are looked back for.
    fn gap(&self, last_good: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<String> {
        let shortest = self.config.logs.iter().map(|logs| logs.lookback).min()?;
        let since = last_good.filter(|last| now - *last > shortest.delta())?;
        Some(format!(
            "no run was done whole between {} and {}: what came since is read now; blocks that it gives come late, and \
             objects that were deleted meanwhile are missing",
            rfc3339(since),
            rfc3339(now)
        ))
    }

    /// `kept` is the store once more, where it is one that is kept; `root` is where the state is.
    async fn pass_on(
        &self,
        store: &dyn Store,
        kept: Option<&DeltaStore>,
        root: &Root,
        now: DateTime<Utc>,
        run_id: &str,
        options: Options,
    ) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let mut summary = Summary::new(run_id);
        let one_form_since = self.context.disguise.since(root, now, kept.is_some()).await?;
        let longest = self.detectors.iter().map(|detector| detector.window.delta()).max().unwrap_or_default();
        if let Some(since) = one_form_since.filter(|since| now < *since + longest) {
            let text = format!(
                "the form of stored addresses changed at {} ([privacy] addresses, or its key): windows from before may count one \
                 network twice, and block nobody; the last of them ends at {}",
                rfc3339(since),
                rfc3339(since + longest)
            );
            summary.alarms.push(Alarm::new(AlarmKind::AddressesChanged, text));
        }

        let stage = if options.progress { Stage::bytes("read") } else { Stage::hidden() };
        // Detectors are planned while objects are read.
        let plan = self.plans_ahead();
        let ingestion = Ingestion {
            engine: &self.engine,
            store,
            context: &self.context,
            now,
            retry_quarantined: options.retry_quarantined,
            by_arrival: None,
            on_news: &plan,
        };
        // What arrived since the last run that read all there was is read now, however long ago that is.
        let last_good = last_good_run(&self.engine.session_over(store, now).await?, now).await?;
        let places = requests::places(&self.config.logs, last_good.unwrap_or(now)).await;
        if let Some(gap) = self.gap(last_good, now) {
            summary.alarms.push(Alarm::new(AlarmKind::RunsMissing, gap));
        }
        // Whatever fails but the state itself, blocks must still end in time and WAF be brought in step.
        match ingestion.run(&places, &stage).await {
            Ok(ingested) => {
                summary.take_ingested(&ingested);
                for notice in notices(&ingested.facts, &self.config, &self.detectors) {
                    let text = format!("{}; {}", notice.what, notice.mend);
                    match notice.severity {
                        // What is lacking has numbers in it, what to do has none.
                        Severity::Problem => summary.alarms.push(Alarm::about(AlarmKind::LogsLack, notice.mend, text)),
                        Severity::Hint if self.hinted.lock().expect("not poisoned").insert(notice.mend) => {
                            tracing::warn!("{text}");
                        }
                        Severity::Hint => {}
                    }
                }
            }
            Err(error) if error.is_of_the_state() => return Err(error.into()),
            Err(error) => summary.alarm(AlarmKind::LogsUnreadable, format!("reading logs failed: {error}")),
        }
        drop(stage);
        summary.seconds.ingest = started.elapsed().as_secs_f64();

        let detecting = Instant::now();
        let stage = if options.progress { Stage::steps("detect") } else { Stage::hidden() };
        let detection = match detect(
            &self.engine,
            store,
            &self.detectors,
            &self.config,
            now,
            run_id,
            &stage,
            Purpose::Record,
        )
        .await
        {
            Ok(detection) => detection,
            Err(error) if error.is_of_the_state() => return Err(error.into()),
            Err(error) => {
                summary.alarm(AlarmKind::DetectionFailed, format!("detection failed: {error}"));
                Detection::default()
            }
        };
        drop(stage);
        summary.seconds.detect = detecting.elapsed().as_secs_f64();
        summary.detectors = detection.detectors.clone();
        summary.alarms.extend(detection.failures.iter().cloned());
        summary.spared = summary::Spared::of(&detection.spared);

        let recording = Instant::now();
        let mut events = Vec::new();
        match self.take_in(store, now, run_id).await {
            Ok(taken) => {
                if !taken.refused.is_empty() {
                    let told: Vec<String> =
                        taken.refused.iter().take(10).map(|(session, why)| format!("{session} ({why})")).collect();
                    let text = format!(
                        "{} manual revocations of the DynamoDB table are not taken in: {}",
                        taken.refused.len(),
                        told.join(", ")
                    );
                    summary.alarm(AlarmKind::DynamodbRowsRefused, text);
                }
                events.extend(taken.events);
            }
            Err(error) if error.downcast_ref::<StoreError>().is_some() => return Err(error),
            Err(error) => {
                summary.alarm(AlarmKind::DynamodbFailed, format!("{error:#}; its manual revocations stay as they are"));
            }
        }
        let recorded = revoke::record(self, store, &detection, now, run_id, options.release_held, one_form_since);
        let recorded = match recorded.await {
            Ok(recorded) => recorded,
            Err(error) if error.is_of_the_state() => return Err(error.into()),
            Err(error) => {
                summary.alarm(AlarmKind::DetectionFailed, format!("deciding failed: {error}"));
                revoke::Recorded::default()
            }
        };
        summary.seconds.record = recording.elapsed().as_secs_f64();
        events.extend(recorded.events);
        summary.take_events(&events);
        summary.alarms.extend(recorded.alarms);

        let enforcing = Instant::now();
        let group = self.rule_group().await;
        let author = Author { store, now, run_id };
        let how = if options.dry_run { How::Look } else { How::Sync { drop_unknown: false } };
        let held = || kept.map_or(Ok(()), DeltaStore::check_held);
        let enforced = match enforce(self, group.as_ref(), author, &held, how).await {
            Ok(enforced) => enforced,
            Err(WafError::State(error)) => return Err(error.into()),
            Err(error) => {
                summary.alarm(AlarmKind::WafFailed, format!("{error}; WAF keeps the rules it has"));
                Enforced::failed()
            }
        };
        summary.take_enforced(&enforced);
        if let Some(group) = &group {
            let session = self.engine.session_over(store, now).await?;
            // A run that was cut off has told nobody.
            let told = store.transaction(Table::Runs, SERVED_UP_TO).await?.unwrap_or(0);
            summary.alarms.extend(served(&session, group.id(), told).await?);
        }
        summary.seconds.enforce = enforcing.elapsed().as_secs_f64();
        summary.alarms.extend(silent(&self.engine.session_over(store, now).await?, &self.config.logs, now).await?);
        if let Some(kept) = kept {
            if let Err(error) = upkeep(&self.engine, kept, now, &self.config).await {
                summary.alarm(AlarmKind::UpkeepFailed, format!("upkeep of the state failed: {error}"));
            }
            if let Some(notifier) = Notifier::connect(&self.config).await {
                let pass = notify::Pass { engine: &self.engine, store, root, now, run_id };
                match notifier.tell(&pass, &events, &summary.alarms).await {
                    Ok(problems) => summary.alarms.extend(problems),
                    Err(error) if error.downcast_ref::<StoreError>().is_some() => return Err(error),
                    Err(error) => summary.alarm(AlarmKind::NotifyFailed, format!("nothing was told: {error:#}")),
                }
            }
        }
        summary.seconds.total = started.elapsed().as_secs_f64();

        let outcome = Outcome { now, summary, events, enforced };
        append_run(store, now, &outcome).await?;
        Ok(outcome)
    }
}

impl Outcome {
    /// Tells the log what went wrong and what a person should look at.
    pub fn log_alarms(&self) {
        self.summary.alarms.iter().for_each(Alarm::log);
    }

    /// What went wrong without stopping the pass.
    pub fn failures(&self) -> impl Iterator<Item = &Alarm> {
        self.summary.alarms.iter().filter(|alarm| alarm.kind.is_failure())
    }

    /// How it ended, as `runs` and the metrics have it.
    pub fn result(&self) -> &'static str {
        match self {
            failed if failed.failures().next().is_some() => "failed",
            done if done.needs_attention() => "attention",
            _ => "done",
        }
    }

    /// A person should look.
    pub fn needs_attention(&self) -> bool {
        let summary = &self.summary;
        summary.held > 0 || summary.objects.quarantined > 0 || summary.waf.left_out > 0 || !summary.alarms.is_empty()
    }
}

/// What a person should know of a pass that gave no outcome.
pub fn alarm_of(error: &anyhow::Error) -> Alarm {
    let text = format!("{error:#}");
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Locked(_)) => Alarm::new(AlarmKind::StateLocked, text),
        _ if error.is::<CutOff>() => Alarm::new(AlarmKind::RunCutOff, text),
        _ => Alarm::new(AlarmKind::RunFailed, text),
    }
}

/// The work, or [`CutOff`] once that is asked for.
async fn unless_cut<T>(cut: &CancellationToken, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        () = cut.cancelled() => Err(CutOff.into()),
        done = work => done,
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
        outcome: outcome.result(),
        summary: serde_json::to_string(&outcome.summary)?,
    };
    let rows = rows::encode(Table::Runs.schema().stored(), &[run]).map_err(anyhow::Error::msg)?;
    let read = store.transaction(Table::Activity, INGEST).await?.unwrap_or(0);
    store.append(Table::Runs, vec![rows], &[Transaction::new(SERVED_UP_TO, read)]).await?;
    Ok(())
}
