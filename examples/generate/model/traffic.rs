//! A scenario, and the traffic that follows from it, a quarter of an hour at a time.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::addresses::{Plan, viewer_country};
use super::kinds::{self, Kind, Label, Mix};
use super::networks::{Line, MINUTE};
use super::noise;
use super::request::Request;
use super::token::Scheme;
use super::viewers::{Maker, Session};
use super::views::Views;

/// Length of a slice of traffic, in milliseconds. Hours begin with a slice.
pub const SLICE: i64 = 15 * MINUTE;

/// Sessions that share an office's address.
const OFFICE_SESSIONS: usize = 8;

/// All that traffic follows from.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// No request is before it.
    pub start: DateTime<Utc>,
    /// No request finishes later than this after `start`.
    pub duration: TimeDelta,
    /// Labelled sessions, pirates and grey ones included.
    pub sessions: usize,
    pub pirates: usize,
    /// Sessions about which one can disagree.
    pub grey: usize,
    /// Visits that hold no session: pages, crawlers, scanners.
    pub visits: usize,
    pub views: Views,
    pub mix: Mix,
    pub scheme: Scheme,
}

/// Who a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    pub session_id: String,
    /// The same under every scheme.
    #[allow(dead_code, reason = "for tests, which include these modules by path")]
    pub viewer: String,
    pub label: Label,
    pub kind: Kind,
}

/// All traffic of a small scenario.
#[derive(Debug, Default)]
pub struct Traffic {
    /// In order of time.
    pub requests: Vec<Request>,
    /// In order of the sessions' beginning.
    pub labels: Vec<Labelled>,
}

/// A piece of traffic.
#[derive(Debug)]
pub struct Slice {
    /// The requests that finished in one quarter of an hour, in order of time.
    pub requests: Vec<Request>,
    /// The sessions that began before its end, and were in no slice before.
    pub labels: Vec<Labelled>,
}

/// Generates a scenario as a whole.
#[allow(dead_code, reason = "for tests, which include these modules by path")]
pub fn generate(scenario: &Scenario) -> Traffic {
    let mut traffic = Traffic::default();
    for slice in Stream::new(scenario) {
        traffic.requests.extend(slice.requests);
        traffic.labels.extend(slice.labels);
    }
    traffic
}

/// What begins at some time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    /// `place` is the session's place among those of its kind.
    Session {
        kind: Kind,
        place: usize,
    },
    Visit,
}

/// Generates a scenario in order of time, holding no more than the sessions under way.
pub struct Stream {
    scenario: Scenario,
    plan: Plan,
    /// Beginning and random stream of each actor, the latest first.
    actors: Vec<(i64, u64, Actor)>,
    /// Requests that finish in slices to come, by slice.
    ahead: BTreeMap<i64, Vec<Request>>,
    next: i64,
}

impl Stream {
    pub fn new(scenario: &Scenario) -> Self {
        let mut stream = Stream {
            scenario: *scenario,
            plan: Plan::new(),
            actors: vec![],
            ahead: BTreeMap::new(),
            next: scenario.start.timestamp_millis().div_euclid(SLICE),
        };
        stream.cast();
        stream.actors.sort_unstable();
        stream.actors.reverse();
        stream
    }

    /// Decides when which session begins.
    fn cast(&mut self) {
        let Scenario { sessions, pirates, grey, visits, .. } = self.scenario;
        let benign = sessions.saturating_sub(pirates + grey);
        let labels = [(Label::Benign, benign), (Label::Pirate, pirates), (Label::Grey, grey)];
        let counts = labels.into_iter().flat_map(|(label, n)| kinds::counts(self.scenario.mix, label, n));
        let mut number = 0;
        for (kind, count) in counts {
            for place in 0..count {
                number += 1;
                let mut start = self.draw_start(number, self.scenario.views.span(kind));
                if kind == Kind::Office {
                    // Colleagues watch at about the same time.
                    let (_, from) = self.office(place);
                    start = from + self.random(number).random_range(0..10 * MINUTE);
                }
                self.actors.push((start, number, Actor::Session { kind, place }));
            }
        }
        for _ in 0..visits {
            number += 1;
            let start = self.draw_start(number, MINUTE);
            self.actors.push((start, number, Actor::Visit));
        }
    }

    /// A beginning that leaves `span` milliseconds until the end.
    fn draw_start(&self, number: u64, span: i64) -> i64 {
        // 20 s of grace for downloads that are under way when a viewing ends.
        let room = self.scenario.duration.num_milliseconds() - span - 20_000;
        let start = self.scenario.start.timestamp_millis();
        start + self.random(number).random_range(0..room.max(1))
    }

    /// The line of an office and a time at which its people watch.
    fn office(&self, place: usize) -> (Line, i64) {
        let number = (1 << 40) + (place / OFFICE_SESSIONS) as u64;
        let mut rng = self.random(number);
        let country = viewer_country(&mut rng);
        let line = Line::office(&mut rng, &self.plan, country);
        let span = self.scenario.views.span(Kind::Office) + 10 * MINUTE;
        (line, self.draw_start(number, span))
    }

