//! The ledger: which log objects were looked at, and what became of them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::LogFormat;
use crate::engine::{EngineError, Sql, fetch, prepare, query_error, sql, timestamp};
use crate::logs::ObjectReport;
use crate::rows::conform;
use crate::schema::Table;
use crate::source::ObjectMeta;

const LEDGER: Sql = sql!("engine/ledger.sql");
const DIGESTS: Sql = sql!("engine/digests.sql");
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
            rows: report.counts.rows,
            rejected_rows: report.rejected,
            status: verdict.status,
            reason: verdict.reason.or(examples),
            ingested_at: now,
            batch: 0,
        }
    }

    /// The same, of bytes with this digest.
    pub fn with_digest(self, digest: String) -> Self {
        LedgerRow { digest: Some(digest), ..self }
    }
}

/// What the ledger knows, as far as new objects are judged by it: some fifty bytes an object.
#[derive(Default)]
pub struct Ledger {
    /// Versions that were looked at.
    versions: HashSet<Id>,
    /// Digest of what was ingested under a name.
    ingested: HashMap<Id, Id>,
    /// Digests of everything that was ingested.
    digests: HashSet<Id>,
}

/// Texts, by the first half of their SHA-256: two that are alike do not occur.
type Id = [u8; 16];

fn id(texts: &[&str]) -> Id {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.finalize()[..16].try_into().expect("a digest has 32 bytes")
}

/// The last word on a version.
struct Word {
    /// The later batch counts, and within a batch what is not `ingested`: it says that the rows are lost.
    order: (i64, bool),
    status: Status,
    name: Id,
    digest: Option<Id>,
}

impl Ledger {
    /// Reads what the ledger has on objects that can hold requests of `since` or later. With `retry_quarantined` the objects
    /// that were set aside are not known.
    pub async fn load(
        session: &SessionContext,
        retry_quarantined: bool,
        since: Option<DateTime<Utc>>,
    ) -> Result<Ledger, EngineError> {
        let failed = |error| query_error(LEDGER, error);
        let mut words: HashMap<Id, Word> = HashMap::new();
        // A day and more on the safe side: keys may name other hours than their requests have. One that is not known here
        // and should be is read again, and its bytes are known.
        let from = since.map_or(DateTime::UNIX_EPOCH, |since| since - TimeDelta::days(2));
        let parameters = vec![("from", timestamp(from))];
        let mut rows = prepare(session, LEDGER, parameters).await?.execute_stream().await.map_err(failed)?;
        let stored = Table::Objects.schema().stored();
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            let columns: Vec<usize> =
                batch.schema().fields().iter().filter_map(|f| stored.index_of(f.name()).ok()).collect();
            let schema = Arc::new(stored.project(&columns).expect("the places are those of its fields"));
            let batch = conform(&batch, &schema).map_err(|message| EngineError::Rows { file: LEDGER.file, message })?;
            let text = |column: usize| batch.column(column).as_string_view();
            let (locations, keys, etags, digests, statuses) = (text(0), text(1), text(2), text(3), text(4));
            let batches = batch.column(5).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let status = match statuses.value(row) {
                    "ingested" => Status::Ingested,
                    "duplicate" => Status::Duplicate,
                    _ => Status::Quarantined,
                };
                let (location, key) = (locations.value(row), keys.value(row));
                let word = Word {
                    order: (batches.value(row), status != Status::Ingested),
                    status,
                    name: id(&[location, key]),
                    digest: digests.is_valid(row).then(|| id(&[digests.value(row)])),
                };
                match words.entry(id(&[location, key, etags.value(row)])) {
                    Entry::Occupied(mut known) if known.get().order < word.order => drop(known.insert(word)),
                    Entry::Occupied(_) => {}
                    Entry::Vacant(place) => drop(place.insert(word)),
                }
            }
        }
        let mut ledger = Ledger::default();
        for (version, word) in words {
            if word.status != Status::Quarantined || !retry_quarantined {
                ledger.insert(version, word.name, word.digest, word.status);
            }
        }
        Ok(ledger)
    }

    /// Reads what new objects are compared with: the digests of everything that was ingested, and what was ingested under their names,
    /// however long ago.
    pub async fn load_digests(&mut self, session: &SessionContext, new: &HashSet<&str>) -> Result<(), EngineError> {
        let failed = |error| query_error(DIGESTS, error);
        let mut rows = prepare(session, DIGESTS, vec![]).await?.execute_stream().await.map_err(failed)?;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            let text = |column: usize| {
                arrow::compute::cast(batch.column(column), &DataType::Utf8View).map_err(|error| failed(error.into()))
            };
            let (locations, keys, digests) = (text(0)?, text(1)?, text(2)?);
            let (locations, keys) = (locations.as_string_view(), keys.as_string_view());
            for (row, digest) in digests.as_string_view().iter().flatten().enumerate() {
                let digest = id(&[digest]);
                self.digests.insert(digest);
                if keys.is_valid(row) && new.contains(keys.value(row)) {
                    self.ingested.insert(id(&[locations.value(row), keys.value(row)]), digest);
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, version: Id, name: Id, digest: Option<Id>, status: Status) {
        self.versions.insert(version);
        if let (Status::Ingested, Some(digest)) = (status, digest) {
            self.digests.insert(digest);
            self.ingested.insert(name, digest);
        }
    }

    /// Whether this version of the object was looked at.
    pub fn knows(&self, location: &str, meta: &ObjectMeta) -> bool {
        self.versions.contains(&id(&[location, &meta.key, &meta.etag]))
    }

    /// What to do with an object that was read to its end.
    pub fn judge(&self, location: &str, meta: &ObjectMeta, report: &ObjectReport) -> Verdict {
        let duplicate = |reason: &str| Verdict { status: Status::Duplicate, reason: Some(reason.to_owned()) };
        let read = id(&[&report.digest]);
        match self.ingested.get(&id(&[location, &meta.key])) {
            Some(digest) if *digest == read => duplicate("the same bytes under the same name, written again"),
            Some(_) => Verdict::quarantined("other bytes under a name that was ingested before; the first stay, and these are never read: a log that is still written needs \
                 another name until it is whole".into()),
            // An hour without requests looks like any other.
            None if report.counts.rows > 0 && self.digests.contains(&read) => {
                duplicate("the same bytes were ingested under another name")
            }
            None => Verdict { status: Status::Ingested, reason: None },
        }
    }

    /// Takes note of a judgement, for the objects that come after it.
    pub fn add(&mut self, location: &str, meta: &ObjectMeta, report: &ObjectReport, status: Status) {
        let digest = (!report.digest.is_empty()).then(|| id(&[&report.digest]));
        self.insert(id(&[location, &meta.key, &meta.etag]), id(&[location, &meta.key]), digest, status);
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
    use crate::logs::Counts;

    fn meta(key: &str, etag: &str) -> ObjectMeta {
        ObjectMeta { key: key.into(), etag: etag.into(), size: 1, arrived_at: DateTime::UNIX_EPOCH }
    }

    fn report(digest: &str, rows: u64) -> ObjectReport {
        ObjectReport { digest: digest.into(), counts: Counts { rows, ..Counts::default() }, ..ObjectReport::default() }
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
