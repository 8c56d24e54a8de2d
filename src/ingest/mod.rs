//! Ingestion: new log objects into the stored tables, in batches, each counted exactly once.
//!
//! A batch N first commits its rows of `objects` with `batch = N`; from then on it is settled which objects
//! it has. Then come its rows of the other tables, each with the transaction (`ingest`, N), `activity` last.
//! A batch that `activity` lacks was cut off: it is finished first, with exactly the objects that the ledger
//! gives it, skipping the tables that have it.

mod ledger;
pub mod tally;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};

use crate::alarm::{Alarm, AlarmKind};
use crate::engine::{Engine, EngineError};
use crate::logs::spare::Pool;
use crate::logs::{ObjectReport, ReadContext};
use crate::notices::Facts;
use crate::progress::Stage;
use crate::requests::{self, LogObject, ObjectError, Place};
use crate::rows;
use crate::schedule::Schedule;
use crate::schema::Table;
use crate::source::{self, ObjectMeta};
use crate::store::{Store, StoreError, Transaction};
use crate::text::printable;
use crate::time::rfc3339;
use ledger::{Ledger, LedgerRow, Status, Verdict};
use tally::{Reading, Tally};

/// The application transaction of a batch, in every table that it is written to.
pub const INGEST: &str = "ingest";

/// Objects in a batch, at most: what a cut-off run has to do again, at most.
const BATCH_OBJECTS: usize = 1_000;

/// Rolled-up rows in a batch, at most, beyond the last object.
const BATCH_ROLLED_ROWS: usize = 500_000;

/// How often an object is tried again that cannot be read for the moment, before it is left to the next run. The AWS client
/// has its own attempts at each request; these are for answers that break off.
const RETRIES: u32 = 3;

/// Objects that were set aside and are named in the alarms; of more there is the number.
const NAMED_QUARANTINED: u64 = 10;

/// What an ingestion did.
#[derive(Debug, Default)]
pub struct Ingested {
    pub listed: u64,
    pub ingested: u64,
    pub duplicate: u64,
    pub quarantined: u64,
    pub rejected: u64,
    /// What was read of the others.
    pub facts: Facts,
    /// Seconds from the last request in an object to its arrival.
    pub lags: Vec<f64>,
    /// For a person to look at: objects that were set aside or changed; places that could not be listed and objects that
    /// could not be read now, which the next run tries again.
    pub alarms: Vec<Alarm>,
}

/// Why ingestion stopped.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("batch {batch}, which an earlier run began, cannot be finished now: {reason}")]
    Unfinished { batch: i64, reason: String },
    #[error(
        "the ledger ends at batch {ledger}, and rows of batch {rows} are there: the table objects of the state has lost what it knew, and \
         what it has forgotten would be counted twice; put it back from a backup or the bucket's versions, or begin with a new place in \
         [state] location"
    )]
    LedgerLost { ledger: i64, rows: i64 },
    #[error("rows cannot be written: {0}")]
    Rows(String),
}

/// What to read and where to put it.
pub struct Ingestion<'a> {
    pub engine: &'a Engine,
    pub store: &'a dyn Store,
    pub context: &'a ReadContext,
    pub now: DateTime<Utc>,
    /// Objects that were set aside are tried again.
    pub retry_quarantined: bool,
    /// Objects are taken in order of their arrival, those of each pass of such a schedule in batches of their own: a batch tells
    /// by when its rows had come.
    pub by_arrival: Option<&'a Schedule>,
    /// Called when there is something to read.
    pub on_news: &'a (dyn Fn() + Sync),
}

impl IngestError {
    /// The state itself cannot be used: nothing more may be done with it, WAF keeps what it has.
    pub fn is_of_the_state(&self) -> bool {
        matches!(self, IngestError::Store(_) | IngestError::Engine(EngineError::Store(_)))
    }
}

/// Gives the memory of what was read back, however an ingestion ends.
struct Cleared<'a>(&'a ReadContext);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.0.clear_spare();
    }
}

