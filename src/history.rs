//! The history of revocations: its events, and where a session stands by them.

pub mod stored;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::decide::Draft;
use crate::detect::file::Strength;
use crate::detect::window::Window;

/// A row of `revocations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub time: DateTime<Utc>,
    pub sequence: i64,
    pub event: EventKind,
    pub session_id: String,
    pub detector: Option<String>,
    pub score: Option<f64>,
    pub strength: Option<Strength>,
    pub evidence: Option<String>,
    pub reason: Option<String>,
    pub origin: Origin,
    pub actor: String,
    pub mode: Mode,
    pub window_start: Option<DateTime<Utc>>,
    pub window_end: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub run_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Blocked from here until `expires_at`.
    Revoked,
    /// Blocked for longer.
    Extended,
    /// The block ended by time.
    Expired,
    /// The block was ended before its time, by a person or the allow-list.
    Restored,
    /// Would have been blocked, but for the guard.
    Held,
    /// A person let a held one through: blocked from here.
    Released,
    /// Would have been blocked, but for the mode, the age or the kind of session.
    Observed,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Revoked => "revoked",
            EventKind::Extended => "extended",
            EventKind::Expired => "expired",
            EventKind::Restored => "restored",
            EventKind::Held => "held",
            EventKind::Released => "released",
            EventKind::Observed => "observed",
        }
    }
}

/// Where a block comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Auto,
    Manual,
    Dynamodb,
}

/// Where a session stands by its history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    pub active: Option<Active>,
    /// Blocks that ended by time: each makes the next one longer.
    pub ended_blocks: u32,
    /// What was decided on, and how much of that before the block or the hold of now.
    pub decisions: Vec<Decision>,
    pub decided_before: usize,
    /// Until when an `observed` event stands for the block that it was not.
    pub observed_until: Option<DateTime<Utc>>,
    /// It was held, and nothing came of it since.
    pub held: bool,
    /// When a person last restored it, unless one has blocked it since.
    pub restored_at: Option<DateTime<Utc>>,
}

/// A decision on what was found in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    mode: Mode,
    window_end: DateTime<Utc>,
    time: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    pub mode: Mode,
    pub origin: Origin,
    pub expires_at: DateTime<Utc>,
}

impl Standing {
    /// Folds a session's events, which are in the order of their sequence.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Standing {
        let mut standing = Standing::default();
        for event in events {
            standing.apply(event);
        }
        standing
    }

    fn apply(&mut self, event: &Event) {
        // The end of a block tells of its window once more, and decides on nothing.
        if !matches!(event.event, EventKind::Expired | EventKind::Restored) {
            if self.active.is_none() && !self.held {
                self.decided_before = self.decisions.len();
            }
            let decision = |window_end| Decision { mode: event.mode, window_end, time: event.time };
            self.decisions.extend(event.window_end.map(decision));
        }
        match event.event {
            EventKind::Revoked | EventKind::Extended | EventKind::Released => {
                let (mode, origin) = (event.mode, event.origin);
                self.active = event.expires_at.map(|expires_at| Active { mode, origin, expires_at });
                self.held = false;
                self.restored_at = self.restored_at.filter(|_| origin == Origin::Auto);
            }
            EventKind::Expired => {
                self.active = None;
                self.ended_blocks += u32::from(event.mode == Mode::Enforce);
            }
            EventKind::Restored => {
                self.active = None;
                self.held = false;
                match event.origin {
                    Origin::Manual => self.restored_at = Some(event.time),
                    // What we take back was decided on in vain.
                    Origin::Auto => self.decisions.truncate(self.decided_before),
                    Origin::Dynamodb => {}
                }
            }
            EventKind::Held => self.held = true,
            EventKind::Observed => {
                self.observed_until = self.observed_until.max(event.expires_at);
                self.held = false;
            }
        }
    }

    /// Whether a verdict in this window, of this mode, was not acted on before: it ends later than all that were decided on, or holds
    /// nothing of what was there then. What was only observed does not stand in the way of a block.
    pub fn is_new(&self, mode: Mode, window: Window) -> bool {
        let is_later = |decision: &Decision| window.end > decision.window_end || window.start >= decision.time;
        self.held || self.decisions.iter().filter(|decision| decision.mode >= mode).all(is_later)
    }
}

