//! What the key of a log object says: the distribution, and the time of its requests.
//!
//! Source: CloudFront Developer Guide, "Standard logging (legacy)": objects are named
//! `<prefix>/<distribution>.YYYY-MM-DD-HH.<unique>.gz`, UTC, the hour being that of the requests
//! however late the object arrives; the unique part has no fixed length or alphabet. "Standard logging (v2)": folders
//! of the same hour, as the delivery was set up, plain (`2026/11/20/19`) or as pairs (`year=2026/month=11/…`), whose keys
//! have any case. Firehose's folders look alike but carry the hour of arrival.

use std::cmp::Ordering;

use chrono::{DateTime, DurationRound, NaiveDate, TimeDelta, Utc};

/// The distribution that a key names, in the object's name or in a folder.
pub fn distribution(key: &str) -> Option<&str> {
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    let of_folder = || {
        folders.split('/').find_map(|folder| match folder.split_once('=') {
            Some((key, value)) => key.eq_ignore_ascii_case("distributionid").then_some(value),
            None => (folder.len() >= 13 && folder.starts_with('E') && is_distribution(folder)).then_some(folder),
        })
    };
    standard_name(name).map(|(distribution, _)| distribution).or_else(of_folder).filter(|id| is_distribution(id))
}

fn is_distribution(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// Distribution and hour in a name such as `E2EXAMPLE.2026-11-20-19.e519cdee.gz`.
fn standard_name(name: &str) -> Option<(&str, DateTime<Utc>)> {
    let mut parts = name.split('.');
    let (distribution, hour, unique) = (parts.next()?, parts.next()?, parts.next()?);
    let (date, of_day) = hour.split_at_checked(10)?;
    let named = is_distribution(distribution) && !unique.is_empty();
    if named { hour_of(date, of_day.strip_prefix('-')?).map(|hour| (distribution, hour)) } else { None }
}

/// A stretch of time that a key names, an hour or a day, and nothing before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

impl Period {
    /// Whether an object of it can hold requests of `since` or later.
    pub fn may_hold_since(self, since: DateTime<Utc>) -> bool {
        self.end + TimeDelta::hours(1) > since
    }

    fn hour(start: DateTime<Utc>) -> Period {
        Period { start, end: start + TimeDelta::hours(1) }
    }
}

/// How far a period of folders is stretched where it is asked what is too old: Firehose may have made them in another time
/// zone.
const FOLDER_SLACK: TimeDelta = TimeDelta::hours(14);

/// The hour, or else the day, in a key: of the requests, or where Firehose made the folders of their arrival.
pub fn period(key: &str) -> Option<Period> {
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    standard_name(name).map(|(_, hour)| Period::hour(hour)).or_else(|| period_of_folders(folders))
}

/// What a folder says of the time, and its text where that is the value of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Year(String),
    Month(String),
    Day(String),
    Hour(String),
    /// A date, and an hour where it has one.
    Date(String, Option<String>),
}

/// The folders that say something of the time, by their place: the last year, and what belongs to it.
fn parts(folders: &str) -> Vec<(usize, Part)> {
    let mut parts: Vec<(usize, Part)> = Vec::new();
    for (place, folder) in folders.split('/').enumerate() {
        let (key, value) = match folder.split_once('=') {
            Some((key, value)) => (Some(key.to_ascii_lowercase()), value),
            None => (None, folder),
        };
        // 2026-11-20, 20261120, either with an hour behind it.
        if matches!(key.as_deref(), None | Some("dt" | "date" | "day" | "datehour" | "hour"))
            && let Some((date, hour)) = date_and_hour(value)
        {
            parts.push((place, Part::Date(date, hour)));
            continue;
        }
        let number = |digits: usize| {
            (value.len() == digits && value.bytes().all(|byte| byte.is_ascii_digit())).then(|| value.to_owned())
        };
        let last = parts.last().map(|(_, part)| part);
        let part = match key.as_deref() {
            Some("year" | "yyyy" | "y") => number(4).map(Part::Year),
            Some("month" | "mm" | "m") => number(2).map(Part::Month),
            Some("day" | "dd" | "d") => number(2).map(Part::Day),
            Some("hour" | "hh" | "h") => number(2).map(Part::Hour),
            Some(_) => None,
            // Plain folders: year, month, day and hour in this order, whatever stands between them.
            None => match (last, number(2), number(4)) {
                (_, None, Some(year)) if year.starts_with("20") => {
                    parts.clear();
                    Some(Part::Year(year))
                }
                (Some(Part::Year(_)), Some(month), _) => Some(Part::Month(month)),
                (Some(Part::Month(_)), Some(day), _) => Some(Part::Day(day)),
                (Some(Part::Day(_) | Part::Date(_, None)), Some(hour), _) => Some(Part::Hour(hour)),
                _ => None,
            },
        };
        parts.extend(part.map(|part| (place, part)));
    }
    parts
}