impl Ingestion<'_> {
    /// Finishes what was cut off, then ingests what is new. Progress is in bytes as stored.
    pub async fn run(&self, places: &[Place], stage: &Stage) -> Result<Ingested, IngestError> {
        let _spare = Cleared(self.context);
        let readings = Arc::default();
        let mut done = Ingested::default();
        let mut session = self.engine.session_over(self.store, self.now).await?;
        let mut batch = ledger::last_batch(&session).await?;
        let complete = self.store.transaction(Table::Activity, INGEST).await?.unwrap_or(0);
        // Each batch begins with rows of the ledger, and these are never dropped.
        if batch < complete {
            return Err(IngestError::LedgerLost { ledger: batch, rows: complete });
        }
        if batch > complete {
            self.finish(batch, places, &mut done).await?;
            session = self.engine.session_over(self.store, self.now).await?;
        }
        let since = places.iter().map(|place| place.since).min().flatten();
        let ledger = Ledger::load(&session, self.retry_quarantined, since);
        let (ledger, listed) = futures::join!(ledger, list(places, &mut done));
        let mut ledger = ledger?;
        let is_new = |(place, meta): &(&Place, ObjectMeta)| !ledger.knows(place.source.location(), meta);
        let mut new: Vec<LogObject> =
            listed.into_iter().filter(is_new).map(|(place, meta)| place.object(meta)).collect();
        let arrival = |object: &LogObject| self.by_arrival.map(|schedule| schedule.first_from(object.meta.arrived_at));
        new.sort_by_key(arrival);
        if !new.is_empty() {
            (self.on_news)();
            let keys = new.iter().map(|object| object.meta.key.as_str()).collect();
            ledger.load_digests(&session, &keys).await?;
        }
        stage.set_total(new.iter().map(|object| object.meta.size).sum());
        let mut reading = stream::iter(new)
            .map(|object| async {
                let outcome = read_with_retries(&object, self.context, &readings).await;
                (object, outcome)
            })
            .buffered(self.engine.threads().max(1) + 1);
        let mut open = Batch::default();
        let mut denied = Vec::new();
        let mut readable = HashSet::new();
        while let Some((object, outcome)) = reading.next().await {
            stage.advance(object.meta.size);
            if let Err(ObjectError::Denied(reason)) = outcome {
                denied.push((object, reason));
                continue;
            }
            if matches!(outcome, Ok(_) | Err(ObjectError::Broken(_))) {
                readable.insert(object.source.location().to_owned());
            }
            if open.arrival != arrival(&object) && !open.rows.is_empty() {
                batch += 1;
                self.commit(batch, std::mem::take(&mut open)).await?;
            }
            open.arrival = arrival(&object);
            self.take(&object, outcome, &mut ledger, &mut open, &mut done);
            if open.rows.len() >= BATCH_OBJECTS || open.tally.rows() >= BATCH_ROLLED_ROWS {
                batch += 1;
                self.commit(batch, std::mem::take(&mut open)).await?;
            }
        }
        for (object, reason) in denied {
            if readable.contains(object.source.location()) {
                self.take(&object, Err(ObjectError::Broken(reason)), &mut ledger, &mut open, &mut done);
            } else {
                // Not one object of the place may be read: that is a missing permission, not a broken object.
                done.unreadable(
                    &object.source,
                    format!("{}: {reason}; the next run tries again", printable(&object.name())),
                );
            }
        }
        if !open.rows.is_empty() {
            batch += 1;
            self.commit(batch, open).await?;
        }
        if done.quarantined > 0 {
            let text = format!(
                "{} objects were quarantined; SELECT * FROM objects WHERE status = 'quarantined' shows them, and once the cause \
                 is mended run --retry-quarantined reads them",
                done.quarantined
            );
            done.alarms.push(Alarm::new(AlarmKind::ObjectQuarantined, text));
        }
        Ok(done)
    }

    /// Judges one object that was read, and takes its rows into the open batch if they count.
    fn take(&self, object: &LogObject, outcome: Outcome, ledger: &mut Ledger, open: &mut Batch, done: &mut Ingested) {
        let location = object.source.location();
        let name = || printable(&object.name()).into_owned();
        let (report, verdict) = match &outcome {
            Ok((report, ..)) => (report.clone(), ledger.judge(location, &object.meta, report)),
            Err(ObjectError::Unavailable(reason)) => {
                done.unreadable(&object.source, format!("{}: {reason}; the next run tries again", name()));
                return;
            }
            Err(ObjectError::Changed(reason)) => {
                tracing::warn!("{} has changed since it was listed, the next run reads it: {reason}", name());
                return;
            }
            Err(ObjectError::Gone(reason)) => {
                let reason = format!("it was deleted after it had been listed, its rows are not counted: {reason}");
                (ObjectReport::default(), Verdict::quarantined(reason))
            }
            Err(ObjectError::Broken(reason) | ObjectError::Denied(reason)) => {
                (ObjectReport::default(), Verdict::quarantined(reason.clone()))
            }
        };
        match verdict.status {
            Status::Ingested => {
                done.ingested += 1;
                done.count(&report, &object.meta);
                if report.rejected > 0 {
                    tracing::warn!(
                        "{}: {} lines rejected; {}",
                        name(),
                        report.rejected,
                        report.rejected_examples.join("; ")
                    );
                }
            }
            Status::Duplicate => {
                done.duplicate += 1;
                tracing::debug!("{}: {}", name(), verdict.reason.as_deref().unwrap_or_default());
            }
            Status::Quarantined => {
                done.quarantined += 1;
                let reason = verdict.reason.as_deref().unwrap_or_default();
                if done.quarantined <= NAMED_QUARANTINED {
                    let text = format!("{} was quarantined: {reason}", name());
                    done.alarms.push(Alarm::about(AlarmKind::ObjectQuarantined, object.name(), text));
                } else {
                    tracing::warn!("{} was quarantined: {reason}", name());
                }
            }
        }
        let ingested = verdict.status == Status::Ingested;
        ledger.add(location, &object.meta, &report, verdict.status);
        open.rows.push(LedgerRow::new(location, &object.meta, &report, verdict, self.now));
        if let (true, Ok((_, tally))) = (ingested, outcome) {
            open.tally.add(tally);
        }
    }

    /// Writes a batch: the ledger first, `activity` last.
    async fn commit(&self, batch: i64, mut open: Batch) -> Result<(), IngestError> {
        for row in &mut open.rows {
            row.batch = batch;
        }
        let ledger = rows::encode(Table::Objects.schema().stored(), &open.rows).map_err(IngestError::Rows)?;
        self.store.append(Table::Objects, vec![ledger], &[Transaction::new(INGEST, batch)]).await?;
        self.commit_tally(batch, open.tally, &[]).await
    }

    /// Writes the rows of a batch to the tables that lack it.
    async fn commit_tally(&self, batch: i64, tally: Tally, have: &[Table]) -> Result<(), IngestError> {
        let append =
            |table, rows| async move { self.store.append(table, rows, &[Transaction::new(INGEST, batch)]).await };
        let (activity, others): (Vec<_>, Vec<_>) = tally
            .into_rows(batch)
            .into_iter()
            .filter(|(table, _)| !have.contains(table))
            .partition(|(table, _)| *table == Table::Activity);
        // In S3 each takes several requests. None is broken off because another fails.
        let with_rows = others.into_iter().filter(|(_, rows)| !rows.is_empty());
        let written = join_all(with_rows.map(|(table, rows)| append(table, rows))).await;
        written.into_iter().collect::<Result<(), StoreError>>()?;
        // It closes the batch, with rows or without.
        for (table, rows) in activity {
            append(table, rows).await?;
        }
        Ok(())
    }

    /// Finishes a batch that was cut off after the ledger had it.
    async fn finish(&self, batch: i64, places: &[Place], done: &mut Ingested) -> Result<(), IngestError> {
        tracing::warn!("batch {batch} was cut off; it is finished first");
        let session = self.engine.session_over(self.store, self.now).await?;
        let mut tally = Tally::default();
        let mut lost = Vec::new();
        for (location, meta, digest) in ledger::objects_of(&session, batch).await? {
            let place = source::Location::parse(&location, std::path::Path::new("/"))
                .map_err(|error| IngestError::Unfinished { batch, reason: format!("{location}: {error}") })?;
            // A place that has left the config since is read as what its content shows.
            let form = places.iter().find(|place| place.source.location() == location).map(|place| place.form.clone());
            let is_in_use = form.is_some();
            let source = source::connect(&place).await;
            let object = LogObject { source, meta, form: form.unwrap_or_default() };
            let outcome = match read_with_retries(&object, self.context, &Arc::default()).await {
                Ok((report, _)) if report.digest != digest => Err(ObjectError::Changed("its bytes are others".into())),
                outcome => outcome,
            };
            // Where nothing can be listed, a place is not there for the moment: a folder that is not mounted.
            let outcome = match outcome {
                Err(ObjectError::Gone(reason)) if is_in_use => match object.source.list(None).try_next().await {
                    Ok(_) => Err(ObjectError::Gone(reason)),
                    Err(error) => Err(ObjectError::Unavailable(error.to_string())),
                },
                outcome => outcome,
            };
            match outcome {
                Ok((_, read)) => tally.add(read),
                Err(ObjectError::Unavailable(reason) | ObjectError::Denied(reason)) => {
                    return Err(IngestError::Unfinished { batch, reason: format!("{object:?}: {reason}") });
                }
                Err(ObjectError::Gone(reason) | ObjectError::Changed(reason) | ObjectError::Broken(reason)) => {
                    let reason =
                        format!("its rows are lost: it changed or went away after batch {batch} was begun: {reason}");
                    let text = format!("{object:?}: {reason}");
                    done.alarms.push(Alarm::about(AlarmKind::RowsLost, object.name(), text));
                    done.quarantined += 1;
                    let mut row = LedgerRow::new(
                        &location,
                        &object.meta,
                        &ObjectReport::default(),
                        Verdict::quarantined(reason),
                        self.now,
                    );
                    row.batch = batch;
                    lost.push((row, digest));
                }
            }
        }
        let mut have = Vec::new();
        for table in [Table::Refusals, Table::Deliveries, Table::Credentials, Table::Activity] {
            if self.store.transaction(table, INGEST).await?.is_some_and(|version| version >= batch) {
                have.push(table);
            }
        }
        if !lost.is_empty() {
            // Where some tables have its rows, its bytes stay known: read again they would be there twice.
            let known =
                |(row, digest): (LedgerRow, String)| if have.is_empty() { row } else { row.with_digest(digest) };
            let lost: Vec<LedgerRow> = lost.into_iter().map(known).collect();
            let rows = rows::encode(Table::Objects.schema().stored(), &lost).map_err(IngestError::Rows)?;
            self.store.append(Table::Objects, vec![rows], &[]).await?;
        }
        self.commit_tally(batch, tally, &have).await
    }
}

