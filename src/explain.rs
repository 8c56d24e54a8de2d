//! One session explained: who used it, what each detector says, how near it is to being found, whether it is blocked and why.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::decide::{Binding, Facts};
use crate::detect::file::{Detector, Strength};
use crate::detect::near::{Number, numbers, share};
use crate::detect::{Finding, Inspection, Purpose};
use crate::engine::{Sql, fetch, register, sql};
use crate::history::{Event, Origin, stored};
use crate::pass::Warden;
use crate::pass::revoke::{Case, cases};
use crate::store::Store;

const NETWORKS: Sql = sql!("explain/networks.sql");
const USER_AGENTS: Sql = sql!("explain/user_agents.sql");
const REFUSED: Sql = sql!("explain/refused.sql");
const SESSION: Sql = sql!("explain/session.sql");
const ACTIVE: Sql = sql!("explain/active.sql");

/// What is known of a session: the object of `explain --output json`.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub session_id: String,
    /// Null: it is not blocked now.
    pub block: Option<Block>,
    /// Null: no accepted request of it is kept.
    pub seen: Option<Seen>,
    /// Requests that claimed it and were refused; they incriminate nobody.
    pub refused: u64,
    /// The busiest first.
    pub networks: Vec<NetworkUse>,
    pub user_agents: Vec<AgentUse>,
    /// In order of their names.
    pub detectors: Vec<Judgement>,
    /// The whole history, the oldest first.
    pub events: Vec<Event>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Block {
    pub mode: Mode,
    pub origin: Origin,
    pub detector: Option<String>,
    pub score: Option<f64>,
    pub strength: Option<Strength>,
    pub reason: Option<String>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
pub struct Seen {
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub requests: u64,
    pub segments: u64,
    /// The token's signature covers the id: always, never, or sometimes.
    pub bound: &'static str,
    pub derived: bool,
    pub token_expires: Option<DateTime<Utc>>,
}

/// What one network fetched.
#[derive(Debug, Serialize)]
pub struct NetworkUse {
    pub network: Option<String>,
    pub country: Option<String>,
    pub asn: Option<i64>,
    pub network_type: Option<String>,
    pub device: String,
    pub requests: u64,
    pub segments: u64,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// New segments by minute, of the minutes in which it was there.
    pub minutes: BTreeMap<DateTime<Utc>, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AgentUse {
    pub user_agent: Option<String>,
    pub networks: u64,
    pub requests: u64,
    pub segments: u64,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
}

/// What a detector says of the session.
#[derive(Debug, Serialize)]
pub struct Judgement {
    pub detector: String,
    pub family: String,
    pub mode: Mode,
    /// In the window with the highest score; null: it does not find the session.
    pub found: Option<Found>,
    /// Its numbers against its thresholds, in that window or, where it finds nothing, in the one that comes nearest. Empty: no
    /// window comes near.
    pub numbers: Vec<Number>,
    pub window_start: Option<DateTime<Utc>>,
    pub window_end: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
pub struct Found {
    pub score: f64,
    pub strength: Strength,
}

/// Explains a session from the tables; none if nothing is known of it.
pub async fn explain(
    warden: &Warden,
    store: &dyn Store,
    session_id: &str,
    now: DateTime<Utc>,
) -> anyhow::Result<Option<Explained>> {
    #[derive(Deserialize)]
    struct Refused {
        requests: u64,
    }
    let session = warden.engine.session_over(store, now).await?;
    let of_session = || vec![("session", ScalarValue::Utf8(Some(session_id.to_owned())))];
    register(&session, "candidates", SESSION, of_session()).await?;
    let case = cases(&session, &[]).await?.into_iter().next();
    let refused: Vec<Refused> = fetch(&session, REFUSED, of_session()).await?;
    let events = stored::of_candidates(&session).await?;
    let refused = refused.first().map_or(0, |row| row.requests);
    if case.is_none() && refused == 0 && events.is_empty() {
        return Ok(None);
    }
    let networks = by_network(fetch(&session, NETWORKS, of_session()).await?);
    let relaxed: Vec<Detector> = warden.detectors.iter().map(|detector| detector.relaxed(0.0)).collect();
    let (near, _) = Inspection::new(&warden.engine, &session, &relaxed, &warden.config, Purpose::Record)
        .await?
        .look_at(&session, &BTreeSet::from([session_id]), now)
        .await?;
    let found: &[Finding] = case.as_ref().map_or(&[], |case| &case.findings);
    Ok(Some(Explained {
        session_id: session_id.to_owned(),
        block: fetch(&session, ACTIVE, of_session()).await?.into_iter().next(),
        seen: case.as_ref().and_then(|case| seen(case, &networks)),
        refused,
        detectors: warden.detectors.iter().map(|detector| judgement(detector, found, &near)).collect(),
        networks,
        user_agents: fetch(&session, USER_AGENTS, of_session()).await?,
        events,
    }))
}

#[derive(Deserialize)]
struct NetworkMinute {
    network: Option<String>,
    country: Option<String>,
    asn: Option<i64>,
    network_type: Option<String>,
    device: String,
    minute: DateTime<Utc>,
    requests: u64,
    segments: u64,
    first_seen: DateTime<Utc>,
    last_seen: DateTime<Utc>,
}

fn by_network(rows: Vec<NetworkMinute>) -> Vec<NetworkUse> {
    let mut networks: BTreeMap<Option<String>, NetworkUse> = BTreeMap::new();
    for row in rows {
        let network = networks.entry(row.network.clone()).or_insert_with(|| NetworkUse {
            network: row.network,
            country: row.country,
            asn: row.asn,
            network_type: row.network_type,
            device: row.device,
            requests: 0,
            segments: 0,
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            minutes: BTreeMap::new(),
        });
        network.requests += row.requests;
        network.segments += row.segments;
        network.first_seen = network.first_seen.min(row.first_seen);
        network.last_seen = network.last_seen.max(row.last_seen);
        *network.minutes.entry(row.minute).or_default() += row.segments;
    }
    let mut networks: Vec<NetworkUse> = networks.into_values().collect();
    networks.sort_by_key(|network| std::cmp::Reverse((network.segments, network.requests)));
    networks
}

fn seen(case: &Case, networks: &[NetworkUse]) -> Option<Seen> {
    let Facts { ref binding, derived, last_seen, token_expires } = case.facts;
    Some(Seen {
        first_seen: networks.iter().map(|network| network.first_seen).min()?,
        last_seen,
        requests: networks.iter().map(|network| network.requests).sum(),
        segments: networks.iter().map(|network| network.segments).sum(),
        bound: match binding {
            Binding::Always => "always",
            Binding::Never => "never",
            Binding::Sometimes(_) => "sometimes",
        },
        derived,
        token_expires,
    })
}

/// `found` are the findings that stand, `near` those of the detector with its thresholds at their least.
fn judgement(detector: &Detector, found: &[Finding], near: &[Finding]) -> Judgement {
    let highest = found
        .iter()
        .filter(|finding| finding.detector == detector.name)
        .max_by(|a, b| a.score.total_cmp(&b.score).then(b.window_end.cmp(&a.window_end)));
    let nearest = || {
        near.iter()
            .filter(|finding| finding.detector == detector.name)
            .max_by(|a, b| share(&numbers(detector, a)).total_cmp(&share(&numbers(detector, b))))
    };
    let shown = highest.or_else(nearest);
    Judgement {
        detector: detector.name.clone(),
        family: detector.family.clone(),
        mode: detector.mode,
        found: highest.map(|finding| Found { score: finding.score, strength: finding.strength }),
        numbers: shown.map(|finding| numbers(detector, finding)).unwrap_or_default(),
        window_start: shown.map(|finding| finding.window_start),
        window_end: shown.map(|finding| finding.window_end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::file::DetectorFile;

    const DETECTOR: &str = "-- [detector]\n-- description = \"d\"\n-- family = \"f\"\n-- strength = \"medium\"\n-- window = \"30m\"\n-- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"none\"\n-- [params]\n-- most = 3\n-- [least]\n-- most = 1\n-- [thresholds]\n-- networks = \"most\"\nSELECT session_id, 1.0 AS score FROM activity";

    fn finding(score: f64, end: &str, networks: i64) -> Finding {
        let end: DateTime<Utc> = format!("2026-11-20T{end}:00Z").parse().unwrap();
        Finding {
            session_id: "session".into(),
            detector: "d".into(),
            window_start: end - chrono::TimeDelta::minutes(30),
            window_end: end,
            score,
            strength: Strength::Medium,
            family: "f".into(),
            evidence: format!("{{\"networks\":{networks}}}"),
            run_id: "r".into(),
            undecided: true,
        }
    }

    #[test]
    fn a_near_miss_is_told_by_its_nearest_window_and_a_finding_by_its_highest() {
        let detector = DetectorFile::parse("d", "d.sql", DETECTOR).unwrap().with_settings(&Default::default()).unwrap();
        let near = [finding(1.0, "20:00", 1), finding(2.0, "20:05", 2), finding(1.0, "20:10", 1)];
        let missed = judgement(&detector, &[], &near);
        assert!(missed.found.is_none());
        let number = |value| Number { name: "networks".into(), value, threshold: 3.0, parameter: "most".into() };
        assert_eq!(missed.numbers, [number(2.0)]);
        assert_eq!(missed.window_end, Some(near[1].window_end));
        let hit = judgement(&detector, &[finding(1.3, "20:15", 4), finding(2.0, "20:20", 6)], &near);
        assert_eq!((hit.found.unwrap().score, hit.numbers), (2.0, vec![number(6.0)]));
        assert!(judgement(&detector, &[], &[]).numbers.is_empty());
    }
}