/// The period that folders name. They may be the beginning of a key, as long as no folder is cut off.
pub fn period_of_folders(folders: &str) -> Option<Period> {
    let (mut date, mut of_day) = (None, None);
    let (mut year, mut month, mut day) = (None, None, None);
    for (_, part) in parts(folders) {
        match part {
            Part::Year(text) => year = Some(text),
            Part::Month(text) => month = Some(text),
            Part::Day(text) => day = Some(text),
            Part::Hour(text) => of_day = Some(text),
            Part::Date(text, hour) => (date, of_day) = (Some(text), hour),
        }
    }
    let date = match (date, year, month, day) {
        (Some(date), ..) => date,
        (None, Some(year), Some(month), Some(day)) => format!("{year}-{month}-{day}"),
        _ => return None,
    };
    match of_day {
        Some(hour) => hour_of(&date, &hour).map(Period::hour),
        None => {
            let start = hour_of(&date, "00")?;
            Some(Period { start, end: start + TimeDelta::days(1) })
        }
    }
}

/// Where a listing in the order of keys can go on behind a key that is too old: all keys up to there are of times that hold no
/// requests of `since` or later. None where the key's name does not show such a place.
pub fn skip_to(key: &str, since: DateTime<Utc>) -> Option<String> {
    // The first hour of which an object may hold such requests: see may_hold_since.
    let first_hour = |since: DateTime<Utc>| {
        let before = (since - TimeDelta::hours(2)).duration_trunc(TimeDelta::hours(1)).ok()?;
        Some(before + TimeDelta::hours(1))
    };
    let (first, named) = (first_hour(since - FOLDER_SLACK)?, first_hour(since)?);
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    let mut start = 0;
    let mut places = Vec::new();
    for folder in folders.split('/') {
        places.push(start);
        start += folder.len() + 1;
    }
    let mut before = 0;
    for (place, part) in parts(folders) {
        // Where a day stands before its month, a later key may be of an earlier time.
        let rank = match part {
            Part::Year(_) => 1,
            Part::Month(_) => 2,
            Part::Day(_) | Part::Date(..) => 3,
            Part::Hour(_) => 4,
        };
        if rank != before + 1 && !(matches!(part, Part::Date(..)) && before < rank) {
            return None;
        }
        before = rank;
        let (found, first) = match part {
            Part::Year(found) => (found, first.format("%Y").to_string()),
            Part::Month(found) => (found, first.format("%m").to_string()),
            Part::Day(found) => (found, first.format("%d").to_string()),
            Part::Hour(found) => (found, first.format("%H").to_string()),
            Part::Date(_, hour) => {
                let folder = folders.split('/').nth(place)?;
                let value = folder.rsplit('=').next()?;
                let dashed = value.contains('-');
                let format = match (dashed, hour.is_some()) {
                    (true, true) => "%Y-%m-%d-%H",
                    (true, false) => "%Y-%m-%d",
                    (false, true) => "%Y%m%d%H",
                    (false, false) => "%Y%m%d",
                };
                (value.to_owned(), first.format(format).to_string())
            }
        };
        match found.cmp(&first) {
            Ordering::Less => {
                let folder = folders.split('/').nth(place)?;
                let before = folder.len() - found.len();
                return Some(format!("{}{first}", &key[..places[place] + before]));
            }
            Ordering::Equal => {}
            Ordering::Greater => return None,
        }
    }
    let (distribution, hour) = standard_name(name)?;
    let before = key.len() - name.len();
    (hour < named).then(|| format!("{}{distribution}.{}", &key[..before], named.format("%Y-%m-%d-%H")))
}

