//! Who uses a session: the viewings of each kind of session.

use std::sync::Arc;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::addresses::{Plan, viewer_country};
use super::agents::{self, Agents, Family, casting, home_device, split};
use super::catalog::Content;
use super::kinds::{Kind, Label};
use super::networks::{Line, MINUTE, Path, carrier};
use super::player::{Viewing, play};
use super::request::{Outcome, Request};
use super::token::{Grant, Scheme};
use super::views::Views;

/// The service's own site, which browsers name as the referer.
const SITE: &str = "https://www.example.com/";

/// A site that posts links.
const LINK_SITE: &str = "https://free-streams.example.net/watch.php?id=17";

/// What the making of a session needs.
pub struct Maker<'a> {
    pub plan: &'a Plan,
    pub views: Views,
    pub scheme: Scheme,
    pub rng: ChaCha8Rng,
}

/// A session's requests, in no order, and the token that most of them come with.
pub struct Session {
    pub grant: Arc<Grant>,
    pub requests: Vec<Request>,
}

impl Maker<'_> {
    /// A session of a kind, from a time in epoch milliseconds on. `office` is the line of an
    /// office session.
    pub fn make(mut self, kind: Kind, start: i64, office: &Line) -> Session {
        let pirate = kind.label() == Label::Pirate;
        let live = self.rng.random_ratio(if pirate { 9 } else { 5 }, 10);
        let content = if live { Content::channel(&mut self.rng) } else { Content::film(&mut self.rng) };
        let issued = start / 1_000 - self.rng.random_range(1..8);
        let grant = Arc::new(self.scheme.issue(&mut self.rng, &content.root, issued));
        let show = Show { content, grant: grant.clone(), start };
        let viewings = match kind {
            Kind::SharedLink => self.shared_link(&show),
            Kind::Ring => self.ring(&show),
            Kind::RingAbroad => self.ring_abroad(&show),
            Kind::TwoHomes => self.two_homes(&show),
            wide if wide.is_wide() => self.wide(wide, &show),
            _ => vec![self.single(kind, &show, office)],
        };
        let mut requests = vec![];
        for viewing in &viewings {
            play(viewing, &mut self.rng, &mut requests);
        }
        if kind == Kind::FramedVictim {
            let viewing = &viewings[0];
            self.frame(viewing, &mut requests);
        }
        Session { grant, requests }
    }

    /// The kinds that are one viewer's alone.
    fn single(&mut self, kind: Kind, show: &Show, office: &Line) -> Viewing {
        let country = viewer_country(&mut self.rng);
        let mut length = self.views.draw(&mut self.rng);
        if kind == Kind::Commuter {
            length = self.rng.random_range(7 * MINUTE..self.views.ride());
        } else if kind == Kind::Phone {
            length = length.max(4 * MINUTE);
        }
        let (from, to) = (show.start, show.start + length);
        let dual_stack = match kind {
            Kind::Home => false,
            Kind::HomeDualStack => true,
            _ => self.rng.random_ratio(1, 2),
        };
        let home = Line::home(&mut self.rng, self.plan, country, dual_stack);
        let path = match kind {
            Kind::Phone => self.handover(country, &home, from, to),
            Kind::Commuter => self.commute(country, from, to),
            Kind::Office => office.device(&mut self.rng, from, to),
            _ => home.device(&mut self.rng, from, to),
        };
        let rng = &mut self.rng;
        let agents = match kind {
            Kind::Casting => casting(rng),
            Kind::PlayerTwoAgents => split(rng),
            Kind::Phone | Kind::Commuter => Agents::one(agents::device(rng, Family::Phone)),
            Kind::Office => Agents::one(agents::device(rng, Family::Browser)),
            _ => Agents::one(home_device(rng)),
        };
        let mut viewing = show.viewing(from, to, path, agents);
        viewing.two_devices = kind == Kind::Casting;
        viewing
    }

    /// From the carrier to the Wi-Fi at home, or the other way round.
    fn handover(&mut self, country: &str, home: &Line, from: i64, to: i64) -> Path {
        let rng = &mut self.rng;
        let middle = rng.random_range(from + (to - from) / 4..to - (to - from) / 4);
        if rng.random_ratio(3, 5) {
            let away = carrier(rng, self.plan, country, from, middle);
            away.then(home.device(rng, middle, to))
        } else {
            let inside = home.device(rng, from, middle);
            inside.then(carrier(rng, self.plan, country, middle, to))
        }
    }

    /// Up to three changes between the carrier and public Wi-Fi.
    fn commute(&mut self, country: &str, from: i64, to: i64) -> Path {
        let rng = &mut self.rng;
        // One carrier throughout: the phone has one SIM card.
        let mut path = carrier(rng, self.plan, country, from, to);
        let stops = rng.random_range(1..=3);
        for stop in 0..stops {
            let arrival = from + (to - from) * (2 * stop + 1) / (2 * stops + 1);
            let departure = from + (to - from) * (2 * stop + 2) / (2 * stops + 1);
            let wifi = Line::home(rng, self.plan, country, false);
            let back = path.clone().starting(departure);
            path = path.then(wifi.device(rng, arrival, departure)).then(back);
        }
        path
    }

    /// 20 to 60 strangers in one to four countries; the one who shared it watches too.
    fn shared_link(&mut self, show: &Show) -> Vec<Viewing> {
        let owner = viewer_country(&mut self.rng);
        let mut countries = vec![owner];
        for _ in 0..self.rng.random_range(0..4) {
            countries.push(viewer_country(&mut self.rng));
        }
        let skewed = self.rng.random_range(0..100);
        let strangers = 20 + 40 * skewed * skewed * skewed / 1_000_000;
        let mut viewings = vec![self.member(show, owner, 0, self.views.most / 2)];
        for _ in 0..strangers {
            let country = *countries.choose(&mut self.rng).expect("the owner's at least");
            let from = self.rng.random_range(0..self.views.spread());
            // Most look in only.
            let length = (self.views.draw(&mut self.rng) + 2 * self.views.least) / 3;
            let stranger = self.stranger(show, country, from, length);
            // Some come back.
            let again = show.start + from + length + self.rng.random_range(MINUTE..4 * MINUTE);
            let to = again + self.views.least;
            if self.rng.random_ratio(1, 6) && to < show.start + self.views.spread() {
                let from = again;
                viewings.push(Viewing { from, to, ..stranger.clone() });
            }
            viewings.push(stranger);
        }
        viewings
    }

    /// Somebody who found the link, on a home line or on a phone.
    fn stranger(&mut self, show: &Show, country: &str, after: i64, length: i64) -> Viewing {
        let from = show.start + after;
        let to = from + length;
        let families = [Family::LinkPlayer, Family::LinkPlayer, Family::Browser, Family::Phone];
        let family = *families.choose(&mut self.rng).expect("not empty");
        let agent = agents::device(&mut self.rng, family);
        let path = if family == Family::Phone && self.rng.random_ratio(3, 5) {
            carrier(&mut self.rng, self.plan, country, from, to + 10 * MINUTE)
        } else {
            let dual_stack = self.rng.random_ratio(1, 2);
            let line = Line::home(&mut self.rng, self.plan, country, dual_stack);
            line.device(&mut self.rng, from, to + 10 * MINUTE)
        };
        let mut viewing = show.viewing(from, to, path, Agents::one(agent));
        if family == Family::Browser {
            viewing.referer = Some(LINK_SITE.into());
        }
        viewing
    }

    /// 6 to 8 homes of one country, most of them dual stack.
    fn ring(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let homes = self.rng.random_range(6..=8);
        let members = (0..homes).map(|_| country).collect();
        self.members(show, members, if homes == 6 { 0 } else { 1 })
    }

    /// 5 to 7 homes in three or four countries.
    fn ring_abroad(&mut self, show: &Show) -> Vec<Viewing> {
        let mut countries: Vec<&str> = vec![];
        let wanted = self.rng.random_range(3..=4);
        while countries.len() < wanted {
            let country = viewer_country(&mut self.rng);
            if !countries.contains(&country) {
                countries.push(country);
            }
        }
        let homes = self.rng.random_range(5..=7);
        let mut members: Vec<_> = (0..homes).map(|n| countries[n % wanted]).collect();
        members.shuffle(&mut self.rng);
        self.members(show, members, 3)
    }

    /// Homes that share a session for an evening, each with a device of its own.
    fn members(&mut self, show: &Show, homes: Vec<&str>, v4_only: usize) -> Vec<Viewing> {
        let mut viewings: Vec<Viewing> = vec![];
        for (number, country) in homes.into_iter().enumerate() {
            let after = self.rng.random_range(0..5 * MINUTE);
            let length = self.views.draw(&mut self.rng).max(3 * MINUTE);
            let mut viewing = loop {
                let member = self.member(show, country, after, length);
                if viewings.iter().all(|v| v.agents != member.agents) {
                    break member;
                }
            };
            if number < v4_only {
                let line = Line::home(&mut self.rng, self.plan, country, false);
                viewing.path = line.device(&mut self.rng, viewing.from, viewing.to);
            }
            viewings.push(viewing);
        }
        viewings
    }

    /// A dual-stack home with one device, from `after` milliseconds into the session on.
    fn member(&mut self, show: &Show, country: &str, after: i64, length: i64) -> Viewing {
        let (from, to) = (show.start + after, show.start + after + length);
        let home = Line::home(&mut self.rng, self.plan, country, true);
        let path = home.device(&mut self.rng, from, to);
        let agents = Agents::one(home_device(&mut self.rng));
        show.viewing(from, to, path, agents)
    }

    /// Two homes of one country, the second with one or two devices.
    fn two_homes(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let length = self.views.draw(&mut self.rng).max(4 * MINUTE);
        let first = self.member(show, country, 0, length);
        let second = self.member(show, country, MINUTE, length);
        let mut viewings = vec![first, second];
        if self.rng.random_ratio(1, 2) {
            let mut tablet = viewings[1].clone();
            tablet.agents = Agents::one(agents::device(&mut self.rng, Family::Phone));
            tablet.from += 2 * MINUTE;
            viewings.push(tablet);
        }
        viewings
    }

    /// An attacker sends the victim's session id from servers and homes all over the world,
    /// with a signature of his own making where the id is another thing.
    fn frame(&mut self, victim: &Viewing, requests: &mut Vec<Request>) {
        let forged = Arc::new(self.scheme.forge(&mut self.rng, &victim.grant));
        for _ in 0..self.rng.random_range(20..36) {
            let line = if self.rng.random_ratio(2, 5) {
                Line::server(&mut self.rng, self.plan)
            } else {
                let country = viewer_country(&mut self.rng);
                Line::home(&mut self.rng, self.plan, country, false)
            };
            let agent = agents::device(&mut self.rng, Family::LinkPlayer);
            let mut now = self.rng.random_range(victim.from..victim.to);
            for _ in 0..self.rng.random_range(1..=3) {
                let mut request = Request::new(&mut self.rng, line.address());
                request.grant = Some(forged.clone());
                request.path = victim.content.master();
                request.agent = Some(agent.clone());
                request.edge = line.edge();
                request.status = self.scheme.refused_status();
                request.outcome = Outcome::REFUSED;
                request.bytes_sent = self.rng.random_range(380..460);
                request.bytes_received = self.rng.random_range(620..760);
                request.time_taken_ms = self.rng.random_range(1..4);
                request.first_byte_ms = request.time_taken_ms;
                request.finished = now;
                requests.push(request);
                now = (now + self.rng.random_range(200..20_000)).min(victim.to);
            }
        }
    }
}

/// What a session shows.
pub(super) struct Show {
    pub(super) content: Content,
    pub(super) grant: Arc<Grant>,
    pub(super) start: i64,
}

impl Show {
    pub(super) fn viewing(&self, from: i64, to: i64, path: Path, agents: Agents) -> Viewing {
        // Browsers name the page, apps and televisions name nothing.
        let browser = agents.segments.starts_with("Mozilla") && !agents.segments.contains("TV");
        Viewing {
            from,
            to,
            content: self.content.clone(),
            grant: self.grant.clone(),
            path,
            agents,
            two_devices: false,
            restless: false,
            manifests_only: false,
            referer: browser.then(|| SITE.into()),
        }
    }
}
