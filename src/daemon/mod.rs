//! `streamwarden daemon`: passes on a schedule, one at a time, until it is told to end; health and metrics by HTTP.

mod http;
mod metrics;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::alarm::{Alarm, AlarmKind, Ending};
use crate::cli::{Common, new_run_id, run_span};
use crate::pass::{CutOff, Options, Outcome, Warden, alarm_of};
use crate::schedule::Schedule;
use crate::signals::Signals;
use crate::text::printable;
use crate::time::{Clock, rfc3339};
pub use http::DEFAULT as HTTP_DEFAULT;
use status::{Ended, Status};

/// How long a pass that is under way may take to end after SIGTERM. Then it is cut off, which is as safe as a kill.
const GRACE: Duration = Duration::from_secs(20);

/// How long a pass that is cut off may take to give its lock back. systemd and ECS kill 90 and 30 s after SIGTERM.
const GIVE_BACK: Duration = Duration::from_secs(6);

/// How long it may take to tell that a pass was cut off.
const TELLING: Duration = Duration::from_secs(60);

/// A longer sleep would not notice that the clock was set.
const NAP: Duration = Duration::from_secs(10);

pub async fn run(common: &Common) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let clock = common.clock(&config);
    let listener = http::listen(&config.http)?;
    let warden = Arc::new(Warden::new(config).await?);
    let status = Arc::new(Status::new(warden.config.schedule.clone(), Utc::now()));
    if let Some(listener) = listener {
        http::serve(listener, Arc::clone(&status))?;
    }
    let mut signals = Signals::new()?;
    tracing::info!("a pass {}", warden.config.schedule);
    let exit = work(&warden, clock, &status, &mut signals).await?;
    tracing::info!("ended");
    Ok(exit)
}

/// Passes until a signal comes.
async fn work(warden: &Arc<Warden>, clock: Clock, status: &Status, signals: &mut Signals) -> anyhow::Result<Ending> {
    let schedule = &warden.config.schedule;
    let start = Utc::now();
    let mut due = match &schedule.times {
        crate::schedule::Times::Every(_) => start,
        crate::schedule::Times::Cron(_) => schedule.next(start, start),
    };
    loop {
        tokio::select! {
            () = sleep_until(schedule, start, due) => {}
            () = signals.received() => return Ok(Ending::Done),
        }
        let mut pass = Pass::start(warden, clock, status)?;
        let ended = tokio::select! {
            ended = pass.ended() => Some(ended),
            () = tokio::time::sleep(schedule.timeout.as_std()) => None,
            () = signals.received() => {
                tracing::info!("told to end; the pass that is under way has {GRACE:?}");
                let ended = tokio::select! {
                    ended = tokio::time::timeout(GRACE, pass.ended()) => ended.ok(),
                    // Whoever asks twice does not want to wait.
                    () = signals.received() => None,
                };
                match ended {
                    Some(ended) => status.ended(&ended),
                    None => {
                        pass.abandon(status, "the daemon was told to end").await;
                    }
                }
                return Ok(Ending::Done);
            }
        };
        let stuck = match ended {
            Some(ended) => {
                status.ended(&ended);
                false
            }
            None => {
                let why = format!("it took longer than [schedule] timeout, {}", schedule.timeout);
                let gave_way = pass.abandon(status, &why).await;
                let alarm = Alarm::new(AlarmKind::RunCutOff, format!("{CutOff}: {why}"));
                // A channel that hangs, too, is no reason to wait for ever.
                let telling = warden.tell_failure(&alarm, &pass.run_id, clock.now());
                let _ = tokio::time::timeout(TELLING, telling).await;
                !gave_way
            }
        };
        if stuck {
            // Whatever it hangs in may still hold the lock; the service manager starts a process that is clean.
            tracing::error!("the pass does not give way: the daemon ends, for its service manager to start it anew");
            return Ok(Ending::Failed);
        }
        let now = Utc::now();
        let next = schedule.next(start, now);
        let missed = schedule.count(start, due, now, 1_000_000);
        if missed > 0 {
            tracing::debug!("{missed} times of the schedule went by while the pass was under way");
        }
        status.missed(missed);
        due = next;
    }
}

/// Sleeps until a time of the machine's clock. Where that is set back, until the next time of the schedule by the new one.
async fn sleep_until(schedule: &Schedule, start: DateTime<Utc>, mut due: DateTime<Utc>) {
    let mut before = Utc::now();
    while let Ok(left) = (due - before).to_std() {
        tokio::time::sleep(left.min(NAP)).await;
        let now = Utc::now();
        due = due_by(schedule, start, due, before, now);
        before = now;
    }
}