/// `YYYY-MM-DD` and perhaps the hour in `2026-11-20`, `2026-11-20-19`, `20261120` or `2026112019`.
fn date_and_hour(text: &str) -> Option<(String, Option<String>)> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let dashes = [(8, "0000-00-00"), (10, "0000-00-00-00"), (8, "00000000"), (10, "0000000000")];
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let (length, _) = dashes.into_iter().find(|(_, known)| *known == shape)?;
    let date = format!("{}-{}-{}", &digits[..4], &digits[4..6], &digits[6..8]);
    hour_of(&date, "00")?;
    Some((date, (length == 10).then(|| digits[8..].to_owned())))
}

fn hour_of(date: &str, hour: &str) -> Option<DateTime<Utc>> {
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let hour: u32 = (hour.len() == 2).then(|| hour.parse().ok())??;
    Some(date.and_hms_opt(hour, 0, 0)?.and_utc())
}

/// Whether an object can hold requests of `since` or later: by the time in its key, else by its arrival.
/// Rows of the first minutes of the next hour do occur, so a period counts until an hour after its end. What arrived in an
/// hour holds no later requests, so hours of arrival may be taken for hours of requests here.
pub fn may_hold_since(key: &str, arrived_at: DateTime<Utc>, since: DateTime<Utc>) -> bool {
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    let named = standard_name(name).map(|(_, hour)| Period::hour(hour).may_hold_since(since));
    named.or_else(|| folders_may_hold_since(folders, since)).unwrap_or(arrived_at >= since)
}

