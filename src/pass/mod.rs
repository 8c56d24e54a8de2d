//! One pass: from new log objects to the rule group. This is the picture of the design as a function.

pub mod enforce;
pub mod revoke;
mod stages;
pub mod summary;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::alarm::{Alarm, AlarmKind, Ending};
use crate::config::{Config, ConfigError};
use crate::decide::Policy;
use crate::detect::file::Detector;
use crate::detect::{catalog, plan_ahead};
use crate::engine::Engine;
use crate::geo::Geo;
use crate::history::Event;
use crate::logs::ReadContext;
use crate::notify::Notifier;
use crate::privacy::Disguise;
use crate::store::{DeltaStore, MemoryStore, Root, StateLock, StoreError};
use crate::time::Clock;
use crate::waf::{AwsRuleGroup, MAX_CAPACITY};
use enforce::Enforced;
use stages::Stages;
use summary::Summary;

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
        let context = ReadContext::new(config.sessions.clone().into(), geo, refused_status, disguise)
            .with_segment_endings(config.detect.segment_endings.clone().into());
        Ok(Warden { config, engine, detectors, context, hinted: Mutex::default() })
    }

    /// The rule group of the config.
    pub async fn rule_group(&self) -> Option<AwsRuleGroup> {
        let (name, id) = self.config.waf.as_ref()?.group()?;
        Some(AwsRuleGroup::new(crate::aws::waf_client().await, name.to_owned(), id.to_owned()))
    }

    /// The rules of decisions.
    pub fn policy(&self) -> Policy<'_> {
        Policy::new(&self.config.guard, &self.detectors, &self.config.allow)
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
            let stages = Stages::new(self, (&store, None, root), clock.now(), run_id, options);
            return unless_cut(cut, stages.run()).await;
        }
        let lock =
            unless_cut(cut, async { Ok(StateLock::acquire(root, options.wait, self.config.lease).await?) }).await?;
        let outcome = unless_cut(cut, async {
            let store = DeltaStore::open_or_create(root, &lock).await?;
            self.context.disguise.keep_key(&self.config.privacy, root).await?;
            Stages::new(self, (&store, Some(&store), root), clock.now(), run_id, options).run().await
        });
        let outcome = outcome.await;
        lock.release().await;
        outcome
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

    /// How it ended.
    pub fn ending(&self) -> Ending {
        let summary = &self.summary;
        let counted = summary.held > 0 || summary.objects.quarantined > 0 || summary.waf.left_out > 0;
        Ending::of(&summary.alarms).max(if counted { Ending::Attention } else { Ending::Done })
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