    /// Randomness of its own for every actor: one more session changes no other.
    fn random(&self, number: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.scenario.seed);
        rng.set_stream(number);
        rng
    }

    /// Plays one actor and keeps its requests for their slices.
    fn play(&mut self, start: i64, number: u64, actor: Actor) -> Option<Labelled> {
        let mut rng = self.random(number);
        rng.set_word_pos(1 << 20); // past what its beginning was drawn with
        let (requests, labelled) = match actor {
            Actor::Visit => (noise::visit(&mut rng, &self.plan, start), None),
            Actor::Session { kind, place } => {
                let Scenario { views, scheme, .. } = self.scenario;
                let (office, _) = self.office(place);
                let maker = Maker { plan: &self.plan, views, scheme, rng };
                let Session { grant, requests } = maker.make(kind, start, &office);
                let (session_id, viewer) = (grant.session_id.clone(), grant.viewer.clone());
                (requests, Some(Labelled { session_id, viewer, label: kind.label(), kind }))
            }
        };
        for request in requests {
            let slice = request.finished.div_euclid(SLICE);
            self.ahead.entry(slice).or_default().push(request);
        }
        labelled
    }
}

impl Iterator for Stream {
    type Item = Slice;

    fn next(&mut self) -> Option<Slice> {
        let mut labels = vec![];
        loop {
            let slice = self.next;
            while let Some(&(start, number, actor)) = self.actors.last() {
                if start >= (slice + 1) * SLICE {
                    break;
                }
                self.actors.pop();
                labels.extend(self.play(start, number, actor));
            }
            self.next += 1;
            if let Some(mut requests) = self.ahead.remove(&slice) {
                requests.sort_by_key(|request| (request.finished, request.id));
                return Some(Slice { requests, labels });
            }
            if self.actors.is_empty() && self.ahead.is_empty() {
                return None;
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;

    /// A scenario of two hours and some thousand requests.
    pub fn scenario(seed: u64) -> Scenario {
        Scenario {
            seed,
            start: "2026-11-20T18:30:00Z".parse().unwrap(),
            duration: TimeDelta::minutes(90),
            sessions: 60,
            pirates: 8,
            grey: 2,
            visits: 40,
            views: Views { least: MINUTE, most: 8 * MINUTE },
            mix: Mix::Evening,
            scheme: Scheme::SecureMediaDelivery { bound: true },
        }
    }

    fn ids(traffic: &Traffic) -> BTreeSet<[u8; 40]> {
        traffic.requests.iter().map(|request| request.id).collect()
    }

    #[test]
    fn a_seed_is_one_traffic() {
        let (first, again) = (generate(&scenario(1)), generate(&scenario(1)));
        assert_eq!(format!("{:?}", first.requests), format!("{:?}", again.requests));
        assert_eq!(first.labels, again.labels);
        assert!(ids(&first).is_disjoint(&ids(&generate(&scenario(2)))));
        assert_eq!(ids(&first).len(), first.requests.len());
    }

    #[test]
    fn everything_is_within_the_scenario() {
        let scenario = scenario(3);
        let traffic = generate(&scenario);
        let start = scenario.start.timestamp_millis();
        let end = (scenario.start + scenario.duration).timestamp_millis();
        assert!(traffic.requests.is_sorted_by_key(|request| request.finished));
        let first = &traffic.requests[0];
        assert!(first.finished - i64::from(first.time_taken_ms) >= start);
        assert!(traffic.requests.last().unwrap().finished <= end);
    }

    #[test]
    fn every_labelled_session_occurs_and_no_other() {
        let traffic = generate(&scenario(4));
        let labelled: BTreeSet<&str> = traffic.labels.iter().map(|label| label.session_id.as_str()).collect();
        assert_eq!(labelled.len(), 60);
        let grants = traffic.requests.iter().filter_map(|request| request.grant.as_ref());
        let seen: BTreeSet<&str> = grants.map(|grant| grant.session_id.as_str()).collect();
        assert_eq!(labelled, seen);
    }

    #[test]
    fn framers_are_refused() {
        for scheme in [Scheme::SecureMediaDelivery { bound: true }, Scheme::SignedUrl, Scheme::StreamKey] {
            let traffic = generate(&Scenario { scheme, ..scenario(5) });
            for label in traffic.labels.iter().filter(|label| label.kind == Kind::FramedVictim) {
                let ours = |request: &&Request| {
                    request.grant.as_ref().is_some_and(|grant| grant.session_id == label.session_id)
                };
                let of_session = traffic.requests.iter().filter(ours);
                let (refused, other): (Vec<_>, Vec<_>) = of_session.partition(|r| r.status == scheme.refused_status());
                let clients: BTreeSet<_> = refused.iter().map(|request| request.client).collect();
                assert!(clients.len() >= 20 && !other.is_empty(), "{scheme:?}");
            }
        }
    }

    #[test]
    fn the_traffic_is_the_same_under_every_scheme() {
        // But for the token and what follows from it.
        let seen = |scheme: Scheme| {
            let traffic = generate(&Scenario { scheme, ..scenario(6) });
            let requests = traffic.requests.into_iter().map(|mut request| {
                let viewer = request.grant.take().map(|grant| grant.viewer.clone());
                if request.status == scheme.refused_status() {
                    request.status = 403;
                }
                request.bytes_received = 0;
                (viewer, format!("{request:?}"))
            });
            let requests: Vec<_> = requests.collect();
            let labels = traffic.labels;
            let viewers: Vec<_> = labels.iter().map(|label| (label.viewer.clone(), label.kind)).collect();
            let ids: BTreeSet<_> = labels.into_iter().map(|label| label.session_id).collect();
            (requests, viewers, ids)
        };
        let schemes = Scheme::value_variants();
        let (requests, viewers, _) = seen(schemes[0]);
        for scheme in &schemes[1..] {
            let (same_requests, same_viewers, ids) = seen(*scheme);
            assert!(requests == same_requests && viewers == same_viewers, "{scheme:?}");
            assert_eq!(ids.len(), viewers.len());
            let alphabet = |id: &String| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            assert!(ids.iter().all(|id| (12..=36).contains(&id.len()) && alphabet(id)), "{ids:?}");
        }
    }
}
