//! Decisions: findings, history and facts in, events out. Pure; `now` is a value like the others.
//!
//! One strong finding revokes, or two medium ones of different families in overlapping windows. What may not
//! be blocked, or not yet, is recorded as `observed` or `held`. Deciding again on the same input gives
//! nothing: a verdict counts once per window.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::allow::AllowList;
use crate::config::{Guard, Mode};
use crate::detect::Finding;
use crate::detect::file::{Detector, Strength};
use crate::detect::window::Window;
use crate::history::{Origin, Standing};
use crate::time::Span;

/// The rules of a decision, from the config.
#[derive(Clone)]
pub struct Policy<'a> {
    pub guard: &'a Guard,
    pub detectors: BTreeMap<&'a str, DetectorPolicy>,
    pub allow: &'a AllowList,
    /// Since when addresses are stored in the form in which they are: in a window that began before, one network may count as
    /// two, and what was found there blocks nobody.
    pub one_form_since: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug)]
pub struct DetectorPolicy {
    pub mode: Mode,
    pub ttl: Span,
}

impl<'a> Policy<'a> {
    pub fn new(guard: &'a Guard, detectors: &'a [Detector], allow: &'a AllowList) -> Self {
        let detectors = detectors
            .iter()
            .map(|detector| (detector.name.as_str(), DetectorPolicy { mode: detector.mode, ttl: detector.ttl }))
            .collect();
        Policy { guard, detectors, allow, one_form_since: None }
    }

    /// Whether a window may hold addresses in two forms.
    fn has_two_forms(&self, window: &Window) -> bool {
        self.one_form_since.is_some_and(|since| window.start < since)
    }

    /// What a block that these detectors (comma-separated) decided on may still do: the least of the mode that
    /// it was made in, the overall mode and theirs. So lowering a mode lifts what was blocked by it.
    pub fn mode_of_block(&self, made_in: Mode, detectors: &str) -> Mode {
        let of = |name: &str| self.detectors.get(name).map_or(Mode::Off, |detector| detector.mode);
        detectors.split(',').map(of).fold(made_in.min(self.guard.mode), Mode::min)
    }

    /// What a finding may do: the lesser of the overall mode and its detector's. A detector that is gone
    /// from the config may do nothing.
    fn mode(&self, finding: &Finding) -> Mode {
        let own = self.detectors.get(finding.detector.as_str()).map_or(Mode::Off, |detector| detector.mode);
        let mode = own.min(self.guard.mode);
        if self.has_two_forms(&finding.window()) { mode.min(Mode::Observe) } else { mode }
    }

    fn ttl(&self, detector: &str) -> Span {
        self.detectors.get(detector).map_or(Span::minutes(0), |detector| detector.ttl)
    }
}

/// Whether a session's id was covered by the token's signature.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    Always,
    Never,
    /// In these minutes; there were other requests that merely named it.
    Sometimes(BTreeSet<DateTime<Utc>>),
}

impl Binding {
    /// The findings of what was done with the session's own tokens, where it has any: in a window that holds none of their requests,
    /// detectors see those that merely name it.
    fn own<'a>(&self, findings: &'a [Finding]) -> Cow<'a, [Finding]> {
        match self {
            Binding::Always | Binding::Never => Cow::Borrowed(findings),
            Binding::Sometimes(minutes) => {
                let holds = |window: Window| minutes.range(window.start..window.end).next().is_some();
                findings.iter().filter(|finding| holds(finding.window())).cloned().collect()
            }
        }
    }
}

/// What the tables know of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub binding: Binding,
    pub derived: bool,
    pub last_seen: DateTime<Utc>,
    /// The latest expiry of its tokens; none where one cannot be read.
    pub token_expires: Option<DateTime<Utc>>,
}

impl Facts {
    /// The findings that speak of the session itself.
    pub fn own<'a>(&self, findings: &'a [Finding]) -> Cow<'a, [Finding]> {
        if self.derived { Cow::Borrowed(findings) } else { self.binding.own(findings) }
    }
}

