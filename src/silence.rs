//! Silence of the logs: no new log object for much longer than is usual at a place.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use crate::alarm::{Alarm, AlarmKind};
use crate::config::{Logs, Silence};
use crate::engine::{EngineError, Sql, fetch, sql, timestamp};
use crate::text::printable;
use crate::time::{Span, rfc3339};

const ARRIVALS: Sql = sql!("engine/arrivals.sql");

/// Of a shorter time nobody knows what is usual: there is a night in each day.
const KNOWN_FOR: TimeDelta = TimeDelta::days(1);

/// Silence is so many times the usual, and never less than so long.
const TIMES_USUAL: f64 = 2.0;
const LEAST: TimeDelta = TimeDelta::minutes(30);

/// How objects arrive at a place.
#[derive(Clone, Debug, Default, PartialEq)]
struct Arrivals {
    newest: DateTime<Utc>,
    oldest: DateTime<Utc>,
    /// The longest time without an arrival that ended on each day, in seconds.
    longest: Vec<f64>,
}

impl Arrivals {
    /// The longest time without an arrival on a usual day: one outage does not change it.
    fn usual(&self) -> Option<TimeDelta> {
        let mut longest = self.longest.clone();
        longest.sort_by(f64::total_cmp);
        let median = longest.get(longest.len() / 2).filter(|_| self.newest - self.oldest >= KNOWN_FOR)?;
        Some(TimeDelta::milliseconds((median * 1_000.0) as i64))
    }

    /// How long there may be none.
    fn limit(&self, silence: Silence) -> Option<TimeDelta> {
        match silence {
            Silence::Off => None,
            Silence::After(span) => Some(span.delta()),
            Silence::Auto => {
                let usual = self.usual()?.num_milliseconds() as f64;
                Some(TimeDelta::milliseconds((usual * TIMES_USUAL) as i64).max(LEAST))
            }
        }
    }
}

/// The places where no object has arrived for too long, an alarm each.
pub async fn silent(session: &SessionContext, logs: &[Logs], now: DateTime<Utc>) -> Result<Vec<Alarm>, EngineError> {
    #[derive(Deserialize)]
    struct Row {
        location: String,
        newest: DateTime<Utc>,
        oldest: DateTime<Utc>,
        longest: Option<f64>,
    }
    if logs.iter().all(|logs| logs.silence == Silence::Off) {
        return Ok(vec![]);
    }
    let mut places: BTreeMap<String, Arrivals> = BTreeMap::new();
    for Row { location, newest, oldest, longest } in fetch(session, ARRIVALS, vec![("now", timestamp(now))]).await? {
        let place = places.entry(location).or_default();
        (place.newest, place.oldest) = (newest, oldest);
        place.longest.extend(longest);
    }
    let alarms = logs.iter().filter_map(|logs| {
        let location = logs.location.to_string();
        let arrivals = places.get(&location)?;
        let age = now - arrivals.newest;
        let limit = arrivals.limit(logs.silence).filter(|limit| age > *limit)?;
        let span = |delta: TimeDelta| Span::seconds(delta.num_seconds());
        let text = format!(
            "no new log object in {} since {}, for {} (more than {} is unusual): nothing is detected meanwhile; look whether logging is \
             still on for the distribution and delivers there",
            printable(&location),
            rfc3339(arrivals.newest),
            span(age),
            span(limit)
        );
        Some(Alarm::about(AlarmKind::LogsSilent, location, text))
    });
    Ok(alarms.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(days: i64, longest: &[f64]) -> Arrivals {
        let newest: DateTime<Utc> = "2026-11-20T20:00:00Z".parse().unwrap();
        Arrivals { newest, oldest: newest - TimeDelta::days(days), longest: longest.to_vec() }
    }

    #[test]
    fn silence_is_twice_the_longest_gap_of_a_usual_day() {
        let usual = arrivals(7, &[7_200.0, 7_000.0, 7_100.0, 7_300.0, 7_200.0]);
        assert_eq!(usual.limit(Silence::Auto), Some(TimeDelta::hours(4)));
        let with_an_outage = arrivals(7, &[7_200.0, 7_000.0, 80_000.0, 7_300.0, 7_200.0]);
        assert_eq!(with_an_outage.limit(Silence::Auto), Some(TimeDelta::hours(4)));
        assert_eq!(arrivals(7, &[60.0, 60.0]).limit(Silence::Auto), Some(LEAST));
    }

    #[test]
    fn what_is_usual_is_not_known_before_a_day_has_gone() {
        assert_eq!(arrivals(0, &[60.0, 60.0]).limit(Silence::Auto), None);
        assert_eq!(arrivals(0, &[]).limit(Silence::After(Span::hours(2))), Some(TimeDelta::hours(2)));
        assert_eq!(arrivals(7, &[60.0]).limit(Silence::Off), None);
    }
}
