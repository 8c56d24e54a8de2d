//! User agents of players, as devices of the model send them.

use std::sync::Arc;

use rand::Rng;
use rand::seq::IndexedRandom;

/// The family of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A browser on a computer.
    Browser,
    /// A phone or tablet: browser or app.
    Phone,
    /// A television, box or stick.
    Television,
    /// A player of those who find links on the web: VLC, Kodi, IPTV apps.
    LinkPlayer,
}

/// What a device says it is, per kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agents {
    pub manifests: Arc<str>,
    pub segments: Arc<str>,
}

impl Agents {
    /// A device that always sends the same.
    pub fn one(agent: Arc<str>) -> Self {
        Agents { manifests: agent.clone(), segments: agent }
    }
}

const BROWSERS: &[&str] = &[
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{c}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{c}.0.0.0 Safari/537.36 Edg/{c}.0.0.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{c}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{c}.0) Gecko/20100101 Firefox/{c}.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{c}.0) Gecko/20100101 Firefox/{c}.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.{m} Safari/605.1.15",
];

const PHONES: &[&str] = &[
    "AppleCoreMedia/1.0.0.22{l}{b} (iPhone; U; CPU OS 18_{m} like Mac OS X; en_gb)",
    "AppleCoreMedia/1.0.0.22{l}{b} (iPad; U; CPU OS 18_{m} like Mac OS X; en_gb)",
    "ExampleTV/6.{m}.1 (Linux;Android 1{a}) AndroidXMedia3/1.{m}.1",
    "ExampleTV/6.{m}.0 (Linux;Android 1{a}) AndroidXMedia3/1.{m}.0",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{c}.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_{m} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.{m} Mobile/15E148 Safari/604.1",
];

const TELEVISIONS: &[&str] = &[
    "Mozilla/5.0 (SMART-TV; LINUX; Tizen {a}.0) AppleWebKit/537.36 (KHTML, like Gecko) {b}.0.4183.93/{a}.0 TV Safari/537.36",
    "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{b}.0.4280.88 Safari/537.36 WebAppManager",
    "Roku/DVP-14.{m} (14.{m}.0.{b}-46)",
    "ExampleTV/4.{m} (Linux;Android 11; AFTKA) AndroidXMedia3/1.{m}.1",
    "AppleCoreMedia/1.0.0.22{l}{b} (Apple TV; U; CPU OS 18_{m} like Mac OS X; en_us)",
    "Mozilla/5.0 (Linux; Android 12; BRAVIA 4K VH2 Build/STT2.2304{b}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{c}.0.0.0 Safari/537.36",
];

const LINK_PLAYERS: &[&str] = &[
    "VLC/3.0.{b} LibVLC/3.0.{b}",
    "Kodi/21.{m} (Linux; Android 1{a}) App_Bitness/64 Version/21.{m}",
    "IPTVSmartersPro/3.{m}.5",
    "Lavf/60.{b}.100",
    "TiviMate/5.{m}.0 (AFTMM; Android 7.1.2)",
    "okhttp/4.{b}.0",
];

/// A Chromecast, which other devices tell what to play.
const CHROMECAST: &str = "Mozilla/5.0 (X11; Linux aarch64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{c}.0.0.0 Safari/537.36 CrKey/1.56.500000 DeviceType/Chromecast";

/// App and media engine of one phone: the former fetches manifests, the latter segments.
const SPLIT: &[(&str, &str)] = &[
    (
        "ExampleTV/6.{m}.1 CFNetwork/1568.{b} Darwin/24.{m}.0",
        "AppleCoreMedia/1.0.0.22{l}{b} (iPhone; U; CPU OS 18_{m} like Mac OS X; en_gb)",
    ),
    ("okhttp/4.{b}.0", "ExampleTV/6.{m}.1 (Linux;Android 1{a}) AndroidXMedia3/1.{m}.1"),
    ("ExampleTV-Roku/4.{m}", "Roku/DVP-14.{m} (14.{m}.0.{b}-46)"),
];

/// Fills the versions in. Both templates of a device get the same.
fn fill(rng: &mut impl Rng, templates: [&str; 2]) -> [Arc<str>; 2] {
    let chrome = rng.random_range(136..146_u32).to_string();
    let minor = rng.random_range(0..6_u32).to_string();
    let major = rng.random_range(2..7_u32).to_string();
    let build = rng.random_range(10..24_u32).to_string();
    let letter = *["A", "B", "D", "E"].choose(rng).expect("not empty");
    templates.map(|template| {
        template
            .replace("{c}", &chrome)
            .replace("{m}", &minor)
            .replace("{a}", &major)
            .replace("{b}", &build)
            .replace("{l}", letter)
            .into()
    })
}

/// The user agent of a random device of a family.
pub fn device(rng: &mut impl Rng, family: Family) -> Arc<str> {
    let templates = match family {
        Family::Browser => BROWSERS,
        Family::Phone => PHONES,
        Family::Television => TELEVISIONS,
        Family::LinkPlayer => LINK_PLAYERS,
    };
    let template = templates.choose(rng).expect("not empty");
    let [agent, _] = fill(rng, [template, ""]);
    agent
}

/// A device that somebody watches with at home.
pub fn home_device(rng: &mut impl Rng) -> Arc<str> {
    let families = [Family::Browser, Family::Browser, Family::Phone, Family::Television, Family::Television];
    let family = *families.choose(rng).expect("not empty");
    device(rng, family)
}

/// A phone that fetches the manifests for a Chromecast, which fetches the segments.
pub fn casting(rng: &mut impl Rng) -> Agents {
    let manifests = device(rng, Family::Phone);
    let [segments, _] = fill(rng, [CHROMECAST, ""]);
    Agents { manifests, segments }
}

/// One device whose app fetches the manifests and whose media engine the segments.
pub fn split(rng: &mut impl Rng) -> Agents {
    let (manifests, segments) = SPLIT.choose(rng).expect("not empty");
    let [manifests, segments] = fill(rng, [manifests, segments]);
    Agents { manifests, segments }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let agents = [casting(&mut rng), split(&mut rng)];
            let link = Agents::one(device(&mut rng, Family::LinkPlayer));
            let home = Agents::one(home_device(&mut rng));
            for agents in agents.into_iter().chain([link, home]) {
                for agent in [agents.manifests, agents.segments] {
                    assert!(!agent.contains(['{', '}']), "{agent}");
                }
            }
        }
    }
}
