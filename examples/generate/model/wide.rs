//! The kinds of sessions that only the wide mix has.

use std::sync::Arc;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::addresses::{Access, viewer_country};
use super::agents::{self, Agents, Family, home_device};
use super::catalog::Content;
use super::kinds::Kind;
use super::networks::{Line, MINUTE, Path, exits, pool, relay};
use super::player::Viewing;
use super::viewers::{Maker, Show};

/// Sites that embed other people's streams.
const LEECH_SITES: [&str; 4] = [
    "https://sport-gratis.example.org/live/3",
    "http://tv.streamz.example.net/embed.html?ch=11",
    "https://a.cdn-player.example.info/",
    "https://www.allsports.example.biz/channel/7#top",
];

impl Maker<'_> {
    /// The viewings of a kind of the wide mix.
    pub(super) fn wide(&mut self, kind: Kind, show: &Show) -> Vec<Viewing> {
        match kind {
            Kind::CarrierPool => self.carrier_pool(show),
            Kind::AppUpdate => self.app_update(show),
            Kind::PrivateRelay => self.private_relay(show),
            Kind::VpnSwitched => self.vpn_switched(show),
            Kind::Traveller => self.traveller(show),
            Kind::Advertisements => self.advertisements(show),
            Kind::Scrubber => self.scrubber(show),
            Kind::SmallRing => self.small_ring(show, false),
            Kind::RingOneAgent => self.small_ring(show, true),
            Kind::RipperFanout => self.ripper_fanout(show),
            Kind::LeechSite => self.leech_site(show),
            Kind::RotatingRipper => self.rotating_ripper(show),
            Kind::SlowRing => self.slow_ring(show),
            Kind::TokenFarm => self.token_farm(show),
            _ => unreachable!("the other kinds are made elsewhere"),
        }
    }

    fn length(&mut self) -> i64 {
        self.views.draw(&mut self.rng).max(6 * MINUTE)
    }

    /// A home of a country, and a device there.
    fn home(&mut self, country: &str, from: i64, to: i64) -> Path {
        let dual_stack = self.rng.random_ratio(1, 2);
        let line = Line::home(&mut self.rng, self.plan, country, dual_stack);
        line.device(&mut self.rng, from, to)
    }

    /// A phone whose carrier gives another address of its pool to every connection, or nearly to every request.
    fn carrier_pool(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let (from, to) = (show.start, show.start + self.length());
        let longest = *[4_000, 15_000, 60_000, 3 * MINUTE].choose(&mut self.rng).expect("not empty");
        let path = pool(&mut self.rng, self.plan, country, from, to, longest);
        let agent = agents::device(&mut self.rng, Family::Phone);
        let mut viewing = show.viewing(from, to, path, Agents::one(agent));
        viewing.restless = self.rng.random_ratio(1, 8);
        vec![viewing]
    }

    /// The app is updated in the middle, or the browser is changed.
    fn app_update(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let (from, to) = (show.start, show.start + self.length());
        let path = self.home(country, from, to);
        let families = [Family::Phone, Family::Browser, Family::Television];
        let family = *families.choose(&mut self.rng).expect("not empty");
        let changes = self.rng.random_range(2..=4);
        (0..changes)
            .map(|n| {
                let agents = Agents::one(agents::device(&mut self.rng, family));
                let (begin, end) = (from + (to - from) * n / changes, from + (to - from) * (n + 1) / changes);
                show.viewing(begin, end - 10_000, path.clone(), agents)
            })
            .collect()
    }

    /// Behind a relay whose exit changes every little while; now and then it is in the next country.
    fn private_relay(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let abroad = viewer_country(&mut self.rng);
        let (from, to) = (show.start, show.start + self.length());
        let longest = *[20_000, 2 * MINUTE, 10 * MINUTE].choose(&mut self.rng).expect("not empty");
        let countries = if self.rng.random_ratio(1, 5) { vec![country, abroad] } else { vec![country] };
        let path = relay(&mut self.rng, self.plan, &countries, from, to, longest);
        let agent = agents::device(&mut self.rng, Family::Phone);
        vec![show.viewing(from, to, path, Agents::one(agent))]
    }

    /// At home; then a VPN is switched on, and perhaps off again, or to another exit.
    fn vpn_switched(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let (from, to) = (show.start, show.start + self.length());
        let mut path = self.home(country, from, to);
        let at = |n: i64| from + (to - from) * n / 6;
        let on = self.rng.random_range(1..=3);
        let exit = exits(&mut self.rng, self.plan, &[Access::Vpn], at(on), to, 10 * (to - from));
        path = path.then(exit);
        if self.rng.random_ratio(1, 3) {
            let again = exits(&mut self.rng, self.plan, &[Access::Vpn], at(on + 1), to, 10 * (to - from));
            path = path.then(again);
        }
        if self.rng.random_ratio(1, 3) {
            let home = self.home(country, at(on + 2), to);
            path = path.then(home);
        }
        let agents = Agents::one(home_device(&mut self.rng));
        vec![show.viewing(from, to, path, agents)]
    }

    /// Watches in one country, travels, and watches on in another; phone or laptop.
    fn traveller(&mut self, show: &Show) -> Vec<Viewing> {
        let family = *[Family::Phone, Family::Browser].choose(&mut self.rng).expect("two");
        let agents = Agents::one(agents::device(&mut self.rng, family));
        let stages = self.rng.random_range(2..=3);
        let mut from = show.start;
        let mut viewings = vec![];
        for _ in 0..stages {
            let country = viewer_country(&mut self.rng);
            let to = from + (self.length() / stages).max(3 * MINUTE);
            let path = if self.rng.random_ratio(1, 2) {
                self.home(country, from, to)
            } else {
                pool(&mut self.rng, self.plan, country, from, to, 5 * MINUTE)
            };
            viewings.push(show.viewing(from, to, path, agents.clone()));
            from = to + self.rng.random_range(MINUTE..6 * MINUTE);
        }
        viewings
    }

    /// Advertisements are put into the stream on the server's side: pods of clips, each an asset of its own. The ad server
    /// fetches the playlists for some players.
    fn advertisements(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let (from, to) = (show.start, show.start + self.length());
        let path = if self.rng.random_ratio(1, 3) {
            pool(&mut self.rng, self.plan, country, from, to, MINUTE)
        } else {
            self.home(country, from, to)
        };
        let agents = Agents::one(home_device(&mut self.rng));
        let mut viewings = vec![];
        let mut now = from;
        let clips: Vec<u32> = (0..4).map(|_| self.rng.random_range(1..40)).collect();
        while now < to {
            let programme = now + self.rng.random_range(3 * MINUTE..9 * MINUTE);
            viewings.push(show.viewing(now, programme.min(to), path.clone(), agents.clone()));
            now = programme;
            for _ in 0..self.rng.random_range(2..=6) {
                let clip = clips.choose(&mut self.rng).expect("four");
                let end = now + self.rng.random_range(10_000..32_000);
                let mut viewing = show.viewing(now, end, path.clone(), agents.clone());
                viewing.content = Content::advertisement(*clip);
                if end < to {
                    viewings.push(viewing);
                }
                now = end;
            }
        }
        if self.rng.random_ratio(1, 2) {
            let server = exits(&mut self.rng, self.plan, &[Access::Hosting], from, to, to - from);
            let mut viewing =
                show.viewing(from, to, server, Agents::one(Arc::from("AdStitch/2.4 (+https://ads.example.com)")));
            viewing.manifests_only = true;
            viewings.push(viewing);
        }
        viewings
    }

    /// Skips through a film, at home or on a phone.
    fn scrubber(&mut self, show: &Show) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let (from, to) = (show.start, show.start + self.length());
        let mut viewing = if self.rng.random_ratio(1, 3) {
            let path = pool(&mut self.rng, self.plan, country, from, to, 3 * MINUTE);
            show.viewing(from, to, path, Agents::one(agents::device(&mut self.rng, Family::Phone)))
        } else {
            let path = self.home(country, from, to);
            show.viewing(from, to, path, Agents::one(home_device(&mut self.rng)))
        };
        viewing.content = Content::film(&mut self.rng);
        viewing.restless = true;
        vec![viewing]
    }

    /// 5 to 8 homes of one country, on the same channel or each on a film of its own.
    fn small_ring(&mut self, show: &Show, one_agent: bool) -> Vec<Viewing> {
        let country = viewer_country(&mut self.rng);
        let apart = self.rng.random_ratio(1, 3);
        let agent = home_device(&mut self.rng);
        (0..self.rng.random_range(5..=8))
            .map(|_| {
                let from = show.start + self.rng.random_range(0..5 * MINUTE);
                let to = from + self.length().max(10 * MINUTE);
                let path = self.home(country, from, to);
                let own = home_device(&mut self.rng);
                let agents = Agents::one(if one_agent { agent.clone() } else { own });
                let mut viewing = show.viewing(from, to, path, agents);
                if apart {
                    viewing.content = Content::film(&mut self.rng);
                }
                viewing
            })
            .collect()
    }

    /// A server takes the stream, and those whom it feeds fetch from the service with the same token.
    fn ripper_fanout(&mut self, show: &Show) -> Vec<Viewing> {
        let (from, to) = (show.start, show.start + self.length().max(15 * MINUTE));
        let ripper = agents::device(&mut self.rng, Family::LinkPlayer);
        let path = exits(&mut self.rng, self.plan, &[Access::Hosting, Access::Vpn], from, to, to - from);
        let mut viewings = vec![show.viewing(from, to, path, Agents::one(ripper.clone()))];
        let one_agent = self.rng.random_ratio(1, 2);
        for _ in 0..self.rng.random_range(6..30) {
            let country = viewer_country(&mut self.rng);
            let begin = self.rng.random_range(from..to - 5 * MINUTE);
            let end = (begin + self.length()).min(to);
            let path = self.home(country, begin, end);
            let agent = if one_agent { ripper.clone() } else { agents::device(&mut self.rng, Family::LinkPlayer) };
            viewings.push(show.viewing(begin, end, path, Agents::one(agent)));
        }
        viewings
    }

    /// A page that embeds the stream for its visitors.
    fn leech_site(&mut self, show: &Show) -> Vec<Viewing> {
        let span = self.length().max(15 * MINUTE);
        let site = *LEECH_SITES.choose(&mut self.rng).expect("not empty");
        (0..self.rng.random_range(8..40))
            .map(|_| {
                let country = viewer_country(&mut self.rng);
                let from = show.start + self.rng.random_range(0..span);
                let to = from + self.rng.random_range(MINUTE..12 * MINUTE);
                let path = self.home(country, from, to);
                let agent = agents::device(&mut self.rng, Family::Browser);
                let mut viewing = show.viewing(from, to, path, Agents::one(agent));
                viewing.referer = Some(site.into());
                viewing
            })
            .collect()
    }

    /// One machine that takes the stream through one exit after the other.
    fn rotating_ripper(&mut self, show: &Show) -> Vec<Viewing> {
        let (from, to) = (show.start, show.start + self.length().max(30 * MINUTE));
        let longest = *[90_000, 3 * MINUTE, 5 * MINUTE].choose(&mut self.rng).expect("not empty");
        let kinds = if self.rng.random_ratio(1, 2) { vec![Access::Vpn] } else { vec![Access::Vpn, Access::Hosting] };
        let path = exits(&mut self.rng, self.plan, &kinds, from, to, longest);
        let family = *[Family::LinkPlayer, Family::Browser].choose(&mut self.rng).expect("two");
        vec![show.viewing(from, to, path, Agents::one(agents::device(&mut self.rng, family)))]
    }

    /// 3 or 4 homes in different countries that join one after the other.
    fn slow_ring(&mut self, show: &Show) -> Vec<Viewing> {
        let homes = self.rng.random_range(3..=4);
        let apart = self.rng.random_ratio(1, 4);
        let one = home_device(&mut self.rng);
        let one_agent = self.rng.random_ratio(1, 2);
        let mut countries: Vec<&str> = vec![];
        let mut viewings = vec![];
        let mut from = show.start;
        while viewings.len() < homes {
            let country = viewer_country(&mut self.rng);
            if countries.contains(&country) {
                continue;
            }
            countries.push(country);
            let to = from + self.length().max(25 * MINUTE);
            let path = self.home(country, from, to);
            let own = home_device(&mut self.rng);
            let mut viewing = show.viewing(from, to, path, Agents::one(if one_agent { one.clone() } else { own }));
            if apart {
                viewing.content = Content::film(&mut self.rng);
            }
            viewings.push(viewing);
            from += self.rng.random_range(MINUTE..5 * MINUTE);
        }
        viewings
    }

    /// One token that takes many assets at once, from a machine or from several.
    fn token_farm(&mut self, show: &Show) -> Vec<Viewing> {
        let (from, to) = (show.start, show.start + self.length().max(12 * MINUTE));
        let machines: Vec<(Path, Agents)> = (0..self.rng.random_range(1..=4))
            .map(|_| {
                let path = if self.rng.random_ratio(1, 2) {
                    exits(&mut self.rng, self.plan, &[Access::Hosting], from, to, to - from)
                } else {
                    let country = viewer_country(&mut self.rng);
                    self.home(country, from, to)
                };
                (path, Agents::one(agents::device(&mut self.rng, Family::LinkPlayer)))
            })
            .collect();
        (0..self.rng.random_range(6..=16))
            .map(|_| {
                let (path, agents) = machines.choose(&mut self.rng).expect("one at least").clone();
                let begin = from + self.rng.random_range(0..3 * MINUTE);
                let mut viewing = show.viewing(begin, to, path, agents);
                viewing.content = Content::film(&mut self.rng);
                viewing
            })
            .collect()
    }
}
