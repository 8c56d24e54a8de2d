//! What is told of a pass: values in, one message out, or none.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::alarm::{Alarm, AlarmKind};
use crate::history::{Event, EventKind, Origin};
use crate::text::printable;
use crate::time::rfc3339;

/// Sessions and alarms that a message names; of more it has the number. A message of SNS has 256 KiB at most, one of Slack is cut
/// after 40,000 characters.
const NAMED: usize = 20;

/// Characters of a text that a message shows.
const SHOWN: usize = 600;

/// What an alarm is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: String,
    pub subject: String,
}

impl Key {
    pub fn of(kind: &str, subject: &str) -> Key {
        Key { kind: kind.to_owned(), subject: subject.to_owned() }
    }
}

/// When something was told last, and whether it was told to be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub at: DateTime<Utc>,
    pub over: bool,
}

/// What was told before.
pub type Memory = BTreeMap<Key, Told>;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Digest {
    pub state: String,
    pub run_id: String,
    pub at: DateTime<Utc>,
    /// What was decided on sessions: blocked, let through, held.
    pub sessions: Vec<Event>,
    pub alarms: Vec<ToldAlarm>,
    /// What was told before and is there no more.
    pub over: Vec<Key>,
    is_test: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ToldAlarm {
    pub kind: &'static str,
    pub subject: String,
    pub text: String,
}

/// Alarms that each pass looks for anew: where one is missing, it is over. The others tell what happened once.
fn lasts(kind: &str) -> bool {
    let of_a_moment = [
        AlarmKind::LogsLack,
        AlarmKind::ObjectQuarantined,
        AlarmKind::RowsLost,
        AlarmKind::RunsMissing,
        AlarmKind::WafTampered,
        AlarmKind::WafLeftBehind,
        AlarmKind::BlockServed,
    ];
    AlarmKind::ALL.iter().any(|known| known.name() == kind) && of_a_moment.iter().all(|known| known.name() != kind)
}

impl Digest {
    /// What of a pass is news at `now`: all of `sessions`, alarms that were not told within `mute`, and those of `memory` that are
    /// over. None where there is no news.
    pub fn new(
        state: &str,
        run_id: &str,
        now: DateTime<Utc>,
        sessions: Vec<Event>,
        alarms: &[Alarm],
        memory: &Memory,
        mute: TimeDelta,
    ) -> Option<Digest> {
        let mut news: Vec<ToldAlarm> = Vec::new();
        for alarm in alarms {
            let key = Key::of(alarm.kind.name(), &alarm.subject);
            let muted = memory.get(&key).is_some_and(|told| now - told.at < mute && told.at <= now);
            let named = news.iter().any(|told| told.kind == key.kind && told.subject == key.subject);
            if !muted && !named {
                news.push(ToldAlarm { kind: alarm.kind.name(), subject: key.subject, text: alarm.text.clone() });
            }
        }
        let is_there =
            |key: &Key| alarms.iter().any(|alarm| alarm.kind.name() == key.kind && alarm.subject == key.subject);
        let over = memory.iter().filter(|(key, told)| !told.over && lasts(&key.kind) && !is_there(key));
        let over: Vec<Key> = over.map(|(key, _)| key.clone()).collect();
        let is_news = !sessions.is_empty() || !news.is_empty() || !over.is_empty();
        is_news.then(|| Digest {
            state: state.to_owned(),
            run_id: run_id.to_owned(),
            at: now,
            sessions,
            alarms: news,
            over,
            is_test: false,
        })
    }

    /// A message to see whether messages arrive.
    pub fn test(state: &str, now: DateTime<Utc>) -> Digest {
        let (sessions, alarms, over) = (vec![], vec![], vec![]);
        Digest { state: state.to_owned(), run_id: String::new(), at: now, sessions, alarms, over, is_test: true }
    }

    fn of_kind(&self, kinds: &[EventKind]) -> Vec<&Event> {
        self.sessions.iter().filter(|event| kinds.contains(&event.event)).collect()
    }

    fn blocked(&self) -> Vec<&Event> {
        self.of_kind(&[EventKind::Revoked, EventKind::Released])
    }

    fn held(&self) -> Vec<&Event> {
        self.of_kind(&[EventKind::Held])
    }

    /// The whole in a line; without anything that comes from logs.
    pub fn headline(&self) -> String {
        if self.is_test {
            return "streamwarden: a test".to_owned();
        }
        let number = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let parts = [
            number(self.blocked().len(), "blocked"),
            number(self.held().len(), "held"),
            number(self.alarms.len(), if self.alarms.len() == 1 { "alarm" } else { "alarms" }),
            number(self.over.len(), "over"),
        ];
        format!("streamwarden: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }

    /// The message as people read it. Nothing in it moves a cursor or changes direction.
    pub fn text(&self) -> String {
        let mut text = format!("{} ({}, {})\n", self.headline(), printable(&self.state), rfc3339(self.at));
        if self.is_test {
            text += "\nNotifications of streamwarden arrive here.\n";
            return text;
        }
        for alarm in self.alarms.iter().take(NAMED) {
            let _ = write!(text, "\n! {}: {}\n", alarm.kind, shown(&alarm.text));
        }
        more(&mut text, self.alarms.len(), "alarms", "see `alarms` of the run");
        section(
            &mut text,
            "Held by the guard, not blocked: look at them, then run --release-held or restore",
            &self.held(),
        );
        section(&mut text, "Blocked", &self.blocked());
        if !self.over.is_empty() {
            let named = self.over.iter().take(NAMED).map(|key| match key.subject.as_str() {
                "" => key.kind.clone(),
                subject => format!("{} ({})", key.kind, shown(subject)),
            });
            let _ = write!(text, "\nOver: {}\n", named.collect::<Vec<_>>().join(", "));
            more(&mut text, self.over.len(), "over", "");
        }
        let _ = write!(text, "\nRun {}; what to do: docs/runbook.md\n", self.run_id);
        text
    }

    /// The message as programs read it.
    pub fn json(&self) -> Value {
        let session = |event: &Event| {
            json!({
                "session_id": event.session_id,
                "event": event.event,
                "detector": event.detector,
                "score": event.score,
                "reason": event.reason,
                "origin": event.origin,
                "actor": event.actor,
                "mode": event.mode,
                "expires_at": event.expires_at.map(rfc3339),
                "time": rfc3339(event.time),
            })
        };
        let alarms =
            self.alarms.iter().map(|alarm| json!({"kind": alarm.kind, "subject": alarm.subject, "text": alarm.text}));
        json!({
            "program": "streamwarden",
            "test": self.is_test,
            "headline": self.headline(),
            "state": self.state,
            "run_id": self.run_id,
            "time": rfc3339(self.at),
            "blocked": self.blocked().len(),
            "held": self.held().len(),
            "sessions": self.sessions.iter().take(NAMED).map(session).collect::<Vec<_>>(),
            "alarms": alarms.collect::<Vec<_>>(),
            "over": self.over.iter().map(|key| json!({"kind": key.kind, "subject": key.subject})).collect::<Vec<_>>(),
        })
    }

    /// The message as Slack takes it, with its three signs escaped: nothing in it is a link, a mention or a format.
    /// Source: Slack, "Formatting text for app surfaces", "Escaping text".
    pub fn slack(&self) -> Value {
        let text = self.text().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        json!({"text": text, "mrkdwn": false, "unfurl_links": false, "unfurl_media": false})
    }
}

/// A text of which the beginning is shown.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text).into_owned(),
    }
}

fn section(text: &mut String, title: &str, events: &[&Event]) {
    if events.is_empty() {
        return;
    }
    let _ = write!(text, "\n{title}:\n");
    for event in events.iter().take(NAMED) {
        let until = event.expires_at.map_or(String::new(), |until| format!(" until {}", rfc3339(until)));
        let who = if event.origin == Origin::Auto { String::new() } else { format!(" by {}", shown(&event.actor)) };
        let why = event.reason.as_deref().map_or(String::new(), |reason| format!(": {}", shown(reason)));
        let _ = writeln!(text, "- {}{until}{who} (mode {}){why}", shown(&event.session_id), event.mode.name());
    }
    more(text, events.len(), "sessions", "see `streamwarden history`");
}

fn more(text: &mut String, number: usize, what: &str, see: &str) {
    if number > NAMED {
        let see = if see.is_empty() { String::new() } else { format!("; {see}") };
        let _ = writeln!(text, "… and {} more {what}{see}", number - NAMED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-20T20:{minute:02}:00Z").parse().unwrap()
    }

    fn event(session: &str, event: EventKind) -> Event {
        Event {
            time: at(0),
            sequence: 1,
            event,
            session_id: session.into(),
            detector: None,
            score: Some(2.0),
            strength: None,
            evidence: Some("198.51.100.7".into()),
            reason: Some("many_ips is strong".into()),
            origin: Origin::Auto,
            actor: "streamwarden".into(),
            mode: Mode::Enforce,
            window_start: None,
            window_end: None,
            expires_at: Some(at(59)),
            run_id: "r".into(),
        }
    }

    fn digest(minute: u32, alarms: &[Alarm], memory: &Memory) -> Option<Digest> {
        Digest::new("./state", "r", at(minute), vec![], alarms, memory, TimeDelta::minutes(30))
    }

    fn remember(memory: &mut Memory, digest: &Digest) {
        for alarm in &digest.alarms {
            memory.insert(Key::of(alarm.kind, &alarm.subject), Told { at: digest.at, over: false });
        }
        for key in &digest.over {
            memory.get_mut(key).unwrap().over = true;
        }
    }

    #[test]
    fn an_alarm_is_told_once_then_muted_then_told_again_and_its_end_once() {
        let waf = [Alarm::new(AlarmKind::WafFailed, "no")];
        let mut memory = Memory::new();
        let mut told = Vec::new();
        // Six minutes of each ten it is there, for an hour.
        for minute in 0..60 {
            let alarms: &[Alarm] = if minute % 10 < 6 { &waf } else { &[] };
            if let Some(digest) = digest(minute, alarms, &memory) {
                told.push((minute, digest.alarms.len(), digest.over.len()));
                remember(&mut memory, &digest);
            }
        }
        assert_eq!(told, [(0, 1, 0), (6, 0, 1), (30, 1, 0), (36, 0, 1)]);
    }

    #[test]
    fn what_differs_in_its_subject_is_told_apart_and_what_happens_once_is_never_over() {
        let of = |key: &str| Alarm::about(AlarmKind::ObjectQuarantined, key, key);
        let mut memory = Memory::new();
        let first = digest(0, &[of("a"), of("a"), of("b")], &memory).unwrap();
        assert_eq!(first.alarms.len(), 2);
        remember(&mut memory, &first);
        assert_eq!(digest(1, &[of("c")], &memory).unwrap().alarms[0].subject, "c");
        assert_eq!(digest(2, &[], &memory), None);
    }

    #[test]
    fn a_message_names_so_many_and_counts_the_rest() {
        let sessions = (0..50).map(|n| event(&format!("session{n}"), EventKind::Revoked)).collect();
        let digest = Digest::new("s", "r", at(0), sessions, &[], &Memory::new(), TimeDelta::zero()).unwrap();
        assert_eq!(digest.headline(), "streamwarden: 50 blocked");
        assert!(digest.text().contains("session19") && !digest.text().contains("session20"));
        assert!(digest.text().contains("30 more sessions"));
    }

    #[test]
    fn nothing_of_a_log_is_a_link_a_mention_or_a_control_character() {
        let hostile = "<!channel> <https://evil.example|click>\u{1b}[31m\u{202e}";
        let alarm = Alarm::new(AlarmKind::ObjectQuarantined, hostile);
        let events = vec![event(hostile, EventKind::Held)];
        let digest = Digest::new("s", "r", at(0), events, &[alarm], &Memory::new(), TimeDelta::zero()).unwrap();
        let text = digest.slack()["text"].as_str().unwrap().to_owned();
        assert!(!text.contains(['<', '>', '\u{1b}', '\u{202e}']) && text.contains("&lt;!channel&gt;"), "{text}");
        assert!(!digest.headline().contains("evil"));
        assert!(!digest.json().to_string().contains("198.51.100.7"), "evidence has addresses");
    }
}
