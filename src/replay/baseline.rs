//! A baseline: what an earlier replay of the same logs would have blocked, and what a change of rules adds and removes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Revocation;
use super::labels::{Label, Labels};

/// What `replay --output json` printed once.
#[derive(Debug, Deserialize)]
pub struct Baseline {
    rows: u64,
    sessions: u64,
    revocations: Vec<Revocation>,
}

/// Why a baseline was refused.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    #[error("baseline {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("baseline {path} is not what `replay --output json` prints: {source}")]
    Malformed { path: PathBuf, source: serde_json::Error },
}

/// How the blocks differ from those of the baseline.
#[derive(Debug, Serialize)]
pub struct Changes {
    /// Blocked now, not then.
    pub added: Vec<Change>,
    /// Blocked then, not now.
    pub removed: Vec<Change>,
    /// Blocked in both, but at another time, by other detectors or until another time: `was` tells of then.
    pub changed: Vec<Change>,
    /// Blocked in both alike.
    pub same: u64,
    /// The baseline had as many requests and sessions; else it was of other logs, and the comparison says little.
    pub same_logs: bool,
}

#[derive(Debug, Serialize)]
pub struct Change {
    #[serde(flatten)]
    pub revocation: Revocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<Revocation>,
    /// With labels: what the session is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

impl Baseline {
    pub fn load(path: &Path) -> Result<Baseline, BaselineError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BaselineError::Unreadable { path: path.to_owned(), source })?;
        serde_json::from_str(&text).map_err(|source| BaselineError::Malformed { path: path.to_owned(), source })
    }

    /// What has changed since; each list in order of the sessions' ids.
    pub fn changes(&self, now: &[Revocation], logs: (u64, u64), labels: Option<&Labels>) -> Changes {
        let by_session = |revocations: &'_ [Revocation]| -> BTreeMap<String, Revocation> {
            revocations.iter().map(|revocation| (revocation.session_id.clone(), revocation.clone())).collect()
        };
        let (mut then, now) = (by_session(&self.revocations), by_session(now));
        let change = |revocation: Revocation, was: Option<Revocation>| {
            let known = labels.and_then(|labels| labels.of(&revocation.session_id));
            let (label, kind) = known.map(|(label, kind)| (*label, kind.clone())).unzip();
            Change { revocation, was, label, kind: kind.filter(|kind| !kind.is_empty()) }
        };
        let same_logs = (self.rows, self.sessions) == logs;
        let mut changes = Changes { added: vec![], removed: vec![], changed: vec![], same: 0, same_logs };
        for (session, revocation) in now {
            match then.remove(&session) {
                None => changes.added.push(change(revocation, None)),
                Some(was) if was.decision() == revocation.decision() => changes.same += 1,
                Some(was) => changes.changed.push(change(revocation, Some(was))),
            }
        }
        changes.removed.extend(then.into_values().map(|revocation| change(revocation, None)));
        changes
    }
}
