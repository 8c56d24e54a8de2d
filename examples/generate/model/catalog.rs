//! What the service shows, and how it lies on the origin.

use rand::Rng;
use rand::seq::IndexedRandom;

/// Length of a segment, in milliseconds.
pub const SEGMENT_MS: i64 = 6_000;

/// Segments of a film: 95 minutes.
pub const FILM_SEGMENTS: i64 = 950;

/// A rung of the bitrate ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub name: &'static str,
    /// Kilobits a second, audio included.
    pub kbit: u64,
}

/// The ladder, lowest first.
pub const LADDER: [Variant; 4] = [
    Variant { name: "360p", kbit: 800 },
    Variant { name: "480p", kbit: 1_500 },
    Variant { name: "720p", kbit: 3_100 },
    Variant { name: "1080p", kbit: 5_600 },
];

/// How an asset is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A channel: MPEG-TS segments numbered by the clock, playlists fetched again and again.
    Live,
    /// A film: fragmented MP4, playlists fetched once.
    Vod,
}

/// An asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Path of the asset, without a slash at the end.
    pub root: String,
    pub delivery: Delivery,
}

impl Content {
    /// A channel, the sport ones more often.
    pub fn channel(rng: &mut impl Rng) -> Self {
        let channels = ["sport1", "sport1", "sport1", "sport2", "sport2", "news", "kids"];
        let channel = channels.choose(rng).expect("not empty");
        Content { root: format!("/live/{channel}"), delivery: Delivery::Live }
    }

    /// A film out of 60, the new ones more often.
    pub fn film(rng: &mut impl Rng) -> Self {
        let film = rng.random_range(1..=60_u32).min(rng.random_range(1..=60));
        Content { root: format!("/vod/film-{film:04}"), delivery: Delivery::Vod }
    }

    /// A clip that is put into streams.
    pub fn advertisement(number: u32) -> Self {
        Content { root: format!("/ads/clip-{number:03}"), delivery: Delivery::Vod }
    }

    /// Path of the master playlist.
    pub fn master(&self) -> String {
        format!("{}/master.m3u8", self.root)
    }

    /// Path of the playlist of a variant.
    pub fn playlist(&self, variant: Variant) -> String {
        format!("{}/{}/index.m3u8", self.root, variant.name)
    }

    /// Path of a segment.
    pub fn segment(&self, variant: Variant, number: i64) -> String {
        match self.delivery {
            Delivery::Live => format!("{}/{}/seg_{number:06}.ts", self.root, variant.name),
            Delivery::Vod => format!("{}/{}/seg_{number:05}.m4s", self.root, variant.name),
        }
    }

    /// The segment at the live edge, at a time in epoch milliseconds.
    pub fn live_edge(&self, now: i64) -> i64 {
        now / SEGMENT_MS % 1_000_000
    }

    /// Size of a segment in bytes: the same for everybody who fetches it.
    pub fn segment_bytes(&self, variant: Variant, number: i64) -> u64 {
        let nominal = variant.kbit * SEGMENT_MS as u64 / 8;
        let seed =
            self.root.bytes().fold(number as u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        // 75 to 125 % of the nominal size, rounded to transport stream packets.
        nominal * (75 + (seed >> 20) % 51) / 100 / 188 * 188
    }

    /// Content type of a segment.
    pub fn segment_type(&self) -> &'static str {
        match self.delivery {
            Delivery::Live => "video/MP2T",
            Delivery::Vod => "video/mp4",
        }
    }
}
