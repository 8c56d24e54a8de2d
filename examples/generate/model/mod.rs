//! A seeded model of streaming traffic through CloudFront, with labels.
//!
//! Three concerns that never mix: who watches what from where (`viewers`, `player`), how
//! their token looks (`token`), and how a request is written down (`format`, `objects`). All of it
//! draws its addresses from one plan (`addresses`), from which `mmdb` also makes the GeoIP
//! files, so that traffic and GeoIP cannot disagree.
//!
//! Everything is a pure function of a [`traffic::Scenario`]. Only integers are drawn and
//! calculated with (no floating point), so that a seed means the same traffic everywhere.

pub mod addresses;
pub mod agents;
pub mod catalog;
pub mod encoding;
pub mod format;
pub mod kinds;
pub mod mmdb;
pub mod networks;
pub mod noise;
pub mod objects;
pub mod player;
pub mod request;
pub mod token;
pub mod traffic;
pub mod viewers;
pub mod views;
pub mod wide;

use std::io;
use std::path::{Path, PathBuf};

/// Writes a scenario's traffic in a log format to `logs`, some `object_rows` rows an object, and who its
/// sessions are to the CSV file `labels`. One hour of traffic is in memory at once.
pub fn write(
    scenario: &traffic::Scenario,
    format: format::Format,
    object_rows: usize,
    logs: PathBuf,
    labels: &Path,
) -> io::Result<objects::Written> {
    let mut writer = objects::Writer::new(logs, format, scenario.seed, object_rows);
    let mut labels = csv::Writer::from_path(labels)?;
    labels.write_record(["session_id", "label", "kind"])?;
    for slice in traffic::Stream::new(scenario) {
        writer.write(slice.requests)?;
        for session in slice.labels {
            let (label, kind) = (session.label.name(), session.kind.name());
            labels.write_record([session.session_id.as_str(), label, kind])?;
        }
    }
    labels.flush()?;
    writer.finish()
}
