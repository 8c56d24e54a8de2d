//! How long people watch.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::kinds::{Kind, Mix};
use super::networks::MINUTE;

/// Shortest and longest view, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Views {
    pub least: i64,
    pub most: i64,
}

impl Views {
    /// The length of a view: short ones are commoner.
    pub fn draw(self, rng: &mut ChaCha8Rng) -> i64 {
        let skewed = rng.random_range(0..1_000_i64);
        self.least + (self.most - self.least) * skewed * skewed / 1_000_000
    }

    /// The time within which strangers find a posted link.
    pub fn spread(self) -> i64 {
        (3 * self.most).min(25 * MINUTE)
    }

    /// How long a commuter watches at most.
    pub fn ride(self) -> i64 {
        (3 * self.most).clamp(9 * MINUTE, 35 * MINUTE)
    }

    /// The longest that a session of a kind can take, from its first request to its last.
    pub fn span(self, kind: Kind) -> i64 {
        match kind {
            Kind::SharedLink => self.spread() + self.most,
            Kind::Commuter => self.ride(),
            Kind::Ring | Kind::RingAbroad | Kind::TwoHomes => 5 * MINUTE + self.most.max(6 * MINUTE),
            Kind::LeechSite => self.most.max(15 * MINUTE) + 12 * MINUTE,
            Kind::Traveller => self.most.max(9 * MINUTE) + 18 * MINUTE,
            Kind::SlowRing => 15 * MINUTE + self.most.max(25 * MINUTE),
            wide if wide.is_wide() => 6 * MINUTE + self.most.max(30 * MINUTE),
            _ => self.most.max(6 * MINUTE),
        }
    }

    /// The longest span of all kinds of a mix.
    pub fn longest_span(self, mix: Mix) -> i64 {
        mix.kinds().map(|kind| self.span(kind)).max().unwrap_or(0)
    }
}