/// The objects of the places, oldest names first.
async fn list<'a>(places: &'a [Place], done: &mut Ingested) -> Vec<(&'a Place, ObjectMeta)> {
    let mut listed = Vec::new();
    let mut seen = HashSet::new();
    for place in places {
        let mut listing = place.source.list(place.since);
        let before = done.listed + done.alarms.len() as u64;
        loop {
            match listing.try_next().await {
                Ok(Some(meta)) => {
                    // Two entries [[logs]] may overlap.
                    if seen.insert((place.source.location().to_owned(), meta.key.clone())) {
                        done.listed += 1;
                        listed.push((place, meta));
                    }
                }
                Ok(None) => break,
                Err(error) => done.unreadable(&place.source, error.to_string()),
            }
        }
        if before == done.listed + done.alarms.len() as u64 {
            let since = place.since.map_or(String::new(), |since| format!(" since {} (lookback)", rfc3339(since)));
            tracing::info!("{} holds no log object with requests{since}", place.source.location());
        }
    }
    listed
}

/// A batch that is being put together.
#[derive(Default)]
struct Batch {
    rows: Vec<LedgerRow>,
    tally: Tally,
    /// When its objects had arrived, if that matters.
    arrival: Option<DateTime<Utc>>,
}

/// An object that was read to its end: its report and its rows. Or why it was not.
type Outcome = Result<(ObjectReport, Tally), ObjectError>;

