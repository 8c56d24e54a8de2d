//! What a person should look at. Each kind has its page in `docs/runbook.md`, its label in the metrics, and is what
//! notifications tell once and not with every pass.

use serde::{Serialize, Serializer};

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub kind: AlarmKind,
    /// What of its kind it is about: an object, a detector, a place; empty where there is only one.
    pub subject: String,
    /// What happened, where, and what to do.
    pub text: String,
}

/// Kinds of alarms, in the order of the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    RunFailed,
    RunCutOff,
    StateLocked,
    LogsUnreadable,
    LogsSilent,
    LogsLack,
    ObjectQuarantined,
    RowsLost,
    RunsMissing,
    DetectorFailed,
    DetectionFailed,
    SessionsHeld,
    SessionsUndecided,
    AddressesChanged,
    DynamodbFailed,
    DynamodbRowsRefused,
    WafFailed,
    WafFull,
    WafFullSoon,
    WafTampered,
    WafUnknownRules,
    WafLeftBehind,
    BlockImpossible,
    BlockUnexplained,
    BlockServed,
    UpkeepFailed,
    NotifyFailed,
}

impl AlarmKind {
    pub const ALL: [AlarmKind; 27] = [
        AlarmKind::RunFailed,
        AlarmKind::RunCutOff,
        AlarmKind::StateLocked,
        AlarmKind::LogsUnreadable,
        AlarmKind::LogsSilent,
        AlarmKind::LogsLack,
        AlarmKind::ObjectQuarantined,
        AlarmKind::RowsLost,
        AlarmKind::RunsMissing,
        AlarmKind::DetectorFailed,
        AlarmKind::DetectionFailed,
        AlarmKind::SessionsHeld,
        AlarmKind::SessionsUndecided,
        AlarmKind::AddressesChanged,
        AlarmKind::DynamodbFailed,
        AlarmKind::DynamodbRowsRefused,
        AlarmKind::WafFailed,
        AlarmKind::WafFull,
        AlarmKind::WafFullSoon,
        AlarmKind::WafTampered,
        AlarmKind::WafUnknownRules,
        AlarmKind::WafLeftBehind,
        AlarmKind::BlockImpossible,
        AlarmKind::BlockUnexplained,
        AlarmKind::BlockServed,
        AlarmKind::UpkeepFailed,
        AlarmKind::NotifyFailed,
    ];

    /// The name in metrics, notifications and the runbook.
    pub fn name(self) -> &'static str {
        match self {
            AlarmKind::RunFailed => "run_failed",
            AlarmKind::RunCutOff => "run_cut_off",
            AlarmKind::StateLocked => "state_locked",
            AlarmKind::LogsUnreadable => "logs_unreadable",
            AlarmKind::LogsSilent => "logs_silent",
            AlarmKind::LogsLack => "logs_lack",
            AlarmKind::ObjectQuarantined => "object_quarantined",
            AlarmKind::RowsLost => "rows_lost",
            AlarmKind::RunsMissing => "runs_missing",
            AlarmKind::DetectorFailed => "detector_failed",
            AlarmKind::DetectionFailed => "detection_failed",
            AlarmKind::SessionsHeld => "sessions_held",
            AlarmKind::SessionsUndecided => "sessions_undecided",
            AlarmKind::AddressesChanged => "addresses_changed",
            AlarmKind::DynamodbFailed => "dynamodb_failed",
            AlarmKind::DynamodbRowsRefused => "dynamodb_rows_refused",
            AlarmKind::WafFailed => "waf_failed",
            AlarmKind::WafFull => "waf_full",
            AlarmKind::WafFullSoon => "waf_full_soon",
            AlarmKind::WafTampered => "waf_tampered",
            AlarmKind::WafUnknownRules => "waf_unknown_rules",
            AlarmKind::WafLeftBehind => "waf_left_behind",
            AlarmKind::BlockImpossible => "block_impossible",
            AlarmKind::BlockUnexplained => "block_unexplained",
            AlarmKind::BlockServed => "block_served",
            AlarmKind::UpkeepFailed => "upkeep_failed",
            AlarmKind::NotifyFailed => "notify_failed",
        }
    }

    /// A part of the pass was not done: the run has failed (exit code 1), though the rest of it was done.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            AlarmKind::RunFailed
                | AlarmKind::RunCutOff
                | AlarmKind::LogsUnreadable
                | AlarmKind::DetectorFailed
                | AlarmKind::DetectionFailed
                | AlarmKind::DynamodbFailed
                | AlarmKind::WafFailed
        )
    }
}

impl Alarm {
    pub fn new(kind: AlarmKind, text: impl Into<String>) -> Alarm {
        Alarm { kind, subject: String::new(), text: text.into() }
    }

    pub fn about(kind: AlarmKind, subject: impl Into<String>, text: impl Into<String>) -> Alarm {
        Alarm { kind, subject: subject.into(), text: text.into() }
    }

    /// Tells the log.
    pub fn log(&self) {
        let text = crate::text::printable(&self.text);
        let alarm = self.kind.name();
        if self.kind.is_failure() { tracing::error!(alarm, "{text}") } else { tracing::warn!(alarm, "{text}") }
    }
}

/// How something ended that was not given up, from the best on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    Done,
    /// Done, but a person should look.
    Attention,
    /// A part of it was not done, which was told.
    Failed,
}

impl Ending {
    /// By what a person should look at.
    pub fn of(alarms: &[Alarm]) -> Ending {
        let ending = |alarm: &Alarm| if alarm.kind.is_failure() { Ending::Failed } else { Ending::Attention };
        alarms.iter().map(ending).max().unwrap_or(Ending::Done)
    }

    /// In the table `runs` and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Done => "done",
            Ending::Attention => "attention",
            Ending::Failed => "failed",
        }
    }
}

/// In JSON an alarm is its text.
impl Serialize for Alarm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_has_its_section_in_the_runbook() {
        let runbook = include_str!("../docs/runbook.md");
        let headings = runbook.lines().filter_map(|line| line.strip_prefix("## "));
        let headings: BTreeSet<&str> = headings.filter(|heading| !heading.contains(' ')).collect();
        let kinds: BTreeSet<&str> = AlarmKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(headings, kinds);
        // Which of them fail a run is said there, too.
        for kind in AlarmKind::ALL {
            let section =
                runbook.split(&format!("\n## {}\n", kind.name())).nth(1).unwrap().split("\n## ").next().unwrap();
            assert_eq!(section.trim_start().starts_with("*Fails.*"), kind.is_failure(), "{}", kind.name());
        }
    }
}
