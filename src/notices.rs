//! What the read logs lack for the work that the config asks for, and the mend. Facts come in, notices go out.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::{Config, LogFormat, Mode};
use crate::detect::file::Detector;
use crate::logs::fields::{Field, FieldSet, REALTIME_COLUMNS};
use crate::logs::{Counts, ObjectReport};
use crate::session::Scheme;

/// What was read, as far as notices follow from it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub counts: Counts,
    pub seen: FieldSet,
    pub formats: BTreeSet<LogFormat>,
}

impl Facts {
    pub fn add(&mut self, report: &ObjectReport) {
        self.counts += report.counts;
        self.seen = self.seen.union(report.seen);
        self.formats.extend(report.format);
    }
}

/// Something that is missing or in the way, and the mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub severity: Severity,
    pub what: String,
    pub mend: String,
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing, or not the right thing, can be found until it is mended.
    Problem,
    /// It works, but not as well as it could, or not for all.
    Hint,
}

impl Notice {
    pub fn problem(what: impl Into<String>, mend: impl Into<String>) -> Notice {
        Notice { severity: Severity::Problem, what: what.into(), mend: mend.into() }
    }

    pub fn hint(what: impl Into<String>, mend: impl Into<String>) -> Notice {
        Notice { severity: Severity::Hint, what: what.into(), mend: mend.into() }
    }
}

/// Accepted requests without one session among them, beyond which something must be wrong: fewer may be a quiet minute.
const MANY_WITHOUT_SESSION: u64 = 200;

/// Playlists with next to no segment among them, from which on something must be wrong.
const MANY_MANIFESTS: u64 = 200;

/// What follows from the facts.
pub fn notices(facts: &Facts, config: &Config, detectors: &[Detector]) -> Vec<Notice> {
    let mut notices = order_of_fields(config);
    let counts = &facts.counts;
    if counts.rows == 0 {
        return notices;
    }
    let looked_at = |field| config.sessions.iter().any(|scheme| scheme.fields().has(field));
    let lacks = |field| looked_at(field) && !facts.seen.has(field);
    if lacks(Field::Cookie) {
        notices.push(Notice::problem(
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
        notices.push(Notice::problem("no request shows its headers, and a [[session]] looks for one", mend));
    }
    if lacks(Field::Query) && !facts.seen.has(Field::CmcdSession) {
        notices.push(Notice::problem(
            "no request has a query, and a [[session]] looks for an argument",
            "add the field cs-uri-query to the logs, if it is not there; else look at that [[session]]",
        ));
    }
    if counts.rows == counts.without_session && counts.accepted >= MANY_WITHOUT_SESSION {
        notices.push(Notice::problem(
            format!("none of {} requests has a session id under any [[session]]", counts.rows),
            "look at the [[session]] entries (`streamwarden check`): which scheme do the tokens follow, are names and numbers right? \
             Logs that were read with a wrong entry are not read again: mend it, and begin with a new place in [state] location",
        ));
    }
    if counts.manifests >= MANY_MANIFESTS && counts.segments * 20 < counts.manifests {
        notices.push(Notice::problem(
            format!(
                "of {} accepted requests with a session {} are for playlists and {} for media segments: whoever watches is not seen",
                counts.accepted, counts.manifests, counts.segments
            ),
            "if segments have an ending that is not known, name it in [detect] segment_endings; if another distribution delivers them, \
             add its logs",
        ));
    }
    if counts.unbound > 0 && !config.guard.enforce_unbound {
        notices.push(Notice::hint(
            format!("{} of {} accepted requests have a session id that the viewer can choose", counts.unbound, counts.accepted),
            "put the id under the token's signature; until then such sessions are recorded and not blocked (guard.enforce_unbound)",
        ));
    }
    if counts.derived > 0 && !config.guard.enforce_derived {
        let what = format!("{} of {} accepted requests have no session id", counts.derived, counts.accepted);
        let missing: Vec<String> = config.sessions.iter().filter_map(Scheme::id_place).collect();
        notices.push(match missing.is_empty() {
            true => Notice::hint(
                format!("{what}: a signature or key stands in for one, and many viewers may share it"),
                "give each playback an id of its own; until then such sessions are recorded and not blocked (guard.enforce_derived)",
            ),
            false => Notice::hint(
                format!("{what}: they lack the {}", missing.join(" or the ")),
                "look whether its name is right in [[session]]; sessions without it are recorded and not blocked",
            ),
        });
    }
    let is_on = |name: &str| detectors.iter().any(|detector| detector.name == name && detector.mode > Mode::Off);
    if is_on("many_countries") && counts.accepted > 0 && counts.without_country == counts.accepted {
        notices.push(Notice::hint(
            "no request has a country, so many_countries finds nothing",
            "name a MaxMind-format file of countries in [geoip], or add the field c-country to the logs",
        ));
    }
    if is_on("many_ips") && counts.accepted > 0 && counts.without_asn == counts.accepted {
        notices.push(Notice::hint(
            "no request has an autonomous system, so many_ips is never strong",
            "name a MaxMind-format file of autonomous systems in [geoip], or add the field asn to the logs",
        ));
    }
    notices
}

/// Fields of real-time logs that are not in the order in which CloudFront writes them: the wrong columns are read.
fn order_of_fields(config: &Config) -> Vec<Notice> {
    let wrong = config.logs.iter().filter_map(|logs| {
        let names = &logs.form.realtime.as_ref()?.names;
        let right: Vec<&str> = REALTIME_COLUMNS.iter().filter(|name| names.contains(name)).map(String::as_str).collect();
        let (found, due) = names.iter().zip(&right).find(|(found, due)| found != due)?;
        Some(Notice::problem(
            format!("the `fields` of {} are not in the order in which CloudFront writes them: {found} stands where {due} is", logs.location),
            format!("whatever the order in which they were chosen, records have: {}", right.join(", ")),
        ))
    });
    wrong.collect()
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
        let counts = Counts { rows: 10, accepted: 8, ..facts.counts };
        let notices = notices(&Facts { counts, ..facts }, &config(session), &[]);
        notices.iter().map(|notice| notice.what.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn of(counts: Counts) -> Facts {
        Facts { counts, ..Facts::default() }
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
        assert_eq!(said(of(Counts { without_session: 10, ..Counts::default() }), path), "", "a quiet minute");
        let many = of(Counts { rows: 300, accepted: 300, without_session: 300, ..Counts::default() });
        assert_eq!(notices(&many, &config(path), &[])[0].severity, Severity::Problem);
        let blind = Counts { manifests: 300, segments: 14, ..Counts::default() };
        assert!(said(of(blind), path).contains("300 are for playlists and 14 for media segments"));
        assert_eq!(said(of(Counts { segments: 15, ..blind }), path), "", "as in a quiet evening of long segments");
        assert!(said(of(Counts { unbound: 5, ..Counts::default() }), path).contains("5 of 8 accepted"));
        assert!(said(of(Counts { derived: 8, ..Counts::default() }), path).contains("8 of 8 accepted"));
        let named = "scheme = 'signed-url'\nquery = 'sid'";
        assert!(
            said(of(Counts { derived: 8, ..Counts::default() }), named).contains("they lack the query argument sid")
        );
        assert!(notices(&Facts::default(), &config(cookie), &[]).is_empty(), "nothing is known of nothing");
    }
}