/// The block of a session that would still stand if there had been none by `origin`. The events are the session's, in the order of their
/// sequence.
pub fn block_behind(events: &[Event], origin: Origin, now: DateTime<Utc>) -> Option<&Event> {
    let is_end = |event: &Event| matches!(event.event, EventKind::Expired | EventKind::Restored);
    let since = events.iter().rposition(is_end).map_or(0, |end| end + 1);
    let blocks = |event: &&Event| {
        matches!(event.event, EventKind::Revoked | EventKind::Extended | EventKind::Released) && event.origin != origin
    };
    let last = events[since..].iter().rfind(blocks)?;
    last.expires_at.is_some_and(|end| end > now).then_some(last)
}

/// Numbers events in the order in which they are made.
pub struct Recorder<'a> {
    pub now: DateTime<Utc>,
    pub next_sequence: i64,
    pub run_id: &'a str,
    pub actor: &'a str,
    pub events: Vec<Event>,
}

impl Recorder<'_> {
    /// An event about a verdict.
    pub fn record(&mut self, kind: EventKind, draft: Draft) {
        let verdict = draft.verdict;
        let event = Event {
            time: self.now,
            sequence: self.next_sequence,
            event: kind,
            session_id: draft.session_id,
            detector: Some(verdict.detectors.join(",")),
            score: Some(verdict.score),
            strength: Some(verdict.strength),
            evidence: Some(verdict.evidence()),
            reason: Some(draft.reason),
            origin: Origin::Auto,
            actor: self.actor.to_owned(),
            mode: verdict.mode,
            window_start: Some(verdict.window.start),
            window_end: Some(verdict.window.end),
            expires_at: draft.expires_at,
            run_id: self.run_id.to_owned(),
        };
        self.push(event);
    }

    /// The end of a block by time. `block` is the event that the block stands on.
    pub fn expire(&mut self, block: &Event) {
        let event = Event {
            time: self.now,
            sequence: self.next_sequence,
            event: EventKind::Expired,
            reason: Some("its time was over".to_owned()),
            actor: self.actor.to_owned(),
            run_id: self.run_id.to_owned(),
            evidence: None,
            ..block.clone()
        };
        self.push(event);
    }

    /// The end of a block before its time. `block` is the event that the block stands on.
    pub fn restore(&mut self, block: &Event, reason: String) {
        let event = Event {
            time: self.now,
            sequence: self.next_sequence,
            event: EventKind::Restored,
            reason: Some(reason),
            actor: self.actor.to_owned(),
            run_id: self.run_id.to_owned(),
            evidence: None,
            expires_at: None,
            ..block.clone()
        };
        self.push(event);
    }

    /// The rest of a block that another one stood before. `block` is the event that it stands on.
    pub fn resume(&mut self, block: &Event, reason: String) {
        let event = Event {
            time: self.now,
            sequence: self.next_sequence,
            event: EventKind::Extended,
            reason: Some(reason),
            actor: self.actor.to_owned(),
            run_id: self.run_id.to_owned(),
            ..block.clone()
        };
        self.push(event);
    }

    /// What a person asked for.
    pub fn by_hand(
        &mut self,
        kind: EventKind,
        origin: Origin,
        session_id: &str,
        reason: Option<&str>,
        expires_at: Option<DateTime<Utc>>,
    ) {
        let event = Event {
            time: self.now,
            sequence: self.next_sequence,
            event: kind,
            session_id: session_id.to_owned(),
            detector: None,
            score: None,
            strength: None,
            evidence: None,
            reason: Some(reason.unwrap_or("by hand").to_owned()),
            origin,
            actor: self.actor.to_owned(),
            mode: Mode::Enforce,
            window_start: None,
            window_end: None,
            expires_at,
            run_id: self.run_id.to_owned(),
        };
        self.push(event);
    }

    fn push(&mut self, event: Event) {
        self.next_sequence += 1;
        self.events.push(event);
    }
}
