//! `replay --report`: one page that holds everything it shows, for people who tune detectors.

mod charts;
mod page;
mod timeline;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::delivery::candidates;
use super::labels::{Label, Labels};
use super::sweep::{detector_of, near};
use super::{Found, Revocation};
use crate::detect::Finding;
use crate::detect::file::Detector;
use crate::detect::near::{numbers, share};
use crate::engine::{Sql, fetch, sql};
use crate::pass::Warden;
pub use page::render;
use timeline::{Timeline, TimelineRow};

const TIMELINE: Sql = sql!("replay/timeline.sql");

/// How much of the way to its thresholds a session must have come to be shown among those that were not found.
pub const NEAR: f64 = 0.5;

/// What a session that is not found has for a score, at most: numbers of it may be over their thresholds where it takes more
/// than one.
const NOT_FOUND: f64 = 0.999;

/// Sessions of each sort whose networks are shown: wrongly blocked, missed, rightly blocked, near misses.
const TIMELINES: usize = 8;

/// What only the report shows.
#[derive(Debug)]
pub struct Insight {
    pub detectors: Vec<Ranking>,
    pub timelines: Vec<Timeline>,
    /// With labels: by kind how many sessions there are and how many of them would be blocked, the worst first.
    pub kinds: Vec<Kind>,
    /// With labels: pirates and benign sessions that the labels know.
    pub labelled: BTreeMap<Label, u64>,
}

/// The scores that a detector gives: of what it finds from 1 on, below that of what comes near.
#[derive(Debug)]
pub struct Ranking {
    pub detector: Detector,
    /// Of each session the highest, in falling order.
    pub scores: Vec<(f64, Option<Label>)>,
}

#[derive(Debug)]
pub struct Kind {
    pub kind: String,
    pub label: Label,
    pub sessions: u64,
    pub blocked: u64,
}

/// The detector that shows what comes near to another one's thresholds.
pub fn near_misses(detector: &Detector) -> Detector {
    Detector { name: near(&detector.name), ..detector.relaxed(NEAR) }
}

impl Insight {
    /// `tried` has what [`near_misses`] found.
    pub async fn gather(
        warden: &Warden,
        session: &SessionContext,
        revocations: &[Revocation],
        found: &[Found],
        tried: &[Finding],
        labels: Option<&Labels>,
    ) -> anyhow::Result<Insight> {
        let label = |session: &str| labels.and_then(|labels| labels.of(session)).map(|(label, _)| *label);
        let mut best: HashMap<&str, HashMap<&str, f64>> = HashMap::new();
        let mut take = |detector: &'_ str, session, score: f64| {
            let detector = warden.detectors.iter().find(|known| known.name == detector);
            let Some(detector) = detector else { return };
            let known = best.entry(&detector.name).or_default().entry(session).or_insert(score);
            *known = known.max(score);
        };
        for finding in tried {
            let name = detector_of(&finding.detector);
            let detector = warden.detectors.iter().find(|detector| detector.name == name);
            if let Some(detector) = detector.filter(|detector| finding.detector == near(&detector.name)) {
                take(name, finding.session_id.as_str(), share(&numbers(detector, finding)).min(NOT_FOUND));
            }
        }
        for finding in found {
            take(&finding.detector, &finding.session_id, finding.score.max(1.0));
        }
        let ranking = |detector: &Detector| {
            let of_detector = best.get(detector.name.as_str()).into_iter().flatten();
            let mut scores: Vec<(f64, Option<Label>)> =
                of_detector.map(|(session, score)| (*score, label(session))).collect();
            scores.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            Ranking { detector: detector.clone(), scores }
        };
        let highest = |session: &str| {
            best.values().filter_map(|of_detector| of_detector.get(session)).copied().fold(0.0, f64::max)
        };
        let interesting = of_interest(revocations, &best, labels, highest);
        Ok(Insight {
            detectors: warden.detectors.iter().map(ranking).collect(),
            timelines: timelines(session, &interesting, revocations, labels).await?,
            kinds: labels.map(|labels| kinds(labels, revocations)).unwrap_or_default(),
            labelled: labels.map(Labels::counts).unwrap_or_default(),
        })
    }
}

