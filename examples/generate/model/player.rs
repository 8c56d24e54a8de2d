//! A HLS player: the requests of one viewing.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::agents::Agents;
use super::catalog::{Content, Delivery, FILM_SEGMENTS, LADDER, SEGMENT_MS};
use super::networks::{Attachment, Path};
use super::request::{Outcome, Request};
use super::token::Grant;

/// Content type of playlists.
const PLAYLIST: &str = "application/vnd.apple.mpegurl";

/// Segments that a player fetches at once before it plays: its buffer.
const BUFFER_SEGMENTS: i64 = 4;

/// Somebody watches something from somewhere, between two times in epoch milliseconds.
#[derive(Clone, Debug)]
pub struct Viewing {
    pub from: i64,
    pub to: i64,
    pub content: Content,
    pub grant: Arc<Grant>,
    pub path: Path,
    pub agents: Agents,
    /// Whether manifests and segments are fetched by different devices of the network.
    pub two_devices: bool,
    /// The viewer skips again and again.
    pub restless: bool,
    /// Only the playlists are fetched, by somebody else than the player.
    pub manifests_only: bool,
    pub referer: Option<Arc<str>>,
}

/// Plays a viewing and adds its requests, in order of time.
pub fn play(viewing: &Viewing, rng: &mut ChaCha8Rng, requests: &mut Vec<Request>) {
    let mut player = Player {
        http: ["HTTP/2.0", "HTTP/2.0", "HTTP/2.0", "HTTP/3.0", "HTTP/1.1"][rng.random_range(0..5)],
        ranges: viewing.content.delivery == Delivery::Vod && rng.random_ratio(1, 8),
        variant: 0,
        now: viewing.from,
        connection: None,
        viewing,
        rng,
        requests,
    };
    player.variant = player.affordable();
    player.start();
    match viewing.content.delivery {
        Delivery::Live => player.live(),
        Delivery::Vod => player.film(),
    }
}

struct Player<'a> {
    viewing: &'a Viewing,
    rng: &'a mut ChaCha8Rng,
    requests: &'a mut Vec<Request>,
    now: i64,
    /// Rung of the ladder.
    variant: usize,
    connection: Option<Connection>,
    http: &'static str,
    /// Whether it asks for segments with a Range header.
    ranges: bool,
}

/// A connection holds on to the address family that won the race when it was opened.
struct Connection {
    attachment: usize,
    v6: bool,
    port: u16,
    until: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Manifest,
    Segment,
}

