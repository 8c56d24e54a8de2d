//! What is known of the sessions in some logs, and how well a replay agrees with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Found, Revocation};
use crate::detect::file::Detector;

/// What a session is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    Pirate,
    Benign,
    /// Not counted.
    Grey,
}

impl Label {
    pub fn name(self) -> &'static str {
        match self {
            Label::Pirate => "pirate",
            Label::Benign => "benign",
            Label::Grey => "grey",
        }
    }
}

/// The labels of a file: CSV with the header `session_id,label[,kind]`.
#[derive(Debug, Default)]
pub struct Labels(HashMap<String, (Label, String)>);

/// Why a file of labels was refused.
#[derive(Debug, thiserror::Error)]
#[error("labels {path}: {source}")]
pub struct LabelsError {
    path: PathBuf,
    source: csv::Error,
}

/// How well the replay agrees with the labels.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// Of the revocations.
    pub overall: Score,
    /// Of the findings of each detector, whatever came of them.
    pub detectors: BTreeMap<String, Score>,
    /// Of the revocations, among the sessions of each kind.
    pub kinds: BTreeMap<String, Score>,
    /// Revoked sessions that the labels do not know; they are not counted.
    #[serde(skip)]
    pub unlabelled: usize,
}

/// Ratios are null where they would be a division by zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    pub true_positives: u64,
    pub false_positives: u64,
    pub false_negatives: u64,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    pub f1: Option<f64>,
}

impl Labels {
    pub fn load(path: &Path) -> Result<Labels, LabelsError> {
        let error = |source| LabelsError { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(|source| error(source.into()))?;
        Labels::read(file).map_err(error)
    }

    fn read(input: impl std::io::Read) -> Result<Labels, csv::Error> {
        #[derive(Deserialize)]
        struct Row {
            session_id: String,
            label: Label,
            #[serde(default)]
            kind: String,
        }
        let mut labels = HashMap::new();
        for row in csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input).deserialize() {
            let row: Row = row?;
            let session = row.session_id.clone();
            let known = labels.insert(row.session_id, (row.label, row.kind));
            if known.is_some_and(|(label, _)| label != row.label) {
                return Err(io::Error::other(format!("the session {session} has two labels")).into());
            }
        }
        Ok(Labels(labels))
    }

    pub fn evaluate(&self, revocations: &[Revocation], findings: &[Found], detectors: &[Detector]) -> Evaluation {
        let revoked: HashSet<&str> = revocations.iter().map(|revocation| revocation.session_id.as_str()).collect();
        let mut found: BTreeMap<&str, HashSet<&str>> =
            detectors.iter().map(|detector| (detector.name.as_str(), HashSet::new())).collect();
        for finding in findings {
            found.entry(&finding.detector).or_default().insert(&finding.session_id);
        }
        let kinds: HashSet<&str> =
            self.0.values().map(|(_, kind)| kind.as_str()).filter(|kind| !kind.is_empty()).collect();
        Evaluation {
            overall: self.score(&revoked, |_| true),
            detectors: found
                .iter()
                .map(|(name, sessions)| ((*name).to_owned(), self.score(sessions, |_| true)))
                .collect(),
            kinds: kinds.into_iter().map(|kind| (kind.to_owned(), self.score(&revoked, |of| of == kind))).collect(),
            unlabelled: revoked.iter().filter(|session| !self.0.contains_key(**session)).count(),
        }
    }

    /// What a session is known to be, and its kind.
    pub fn of(&self, session_id: &str) -> Option<&(Label, String)> {
        self.0.get(session_id)
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &(Label, String))> {
        self.0.iter().map(|(session, known)| (session.as_str(), known))
    }

    pub fn sessions(&self, wanted: Label) -> impl Iterator<Item = &str> {
        self.all().filter(move |(_, (label, _))| *label == wanted).map(|(session, _)| session)
    }

    /// How many sessions there are of each label.
    pub fn counts(&self) -> BTreeMap<Label, u64> {
        let mut counts = BTreeMap::new();
        for (label, _) in self.0.values() {
            *counts.entry(*label).or_default() += 1;
        }
        counts
    }

    /// How well a set of sessions agrees with the labels of the kinds that count.
    pub fn score(&self, positive: &HashSet<&str>, counts: impl Fn(&str) -> bool) -> Score {
        let mut score = Score::default();
        for (session, (label, kind)) in &self.0 {
            if !counts(kind) {
                continue;
            }
            match (label, positive.contains(session.as_str())) {
                (Label::Pirate, true) => score.true_positives += 1,
                (Label::Pirate, false) => score.false_negatives += 1,
                (Label::Benign, true) => score.false_positives += 1,
                (Label::Benign, false) | (Label::Grey, _) => {}
            }
        }
        let ratio = |of: u64| (of > 0).then(|| score.true_positives as f64 / of as f64);
        score.precision = ratio(score.true_positives + score.false_positives);
        score.recall = ratio(score.true_positives + score.false_negatives);
        let all = 2 * score.true_positives + score.false_positives + score.false_negatives;
        score.f1 = (all > 0).then(|| 2.0 * score.true_positives as f64 / all as f64);
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(session: &str) -> Revocation {
        let time = "2026-11-20T21:00:00Z".parse().unwrap();
        Revocation {
            session_id: session.into(),
            detectors: vec![],
            score: 1.0,
            decided_at: time,
            expires_at: time,
            shared_at: None,
            blocked_at: None,
            not_blocked: None,
        }
    }

    #[test]
    fn scores() {
        let text =
            "session_id,label,kind\np1,pirate,ring\np2,pirate,ring\nb1,benign,home\nb2,benign,home\ng1,grey,odd\n";
        let labels = Labels::read(text.as_bytes()).unwrap();
        let evaluation =
            labels.evaluate(&[revocation("p1"), revocation("b1"), revocation("g1"), revocation("?")], &[], &[]);
        let overall = evaluation.overall;
        assert_eq!((overall.true_positives, overall.false_positives, overall.false_negatives), (1, 1, 1));
        assert_eq!((overall.precision, overall.recall, overall.f1), (Some(0.5), Some(0.5), Some(0.5)));
        assert_eq!(evaluation.unlabelled, 1);
        assert_eq!(evaluation.kinds["ring"].recall, Some(0.5));
        assert_eq!(evaluation.kinds["home"].recall, None);
        assert_eq!(evaluation.kinds["odd"], Score::default());
    }

    #[test]
    fn a_kind_is_not_needed_and_a_wrong_label_is_refused() {
        assert_eq!(
            Labels::read("session_id,label\na,pirate\n".as_bytes()).unwrap().0["a"],
            (Label::Pirate, String::new())
        );
        assert!(
            Labels::read("session_id,label\na,pirate\na,benign\n".as_bytes())
                .unwrap_err()
                .to_string()
                .contains("two labels")
        );
        assert!(Labels::read("session_id,label\na,thief\n".as_bytes()).unwrap_err().to_string().contains("thief"));
    }
}