/// Reads an object. What fails for the moment is tried again, from the beginning.
async fn read_with_retries(object: &LogObject, context: &ReadContext, spare: &Arc<Pool<Reading>>) -> Outcome {
    let mut attempt = 0;
    loop {
        match requests::read(object, context, Tally::with_spare(spare)).await {
            Err(ObjectError::Unavailable(reason)) if attempt < RETRIES => {
                let pause = pause(attempt, uuid::Uuid::new_v4().as_u128());
                tracing::warn!("{object:?}: {reason}; trying again in {pause:.1?}");
                tokio::time::sleep(pause).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Half a second, doubling, with up to as much again by chance.
fn pause(attempt: u32, chance: u128) -> Duration {
    let base = 500u64 << attempt;
    Duration::from_millis(base + (chance % u128::from(base)) as u64)
}

impl Ingested {
    /// Something of a place could not be read for now.
    fn unreadable(&mut self, source: &Arc<dyn source::LogSource>, text: String) {
        self.alarms.push(Alarm::about(AlarmKind::LogsUnreadable, source.location(), text));
    }

    fn count(&mut self, report: &ObjectReport, meta: &ObjectMeta) {
        self.rejected += report.rejected;
        self.facts.add(report);
        if let Some(last) = report.last_time {
            let lag = (meta.arrived_at - last).max(TimeDelta::zero());
            self.lags.push(lag.num_milliseconds() as f64 / 1_000.0);
        }
    }
}