/// The sessions whose networks are worth a look, and why.
fn of_interest<'a>(
    revocations: &'a [Revocation],
    best: &HashMap<&str, HashMap<&'a str, f64>>,
    labels: Option<&'a Labels>,
    highest: impl Fn(&str) -> f64,
) -> Vec<(&'a str, &'static str)> {
    let label = |session: &str| labels.and_then(|labels| labels.of(session)).map(|(label, _)| *label);
    let blocked: BTreeSet<&str> = revocations.iter().map(|revocation| revocation.session_id.as_str()).collect();
    let near: BTreeSet<&str> = best.values().flat_map(HashMap::keys).copied().collect();
    let top = |sessions: Vec<&'a str>, why: &'static str| {
        let mut sessions = sessions;
        sessions.sort_by(|a, b| highest(b).total_cmp(&highest(a)).then(a.cmp(b)));
        sessions.into_iter().take(TIMELINES).map(|session| (session, why)).collect::<Vec<_>>()
    };
    let of_label = |wanted: Label| blocked.iter().copied().filter(move |session| label(session) == Some(wanted));
    let missed = |labels: &'a Labels| {
        labels.sessions(Label::Pirate).filter(|session| !blocked.contains(session)).collect::<Vec<_>>()
    };
    let not_benign = blocked.iter().copied().filter(|session| label(session) != Some(Label::Benign)).collect();
    let not_blocked =
        near.iter().copied().filter(|session| !blocked.contains(session) && label(session) != Some(Label::Pirate));
    [
        top(of_label(Label::Benign).collect(), "blocked, though labelled benign"),
        top(labels.map(missed).unwrap_or_default(), "not blocked, though labelled pirate"),
        top(not_benign, "blocked"),
        top(not_blocked.collect(), "comes nearest of those that are not blocked"),
    ]
    .concat()
}

async fn timelines(
    session: &SessionContext,
    interesting: &[(&str, &'static str)],
    revocations: &[Revocation],
    labels: Option<&Labels>,
) -> anyhow::Result<Vec<Timeline>> {
    #[derive(Deserialize)]
    struct Row {
        session_id: String,
        #[serde(flatten)]
        of_network: TimelineRow,
    }
    candidates(session, interesting.iter().map(|(session, _)| *session).collect())?;
    let mut rows: HashMap<String, Vec<TimelineRow>> = HashMap::new();
    for row in fetch::<Row>(session, TIMELINE, vec![]).await? {
        rows.entry(row.session_id).or_default().push(row.of_network);
    }
    let timeline = |(session, why): &(&str, &'static str)| {
        let revocation = revocations.iter().find(|revocation| revocation.session_id == *session);
        let kind = labels.and_then(|labels| labels.of(session)).map(|(_, kind)| kind.clone());
        Timeline::new(session, why, kind, revocation, rows.remove(*session)?)
    };
    Ok(interesting.iter().filter_map(timeline).collect())
}

fn kinds(labels: &Labels, revocations: &[Revocation]) -> Vec<Kind> {
    let blocked: BTreeSet<&str> = revocations.iter().map(|revocation| revocation.session_id.as_str()).collect();
    let mut kinds: BTreeMap<(Label, &str), (u64, u64)> = BTreeMap::new();
    for (session, (label, kind)) in labels.all() {
        let counts = kinds.entry((*label, kind.as_str())).or_default();
        *counts = (counts.0 + 1, counts.1 + u64::from(blocked.contains(session)));
    }
    let mut kinds: Vec<Kind> = kinds
        .into_iter()
        .map(|((label, kind), (sessions, blocked))| Kind { kind: kind.to_owned(), label, sessions, blocked })
        .collect();
    kinds.sort_by(|a, b| a.label.cmp(&b.label).then(b.wrong().total_cmp(&a.wrong())).then(a.kind.cmp(&b.kind)));
    kinds
}

impl Kind {
    /// The share that the labels say should have been otherwise.
    pub fn wrong(&self) -> f64 {
        let share = self.blocked as f64 / self.sessions.max(1) as f64;
        match self.label {
            Label::Pirate => 1.0 - share,
            Label::Benign => share,
            Label::Grey => 0.0,
        }
    }
}
