//! `streamwarden daemon`: a pass on a schedule, until it is told to end.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::cli::{Common, Exit};
use crate::pass::{Options, Warden};
use crate::store::StoreError;
use crate::time::Clock;

/// How long a pass that is under way may take to end after SIGTERM. It is cut off then, as safely as a kill:
/// the next one takes up where it was.
const GRACE: Duration = Duration::from_secs(20);

pub async fn run(common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let clock = common.clock(&config);
    let every = config.schedule.every.as_std();
    let warden = Warden::new(config).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ticks = interval_at(Instant::now(), every);
    // A pass that takes longer than the interval is followed by the next one in time, not by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tracing::info!("a pass every {}", warden.config.schedule.every);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        let mut pass = std::pin::pin!(one_pass(&warden, clock));
        let ending = tokio::select! {
            () = &mut pass => false,
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
        };
        if ending {
            tracing::info!("ending after this pass");
            if timeout(GRACE, pass).await.is_err() {
                tracing::warn!("the pass was cut off after {GRACE:?}; the next one takes up where it was");
            }
            break;
        }
    }
    tracing::info!("ended");
    Ok(Exit::Done)
}

/// A pass that fails is logged; the next one tries again.
async fn one_pass(warden: &Warden, clock: Clock) {
    match warden.pass(clock, Options::default()).await {
        Ok(outcome) => {
            let summary = &outcome.summary;
            tracing::info!(
                "pass {}: {} objects, {} requests, {} revoked, {} extended, {} expired, {} held, {} observed, {} sessions in {} WCU, {:.1} s",
                summary.run_id,
                summary.objects.ingested,
                summary.rows.read,
                summary.revoked,
                summary.extended,
                summary.expired,
                summary.held,
                summary.observed,
                summary.waf.sessions,
                summary.waf.wcu,
                summary.seconds.total
            );
            outcome.log_alarms();
        }
        Err(error) if matches!(error.downcast_ref::<StoreError>(), Some(StoreError::Locked(_))) => {
            tracing::warn!("{error:#}");
        }
        Err(error) => tracing::error!("pass failed: {}", crate::text::printable(&format!("{error:#}"))),
    }
}