/// What the findings of a session come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub mode: Mode,
    /// The latest window in which it holds.
    pub window: Window,
    /// Detectors that agree, in order of their names.
    pub detectors: Vec<String>,
    pub score: f64,
    pub strength: Strength,
    pub ttl: Span,
    /// What speaks in that window, of each detector the finding with the highest score.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// What each finding says, as a JSON array. Who used the session is told once, by the one with the highest score.
    pub fn evidence(&self) -> String {
        let highest = self.findings.iter().max_by(|one, other| one.score.total_cmp(&other.score));
        let part = |finding: &Finding| {
            let mut evidence = serde_json::from_str::<Value>(&finding.evidence).unwrap_or_default();
            if highest.is_some_and(|highest| highest.detector != finding.detector)
                && let Some(evidence) = evidence.as_object_mut()
            {
                evidence.remove("who");
            }
            json!({
                "detector": finding.detector,
                "score": finding.score,
                "strength": finding.strength,
                "window_start": crate::time::rfc3339(finding.window_start),
                "window_end": crate::time::rfc3339(finding.window_end),
                "evidence": evidence,
            })
        };
        Value::Array(self.findings.iter().map(part).collect()).to_string()
    }
}

/// The modes of verdicts, the highest first.
const MODES: [Mode; 3] = [Mode::Enforce, Mode::Count, Mode::Observe];

/// Judges the findings of one session: at the highest mode at which they suffice in a window that is new, with something that no
/// decision has seen. What was found by other thresholds, or what a lower mode let pass, does not come back.
pub fn verdict(findings: &[Finding], standing: &Standing, policy: &Policy<'_>) -> Option<Verdict> {
    MODES.into_iter().find_map(|mode| {
        let able = able(findings, policy, mode);
        let counts = |finding: &Finding| finding.undecided || standing.held;
        let deciding = able.iter().filter_map(|finding| deciding_window(finding, &able, counts));
        let window = deciding.filter(|window| standing.is_new(mode, *window)).max()?;
        // Everything that speaks in that window, each detector with its highest score.
        let mut best: BTreeMap<&str, &Finding> = BTreeMap::new();
        for finding in able.iter().filter(|finding| finding.window().overlaps(&window)) {
            let kept = best.entry(&finding.detector).or_insert(finding);
            if (finding.strength, finding.score) > (kept.strength, kept.score) {
                *kept = finding;
            }
        }
        let agreeing: Vec<&Finding> =
            best.values().copied().filter(|finding| finding.strength > Strength::Weak).collect();
        Some(Verdict {
            mode,
            window,
            detectors: agreeing.iter().map(|finding| finding.detector.clone()).collect(),
            score: agreeing.iter().map(|finding| finding.score).fold(0.0, f64::max),
            strength: agreeing.iter().map(|finding| finding.strength).max()?,
            ttl: agreeing.iter().map(|finding| policy.ttl(&finding.detector)).max()?,
            findings: best.into_values().cloned().collect(),
        })
    })
}

/// The highest mode at which the findings of a session suffice, in whatever window, and whoever has seen them.
pub fn sufficient_mode(findings: &[Finding], policy: &Policy<'_>) -> Option<Mode> {
    MODES.into_iter().find(|mode| {
        let able = able(findings, policy, *mode);
        able.iter().any(|finding| deciding_window(finding, &able, |_| true).is_some())
    })
}

/// What may do so much.
fn able<'a>(findings: &'a [Finding], policy: &Policy<'_>, mode: Mode) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| policy.mode(finding) >= mode).collect()
}

/// The window of a finding, if the finding decides: it is strong, or a medium one of another family agrees. One of the two has to count.
fn deciding_window(finding: &Finding, all: &[&Finding], counts: impl Fn(&Finding) -> bool) -> Option<Window> {
    let window = finding.window();
    let agrees = |other: &&Finding| {
        other.strength >= Strength::Medium
            && other.family != finding.family
            && other.window().overlaps(&window)
            && (counts(finding) || counts(other))
    };
    let decides = match finding.strength {
        Strength::Strong => counts(finding) || all.iter().any(agrees),
        Strength::Medium => all.iter().any(agrees),
        Strength::Weak => false,
    };
    decides.then_some(window)
}

/// What is to become of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Proposal {
    /// A first block, or one of a higher mode: the guard has a word in it.
    Block(Draft),
    Extend(Draft),
    Observe(Draft),
}

/// An event that is not numbered yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub session_id: String,
    pub verdict: Verdict,
    pub expires_at: Option<DateTime<Utc>>,
    pub reason: String,
}

