//! Sliding windows in event time: half-open, ending at the multiples of `every` since the epoch.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;

use crate::engine::timestamp;
use crate::time::Span;

const MINUTE_MICROS: i64 = 60_000_000;

/// `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    // The end first, so that windows sort by the time at which they are complete.
    pub end: DateTime<Utc>,
    pub start: DateTime<Utc>,
}

impl Window {
    pub fn overlaps(&self, other: &Window) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// `$start` and `$end` of statements about it.
    pub fn parameters(&self) -> Vec<(&'static str, ScalarValue)> {
        vec![("start", timestamp(self.start)), ("end", timestamp(self.end))]
    }
}

/// Checks that windows of this length that slide so far hold whole minutes and leave no gap.
pub fn check_lengths(window: Span, every: Span) -> Result<(), String> {
    for (name, span) in [("window", window), ("every", every)] {
        if span.is_zero() || span.as_micros() % MINUTE_MICROS != 0 {
            return Err(format!("{name} = {span}: must be one or more whole minutes, as the tables hold minutes"));
        }
    }
    if every > window {
        return Err(format!(
            "every = {every} must not be longer than window = {window}: rows between two windows would never be looked at"
        ));
    }
    if window > Span::hours(7 * 24) {
        return Err(format!("window = {window} must not be longer than 7d"));
    }
    Ok(())
}

/// All windows that hold one of these minutes, in order of their ends.
pub fn windows_over(minutes: impl IntoIterator<Item = DateTime<Utc>>, window: Span, every: Span) -> BTreeSet<Window> {
    let (length, step) = (window.as_micros(), every.as_micros());
    let mut windows = BTreeSet::new();
    for minute in minutes {
        let minute = minute.timestamp_micros();
        // The first end that has the whole minute before it; ends up to a window's length after the minute's
        // start have the minute within.
        let mut end = (minute + MINUTE_MICROS + step - 1).div_euclid(step) * step;
        while end - length <= minute {
            if let Some(end) = DateTime::from_timestamp_micros(end) {
                windows.insert(Window { start: end - TimeDelta::microseconds(length), end });
            }
            end += step;
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-20T{text}:00Z").parse().unwrap()
    }

    #[test]
    fn a_minute_is_in_window_over_every_windows() {
        let windows: Vec<Window> =
            windows_over([at("18:37")], Span::minutes(30), Span::minutes(5)).into_iter().collect();
        assert_eq!(windows.len(), 6);
        assert_eq!(windows[0], Window { start: at("18:10"), end: at("18:40") });
        assert_eq!(windows[5], Window { start: at("18:35"), end: at("19:05") });
    }

    #[test]
    fn windows_are_half_open() {
        // The minute that starts at an end belongs to the next windows only.
        let windows = windows_over([at("18:40")], Span::minutes(5), Span::minutes(5));
        assert_eq!(windows.into_iter().collect::<Vec<_>>(), [Window { start: at("18:40"), end: at("18:45") }]);
    }

    #[test]
    fn lengths_are_checked() {
        assert!(check_lengths(Span::minutes(30), Span::minutes(5)).is_ok());
        assert!(check_lengths(Span::minutes(5), Span::minutes(30)).is_err());
        assert!(check_lengths("90s".parse().unwrap(), Span::minutes(1)).is_err());
        assert!(check_lengths(Span::minutes(0), Span::minutes(0)).is_err());
    }

    proptest! {
        #[test]
        fn exactly_the_windows_that_hold_the_minute(minute in -1_000_000i64..3_000_000_000, window in 1i64..100, every in 1i64..100) {
            let minute = DateTime::from_timestamp(minute * 60, 0).unwrap();
            let every = every.min(window);
            let found = windows_over([minute], Span::minutes(window), Span::minutes(every));
            for w in &found {
                prop_assert!(w.start <= minute && minute + TimeDelta::minutes(1) <= w.end);
                prop_assert_eq!(w.end.timestamp() % (every * 60), 0);
                prop_assert_eq!(w.end - w.start, TimeDelta::minutes(window));
            }
            // How many multiples of `every` lie in (minute, minute + window].
            let (m, s) = (minute.timestamp() / 60, every);
            prop_assert_eq!(found.len() as i64, (m + window).div_euclid(s) - m.div_euclid(s));
        }
    }
}
