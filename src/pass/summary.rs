//! What a run says of itself: the object of `run --output json`, and its row in `runs`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::enforce::{Enforced, WafState};
use crate::alarm::{Alarm, AlarmKind};
use crate::allow;
use crate::detect::DetectorStats;
use crate::history::{Event, EventKind};
use crate::ingest::Ingested;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub run_id: String,
    pub objects: Objects,
    pub rows: Rows,
    pub lag_seconds: Lag,
    pub detectors: BTreeMap<String, DetectorStats>,
    pub revoked: u64,
    pub extended: u64,
    pub expired: u64,
    pub held: u64,
    pub observed: u64,
    pub restored: u64,
    pub spared: Spared,
    pub waf: Waf,
    pub seconds: Seconds,
    pub alarms: Vec<Alarm>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Objects {
    pub listed: u64,
    pub ingested: u64,
    pub duplicate: u64,
    pub quarantined: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Rows {
    pub read: u64,
    pub accepted: u64,
    pub refused: u64,
    pub rejected: u64,
    pub without_session: u64,
}

/// Seconds from the last request in an object to its arrival; null where no object was ingested.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lag {
    pub median: Option<f64>,
    pub p95: Option<f64>,
    pub worst: Option<f64>,
}

/// What the allow-list took out of what detectors saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Spared {
    pub requests: u64,
    pub sessions: u64,
}

impl Spared {
    pub fn of(spared: &allow::Spared) -> Spared {
        Spared { requests: spared.requests, sessions: spared.sessions.len() as u64 }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Waf {
    pub changed: bool,
    pub rules: u64,
    pub wcu: u64,
    pub capacity: u64,
    pub sessions: u64,
    pub left_out: u64,
    /// When the group will be full at the present rate, if within a week.
    pub full_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Seconds {
    pub ingest: f64,
    pub detect: f64,
    pub record: f64,
    pub enforce: f64,
    pub total: f64,
}

impl Summary {
    pub fn new(run_id: &str) -> Summary {
        Summary { run_id: run_id.to_owned(), ..Summary::default() }
    }

    pub fn alarm(&mut self, kind: AlarmKind, text: String) {
        self.alarms.push(Alarm::new(kind, text));
    }

    pub fn take_ingested(&mut self, ingested: &Ingested) {
        self.objects = Objects {
            listed: ingested.listed,
            ingested: ingested.ingested,
            duplicate: ingested.duplicate,
            quarantined: ingested.quarantined,
        };
        let counts = &ingested.facts.counts;
        self.rows = Rows {
            read: counts.rows,
            accepted: counts.accepted,
            refused: counts.refused,
            rejected: ingested.rejected,
            without_session: counts.without_session,
        };
        self.lag_seconds = Lag::of(ingested.lags.clone());
        self.alarms.extend(ingested.alarms.iter().cloned());
    }

    pub fn take_events(&mut self, events: &[Event]) {
        for event in events {
            match event.event {
                EventKind::Revoked | EventKind::Released => self.revoked += 1,
                EventKind::Extended => self.extended += 1,
                EventKind::Expired => self.expired += 1,
                EventKind::Held => self.held += 1,
                EventKind::Observed => self.observed += 1,
                EventKind::Restored => self.restored += 1,
            }
        }
    }

    pub fn take_enforced(&mut self, enforced: &Enforced) {
        let plan = &enforced.plan;
        self.waf = Waf {
            changed: enforced.waf == WafState::Updated,
            rules: plan.rules.len() as u64,
            wcu: plan.wcu,
            capacity: plan.capacity,
            sessions: plan.sessions,
            left_out: plan.left_out.len() as u64,
            full_at: enforced.full_at,
        };
        self.alarms.extend(enforced.alarms.iter().cloned());
    }
}

impl Lag {
    pub fn of(mut lags: Vec<f64>) -> Lag {
        lags.sort_by(f64::total_cmp);
        // Nearest rank: a lag that was really seen.
        let quantile = |share: f64| {
            let rank = (share * lags.len() as f64).ceil() as usize;
            lags.get(rank.saturating_sub(1)).copied()
        };
        Lag { median: quantile(0.5), p95: quantile(0.95), worst: lags.last().copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags() {
        assert_eq!(Lag::of(vec![]), Lag::default());
        let lag = Lag::of((1..=100).rev().map(f64::from).collect());
        assert_eq!(lag, Lag { median: Some(50.0), p95: Some(95.0), worst: Some(100.0) });
    }
}
