//! A seeded model of streaming traffic through CloudFront, with labels.
//!
//! Three concerns that never mix: who watches what from where (`viewers`, `player`), how
//! their token looks (`token`), and how a request is written down (`standard`). All of it
//! draws its addresses from one plan (`addresses`), from which `mmdb` also makes the GeoIP
//! files, so that traffic and GeoIP cannot disagree.
//!
//! Everything is a pure function of a [`traffic::Scenario`]. Only integers are drawn and
//! calculated with (no floating point), so that a seed means the same traffic everywhere.

pub mod addresses;
pub mod agents;
pub mod catalog;
pub mod encoding;
pub mod kinds;
pub mod mmdb;
pub mod networks;
pub mod noise;
pub mod player;
pub mod request;
pub mod standard;
pub mod token;
pub mod traffic;
pub mod viewers;
pub mod views;