impl Player<'_> {
    fn start(&mut self) {
        let master = self.viewing.content.master();
        self.fetch(Part::Manifest, master, 640, false);
        self.fetch_playlist();
    }

    /// A channel: playlist and newest segment, every six seconds.
    fn live(&mut self) {
        let content = &self.viewing.content;
        let mut next = content.live_edge(self.now) - BUFFER_SEGMENTS;
        while self.now < self.viewing.to {
            let edge = content.live_edge(self.now);
            if edge - next > 2 * BUFFER_SEGMENTS {
                next = edge - BUFFER_SEGMENTS; // after a pause
            }
            while next < edge && self.now < self.viewing.to {
                self.fetch_segment(next);
                next += 1;
            }
            self.maybe_switch();
            if !self.maybe_pause(400) {
                let tick = SEGMENT_MS - self.now % SEGMENT_MS;
                self.now += tick + self.rng.random_range(100..1_500);
            }
            if self.now < self.viewing.to {
                self.fetch_playlist();
            }
        }
    }

    /// A film: segments at the pace of play once the buffer is full; seeks.
    fn film(&mut self) {
        // A clip begins at its beginning.
        let clip = self.viewing.content.root.starts_with("/ads/");
        let resumes = self.rng.random_ratio(2, 5) && !clip;
        let mut next = if resumes { self.rng.random_range(0..FILM_SEGMENTS * 3 / 4) } else { 0 };
        let mut burst = BUFFER_SEGMENTS;
        while self.now < self.viewing.to && next < FILM_SEGMENTS {
            self.fetch_segment(next);
            next += 1;
            if burst > 0 {
                burst -= 1;
                continue;
            }
            self.now += self.rng.random_range(SEGMENT_MS - 900..SEGMENT_MS + 300);
            if self.rng.random_ratio(1, if self.viewing.restless { 4 } else { 80 }) {
                self.abort_segment(next);
                next = (next + self.rng.random_range(-40..120)).clamp(0, FILM_SEGMENTS - 10);
                burst = BUFFER_SEGMENTS - 1;
            } else if self.maybe_switch() {
                self.fetch_playlist();
            } else {
                self.maybe_pause(150);
            }
        }
    }

    /// The rung that the network pays for.
    fn affordable(&mut self) -> usize {
        let mbit = self.viewing.path.at(self.now).1.mbit;
        match mbit {
            0..5 => 0,
            5..8 => 1,
            8..18 => 2,
            _ => 2 + self.rng.random_range(0..2),
        }
    }

    /// Adaptive bitrate: now and then another rung, sometimes giving up a segment for it.
    fn maybe_switch(&mut self) -> bool {
        if !self.rng.random_ratio(1, 35) {
            return false;
        }
        let up = self.rng.random_ratio(1, 2);
        let other = if up { self.variant + 1 } else { self.variant.saturating_sub(1) };
        let other = other.min(LADDER.len() - 1);
        if other < self.variant && self.rng.random_ratio(1, 3) {
            let number = self.viewing.content.live_edge(self.now) - 1;
            if self.viewing.content.delivery == Delivery::Live {
                self.abort_segment(number);
            }
        }
        std::mem::replace(&mut self.variant, other) != other
    }

    fn maybe_pause(&mut self, one_in: u32) -> bool {
        let pauses = self.rng.random_ratio(1, one_in);
        if pauses {
            self.now += self.rng.random_range(15_000..120_000);
        }
        pauses
    }

    fn fetch_playlist(&mut self) {
        let content = &self.viewing.content;
        let path = content.playlist(LADDER[self.variant]);
        let bytes = match content.delivery {
            Delivery::Live => 520,
            Delivery::Vod => 27_400,
        };
        self.fetch(Part::Manifest, path, bytes, false);
    }

    fn fetch_segment(&mut self, number: i64) {
        if self.viewing.manifests_only {
            return;
        }
        let content = &self.viewing.content;
        let path = content.segment(LADDER[self.variant], number);
        let bytes = content.segment_bytes(LADDER[self.variant], number);
        if content.delivery == Delivery::Live && self.rng.random_ratio(1, 250) {
            // Asked too early: not there yet.
            self.not_found(path.clone());
            self.now += 1_000;
        }
        self.fetch(Part::Segment, path, bytes, false);
    }

    fn abort_segment(&mut self, number: i64) {
        let content = &self.viewing.content;
        let path = content.segment(LADDER[self.variant], number);
        let bytes = content.segment_bytes(LADDER[self.variant], number);
        self.fetch(Part::Segment, path, bytes, true);
    }

    /// A request that is answered, or that the viewer does not wait for.
    fn fetch(&mut self, part: Part, path: String, bytes: u64, aborted: bool) {
        let mut request = self.request(part, path);
        let mbit = self.viewing.path.at(self.now).1.mbit;
        let first_byte = self.rng.random_range(4..60);
        request.outcome = match self.rng.random_range(0..100) {
            0..3 => Outcome::MISS,
            3..6 if part == Part::Manifest => Outcome::REFRESH_HIT,
            _ => Outcome::HIT,
        };
        if request.outcome == Outcome::MISS {
            request.first_byte_ms = first_byte + self.rng.random_range(60..400);
        } else {
            request.first_byte_ms = first_byte;
        }
        request.content_type = Some(match part {
            Part::Manifest => PLAYLIST,
            Part::Segment => self.viewing.content.segment_type(),
        });
        let mut sent = bytes;
        if self.rng.random_ratio(1, 700) {
            request.status = 0;
            request.outcome = Outcome::GONE;
            request.content_type = None;
            request.first_byte_ms = 0;
            sent = 0;
        } else if part == Part::Manifest && self.rng.random_ratio(1, 25) {
            request.status = 304;
            request.content_type = None;
            sent = 0;
        } else if aborted {
            sent = bytes * self.rng.random_range(5..80) / 100;
            request.outcome = Outcome::ABORTED;
            request.content_length = Some(bytes);
        } else {
            request.content_length = Some(bytes);
        }
        if self.ranges && part == Part::Segment && request.status == 200 {
            request.status = 206;
            request.range = Some((0, bytes - 1));
        }
        let transfer = sent * 8 / (mbit * 1_000) * self.rng.random_range(100..180) / 100;
        request.time_taken_ms = request.first_byte_ms + transfer as u32;
        if request.status != 0 {
            request.bytes_sent = sent + self.rng.random_range(410..620);
        }
        self.push(request);
    }

    fn not_found(&mut self, path: String) {
        let mut request = self.request(Part::Segment, path);
        request.status = 404;
        request.outcome = Outcome::ERROR;
        request.content_type = Some("application/xml");
        request.content_length = Some(243);
        request.bytes_sent = 243 + self.rng.random_range(410..520);
        request.first_byte_ms = self.rng.random_range(20..120);
        request.time_taken_ms = request.first_byte_ms;
        self.push(request);
    }

    fn push(&mut self, mut request: Request) {
        self.now += i64::from(request.time_taken_ms);
        request.finished = self.now;
        self.requests.push(request);
    }

    /// A request from the address that the device has now, its answer still to be filled in.
    fn request(&mut self, part: Part, path: String) -> Request {
        let (number, attachment) = self.viewing.path.at(self.now);
        let open = self.connection.take();
        let connection = match open {
            Some(open) if open.attachment == number && self.now < open.until => open,
            _ => Connection {
                attachment: number,
                // Happy Eyeballs prefers IPv6, but not always (RFC 8305).
                v6: attachment.v6.is_some() && self.rng.random_ratio(3, 5),
                port: self.rng.random_range(1_025..=65_535),
                until: self.now + self.rng.random_range(10_000..60_000),
            },
        };
        let viewing = self.viewing;
        let second_device = viewing.two_devices && part == Part::Segment;
        let agent = match part {
            Part::Manifest => &viewing.agents.manifests,
            Part::Segment => &viewing.agents.segments,
        };
        let mut request = Request::new(self.rng, client(attachment, connection.v6, second_device));
        request.port = connection.port.wrapping_add(u16::from(second_device)).max(1_025);
        request.grant = Some(viewing.grant.clone());
        request.bytes_received = 120 + (path.len() + viewing.grant.bytes()) as u32 + self.rng.random_range(0..80);
        request.path = path;
        request.agent = Some(agent.clone());
        request.referer = viewing.referer.clone();
        request.edge = attachment.edge;
        request.http = self.http;
        self.connection = Some(connection);
        request
    }
}

/// The client address of a request. A second device shares the IPv4 address and the /64.
fn client(attachment: &Attachment, v6: bool, second_device: bool) -> IpAddr {
    match attachment.v6 {
        Some(address) if v6 => {
            let other = if second_device { 0x5eed_cafe_0bad_f00d } else { 0 };
            IpAddr::V6(Ipv6Addr::from(u128::from(address) ^ other))
        }
        _ => IpAddr::V4(attachment.v4),
    }
}
