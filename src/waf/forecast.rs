//! When the rule group will be full if blocks go on to come as they do. Pure.

use chrono::{DateTime, TimeDelta, Utc};

/// How far ahead is looked, and how finely.
const HORIZON: TimeDelta = TimeDelta::days(7);
const STEP: TimeDelta = TimeDelta::minutes(5);

/// What is known of blocks now.
#[derive(Clone, Debug)]
pub struct Rate {
    /// When each of the blocks of now ends.
    pub ends: Vec<DateTime<Utc>>,
    /// Blocks that began in the time that was looked at.
    pub began: u64,
    pub over: TimeDelta,
    /// How long they last, in the mean.
    pub lasting: TimeDelta,
}

impl Rate {
    /// Sessions that are blocked at `then` if as many blocks begin as before; `ends` are sorted.
    fn blocked_at(&self, ends: &[DateTime<Utc>], now: DateTime<Utc>, then: DateTime<Utc>) -> f64 {
        let left = (ends.len() - ends.partition_point(|end| *end <= then)) as f64;
        let alive = (then - now).min(self.lasting).as_seconds_f64();
        left + self.began as f64 * alive / self.over.as_seconds_f64().max(1.0)
    }

    /// When more than `room` sessions are blocked, within the next week; none if that is not to be expected.
    pub fn full_at(&self, room: f64, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut ends = self.ends.clone();
        ends.sort();
        let steps = HORIZON.num_seconds() / STEP.num_seconds();
        (0..=steps as i32).map(|step| now + STEP * step).find(|then| self.blocked_at(&ends, now, *then) > room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime<Utc> {
        "2026-11-20T18:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::hours(hour)
    }

    /// Ten an hour that last four hours are forty in the end.
    fn rate(ends: Vec<DateTime<Utc>>) -> Rate {
        Rate { ends, began: 240, over: TimeDelta::days(1), lasting: TimeDelta::hours(4) }
    }

    #[test]
    fn full_when_more_come_than_go() {
        assert_eq!(rate(vec![]).full_at(40.0, at(0)), None, "it never gets that far");
        assert_eq!(rate(vec![]).full_at(20.0, at(0)), Some(at(2) + STEP));
        // Twenty that stay for an hour take the room until then.
        let twenty = rate(vec![at(1); 20]);
        assert_eq!(twenty.full_at(25.0, at(0)), Some(at(0) + TimeDelta::minutes(35)));
        assert_eq!(twenty.full_at(30.5, at(0)), Some(at(3) + STEP));
        assert_eq!(twenty.full_at(19.0, at(0)), Some(at(0)), "it is already");
    }

    #[test]
    fn nothing_comes_and_nothing_is_full() {
        let still = Rate { ends: vec![at(9); 10], began: 0, over: TimeDelta::zero(), lasting: TimeDelta::zero() };
        assert_eq!(still.full_at(10.0, at(0)), None);
    }
}