/// Whether what lies below these folders can hold requests of `since` or later; none if they name no time.
pub fn folders_may_hold_since(folders: &str, since: DateTime<Utc>) -> Option<bool> {
    period_of_folders(folders).map(|period| period.may_hold_since(since - FOLDER_SLACK))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_hour_is_read_from_every_known_form_of_key() {
        let hour = Period::hour(at("2026-11-20T19:00:00Z"));
        for key in [
            "E2EXAMPLE.2026-11-20-19.RT4KCN4SGK9.gz",
            "logs/cdn/E2EXAMPLE.2026-11-20-19.e519cdee.gz",
            "E2EXAMPLE.2026-11-20-19.2bd0b06.parquet",
            "E2EXAMPLE.2026-11-20-19.e519cdee",
            "year=2026/month=11/day=20/hour=19/x.parquet",
            "AWSLogs/aws-account-id=111122223333/CloudFront/DistributionId=EDFDVBD6EXAMPLE/Year=2026/MONTH=11/Day=20/HOUR=19/x",
            "AWSLogs/111122223333/CloudFront/2026/11/20/19/x.gz",
            "rt/2026/11/20/19/rt-logs-1-2026-11-20-19-04-11-7a2b.gz",
            "dt=2026-11-20/hour=19/x.gz",
            "2026-11-20/19/x.gz",
            "2026-11-20-19/x.gz",
            "2026112019/x.gz",
            "date=20261120/hh=19/x.gz",
            // The name beats the folders.
            "2020/01/01/00/E2EXAMPLE.2026-11-20-19.e519cdee.gz",
        ] {
            assert_eq!(period(key), Some(hour), "{key}");
        }
        let day = Period { start: at("2026-11-20T00:00:00Z"), end: at("2026-11-21T00:00:00Z") };
        for key in ["year=2026/month=11/day=20/x.gz", "2026/11/20/x.gz", "2026-11-20/x.gz", "2026/11/20/other/x.gz"] {
            assert_eq!(period(key), Some(day), "{key}");
        }
    }

    #[test]
    fn other_keys_name_no_time() {
        for key in [
            "access.log",
            "E2.2026-11-20.x.gz",
            "E2.2026-11-20-25.x.gz",
            "E2.2026-13-20-01.x.gz",
            "e2.2026-11-20-19.x.gz",
            "111122223333/x.gz",
            "year=2026/month=11/x.gz",
            "2026/13/20/x.gz",
            "é2026-11-20/x.gz",
            "",
        ] {
            assert_eq!(period(key), None, "{key}");
        }
    }

    #[test]
    fn distributions() {
        for (key, expected) in [
            ("logs/E2EXAMPLE.2026-11-20-19.x.gz", Some("E2EXAMPLE")),
            ("DistributionId=EDFDVBD6EXAMPLE/2026/11/20/19/x", Some("EDFDVBD6EXAMPLE")),
            ("distributionid=EDFDVBD6EXAMPLE/x", Some("EDFDVBD6EXAMPLE")),
            ("AWSLogs/111122223333/CloudFront/EDFDVBD6EXAMPLE/2026/x.gz", Some("EDFDVBD6EXAMPLE")),
            ("AWSLogs/111122223333/CloudFront/x.gz", None),
            ("distributionid=<script>/x", None),
        ] {
            assert_eq!(distribution(key), expected, "{key}");
        }
    }

    #[test]
    fn the_name_beats_the_arrival() {
        let since = at("2026-11-20T10:00:00Z");
        let late = at("2026-11-21T00:00:00Z");
        assert!(may_hold_since("E2.2026-11-20-09.x.gz", since, since));
        assert!(!may_hold_since("E2.2026-11-20-08.x.gz", late, since));
        assert!(!may_hold_since("year=2026/month=11/day=18/x.gz", late, since));
        assert!(may_hold_since("2026/11/19/20/rt-1-2026-11-19-20-00-00-x", late, since), "in Los Angeles");
        assert!(may_hold_since("other.gz", late, since));
        assert!(!may_hold_since("other.gz", since - TimeDelta::seconds(1), since));
    }

    #[test]
    fn a_listing_skips_what_is_too_old() {
        // 2026-11-20 10:00: hours from 09 on may hold such requests; folders may be of another time zone.
        let since = at("2026-11-20T10:00:00Z");
        for (key, expected) in [
            ("logs/E2.2024-01-01-00.x.gz", Some("logs/E2.2026-11-20-09")),
            ("E2.2026-11-20-08.x.gz", Some("E2.2026-11-20-09")),
            ("E2.2026-11-20-09.x.gz", None),
            ("year=2024/month=01/day=01/hour=00/x", Some("year=2026")),
            ("p/YEAR=2026/Month=10/day=31/hour=23/x", Some("p/YEAR=2026/Month=11")),
            ("p/2026/11/19/18/x", Some("p/2026/11/19/19")),
            ("p/2026/11/19/19/x", None),
            ("p/2026/11/20/09/E2.2026-11-20-09.x.gz", None),
            ("p/2026/11/21/00/x", None),
            ("dt=2026-11-18/hour=23/x", Some("dt=2026-11-19")),
            ("dt=2026-11-19/hour=08/x", Some("dt=2026-11-19/hour=19")),
            ("2026111908/x", Some("2026111919")),
            ("year=2026/dt=2026-11-18/x", Some("year=2026/dt=2026-11-19")),
            ("day=02/month=11/year=2026/hour=00/x", None),
            ("year=2026/hour=05/month=11/day=02/x", None),
            ("year=2026/month=11/hour=05/day=02/x", None),
            ("other/x", None),
        ] {
            assert_eq!(skip_to(key, since).as_deref(), expected, "{key}");
        }
    }

    proptest! {
        /// Whatever lies between a key and the place that a listing skips to is too old, of all hours of some days.
        #[test]
        fn nothing_new_is_skipped(form in 0usize..8, from in 0i64..72, to in 0i64..72, since in 0i64..4_320) {
            let start = at("2026-10-30T00:00:00Z");
            let key = |hour: i64| {
                let time = start + TimeDelta::hours(hour);
                let format = ["E2.%Y-%m-%d-%H.x", "year=%Y/month=%m/day=%d/hour=%H/x", "p/%Y/%m/%d/%H/E2.%Y-%m-%d-%H.x", "%Y%m%d%H/x",
                    "dt=%Y-%m-%d/%H/x", "day=%d/month=%m/year=%Y/hour=%H/x", "year=%Y/day=%d/month=%m/hour=%H/x", "hour=%H/dt=%Y-%m-%d/x"][form];
                (time, time.format(format).to_string())
            };
            let since = start + TimeDelta::minutes(since);
            let ((_, from), (time, between)) = (key(from), key(to));
            if let Some(skipped) = skip_to(&from, since) && between > from && between <= skipped {
                prop_assert!(!may_hold_since(&between, time, since), "{} is lost from {} to {}", between, from, skipped);
            }
        }

        #[test]
        fn takes_any_key(key in "((year|Month|dt)=)?[0-9/=.a-zE-]{0,40}\\PC{0,5}") {
            period(&key);
            distribution(&key);
            skip_to(&key, at("2026-11-20T10:00:00Z"));
        }
    }
}
