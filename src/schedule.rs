//! When passes are due: every so often, or at the times of a cron expression, in UTC.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::time::Span;

/// `[schedule]` of the config.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub times: Times,
    /// After so long a pass of the daemon is cut off.
    pub timeout: Span,
}

/// When passes begin.
#[derive(Clone, Debug)]
pub enum Times {
    /// So often, from the start of the daemon on.
    Every(Span),
    Cron(CronTimes),
}

/// A cron expression of five fields (minute to day of week), or of six with seconds first; in UTC.
#[derive(Clone, Debug)]
pub struct CronTimes {
    pattern: String,
    cron: Box<Cron>,
}

impl CronTimes {
    /// Parses an expression; one that never comes true is refused.
    pub fn parse(pattern: &str) -> Result<CronTimes, String> {
        let wrong = |error: &dyn fmt::Display| {
            format!(
                "{pattern:?} is no cron expression such as \"*/5 * * * *\" (minute, hour, day, month, weekday; UTC): {error}"
            )
        };
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| wrong(&error))?;
        let times = CronTimes { pattern: pattern.to_owned(), cron: Box::new(cron) };
        match times.after(DateTime::UNIX_EPOCH + TimeDelta::days(20_000)) {
            Some(_) => Ok(times),
            None => Err(wrong(&"no time fits it")),
        }
    }

    /// The first time after `time`.
    fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_next_occurrence(&time, false).ok()
    }
}

impl Schedule {
    /// The first time after `time`. Where passes begin every so often it is counted from `start`.
    pub fn next(&self, start: DateTime<Utc>, time: DateTime<Utc>) -> DateTime<Utc> {
        match &self.times {
            Times::Every(every) => {
                let (every, gone) = (every.as_micros().max(1), (time - start).num_microseconds().unwrap_or(0));
                start + TimeDelta::microseconds((gone.div_euclid(every) + 1) * every)
            }
            // The year 5000 is the only time after which there is none.
            Times::Cron(cron) => cron.after(time).unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }

    /// The first pass at or after a time, of a daemon that begins its passes at the multiples of `every` since the epoch.
    pub fn first_from(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        self.next(DateTime::UNIX_EPOCH, time - TimeDelta::microseconds(1))
    }

    /// The time from one pass to the next, on the average of a year.
    pub fn mean(&self) -> TimeDelta {
        match &self.times {
            Times::Every(every) => every.delta(),
            Times::Cron(_) => {
                let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
                let (mut passes, mut last) = (0, start);
                while passes < 1_000 && last < start + TimeDelta::days(365) {
                    (passes, last) = (passes + 1, self.next(start, last));
                }
                (last - start) / passes
            }
        }
    }

    /// How many times lie in `(from, to]`, up to `most`.
    pub fn count(&self, start: DateTime<Utc>, from: DateTime<Utc>, to: DateTime<Utc>, most: u64) -> u64 {
        let (mut count, mut time) = (0, self.next(start, from));
        while time <= to && count < most {
            count += 1;
            time = self.next(start, time);
        }
        count
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.times {
            Times::Every(every) => write!(f, "every {every}"),
            Times::Cron(cron) => write!(f, "at {} (UTC)", cron.pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn cron(pattern: &str) -> Schedule {
        Schedule { times: Times::Cron(CronTimes::parse(pattern).unwrap()), timeout: Span::hours(1) }
    }

    #[test]
    fn an_interval_is_counted_from_the_start() {
        let schedule = Schedule { times: Times::Every(Span::minutes(5)), timeout: Span::hours(1) };
        let start = at("2026-11-20T20:02:00Z");
        assert_eq!(schedule.next(start, start), at("2026-11-20T20:07:00Z"));
        assert_eq!(schedule.next(start, at("2026-11-20T20:06:59Z")), at("2026-11-20T20:07:00Z"));
        assert_eq!(schedule.next(start, at("2026-11-20T20:31:00Z")), at("2026-11-20T20:32:00Z"));
        assert_eq!(schedule.first_from(at("2026-11-20T20:05:00Z")), at("2026-11-20T20:05:00Z"));
        assert_eq!(schedule.first_from(at("2026-11-20T20:05:01Z")), at("2026-11-20T20:10:00Z"));
        assert_eq!(schedule.count(start, start, at("2026-11-20T20:22:00Z"), 100), 4);
        assert_eq!(schedule.count(start, start, at("2026-11-20T20:22:00Z"), 3), 3);
    }

    #[test]
    fn cron_expressions_are_those_of_cron_in_utc() {
        let next = |pattern, time| cron(pattern).next(at("2026-01-01T00:00:00Z"), at(time));
        assert_eq!(next("*/5 * * * *", "2026-11-20T20:05:00Z"), at("2026-11-20T20:10:00Z"));
        assert_eq!(next("30 2 * * *", "2026-11-20T20:05:00Z"), at("2026-11-21T02:30:00Z"));
        assert_eq!(next("0 18-23 * * SAT,SUN", "2026-11-20T20:05:00Z"), at("2026-11-21T18:00:00Z"));
        assert_eq!(next("*/10 * * * * *", "2026-11-20T20:05:01Z"), at("2026-11-20T20:05:10Z"));
        // A day of the month or a day of the week, as in cron(8).
        assert_eq!(next("0 0 13 * FRI", "2026-11-20T20:05:00Z"), at("2026-11-27T00:00:00Z"));
    }

    #[test]
    fn what_is_no_cron_expression_is_refused() {
        for pattern in ["", "* * * *", "61 * * * *", "*/0 * * * *", "every minute", "0 0 31 2 *"] {
            let error = CronTimes::parse(pattern).unwrap_err();
            assert!(error.contains("cron expression"), "{pattern}: {error}");
        }
    }
}
