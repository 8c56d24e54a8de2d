//! The evaluation of detectors on one window, and who used the sessions that were found in it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::Finding;
use super::evaluate::Purpose;
use super::everybody::OfEverybody;
use super::file::{Detector, Scope};
use super::inspect::Key;
use super::load::Loaded;
use super::result::{Found, run};
use super::statement::Rows;
use super::tables::{Statements, WindowTables};
use super::who::Who;
use super::window::Window;
use crate::engine::EngineError;

/// What came of one window.
#[derive(Default)]
pub struct InWindow {
    pub found: Vec<(usize, Found)>,
    pub looked_at: Vec<Key>,
    /// The seconds of each detector, by its place.
    pub seconds: Vec<(usize, f64)>,
    /// Sessions with new rows that detectors looked at, of each the most.
    pub sessions: Option<u64>,
    /// Detectors that failed, by their place, and why.
    pub failed: Vec<(usize, String)>,
    /// What detectors asked of everybody.
    pub learned: Vec<(OfEverybody, Rows)>,
}

/// What it takes to evaluate a window.
pub struct Bench {
    pub detectors: Vec<Detector>,
    pub statements: Statements,
    pub purpose: Purpose,
}

/// A window, and what its evaluation depends on.
pub struct Task {
    pub window: Window,
    /// The detectors, by their places, that look at it.
    pub indexes: Vec<usize>,
    /// What is made of everybody in it, for others.
    pub learns: Vec<OfEverybody>,
    pub loaded: Arc<Loaded>,
    /// Of each detector the last batch that it has evaluated.
    pub after: Arc<[i64]>,
    /// The findings of the window that are stored.
    pub known: Vec<Key>,
    /// Detectors that failed before, in any window: they need not be tried.
    pub failed: Arc<Mutex<BTreeSet<usize>>>,
    pub run_id: Arc<str>,
}

impl Bench {
    /// Evaluates the detectors on a window.
    pub async fn evaluate(&self, task: Task) -> InWindow {
        let Task { window, indexes, learns, loaded, after, known, failed, run_id } = task;
        let mut cut = WindowTables::new(&loaded, &self.statements, window);
        let mut in_window = InWindow::default();
        let mut found: Vec<(usize, Found)> = Vec::new();
        for index in indexes {
            if failed.lock().expect("not poisoned").contains(&index) {
                continue;
            }
            let detector = &self.detectors[index];
            let mut fail = |reason: String| {
                failed.lock().expect("not poisoned").insert(index);
                in_window.failed.push((index, reason));
            };
            let rows = cut.of(detector, after[index]);
            if detector.scope == Scope::Session && !detector.scores_only {
                let sessions = cut.sessions(detector.scope, after[index]).count() as u64;
                in_window.sessions = in_window.sessions.max(Some(sessions));
            }
            let started = Instant::now();
            let result = match &rows {
                Some(rows) => run(&self.statements, index, detector, window, rows, &run_id).await,
                None => Ok(vec![]),
            };
            let findings = match result {
                Ok(findings) => findings,
                Err(reason) => {
                    fail(reason);
                    continue;
                }
            };
            in_window.seconds.push((index, started.elapsed().as_secs_f64()));
            let of_detector = known.iter().filter(|(_, name, _)| *name == detector.name);
            for key in of_detector {
                if cut.sessions(detector.scope, after[index]).contains(&key.0) {
                    in_window.looked_at.push(key.clone());
                }
            }
            found.extend(findings.into_iter().map(|finding| (index, finding)));
        }
        learns.iter().for_each(|table| drop(cut.of_everybody(*table)));
        if self.purpose == Purpose::Replay || !learns.is_empty() {
            in_window.learned = cut.learned().collect();
        }
        in_window.found = found;
        in_window
    }

    /// The findings of a window of which it is told who used the session, by their places.
    pub fn told(&self, found: &[(usize, Found)], highest: &Highest) -> Vec<bool> {
        let is_told = |(index, found): &(usize, Found)| {
            !self.detectors[*index].scores_only && (self.purpose == Purpose::Record || highest.is(*index, found))
        };
        found.iter().map(is_told).collect()
    }

    /// Tells of the findings of a window who used the sessions; why not, if that is not known.
    pub fn tell(
        &self,
        loaded: &Loaded,
        window: Window,
        found: Vec<(usize, Found)>,
        told: &[bool],
    ) -> (Vec<Finding>, Option<EngineError>) {
        let sessions = found.iter().zip(told).filter(|(_, told)| **told).map(|((_, found), _)| found.session());
        let (who, error) = match WindowTables::new(loaded, &self.statements, window).who(&sessions.collect()) {
            Ok(who) => (who, None),
            Err(error) => (Who::new(), Some(error)),
        };
        let finding = |((_, mut found), told): ((usize, Found), &bool)| {
            let who = who.get(found.session()).filter(|_| *told);
            if self.purpose == Purpose::Replay && !told {
                found.forget_evidence();
            }
            found.with_evidence(who)
        };
        (found.into_iter().zip(told).map(finding).collect(), error)
    }
}

/// The highest score of each session by each detector, by its place, and the end of its window: the first of equals.
#[derive(Default)]
pub struct Highest(HashMap<(usize, String), (f64, DateTime<Utc>)>);

impl Highest {
    /// They come in order of their windows.
    pub fn take(&mut self, detector: usize, found: &Found) {
        let Finding { session_id, score, window_end, .. } = &found.finding;
        let known = self.0.entry((detector, session_id.clone())).or_insert((*score, *window_end));
        if *score > known.0 {
            *known = (*score, *window_end);
        }
    }

    pub fn is(&self, detector: usize, found: &Found) -> bool {
        let key = (detector, found.finding.session_id.clone());
        self.0.get(&key).is_some_and(|(_, end)| *end == found.finding.window_end)
    }
}
