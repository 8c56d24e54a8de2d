//! Where the daemon stands: what its passes came to, and whether that is good.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};

use super::metrics::Metrics;
use crate::alarm::{AlarmKind, Ending};
use crate::pass::Outcome;
use crate::schedule::Schedule;
use crate::time::rfc3339;

/// Times of the schedule that may go by without a success before the daemon is not ready any more.
const PATIENCE: usize = 3;

/// A pass that ended.
pub struct Ended {
    pub started_at: DateTime<Utc>,
    pub seconds: f64,
    /// What it did, or why there is no outcome.
    pub result: Result<Outcome, AlarmKind>,
}

/// Shared by the loop, which writes, and HTTP, which reads.
pub struct Status {
    schedule: Schedule,
    start: DateTime<Utc>,
    pub metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The last pass that took place: how it ended, and when.
    last: Option<(&'static str, DateTime<Utc>)>,
    /// When the last pass without a failure ended, by the clock and by what goes on whatever is made of that, and how long it took.
    success: Option<(DateTime<Utc>, Instant, TimeDelta)>,
}

impl Status {
    pub fn new(schedule: Schedule, start: DateTime<Utc>) -> Status {
        Status { schedule, start, metrics: Metrics::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    /// When the daemon began.
    pub fn start(&self) -> DateTime<Utc> {
        self.start
    }

    pub fn started(&self) {
        self.metrics.started();
    }

    /// Times of the schedule went by while a pass was under way.
    pub fn missed(&self, times: u64) {
        self.metrics.missed(times);
    }

    pub fn ended(&self, ended: &Ended) {
        let now = Utc::now();
        let (result, good) = match &ended.result {
            Ok(outcome) => (outcome.ending().name(), outcome.ending() < Ending::Failed),
            Err(AlarmKind::StateLocked) => ("locked", false),
            Err(AlarmKind::RunCutOff) => ("cut_off", false),
            Err(_) => (Ending::Failed.name(), false),
        };
        self.metrics.ended(ended, result, now);
        let mut state = self.state();
        // Another one is at work: nothing is known of how that ends.
        if result != "locked" {
            state.last = Some((result, ended.started_at));
        }
        if good {
            state.success = Some((now, Instant::now(), TimeDelta::milliseconds((ended.seconds * 1_000.0) as i64)));
            self.metrics.succeeded(now);
        }
    }

    /// The time of the machine's clock; where that was set back since the last good pass, as if it had not been.
    pub fn now(&self) -> DateTime<Utc> {
        let since = |(at, then, _): (DateTime<Utc>, Instant, _)| Some(at + TimeDelta::from_std(then.elapsed()).ok()?);
        let gone_on = self.state().success.and_then(since);
        gone_on.map_or_else(Utc::now, |gone_on| gone_on.max(Utc::now()))
    }

    /// Whether the last pass was good and is not long ago; else why not.
    pub fn readiness(&self, now: DateTime<Utc>) -> Result<String, String> {
        let State { last, success } = self.state().clone();
        if let Some((result @ ("failed" | "cut_off"), at)) = last {
            return Err(format!("the pass that began at {}: {result}", rfc3339(at)));
        }
        let Some((success, _, took)) = success else {
            return Err("no pass has ended yet".to_owned());
        };
        let mut until = success;
        for _ in 0..PATIENCE {
            until = self.schedule.next(self.start, until);
        }
        if now > until + took {
            return Err(format!("the last good pass ended at {}", rfc3339(success)));
        }
        Ok(format!("the last good pass ended at {}", rfc3339(success)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Times;
    use crate::time::Span;

    fn status(success: Option<(DateTime<Utc>, TimeDelta)>, last: Option<&'static str>) -> Status {
        let schedule = Schedule { times: Times::Every(Span::minutes(1)), timeout: Span::hours(1) };
        let start = "2026-11-20T20:00:00Z".parse().unwrap();
        let status = Status::new(schedule, start);
        let success = success.map(|(at, took)| (at, Instant::now(), took));
        *status.state() = State { last: last.map(|result| (result, start)), success };
        status
    }

    #[test]
    fn ready_is_a_last_pass_that_was_good_and_is_recent() {
        let at = |second: i64| "2026-11-20T20:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::seconds(second);
        let good = Some((at(20), TimeDelta::seconds(20)));
        assert!(status(None, None).readiness(at(0)).is_err());
        assert!(status(good, Some("done")).readiness(at(21)).is_ok());
        assert!(status(good, Some("attention")).readiness(at(200)).is_ok(), "the third time, and as long as it takes");
        assert!(status(good, Some("attention")).readiness(at(201)).is_err());
        assert!(status(good, Some("failed")).readiness(at(21)).is_err());
        assert!(status(good, Some("cut_off")).readiness(at(21)).is_err());
        // The clock was set back by an hour since.
        let later = Utc::now() + TimeDelta::hours(1);
        assert!(status(Some((later, TimeDelta::zero())), None).now() >= later);
    }
}
