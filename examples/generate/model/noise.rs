//! Requests that hold no session: pages, crawlers, scanners, broken tokens.
//!
//! Texts are what the client sent, byte by byte; log formats encode them.

use std::sync::Arc;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::addresses::{Plan, viewer_country};
use super::agents::{Family, device};
use super::networks::Line;
use super::request::{Outcome, Request};

/// A request of a visit: method, path, query, status, content type.
type Step = (&'static str, &'static str, Option<&'static str>, u16, Option<&'static str>);

const HTML: Option<&str> = Some("text/html; charset=utf-8");

/// What somebody loads who opens the site.
const PAGE: &[Step] = &[
    ("GET", "/watch/sport1", Some("utm_source=newsletter&utm_campaign=autumn"), 200, HTML),
    ("GET", "/assets/player.5d41402a.js", None, 200, Some("application/javascript")),
    ("GET", "/favicon.ico", None, 200, Some("image/x-icon")),
    ("GET", "/promo/trailer-0042.mp4", None, 206, Some("video/mp4")),
    ("OPTIONS", "/api/session", None, 204, None),
    ("POST", "/api/session", None, 201, Some("application/json")),
    ("GET", "/apple-touch-icon-precomposed.png", None, 404, HTML),
    ("GET", "/search", Some("q=caf%C3%A9+noir&next=https%3A%2F%2Fwww.example.com%2Fwatch"), 200, HTML),
];

const CRAWL: &[Step] = &[
    ("GET", "/robots.txt", None, 200, Some("text/plain")),
    ("GET", "/sitemap.xml", None, 200, Some("application/xml")),
    ("HEAD", "/watch/film-0042", None, 200, HTML),
];

/// What scanners and vandals send.
const JUNK: &[Step] = &[
    ("GET", "/wp-login.php", None, 404, HTML),
    ("GET", "/.env", None, 403, HTML),
    ("GET", "/%20%2e%2e/%2e%2e/etc/passwd", None, 400, HTML),
    ("GET", "/search", Some("q=\"><script>alert('x')</script>"), 403, HTML),
    ("GET", "/search", Some("q=%3Cscript%3Ealert(1)%3C%2Fscript%3E&p=%2520"), 200, HTML),
    ("GET", "/\u{1b}[2J\u{1b}[31mowned\u{7}", None, 400, HTML),
    ("GET", "/%1b%5b31m%1b%5d0;title%07", None, 404, HTML),
    ("GET", "/a|b^c~d`e{f}\\g[h]#i", None, 404, HTML),
    ("GET", "/100%", Some("%zz=%u0041&x=\\x20"), 404, HTML),
    ("GET", "/' OR '1'='1", Some("id=1;DROP TABLE activity--"), 403, HTML),
    ("GET", "/=cmd|'/c calc'!A0", None, 404, HTML),
    ("GET", "/\u{202e}gpj.exe", None, 404, HTML),
    ("PROPFIND", "/", None, 405, HTML),
    ("GET", "//media.example.com//live//sport1", None, 404, HTML),
    // Almost tokens.
    ("GET", "/live/sport1/720p/seg_000123.ts", None, 401, None),
    ("GET", "/abc.def/live/sport1/master.m3u8", None, 401, None),
    ("GET", "/a.b.c.d/live/sport1/master.m3u8", None, 401, None),
    ("GET", "/..../live/sport1/master.m3u8", None, 401, None),
    ("GET", "/x' y%00z.e30.e30.AAAA/live/sport1/720p/index.m3u8", None, 401, None),
    ("GET", "/", None, 0, None),
];

const CRAWLERS: &[&str] = &[
    "Mozilla/5.0 (compatible; ExampleBot/2.1; +http://www.example.org/bot.html)",
    "Mozilla/5.0 (compatible; MeadowSpider/1.0)",
];

const SCANNERS: &[Option<&str>] = &[
    None,
    Some("-"),
    Some("python-requests/2.32.3"),
    Some("\u{1b}]0;owned\u{7}\u{1b}[31mprobe/0.1\u{1b}[0m"),
    Some("() { :;}; /bin/echo vulnerable"),
    Some("<script>alert(\"ua\")</script>"),
    Some("Mozilla/5.0 %20(double%2520escaped) 100%"),
    Some("Проверка/1.0 検査"),
    Some("=HYPERLINK(\"http://example.net\";\"x\")"),
];

const FORWARDED: &[&str] =
    &["10.8.15.3, 10.44.7.91", "10.0.0.7,10.0.0.9", "192.168.1.20:4711", "unknown", "fd00::1234, 10.1.2.3"];

/// A visit that begins at a time in epoch milliseconds.
pub fn visit(rng: &mut ChaCha8Rng, plan: &Plan, start: i64) -> Vec<Request> {
    let country = viewer_country(rng);
    let drawn = rng.random_range(0..10);
    let home = Line::home(rng, plan, country, false);
    let (line, steps, agent): (_, _, Option<Arc<str>>) = match drawn {
        0..5 => (home, PAGE, Some(device(rng, Family::Browser))),
        5..7 => {
            let crawler = *CRAWLERS.choose(rng).expect("not empty");
            (Line::server(rng, plan), CRAWL, Some(crawler.into()))
        }
        _ => {
            let agent = SCANNERS.choose(rng).expect("not empty");
            (Line::server(rng, plan), JUNK, agent.map(Into::into))
        }
    };
    let scanner = drawn >= 7;
    let mut now = start;
    let mut requests = vec![];
    let first = rng.random_range(0..steps.len());
    // Scanners go on for long, people do not.
    let most = if scanner { 16 } else { 6 };
    for number in 0..rng.random_range(most / 4..=most).min(steps.len()) {
        let &(method, path, query, status, content_type) = &steps[(first + number) % steps.len()];
        let mut request = Request::new(rng, line.address());
        request.method = method;
        request.path = path.to_owned();
        request.query = query.map(str::to_owned);
        request.status = status;
        request.content_type = content_type;
        request.agent = agent.clone();
        request.edge = line.edge();
        request.outcome = match status {
            0 => Outcome::GONE,
            401 => Outcome::REFUSED,
            200..=399 => Outcome::MISS,
            _ => Outcome::ERROR,
        };
        let body = match (method, status) {
            (_, 0 | 204) | ("HEAD", _) => 0,
            (_, 206) => 262_144,
            (_, 200 | 201) if content_type == HTML => rng.random_range(9_000..90_000),
            (_, 200 | 201) => rng.random_range(60..4_000),
            _ => rng.random_range(120..1_000),
        };
        if status == 206 {
            request.range = Some((262_144, 524_287));
        }
        request.content_length = content_type.map(|_| body);
        if status != 0 {
            request.bytes_sent = body + rng.random_range(300..600);
            request.first_byte_ms = rng.random_range(3..250);
        }
        request.time_taken_ms = request.first_byte_ms + rng.random_range(0..40);
        request.bytes_received = rng.random_range(90..900);
        if scanner {
            request.http = if rng.random_ratio(1, 2) { "HTTP/1.1" } else { "HTTP/1.0" };
            if rng.random_ratio(1, 8) && status != 0 {
                request.secure = false;
                request.status = 301;
                request.outcome = Outcome::REDIRECT;
            }
        }
        if rng.random_ratio(1, 5) {
            request.forwarded_for = FORWARDED.choose(rng).copied();
        }
        if number > 0 && drawn < 5 {
            request.referer = Some("https://www.example.com/watch/sport1?a=\"b\"".into());
        }
        now += i64::from(request.time_taken_ms) + rng.random_range(0..900);
        request.finished = now;
        requests.push(request);
    }
    requests
}