/// Proposes what to do with a session at `now`; nothing if its verdict was acted on before.
pub fn propose(
    session_id: &str,
    findings: &[Finding],
    standing: &Standing,
    facts: &Facts,
    policy: &Policy<'_>,
    now: DateTime<Utc>,
) -> Option<Proposal> {
    let own = verdict(&facts.own(findings), standing, policy);
    let merely_named = own.is_none();
    let verdict = own.or_else(|| verdict(findings, standing, policy))?;
    let expires_at = expiry(&verdict, standing, facts, policy.guard, now);
    let because = match verdict.detectors.as_slice() {
        [one] => format!("{one} is {}", verdict.strength.name()),
        several => format!("{} agree", several.join(", ")),
    };
    let judged = Judged { session_id, verdict: &verdict, merely_named, expires_at, standing, facts, now };
    let hindrance = judged.hindrance(policy);
    let mode = verdict.mode;
    let draft = |expires_at, reason| Draft { session_id: session_id.to_owned(), verdict, expires_at, reason };
    if let Some(hindrance) = hindrance {
        // One event for as long as the block would have lasted.
        let said =
            !standing.held && (standing.observed_until.is_some_and(|until| until > now) || standing.active.is_some());
        let expires_at = (expires_at > now).then_some(expires_at);
        return (!said).then(|| Proposal::Observe(draft(expires_at, format!("{because}; not blocked: {hindrance}"))));
    }
    match &standing.active {
        // A person's word stands until its time is over.
        Some(active) if active.origin != Origin::Auto => None,
        Some(active) if active.mode >= mode => {
            (expires_at > active.expires_at).then(|| Proposal::Extend(draft(Some(expires_at), because)))
        }
        _ => Some(Proposal::Block(draft(Some(expires_at), because))),
    }
}

/// Until when a block by a verdict would last: each block of the session that ended makes the next one longer, and none outlasts its tokens.
fn expiry(verdict: &Verdict, standing: &Standing, facts: &Facts, guard: &Guard, now: DateTime<Utc>) -> DateTime<Utc> {
    let grown = verdict.ttl.as_micros() as f64 * guard.ttl_growth.powi(standing.ended_blocks as i32);
    let expires_at = now + TimeDelta::microseconds(grown.min(guard.ttl_max.as_micros() as f64) as i64);
    facts.token_expires.map_or(expires_at, |token_expires| expires_at.min(token_expires))
}

/// A verdict, and what is known of its session.
struct Judged<'a> {
    session_id: &'a str,
    verdict: &'a Verdict,
    /// What was found is not of the session's own tokens.
    merely_named: bool,
    expires_at: DateTime<Utc>,
    standing: &'a Standing,
    facts: &'a Facts,
    now: DateTime<Utc>,
}

impl Judged<'_> {
    /// Why the verdict blocks nobody: the first reason there is.
    fn hindrance(&self, policy: &Policy<'_>) -> Option<String> {
        let &Judged { session_id, verdict, merely_named, expires_at, standing, facts, now } = self;
        let guard = policy.guard;
        if let Some(allowed) = policy.allow.of_session(session_id, now) {
            return Some(format!("allowed: {}", allowed.reason));
        }
        if let Some(restored_at) = standing.restored_at.filter(|at| now < *at + guard.restore_grace.delta()) {
            return Some(format!(
                "restored by hand {}, less than guard.restore_grace = {} ago",
                crate::time::rfc3339(restored_at),
                guard.restore_grace
            ));
        }
        if expires_at <= now {
            return Some("its token has expired".to_owned());
        }
        if facts.derived && !guard.enforce_derived {
            let reason =
                "the session is derived from a signature, which many viewers can share (guard.enforce_derived)";
            return Some(reason.to_owned());
        }
        if merely_named {
            return Some("requests that merely name the id were found, and not those of its own token".to_owned());
        }
        if !facts.derived && facts.binding == Binding::Never && !guard.enforce_unbound {
            let reason =
                "the token's signature does not cover the session id, so anybody can choose it (guard.enforce_unbound)";
            return Some(reason.to_owned());
        }
        let token_still_valid = facts.token_expires.is_some_and(|expires| expires > now);
        if facts.last_seen < now - guard.max_age.delta() && !token_still_valid {
            return Some(format!(
                "last seen {}, longer than guard.max_age = {} ago",
                crate::time::rfc3339(facts.last_seen),
                guard.max_age
            ));
        }
        if verdict.mode > Mode::Observe {
            return None;
        }
        if policy.has_two_forms(&verdict.window) {
            let reason =
                "the form of stored addresses changed ([privacy] addresses), so that one network may be counted twice";
            return Some(reason.to_owned());
        }
        // Last: what says so would have been blocked. The query would_have_blocked relies on these words.
        Some("mode observe".to_owned())
    }
}

