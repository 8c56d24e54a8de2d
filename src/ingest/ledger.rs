//! The ledger: which log objects were looked at, and what became of them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};

use crate::config::LogFormat;
use crate::engine::{EngineError, Sql, fetch, sql};
use crate::logs::ObjectReport;
use crate::source::ObjectMeta;

const LEDGER: Sql = sql!("engine/ledger.sql");
const BATCH_OBJECTS: Sql = sql!("engine/batch_objects.sql");
const LAST_BATCH: Sql = sql!("engine/last_batch.sql");

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ingested,
    Duplicate,
    Quarantined,
}

/// The judgement on an object, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub status: Status,
    pub reason: Option<String>,
}

impl Verdict {
    pub fn quarantined(reason: String) -> Verdict {
        Verdict { status: Status::Quarantined, reason: Some(reason) }
    }
}

/// A row of the stored table `objects`.
#[derive(Clone, Debug, Serialize)]
pub struct LedgerRow {
    location: String,
    key: String,
    etag: String,
    digest: Option<String>,
    format: Option<LogFormat>,
    size: u64,
    arrived_at: DateTime<Utc>,
    first_time: Option<DateTime<Utc>>,
    last_time: Option<DateTime<Utc>>,
    rows: u64,
    rejected_rows: u64,
    status: Status,
    reason: Option<String>,
    ingested_at: DateTime<Utc>,
    pub batch: i64,
}

impl LedgerRow {
    pub fn new(location: &str, meta: &ObjectMeta, report: &ObjectReport, verdict: Verdict, now: DateTime<Utc>) -> Self {
        let examples = (report.rejected > 0)
            .then(|| format!("{} lines rejected: {}", report.rejected, report.rejected_examples.join("; ")));
        LedgerRow {
            location: location.to_owned(),
            key: meta.key.clone(),
            etag: meta.etag.clone(),
            digest: (!report.digest.is_empty()).then(|| report.digest.clone()),
            format: report.format,
            size: meta.size,
            arrived_at: meta.arrived_at,
            first_time: report.first_time,
            last_time: report.last_time,
            rows: report.rows,
            rejected_rows: report.rejected,
            status: verdict.status,
            reason: verdict.reason.or(examples),
            ingested_at: now,
            batch: 0,
        }
    }
}

/// What the ledger knows, as far as new objects are judged by it.
#[derive(Default)]
pub struct Ledger {
    /// Versions that were looked at, by location and key.
    versions: HashMap<(String, String), HashSet<String>>,
    /// Digest of what was ingested under a name.
    ingested: HashMap<(String, String), String>,
    /// Digests of everything that was ingested.
    digests: HashSet<String>,
}

#[derive(Deserialize)]
struct Known {
    location: String,
    key: String,
    etag: String,
    digest: Option<String>,
    status: Status,
}

impl Ledger {
    /// Reads the ledger. With `retry_quarantined` the objects that were set aside are not known.
    pub async fn load(session: &SessionContext, retry_quarantined: bool) -> Result<Ledger, EngineError> {
        let mut ledger = Ledger::default();
        for known in fetch::<Known>(session, LEDGER, vec![]).await? {
            if known.status == Status::Quarantined && retry_quarantined {
                continue;
            }
            ledger.insert(known);
        }
        Ok(ledger)
    }

    fn insert(&mut self, known: Known) {
        let name = (known.location, known.key);
        self.versions.entry(name.clone()).or_default().insert(known.etag);
        if let (Status::Ingested, Some(digest)) = (known.status, known.digest) {
            self.digests.insert(digest.clone());
            self.ingested.insert(name, digest);
        }
    }

    /// Whether this version of the object was looked at.
    pub fn knows(&self, location: &str, meta: &ObjectMeta) -> bool {
        self.versions.get(&(location.to_owned(), meta.key.clone())).is_some_and(|etags| etags.contains(&meta.etag))
    }

