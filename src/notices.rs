//! What the read logs lack for the work that the config asks for, and the mend. Facts come in, notices go out.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::{Config, LogFormat, Mode};
use crate::detect::file::Detector;
use crate::logs::ObjectReport;
use crate::logs::fields::{Field, FieldSet};

/// What was read, as far as notices follow from it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub rows: u64,
    pub accepted: u64,
    pub without_session: u64,
    pub without_country: u64,
    pub unbound: u64,
    pub derived: u64,
    pub seen: FieldSet,
    pub formats: BTreeSet<LogFormat>,
}

impl Facts {
    pub fn add(&mut self, report: &ObjectReport) {
        self.rows += report.rows;
        self.accepted += report.accepted;
        self.without_session += report.without_session;
        self.without_country += report.without_country;
        self.unbound += report.unbound;
        self.derived += report.derived;
        self.seen = self.seen.and(report.seen);
        self.formats.extend(report.format);
    }
}

/// Something that is missing or in the way, and the mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub what: String,
    pub mend: String,
}

impl Notice {
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Notice {
        Notice { what: what.into(), mend: mend.into() }
    }
}

/// What follows from the facts.
pub fn notices(facts: &Facts, config: &Config, detectors: &[Detector]) -> Vec<Notice> {
    let mut notices = Vec::new();
    if facts.rows == 0 {
        return notices;
    }
    let looked_at = |field| config.sessions.iter().any(|scheme| scheme.fields().has(field));
    let lacks = |field| looked_at(field) && !facts.seen.has(field);
    if lacks(Field::Cookie) {
        notices.push(Notice::new(
            "no request has a cookie, and a [[session]] looks for one: cookie logging seems to be off",
            "switch cookie logging on for the distribution (IncludeCookies; for v2 also choose the field cs(Cookie), for \
             real-time logs cs-cookie)",
        ));
    }
    if lacks(Field::Headers) {
        let mend = match facts.formats.contains(&LogFormat::Realtime) {
            true => "add cs-headers to the real-time log configuration, and to `fields`",
            false => "use real-time logs with the field cs-headers: standard logs hold no headers",
        };
        notices.push(Notice::new("no request shows its headers, and a [[session]] looks for one", mend));
    }
    if lacks(Field::Query) && !facts.seen.has(Field::CmcdSession) {
        notices.push(Notice::new(
            "no request has a query, and a [[session]] looks for an argument",
            "add the field cs-uri-query to the logs, if it is not there; else look at that [[session]]",
        ));
    }
    let with_session = facts.rows - facts.without_session;
    if with_session == 0 {
        notices.push(Notice::new(
            format!("none of {} requests has a session id under any [[session]]", facts.rows),
            "look at the [[session]] entries: which scheme do the tokens follow, and do the logs hold what carries them?",
        ));
    }
    if facts.unbound > 0 && !config.guard.enforce_unbound {
        notices.push(Notice::new(
            format!("{} of {} accepted requests have a session id that the viewer can choose", facts.unbound, facts.accepted),
            "put the id under the token's signature; until then such sessions are recorded and not blocked (guard.enforce_unbound)",
        ));
    }
    if facts.derived > 0 && !config.guard.enforce_derived {
        notices.push(Notice::new(
            format!(
                "{} of {} accepted requests have no session id but a signature, which many viewers can share",
                facts.derived, facts.accepted
            ),
            "give each playback an id of its own; until then such sessions are recorded and not blocked (guard.enforce_derived)",
        ));
    }
    let wants_country = detectors.iter().any(|detector| detector.name == "many_countries" && detector.mode > Mode::Off);
    if wants_country && facts.accepted > 0 && facts.without_country == facts.accepted {
        notices.push(Notice::new(
            "no request has a country, so many_countries finds nothing",
            "name MaxMind-format files in [geoip], or add the field c-country to the logs",
        ));
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(session: &str) -> Config {
        let text = format!("[state]\nlocation = \"s\"\n[[logs]]\nlocation = \"l\"\n[[session]]\n{session}\n");
        Config::parse(&text, Path::new("/etc/sw/streamwarden.toml")).unwrap()
    }

    fn said(facts: Facts, session: &str) -> String {
        let notices = notices(&Facts { rows: 10, accepted: 8, ..facts }, &config(session), &[]);
        notices.iter().map(|notice| notice.what.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_missing_is_said_and_what_is_there_is_not() {
        let cookie = "scheme = 'jwt'\ncookie = 'playback'\nclaim = 'sid'";
        assert!(said(Facts::default(), cookie).contains("cookie logging seems to be off"));
        assert_eq!(said(Facts { seen: FieldSet::of([Field::Cookie]), ..Facts::default() }, cookie), "");
        assert!(said(Facts::default(), "scheme = 'stream-key'").contains("headers"));
        assert!(said(Facts::default(), "scheme = 'signed-url'").contains("query"));
        let path = "scheme = 'secure-media-delivery'";
        assert_eq!(said(Facts::default(), path), "");
        assert!(said(Facts { without_session: 10, ..Facts::default() }, path).contains("none of 10 requests"));
        assert!(said(Facts { unbound: 5, ..Facts::default() }, path).contains("5 of 8 accepted"));
        assert!(said(Facts { derived: 8, ..Facts::default() }, path).contains("8 of 8 accepted"));
        assert!(notices(&Facts::default(), &config(cookie), &[]).is_empty(), "nothing is known of nothing");
    }
}
