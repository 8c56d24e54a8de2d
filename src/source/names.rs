//! What the name of a log object says: the distribution and the hour of its requests.
//!
//! Source: CloudFront Developer Guide, "Standard logging (legacy)": objects are named
//! `<prefix>/<distribution>.YYYY-MM-DD-HH.<unique>.gz`, UTC, the hour being that of the requests
//! however late the object arrives. The unique part has no fixed length or alphabet.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

/// Distribution and hour of the requests in a standard log object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardName {
    pub distribution: String,
    pub hour: DateTime<Utc>,
}

/// Reads a key; none if it is not named in the standard way.
pub fn standard(key: &str) -> Option<StandardName> {
    let name = key.rsplit('/').next()?;
    let mut parts = name.split('.');
    let distribution = parts.next()?;
    let hour = parts.next()?;
    let unique = parts.next()?;
    let named = !distribution.is_empty()
        && distribution.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && !unique.is_empty();
    if !named || hour.len() != 13 {
        return None;
    }
    let (date, hour_of_day) = hour.split_at(10);
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let hour_of_day: u32 = hour_of_day.strip_prefix('-')?.parse().ok()?;
    Some(StandardName { distribution: distribution.to_owned(), hour: date.and_hms_opt(hour_of_day, 0, 0)?.and_utc() })
}

/// Whether an object can hold requests of `since` or later: by the hour in its name, else by its arrival.
/// Rows of the first minutes of the next hour do occur, so an hour counts until an hour after its end.
pub fn may_hold_since(key: &str, arrived_at: DateTime<Utc>, since: DateTime<Utc>) -> bool {
    match standard(key) {
        Some(name) => name.hour + TimeDelta::hours(2) > since,
        None => arrived_at >= since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hour_is_read_from_every_known_form_of_name() {
        let hour = NaiveDate::from_ymd_opt(2026, 11, 20).unwrap().and_hms_opt(19, 0, 0).unwrap().and_utc();
        for key in [
            "E2EXAMPLE.2026-11-20-19.RT4KCN4SGK9.gz",
            "logs/cdn/E2EXAMPLE.2026-11-20-19.e519cdee.gz",
            "E2EXAMPLE.2026-11-20-19.2bd0b06.parquet",
            "E2EXAMPLE.2026-11-20-19.e519cdee",
        ] {
            assert_eq!(standard(key), Some(StandardName { distribution: "E2EXAMPLE".into(), hour }), "{key}");
        }
    }

    #[test]
    fn other_names_are_not_standard() {
        for key in [
            "access.log",
            "E2.2026-11-20.x.gz",
            "E2.2026-11-20-25.x.gz",
            "E2.2026-13-20-01.x.gz",
            "e2.2026-11-20-19.x.gz",
            "",
        ] {
            assert_eq!(standard(key), None, "{key}");
        }
    }

    #[test]
    fn the_name_beats_the_arrival() {
        let since = "2026-11-20T10:00:00Z".parse().unwrap();
        let late: DateTime<Utc> = "2026-11-21T00:00:00Z".parse().unwrap();
        assert!(may_hold_since("E2.2026-11-20-09.x.gz", since, since));
        assert!(!may_hold_since("E2.2026-11-20-08.x.gz", late, since));
        assert!(may_hold_since("other.gz", late, since));
        assert!(!may_hold_since("other.gz", since - TimeDelta::seconds(1), since));
    }
}