    /// What to do with an object that was read to its end.
    pub fn judge(&self, location: &str, meta: &ObjectMeta, report: &ObjectReport) -> Verdict {
        let duplicate = |reason: &str| Verdict { status: Status::Duplicate, reason: Some(reason.to_owned()) };
        match self.ingested.get(&(location.to_owned(), meta.key.clone())) {
            Some(digest) if *digest == report.digest => duplicate("the same bytes under the same name, written again"),
            Some(_) => Verdict::quarantined("other bytes under a name that was ingested before; the first stay".into()),
            // An hour without requests looks like any other.
            None if report.rows > 0 && self.digests.contains(&report.digest) => {
                duplicate("the same bytes were ingested under another name")
            }
            None => Verdict { status: Status::Ingested, reason: None },
        }
    }

    /// Takes note of a judgement, for the objects that come after it.
    pub fn add(&mut self, location: &str, meta: &ObjectMeta, report: &ObjectReport, status: Status) {
        self.insert(Known {
            location: location.to_owned(),
            key: meta.key.clone(),
            etag: meta.etag.clone(),
            digest: (!report.digest.is_empty()).then(|| report.digest.clone()),
            status,
        });
    }
}

/// The last batch that was begun; 0 before the first.
pub async fn last_batch(session: &SessionContext) -> Result<i64, EngineError> {
    #[derive(Deserialize)]
    struct Last {
        batch: i64,
    }
    Ok(fetch::<Last>(session, LAST_BATCH, vec![]).await?.first().map_or(0, |last| last.batch))
}

/// Location, version and digest of the objects whose rows belong to a batch.
pub async fn objects_of(
    session: &SessionContext,
    batch: i64,
) -> Result<Vec<(String, ObjectMeta, String)>, EngineError> {
    #[derive(Deserialize)]
    struct Object {
        location: String,
        key: String,
        etag: String,
        digest: String,
        size: u64,
        arrived_at: DateTime<Utc>,
    }
    let objects: Vec<Object> = fetch(session, BATCH_OBJECTS, vec![("batch", ScalarValue::Int64(Some(batch)))]).await?;
    Ok(objects
        .into_iter()
        .map(|object| {
            let meta =
                ObjectMeta { key: object.key, etag: object.etag, size: object.size, arrived_at: object.arrived_at };
            (object.location, meta, object.digest)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(key: &str, etag: &str) -> ObjectMeta {
        ObjectMeta { key: key.into(), etag: etag.into(), size: 1, arrived_at: DateTime::UNIX_EPOCH }
    }

    fn report(digest: &str, rows: u64) -> ObjectReport {
        ObjectReport { digest: digest.into(), rows, ..ObjectReport::default() }
    }

    #[test]
    fn the_same_bytes_count_once_and_a_name_keeps_its_first_bytes() {
        let mut ledger = Ledger::default();
        let first = meta("a.gz", "1");
        assert!(!ledger.knows("here", &first));
        assert_eq!(ledger.judge("here", &first, &report("d1", 5)).status, Status::Ingested);
        ledger.add("here", &first, &report("d1", 5), Status::Ingested);

        assert!(ledger.knows("here", &first));
        assert!(!ledger.knows("there", &first));
        assert_eq!(ledger.judge("here", &meta("b.gz", "1"), &report("d1", 5)).status, Status::Duplicate);
        assert_eq!(ledger.judge("there", &first, &report("d1", 5)).status, Status::Duplicate);
        assert!(!ledger.knows("here", &meta("a.gz", "2")), "another version has to be looked at");
        assert_eq!(ledger.judge("here", &meta("a.gz", "2"), &report("d1", 5)).status, Status::Duplicate);
        assert_eq!(ledger.judge("here", &meta("a.gz", "2"), &report("d2", 5)).status, Status::Quarantined);
        assert_eq!(ledger.judge("here", &meta("c.gz", "1"), &report("d2", 5)).status, Status::Ingested);
    }

    #[test]
    fn empty_objects_are_alike_without_being_duplicates() {
        let mut ledger = Ledger::default();
        ledger.add("here", &meta("a.gz", "1"), &report("empty", 0), Status::Ingested);
        assert_eq!(ledger.judge("here", &meta("b.gz", "1"), &report("empty", 0)).status, Status::Ingested);
    }
}
