//! Time as an input: the clock that a command uses, and lengths of time as people write them.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Source of "now". Everything that depends on time takes it from here, so demos and tests repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// Always the same instant: `--now`, `STREAMWARDEN_NOW` or `now` in the config.
    Fixed(DateTime<Utc>),
}

impl Clock {
    /// The present instant, to the microsecond (what the tables hold).
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Clock::System => Utc::now().trunc_subsecs(6),
            Clock::Fixed(now) => now.trunc_subsecs(6),
        }
    }
}

/// A length of time written as `90s`, `30m`, `26h`, `3d` or a sequence of these (`1h30m`); never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(TimeDelta);

impl Span {
    pub const fn seconds(seconds: i64) -> Self {
        Span(TimeDelta::seconds(seconds))
    }

    pub const fn minutes(minutes: i64) -> Self {
        Span(TimeDelta::minutes(minutes))
    }

    pub const fn hours(hours: i64) -> Self {
        Span(TimeDelta::hours(hours))
    }

    pub const fn micros(micros: i64) -> Self {
        Span(TimeDelta::microseconds(micros))
    }

    pub fn delta(self) -> TimeDelta {
        self.0
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    pub fn as_micros(self) -> i64 {
        self.0.num_microseconds().unwrap_or(i64::MAX)
    }

    pub fn as_std(self) -> std::time::Duration {
        self.0.to_std().unwrap_or(std::time::Duration::MAX)
    }
}

/// Why a text is not a [`Span`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpanError {
    #[error("{0:?} is not a length of time: write a number and one of s, m, h, d, as in 90s, 30m, 26h or 3d")]
    Form(String),
    #[error("{0:?} is longer than a century")]
    TooLong(String),
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let bad = || SpanError::Form(text.to_owned());
        let too_long = || SpanError::TooLong(text.to_owned());
        let mut total: i64 = 0;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: i64 = rest[..digits].parse().map_err(|_| if digits > 0 { too_long() } else { bad() })?;
            let unit_seconds = match rest[digits..].chars().next() {
                Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3_600,
                Some('d') => 86_400,
                _ => return Err(bad()),
            };
            total = number.checked_mul(unit_seconds).and_then(|s| total.checked_add(s)).ok_or_else(too_long)?;
            rest = &rest[digits + 1..];
        }
        // A century: far beyond every use, and safe to add to any date.
        if total > 100 * 366 * 86_400 {
            return Err(too_long());
        }
        Ok(Span(TimeDelta::seconds(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seconds = self.0.num_seconds();
        if seconds == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if seconds >= length {
                write!(f, "{}{unit}", seconds / length)?;
                seconds %= length;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Parses an RFC 3339 instant, as `--now` takes it.
pub fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .map_err(|error| format!("{text:?} is not an RFC 3339 time such as 2026-11-20T21:00:00Z: {error}"))
}

/// An instant as the text that JSON output, CSV and logs use.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_write_alike() {
        for text in ["90s", "30m", "26h", "3d", "1h30m", "2d1s"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "1m30s");
        assert_eq!("1d2h".parse::<Span>().unwrap(), Span::hours(26));
    }

    #[test]
    fn what_is_not_a_span_is_refused() {
        for text in ["", "5", "m", "5 m", "-5m", "5x", "99999999999999999999s", "9999999999d", "5m5"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