/// Whether so many first blocks are too many: more than the greater of `max_new_revocations` and `max_share`
/// of the sessions in the evaluated windows, those of the last hour included.
pub fn guard_trips(new_blocks: usize, blocks_of_last_hour: u64, sessions: u64, guard: &Guard) -> bool {
    let limit = (guard.max_new_revocations as f64).max(guard.max_share * sessions as f64);
    new_blocks > 0 && new_blocks as f64 + blocks_of_last_hour as f64 > limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, EventKind, Recorder};

    fn at(minute: i64) -> DateTime<Utc> {
        "2026-11-20T18:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minute)
    }

    fn finding(detector: &str, family: &str, strength: Strength, end: i64) -> Finding {
        Finding {
            session_id: "session".into(),
            detector: detector.into(),
            window_start: at(end - 30),
            window_end: at(end),
            score: 1.5,
            strength,
            family: family.into(),
            evidence: "{\"n\":1}".into(),
            run_id: "r".into(),
            undecided: true,
        }
    }

    fn policy(guard: &Guard) -> Policy<'_> {
        let detector = |mode| DetectorPolicy { mode, ttl: Span::hours(1) };
        static NOBODY: AllowList = AllowList(Vec::new());
        Policy {
            guard,
            allow: &NOBODY,
            detectors: BTreeMap::from([
                ("ips", detector(Mode::Enforce)),
                ("agents", detector(Mode::Enforce)),
                ("trial", detector(Mode::Observe)),
                ("counted", detector(Mode::Count)),
            ]),
            one_form_since: None,
        }
    }

    fn facts() -> Facts {
        Facts { binding: Binding::Always, derived: false, last_seen: at(30), token_expires: None }
    }

    use Strength::{Medium, Strong, Weak};

    #[test]
    fn one_strong_or_two_mediums_of_different_families_that_overlap() {
        let guard = Guard::default();
        let judge =
            |findings: &[Finding]| verdict(findings, &Standing::default(), &policy(&guard)).map(|verdict| verdict.mode);
        assert_eq!(judge(&[finding("ips", "fanout", Strong, 30)]), Some(Mode::Enforce));
        assert_eq!(judge(&[finding("ips", "fanout", Medium, 30)]), None);
        assert_eq!(
            judge(&[finding("ips", "fanout", Medium, 30), finding("agents", "device", Medium, 45)]),
            Some(Mode::Enforce)
        );
        assert_eq!(
            judge(&[finding("ips", "fanout", Medium, 30), finding("agents", "device", Medium, 60)]),
            None,
            "windows that only touch"
        );
        assert_eq!(
            judge(&[finding("ips", "fanout", Medium, 30), finding("agents", "fanout", Medium, 30)]),
            None,
            "one family"
        );
        assert_eq!(judge(&[finding("ips", "fanout", Medium, 30), finding("agents", "device", Weak, 30)]), None);
        assert_eq!(judge(&[finding("gone", "x", Strong, 30)]), None, "a detector that is not in the config any more");
    }

    #[test]
    fn the_lesser_mode_counts() {
        let guard = Guard::default();
        let judge = |findings: &[Finding], guard| {
            verdict(findings, &Standing::default(), &policy(guard)).map(|verdict| verdict.mode)
        };
        assert_eq!(judge(&[finding("trial", "x", Strong, 30)], &guard), Some(Mode::Observe));
        assert_eq!(
            judge(&[finding("ips", "fanout", Medium, 30), finding("trial", "x", Medium, 30)], &guard),
            Some(Mode::Observe)
        );
        assert_eq!(
            judge(&[finding("ips", "fanout", Medium, 30), finding("counted", "x", Medium, 30)], &guard),
            Some(Mode::Count)
        );
        assert_eq!(
            judge(&[finding("ips", "fanout", Strong, 30), finding("trial", "x", Strong, 30)], &guard),
            Some(Mode::Enforce)
        );
        let observing = Guard { mode: Mode::Observe, ..Guard::default() };
        assert_eq!(judge(&[finding("ips", "fanout", Strong, 30)], &observing), Some(Mode::Observe));
        let off = Guard { mode: Mode::Off, ..Guard::default() };
        assert_eq!(judge(&[finding("ips", "fanout", Strong, 30)], &off), None);
    }

    fn propose_at(
        findings: &[Finding],
        standing: &Standing,
        facts: &Facts,
        guard: &Guard,
        now: i64,
    ) -> Option<Proposal> {
        propose("session", findings, standing, facts, &policy(guard), at(now))
    }

    fn recorded(proposal: Proposal, now: i64) -> Event {
        let mut recorder = Recorder { now: at(now), next_sequence: 1, run_id: "r", actor: "a", events: vec![] };
        match proposal {
            Proposal::Block(draft) => recorder.record(EventKind::Revoked, draft),
            Proposal::Extend(draft) => recorder.record(EventKind::Extended, draft),
            Proposal::Observe(draft) => recorder.record(EventKind::Observed, draft),
        }
        recorder.events.remove(0)
    }

    #[test]
    fn a_life_of_blocks() {
        let guard = Guard::default();
        let found = |end| [finding("ips", "fanout", Strong, end)];
        let first = propose_at(&found(30), &Standing::default(), &facts(), &guard, 31).unwrap();
        assert!(matches!(&first, Proposal::Block(draft) if draft.expires_at == Some(at(31 + 60))));
        let mut events = vec![recorded(first, 31)];

        // The same window again, as after a crash: nothing.
        assert_eq!(propose_at(&found(30), &Standing::of(&events), &facts(), &guard, 40), None);
        // A later window extends, without growth.
        let longer = propose_at(&found(35), &Standing::of(&events), &facts(), &guard, 41).unwrap();
        assert!(matches!(&longer, Proposal::Extend(draft) if draft.expires_at == Some(at(41 + 60))));
        events.push(recorded(longer, 41));

        // It expires; an old window does not bring it back, a new one does, for twice as long.
        let mut recorder = Recorder { now: at(101), next_sequence: 3, run_id: "r", actor: "a", events: vec![] };
        recorder.expire(&events[1]);
        events.append(&mut recorder.events);
        let standing = Standing::of(&events);
        assert_eq!((standing.active.clone(), standing.ended_blocks), (None, 1));
        assert_eq!(propose_at(&found(35), &standing, &facts(), &guard, 102), None);
        let recent = Facts { last_seen: at(100), ..facts() };
        let again = propose_at(&found(105), &standing, &recent, &guard, 106).unwrap();
        assert!(matches!(&again, Proposal::Block(draft) if draft.expires_at == Some(at(106 + 120))));

        // Never longer than ttl_max, never beyond the token.
        let often = Standing { ended_blocks: 40, ..standing.clone() };
        let longest = propose_at(&found(105), &often, &recent, &guard, 106).unwrap();
        assert!(matches!(&longest, Proposal::Block(draft) if draft.expires_at == Some(at(106 + 24 * 60))));
        let short_token = Facts { token_expires: Some(at(110)), ..recent };
        let short = propose_at(&found(105), &standing, &short_token, &guard, 106).unwrap();
        assert!(matches!(&short, Proposal::Block(draft) if draft.expires_at == Some(at(110))));
    }

    #[test]
    fn what_a_decision_has_seen_decides_nothing_alone() {
        let guard = Guard::default();
        let seen =
            |detector, family, strength, end| Finding { undecided: false, ..finding(detector, family, strength, end) };
        let judge = |findings: &[Finding], standing: &Standing| verdict(findings, standing, &policy(&guard)).is_some();
        let fresh = Standing::default();
        assert!(!judge(&[seen("ips", "fanout", Strong, 30)], &fresh));
        assert!(judge(&[seen("ips", "fanout", Strong, 30)], &Standing { held: true, ..Standing::default() }));
        assert!(judge(&[seen("ips", "fanout", Strong, 30), finding("ips", "fanout", Strong, 35)], &fresh));
        // What agrees with something new is part of it.
        assert!(judge(&[seen("ips", "fanout", Medium, 30), finding("agents", "device", Medium, 45)], &fresh));
        assert!(!judge(&[seen("ips", "fanout", Medium, 30), seen("agents", "device", Medium, 45)], &fresh));
        assert_eq!(sufficient_mode(&[seen("ips", "fanout", Strong, 30)], &policy(&guard)), Some(Mode::Enforce));
    }

    /// A decision on a long window, which has not ended, says nothing of what comes after the decision.
    #[test]
    fn a_window_that_begins_after_a_decision_is_new() {
        let guard = Guard::default();
        let long = Finding { window_start: at(0), ..finding("ips", "fanout", Strong, 120) };
        let first = propose_at(std::slice::from_ref(&long), &Standing::default(), &facts(), &guard, 31).unwrap();
        let mut events = vec![recorded(first, 31)];
        let mut recorder = Recorder { now: at(91), next_sequence: 2, run_id: "r", actor: "a", events: vec![] };
        recorder.expire(&events[0]);
        events.append(&mut recorder.events);
        let again = |end| {
            let found = [finding("ips", "fanout", Strong, end), long.clone()];
            propose_at(&found, &Standing::of(&events), &facts(), &guard, 97)
        };
        assert_eq!(again(60), None, "it holds what was there");
        assert!(matches!(again(95), Some(Proposal::Block(_))), "whatever else was found again");
    }

    /// What was taken back because nobody found it any more can be found again, in the same window.
    #[test]
    fn what_was_refuted_can_be_found_again() {
        let guard = Guard::default();
        let found = [finding("ips", "fanout", Strong, 30)];
        let mut events = vec![recorded(propose_at(&found, &Standing::default(), &facts(), &guard, 31).unwrap(), 31)];
        assert_eq!(propose_at(&found, &Standing::of(&events), &facts(), &guard, 36), None);
        let mut recorder = Recorder { now: at(36), next_sequence: 2, run_id: "r", actor: "a", events: vec![] };
        recorder.restore(&events[0], "not found any more".to_owned());
        events.append(&mut recorder.events);
        let again = propose_at(&found, &Standing::of(&events), &facts(), &guard, 41);
        assert!(matches!(again, Some(Proposal::Block(_))), "{again:?}");
    }

    #[test]
    fn what_is_not_blocked_is_observed_once() {
        let guard = Guard::default();
        let found = [finding("ips", "fanout", Strong, 30)];
        for (facts, now, part) in [
            (Facts { binding: Binding::Never, ..facts() }, 31, "enforce_unbound"),
            (Facts { binding: Binding::Never, derived: true, ..facts() }, 31, "enforce_derived"),
            (Facts { token_expires: Some(at(20)), ..facts() }, 31, "token has expired"),
            (facts(), 30 + 361, "max_age"),
        ] {
            match propose_at(&found, &Standing::default(), &facts, &guard, now).unwrap() {
                Proposal::Observe(draft) => assert!(draft.reason.contains(part), "{}", draft.reason),
                other => panic!("{part}: {other:?}"),
            }
        }
        // Old, but its token is known to be valid still.
        let valid = Facts { token_expires: Some(at(1_000)), ..facts() };
        assert!(matches!(propose_at(&found, &Standing::default(), &valid, &guard, 30 + 361), Some(Proposal::Block(_))));
        // Somebody names the id of a viewer whose token covers it: his requests are not the viewer's.
        let daring = Guard { enforce_unbound: true, ..Guard::default() };
        let bound_at = |minutes: &[i64]| Binding::Sometimes(minutes.iter().map(|minute| at(*minute)).collect());
        let is_observed = |found: &[Finding], minutes: &[i64]| {
            let facts = Facts { binding: bound_at(minutes), ..facts() };
            match propose_at(found, &Standing::default(), &facts, &daring, 31).unwrap() {
                Proposal::Observe(draft) => draft.reason.contains("merely name"),
                proposal => !matches!(proposal, Proposal::Block(_)),
            }
        };
        assert!(is_observed(&found, &[-60, -50]));
        assert!(is_observed(&found, &[-10, 40]), "before and after it is not within");
        assert!(!is_observed(&found, &[10, 20]));
        // Two that agree, one of them on the requests of others.
        let agreeing = [finding("ips", "fanout", Medium, 20), finding("agents", "device", Medium, 45)];
        assert!(is_observed(&agreeing, &[30]) && !is_observed(&agreeing, &[-5, 30]));
        // Unbound and derived sessions can be switched on.
        let daring = Guard { enforce_unbound: true, enforce_derived: true, ..Guard::default() };
        let unbound = Facts { binding: Binding::Never, ..facts() };
        assert!(matches!(propose_at(&found, &Standing::default(), &unbound, &daring, 31), Some(Proposal::Block(_))));

        let events = [recorded(propose_at(&found, &Standing::default(), &unbound, &guard, 31).unwrap(), 31)];
        let later = [finding("ips", "fanout", Strong, 35)];
        assert_eq!(propose_at(&later, &Standing::of(&events), &unbound, &guard, 36), None);
    }

    #[test]
    fn a_higher_mode_replaces_a_lower_one() {
        let counting = Guard { mode: Mode::Count, ..Guard::default() };
        let found = |end| [finding("ips", "fanout", Strong, end)];
        let counted = recorded(propose_at(&found(30), &Standing::default(), &facts(), &counting, 31).unwrap(), 31);
        assert_eq!(counted.mode, Mode::Count);
        let standing = Standing::of([&counted]);
        let blocked = propose_at(&found(35), &standing, &facts(), &Guard::default(), 36).unwrap();
        assert!(matches!(blocked, Proposal::Block(draft) if draft.verdict.mode == Mode::Enforce));
    }

    #[test]
    fn what_was_only_observed_does_not_stand_in_the_way_of_a_block() {
        let guard = Guard::default();
        let observed = [finding("trial", "x", Strong, 600)];
        let event = recorded(propose_at(&observed, &Standing::default(), &facts(), &guard, 31).unwrap(), 31);
        assert_eq!((event.event, event.mode), (EventKind::Observed, Mode::Observe));
        let both = [observed[0].clone(), finding("ips", "fanout", Strong, 35)];
        let blocked = propose_at(&both, &Standing::of([&event]), &facts(), &guard, 36);
        assert!(matches!(blocked, Some(Proposal::Block(_))), "{blocked:?}");
    }

    #[test]
    fn a_lowered_mode_lifts_what_was_blocked_by_it() {
        let guard = Guard::default();
        let observing = Guard { mode: Mode::Observe, ..Guard::default() };
        assert_eq!(policy(&guard).mode_of_block(Mode::Enforce, "ips,agents"), Mode::Enforce);
        assert_eq!(policy(&guard).mode_of_block(Mode::Enforce, "ips,counted"), Mode::Count);
        assert_eq!(policy(&guard).mode_of_block(Mode::Enforce, "ips,gone"), Mode::Off);
        assert_eq!(policy(&observing).mode_of_block(Mode::Enforce, "ips,agents"), Mode::Observe);
        assert_eq!(policy(&guard).mode_of_block(Mode::Count, "ips"), Mode::Count);
    }

    #[test]
    fn a_held_session_can_be_proposed_again_on_the_same_window() {
        let guard = Guard::default();
        let found = [finding("ips", "fanout", Strong, 30)];
        let Some(Proposal::Block(draft)) = propose_at(&found, &Standing::default(), &facts(), &guard, 31) else {
            panic!("not proposed");
        };
        let mut recorder = Recorder { now: at(31), next_sequence: 1, run_id: "r", actor: "a", events: vec![] };
        recorder.record(EventKind::Held, draft);
        let standing = Standing::of(&recorder.events);
        assert!(standing.held && standing.active.is_none());
        assert!(matches!(propose_at(&found, &standing, &facts(), &guard, 40), Some(Proposal::Block(_))));
    }

    #[test]
    fn the_guard_takes_the_greater_limit_and_counts_the_last_hour() {
        let guard = Guard { max_new_revocations: 50, max_share: 0.02, ..Guard::default() };
        assert!(!guard_trips(50, 0, 100, &guard));
        assert!(guard_trips(51, 0, 100, &guard));
        assert!(guard_trips(1, 50, 100, &guard));
        assert!(!guard_trips(0, 80, 100, &guard), "nothing new, nothing to hold");
        assert!(!guard_trips(100, 100, 10_000, &guard));
        assert!(guard_trips(101, 100, 10_000, &guard));
    }
}