/// When the next pass is due, the clock having gone on from one time to another, or back.
fn due_by(
    schedule: &Schedule,
    start: DateTime<Utc>,
    due: DateTime<Utc>,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    if now >= before {
        return due;
    }
    tracing::warn!("the clock was set back, from {} to {}", rfc3339(before), rfc3339(now));
    due.min(schedule.next(start, now))
}

/// A pass under way, on a thread of its own: whatever it does, signals are heard, and a panic in it ends the pass alone.
struct Pass {
    run_id: String,
    started: Instant,
    started_at: DateTime<Utc>,
    cut: CancellationToken,
    outcome: oneshot::Receiver<anyhow::Result<Outcome>>,
}

impl Pass {
    fn start(warden: &Arc<Warden>, clock: Clock, status: &Status) -> std::io::Result<Pass> {
        let (run_id, cut) = (new_run_id(), CancellationToken::new());
        let (done, outcome) = oneshot::channel();
        {
            let (warden, run_id, cut) = (Arc::clone(warden), run_id.clone(), cut.clone());
            let runtime = Handle::current();
            std::thread::Builder::new().name("pass".to_owned()).spawn(move || {
                let pass = async {
                    let outcome = warden.pass(clock, &run_id, Options::default(), &cut).await;
                    log(&outcome);
                    outcome
                };
                let outcome = runtime.block_on(pass.instrument(run_span(&run_id)));
                // Nobody listens any more to one that was given up.
                let _ = done.send(outcome);
            })?;
        }
        status.started();
        Ok(Pass { run_id, started: Instant::now(), started_at: Utc::now(), cut, outcome })
    }

    async fn ended(&mut self) -> Ended {
        let outcome = (&mut self.outcome).await.unwrap_or_else(|_| {
            let _in_run = run_span(&self.run_id).entered();
            tracing::error!("the pass broke off by a fault in the program, which is told above; please report it");
            Err(anyhow::anyhow!("the pass broke off"))
        });
        Ended {
            started_at: self.started_at,
            seconds: self.started.elapsed().as_secs_f64(),
            result: outcome.map_err(|error| alarm_of(&error).kind),
        }
    }

    /// Cuts it off and waits, not for long, until it has given its lock back. Whether it has.
    async fn abandon(&mut self, status: &Status, why: &str) -> bool {
        {
            let _in_run = run_span(&self.run_id).entered();
            tracing::warn!(
                "the pass that began at {} is cut off: {why}; the next one takes up where it was",
                rfc3339(self.started_at)
            );
        }
        self.cut.cancel();
        // It may have ended by itself in this moment.
        let ended = tokio::time::timeout(GIVE_BACK, self.ended()).await;
        let gave_way = ended.is_ok();
        status.ended(&ended.unwrap_or_else(|_| Ended {
            started_at: self.started_at,
            seconds: self.started.elapsed().as_secs_f64(),
            result: Err(AlarmKind::RunCutOff),
        }));
        gave_way
    }
}

/// Tells the log what a pass did. One that fails is logged; the next one tries again.
fn log(outcome: &anyhow::Result<Outcome>) {
    match outcome {
        Ok(outcome) => {
            let summary = &outcome.summary;
            tracing::info!(
                "{} objects, {} requests, {} revoked, {} extended, {} expired, {} held, {} observed, {} sessions in {} WCU, {:.1} s",
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
        Err(error) => match alarm_of(error).kind {
            // Said where it was done.
            AlarmKind::RunCutOff => {}
            AlarmKind::StateLocked => tracing::warn!("{}", printable(&format!("{error:#}"))),
            _ => tracing::error!("pass failed: {}", printable(&format!("{error:#}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::schedule::Times;
    use crate::time::Span;

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_waiting() {
        let schedule = Schedule { times: Times::Every(Span::minutes(1)), timeout: Span::hours(1) };
        let start: DateTime<Utc> = "2026-11-20T20:00:00Z".parse().unwrap();
        let (due, before) = (start + TimeDelta::minutes(5), start + TimeDelta::seconds(290));
        let by = |now| due_by(&schedule, start, due, before, now);
        assert_eq!(by(before + TimeDelta::seconds(5)), due);
        for back in [1, 300, 3_600, 90_000] {
            let now = before - TimeDelta::seconds(back);
            let due = by(now);
            assert!(now < due && due <= now + TimeDelta::minutes(1), "{now} {due}");
        }
    }
}
