//! When each session would have been blocked under the real delivery of the logs and the config's schedule.
//!
//! A pass sees what had arrived by then, and detectors find the same however the rows came together: so a session is blocked
//! at the first pass at which what had come of it suffices. That pass is searched in steps, all sessions at once: each step is a
//! detection over what had come by several passes of each session, as if these were sessions of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::catalog::TableProvider;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::{Revocation, suffices};
use crate::config::Mode;
use crate::decide::{Policy, Proposal, propose};
use crate::detect::file::{Detector, Scope, Strength};
use crate::detect::{Inspection, Learned, Purpose, others_can_be_learned};
use crate::engine::{Engine, Sql, begin, collect, fetch, replace, select, sql};
use crate::history::Standing;
use crate::pass::Warden;
use crate::pass::revoke::{Case, cases_of};
use crate::pass::summary::Lag;
use crate::progress::Stage;
use crate::rows;
use crate::schema::Table;
use crate::store::{MemoryStore, Store, StoreError, Transaction};

const OBJECTS: Sql = sql!("replay/objects.sql");
const BATCHES_OF: Sql = sql!("replay/batches_of.sql");
const FIRST_SHARED: Sql = sql!("replay/first_shared.sql");
const OF_CANDIDATES: Sql = sql!("replay/of_candidates.sql");
const AS_OF: Sql = sql!("replay/as_of.sql");

/// What the logs tell of sessions.
const OF_SESSIONS: [Table; 4] = [Table::Activity, Table::Deliveries, Table::Refusals, Table::Credentials];

/// Passes that are gone through when the first with enough would not have blocked: its token had expired, say, and the one
/// that was refreshed came with the next logs.
const LATER_PASSES: usize = 30;

/// Passes of a session that are looked at in one step, at least and at most, and rows of the candidates that a step may make of that,
/// about: from there on the rows cost more than what each step does anyway, a statement for each detector and window. Two show
/// that a guess is right.
const LEAST_AT_ONCE: usize = 2;
const PASSES_AT_ONCE: usize = 8;
const ROWS_AT_ONCE: usize = 50_000;

/// What an object's name or clock may be wrong by.
const CLOCK_ERROR: TimeDelta = TimeDelta::minutes(1);

/// CloudFront delivers most logs within an hour and says that it can take up to 24 (CloudFront Developer Guide, "Access logs",
/// timing of log file delivery); two more for what is between.
const LONGEST_DELIVERY: TimeDelta = TimeDelta::hours(26);

/// Of the objects, how many must have arrived like that.
const PLAUSIBLE_SHARE: f64 = 0.9;

/// Objects that all arrived within this share of the time that their requests span were copied, not delivered.
const COPIED_SHARE: f64 = 0.1;

/// How the logs arrived, and how long a shared session would have lived.
#[derive(Debug, Serialize)]
pub struct Delivery {
    pub schedule_seconds: f64,
    /// From the last request of an object to its arrival.
    pub lag_seconds: Lag,
    /// Why the objects' times tell nothing; null: they do.
    pub unknown: Option<String>,
    /// Sessions that would have been blocked under this delivery, and those that would not: their tokens had expired, or
    /// their logs came too late.
    pub blocked: u64,
    pub not_blocked: u64,
    /// From the first shared minute to the pass that blocks.
    pub seconds_to_block: Lag,
}

#[derive(Deserialize)]
struct Arrived {
    batch: i64,
    arrived_at: DateTime<Utc>,
    first_time: DateTime<Utc>,
    last_time: DateTime<Utc>,
}

/// Tells of each revocation when its session was first shared and when it would have been blocked, and what that comes to.
/// `store` has been filled in order of arrival; `learned` is what the detection over it asked of everybody.
#[expect(clippy::too_many_arguments, reason = "all that a replay knows")]
pub async fn follow(
    warden: &Warden,
    store: &dyn Store,
    policy: &Policy<'_>,
    cases: &[Case],
    revocations: &mut [Revocation],
    learned: Learned,
    now: DateTime<Utc>,
    stage: &Stage,
) -> anyhow::Result<Delivery> {
    let schedule = &warden.config.schedule;
    let session = warden.engine.session_over(store, now).await?;
    let revoked = || revocations.iter().map(|revocation| revocation.session_id.as_str()).collect();
    let of_them = MemoryStore::default();
    let rows = copy_candidates(&warden.engine, store, revoked(), &of_them).await?;
    let theirs = warden.engine.session_over(&of_them, now).await?;
    candidates(&theirs, revoked())?;
    #[derive(Deserialize)]
    struct Shared {
        session_id: String,
        shared_at: DateTime<Utc>,
    }
    let shared = begin(&theirs, FIRST_SHARED, vec![]);
    let objects: Vec<Arrived> = fetch(&session, OBJECTS, vec![]).await?;
    let lags = objects.iter().map(|object| seconds(object.arrived_at - object.last_time)).collect();
    let mut delivery = Delivery {
        schedule_seconds: seconds(schedule.mean()),
        lag_seconds: Lag::of(lags),
        unknown: implausible(&objects),
        blocked: 0,
        not_blocked: 0,
        seconds_to_block: Lag::default(),
    };
    let proposals = if delivery.unknown.is_some() || revocations.is_empty() {
        None
    } else {
        let of_batch = objects.iter().map(|object| (object.batch, schedule.first_from(object.arrived_at))).collect();
        // Those that have nothing to say of these sessions need not be asked.
        let looked_for: BTreeSet<&str> = revocations.iter().map(|revocation| revocation.session_id.as_str()).collect();
        let speaking: HashSet<&str> = cases
            .iter()
            .filter(|case| looked_for.contains(case.session_id.as_str()))
            .flat_map(|case| &case.findings)
            .filter(|finding| finding.strength > Strength::Weak)
            .map(|finding| finding.detector.as_str())
            .collect();
        let detectors: Vec<Detector> = warden
            .detectors
            .iter()
            .filter(|detector| detector.mode >= Mode::Count && speaking.contains(detector.name.as_str()))
            .map(|detector| Detector {
                scores_only: true,
                others_are_learned: others_can_be_learned(detector),
                ..detector.clone()
            })
            .collect();
        let lag = TimeDelta::milliseconds((delivery.lag_seconds.median.unwrap_or(0.0) * 1_000.0) as i64);
        let decided = revocations
            .iter()
            .map(|revocation| (revocation.session_id.as_str(), revocation.decided_at + lag))
            .collect();
        let inspection = Inspection::new(&warden.engine, &session, &detectors, &warden.config, Purpose::Record).await?;
        // A step is about these sessions, and what the others did does not change: the detection has learned it, with all that these
        // sessions did, which is little among everybody.
        let needs_others = |detector: &Detector| detector.scope == Scope::All && !detector.others_are_learned;
        let (inspection, store, at_once): (_, &dyn Store, _) = if detectors.iter().any(needs_others) {
            // A session that is there several times would be several for what depends on everybody.
            (inspection, store, 1)
        } else {
            (
                inspection.with_learned(learned),
                &of_them,
                (ROWS_AT_ONCE / rows.max(1)).clamp(LEAST_AT_ONCE, PASSES_AT_ONCE),
            )
        };
        let passes = Passes { warden, inspection, store, policy, now, of_batch, at_once };
        Some(passes.search(&theirs, &decided, stage).await?)
    };
    let shared: HashMap<String, DateTime<Utc>> =
        shared.rows::<Shared>().await?.into_iter().map(|row| (row.session_id, row.shared_at)).collect();
    for revocation in revocations.iter_mut() {
        revocation.shared_at = shared.get(&revocation.session_id).copied();
    }
    let Some(proposals) = proposals else { return Ok(delivery) };
    let mut times = Vec::new();
    for revocation in revocations.iter_mut() {
        match proposals.get(&revocation.session_id) {
            Some((at, Outcome::Block)) => {
                revocation.blocked_at = Some(*at);
                delivery.blocked += 1;
                times.extend(revocation.shared_at.map(|shared_at| seconds(*at - shared_at)));
            }
            other => {
                delivery.not_blocked += 1;
                revocation.not_blocked = Some(match other {
                    Some((at, Outcome::Not(reason))) => format!("{}: {reason}", crate::time::rfc3339(*at)),
                    _ => "what had come never sufficed".to_owned(),
                });
            }
        }
    }
    delivery.seconds_to_block = Lag::of(times);
    Ok(delivery)
}

/// Why these are not the times at which CloudFront delivered the objects; none if they can be.
fn implausible(objects: &[Arrived]) -> Option<String> {
    let least = |time: fn(&Arrived) -> DateTime<Utc>| objects.iter().map(time).min();
    let most = |time: fn(&Arrived) -> DateTime<Utc>| objects.iter().map(time).max();
    let span = |time: fn(&Arrived) -> DateTime<Utc>| Some(most(time)? - least(time)?);
    let plausible = |object: &&Arrived| {
        let lag = object.arrived_at - object.last_time;
        -CLOCK_ERROR <= lag && lag <= LONGEST_DELIVERY
    };
    if objects.is_empty() {
        return Some("no object was read".to_owned());
    }
    let count = objects.iter().filter(plausible).count();
    if (count as f64) < PLAUSIBLE_SHARE * objects.len() as f64 {
        return Some(format!(
            "{} of {} objects arrived before their last request or more than {} hours after it: copies keep their times only \
             where one asks for it (aws s3 sync does, cp needs -p)",
            objects.len() - count,
            objects.len(),
            LONGEST_DELIVERY.num_hours()
        ));
    }
    let (arrivals, requests) = (span(|object| object.arrived_at)?, most(|o| o.last_time)? - least(|o| o.first_time)?);
    let at_once = seconds(arrivals) < COPIED_SHARE * seconds(requests) && requests > TimeDelta::hours(1);
    at_once.then(|| {
        format!(
            "the objects of {} minutes of requests all arrived within {} minutes: they were copied",
            requests.num_minutes(),
            arrivals.num_minutes()
        )
    })
}

/// What a pass that had enough would have done.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Block,
    /// It would not have blocked, and why. A later one may.
    Not(String),
}

/// The search of one session.
#[derive(Default)]
struct Search {
    /// The passes that saw new rows of it, each with the last batch that it saw.
    passes: Vec<(DateTime<Utc>, i64)>,
    /// The first pass that suffices is one of `low..=high`.
    low: usize,
    high: usize,
    /// The pass that is looked at first: what decided should have come by then.
    guess: Option<usize>,
    /// What `high` came to, once that was looked at.
    at_high: Option<Outcome>,
    /// The passes after the first that suffices, which are gone through one by one while none blocks.
    later: usize,
}

impl Search {
    /// A pass saw new rows of it. They come in order.
    fn saw(&mut self, pass: DateTime<Utc>, batch: i64) {
        match self.passes.last_mut() {
            Some((last, seen)) if *last == pass => *seen = batch,
            _ => self.passes.push((pass, batch)),
        }
        self.high = self.passes.len() - 1;
    }

    /// The passes to look at next, so many at most, in order; none once it is found.
    fn next(&self, most: usize) -> Vec<usize> {
        match &self.at_high {
            _ if self.low < self.high => {
                let mut places = BTreeSet::new();
                // If the guess is right, these two show it.
                let guess = self.guess.filter(|guess| (self.low..=self.high).contains(guess));
                places.extend(guess);
                places.extend(
                    guess.and_then(|guess| guess.checked_sub(1)).filter(|place| *place >= self.low && most > 1),
                );
                // Shares of what is between, the last of them `high` itself as long as nothing is known of it.
                let is_known = usize::from(self.at_high.is_some());
                let parts = most.saturating_sub(places.len()) + is_known;
                let share = |part| self.low + (self.high - self.low) * part / parts.max(2);
                places.extend((1..parts + 1 - is_known).map(share));
                places.into_iter().filter(|place| is_known == 0 || *place < self.high).collect()
            }
            None if self.low == self.high => vec![self.high],
            Some(Outcome::Not(_)) if self.later < LATER_PASSES => {
                let first = self.high + 1 + self.later;
                (first..self.passes.len()).take(most.min(LATER_PASSES - self.later)).collect()
            }
            _ => vec![],
        }
    }

    /// Takes what passes came to, in order: nothing, where what had come by then did not suffice.
    fn take(&mut self, outcomes: impl IntoIterator<Item = (usize, Option<Outcome>)>) {
        self.guess = None;
        for (place, outcome) in outcomes {
            match outcome {
                // Enough came before, and that pass did not block.
                Some(Outcome::Block) if place > self.high => {
                    (self.low, self.high, self.at_high) = (place, place, Some(Outcome::Block));
                    return;
                }
                _ if place > self.high => self.later += 1,
                None => self.low = place + 1,
                outcome => {
                    (self.high, self.at_high) = (place, outcome);
                    return;
                }
            }
        }
    }
}

/// What the passes are judged with.
struct Passes<'a> {
    warden: &'a Warden,
    store: &'a dyn Store,
    policy: &'a Policy<'a>,
    inspection: Inspection<'a>,
    /// Which entries of the allow-list are in force, as for the replay itself.
    now: DateTime<Utc>,
    /// Of each batch the pass that first saw it.
    of_batch: BTreeMap<i64, DateTime<Utc>>,
    /// Passes of a session that are looked at in one step.
    at_once: usize,
}

/// A session as it was at one of the passes.
struct Probe<'a> {
    session: &'a str,
    /// Which of the session's passes it is.
    place: usize,
    pass: DateTime<Utc>,
    /// The last batch that had come.
    batch: i64,
    /// What the session is called there: the same session is looked at several times.
    name: String,
}

impl Passes<'_> {
    /// Of each candidate the first pass at which what had come of it suffices, and what that pass would have done. `decided`
    /// has the times by which that should be.
    async fn search(
        &self,
        session: &SessionContext,
        decided: &HashMap<&str, DateTime<Utc>>,
        stage: &Stage,
    ) -> anyhow::Result<HashMap<String, (DateTime<Utc>, Outcome)>> {
        #[derive(Deserialize)]
        struct Row {
            session_id: String,
            batch: i64,
        }
        let batches: Vec<Row> = fetch(session, BATCHES_OF, vec![]).await?;
        let mut searches: BTreeMap<String, Search> = BTreeMap::new();
        for Row { session_id, batch } in batches {
            let Some(pass) = self.of_batch.get(&batch) else { continue };
            searches.entry(session_id).or_default().saw(*pass, batch);
        }
        for (id, search) in &mut searches {
            let by = decided.get(id.as_str());
            search.guess = by.and_then(|by| search.passes.iter().position(|(pass, _)| pass >= by));
        }
        let most = searches.values().map(|search| search.passes.len()).max().unwrap_or(0);
        stage.set_total(u64::from(most.max(1).ilog(self.at_once + 1)) + 2);
        loop {
            stage.advance(1);
            let probes: Vec<Probe<'_>> = searches
                .iter()
                .flat_map(|(id, search)| {
                    search.next(self.at_once).into_iter().map(move |place| {
                        let (pass, batch) = search.passes[place];
                        Probe { session: id, place, pass, batch, name: format!("{place}/{id}") }
                    })
                })
                .collect();
            if probes.is_empty() {
                break;
            }
            tracing::debug!("{} passes of {} sessions are looked at", probes.len(), searches.len());
            let mut outcomes = self.judge(&probes).await?;
            let mut taken: BTreeMap<String, Vec<(usize, Option<Outcome>)>> = BTreeMap::new();
            for Probe { session, place, name, .. } in probes {
                taken.entry(session.to_owned()).or_default().push((place, outcomes.remove(&name)));
            }
            for (id, outcomes) in taken {
                searches.entry(id).and_modify(|search| search.take(outcomes));
            }
        }
        let found = searches.into_iter().filter_map(|(id, search)| {
            let (at, _) = *search.passes.get(search.high)?;
            Some((id, (at, search.at_high?)))
        });
        Ok(found.collect())
    }

    /// What passes would have done with sessions, from what had come by then, by the names of the probes; nothing where that did not
    /// suffice.
    async fn judge(&self, probes: &[Probe<'_>]) -> anyhow::Result<HashMap<String, Outcome>> {
        let engine = &self.warden.engine;
        let then = AsOf { engine, store: self.store, cutoffs: cutoffs(probes) };
        let session = engine.session_over(&then, DateTime::UNIX_EPOCH).await?;
        let at: HashMap<&str, &Probe<'_>> = probes.iter().map(|probe| (probe.name.as_str(), probe)).collect();
        let looked_at: BTreeSet<&str> = at.keys().copied().collect();
        candidates(&session, looked_at.clone())?;
        let (mut found, failures) = self.inspection.look_at(&session, &looked_at, self.now).await?;
        for failure in failures {
            tracing::warn!("time to block: {}", crate::text::printable(&failure.text));
        }
        found.sort_by_key(|finding| finding.window_end);
        let mut outcomes = HashMap::new();
        for Case { session_id: name, mut findings, facts, .. } in cases_of(&session, found, &[]).await? {
            let Some(Probe { session: id, pass, .. }) = at.get(name.as_str()) else { continue };
            findings.iter_mut().for_each(|finding| (*id).clone_into(&mut finding.session_id));
            if suffices(id, &findings, &facts, self.policy).is_none() {
                continue;
            }
            let outcome = match propose(id, &findings, &Standing::default(), &facts, self.policy, *pass) {
                Some(Proposal::Observe(draft)) => Outcome::Not(draft.reason),
                Some(_) => Outcome::Block,
                None => continue,
            };
            outcomes.insert(name, outcome);
        }
        Ok(outcomes)
    }
}

/// Makes the table `candidates`.
pub fn candidates(session: &SessionContext, ids: BTreeSet<&str>) -> Result<(), DataFusionError> {
    let ids = rows::texts_batch("session_id", ids);
    replace(session, "candidates", ids.schema(), vec![ids])
}

/// Copies what the tables have of the candidates; gives how many rows that are.
async fn copy_candidates(
    engine: &Engine,
    store: &dyn Store,
    ids: BTreeSet<&str>,
    copy: &MemoryStore,
) -> anyhow::Result<usize> {
    let mut copying = Vec::new();
    for table in OF_SESSIONS {
        let scratch = engine.session();
        scratch.register_table("uncut", store.provider(table, &scratch).await?)?;
        candidates(&scratch, ids.clone())?;
        copying.push((table, SpawnedTask::spawn(async move { collect(&scratch, OF_CANDIDATES, vec![]).await })));
    }
    let mut count = 0;
    for (table, rows) in copying {
        let (_, rows) = rows.join_unwind().await??;
        let rows: Result<Vec<RecordBatch>, String> =
            rows.iter().map(|rows| rows::conform(rows, &table.schema().stored())).collect();
        let rows = rows.map_err(anyhow::Error::msg)?;
        count += rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        copy.append(table, rows, &[]).await?;
    }
    Ok(count)
}

/// The table `cutoffs`.
fn cutoffs(probes: &[Probe<'_>]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![
        Field::new("session_id", DataType::Utf8, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("batch", DataType::Int64, false),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(probes.iter().map(|probe| probe.session))),
        Arc::new(StringArray::from_iter_values(probes.iter().map(|probe| &probe.name))),
        Arc::new(Int64Array::from_iter_values(probes.iter().map(|probe| probe.batch))),
    ];
    RecordBatch::try_new(schema, columns).expect("the columns are those of the schema")
}

/// The tables as they were when only a part of some sessions' rows had come; nothing can be written.
struct AsOf<'a> {
    engine: &'a Engine,
    store: &'a dyn Store,
    /// `session_id`, the last `batch` that had come, and what the session is called then (`name`).
    cutoffs: RecordBatch,
}

#[async_trait]
impl Store for AsOf<'_> {
    async fn transaction(&self, table: Table, app: &str) -> Result<Option<i64>, StoreError> {
        self.store.transaction(table, app).await
    }

    async fn append(&self, table: Table, _: Vec<RecordBatch>, _: &[Transaction]) -> Result<(), StoreError> {
        let source = DataFusionError::NotImplemented("the past is not written to".to_owned());
        Err(StoreError::Engine { table: table.name(), source: Box::new(source) })
    }

    async fn provider(&self, table: Table, session: &SessionContext) -> Result<Arc<dyn TableProvider>, StoreError> {
        let uncut = self.store.provider(table, session).await?;
        if !OF_SESSIONS.contains(&table) {
            return Ok(uncut);
        }
        let cut = async {
            let scratch = self.engine.session();
            scratch.register_table("uncut", uncut)?;
            let cutoffs = MemTable::try_new(self.cutoffs.schema(), vec![vec![self.cutoffs.clone()]])?;
            scratch.register_table("cutoffs", Arc::new(cutoffs))?;
            Ok(select(&scratch, AS_OF.text).await?.into_view())
        };
        cut.await.map_err(|source| StoreError::Engine { table: table.name(), source: Box::new(source) })
    }
}

fn seconds(span: TimeDelta) -> f64 {
    span.num_milliseconds() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        "2026-11-20T18:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minute)
    }

    fn object(first: i64, last: i64, arrived: i64) -> Arrived {
        Arrived { batch: 1, arrived_at: at(arrived), first_time: at(first), last_time: at(last) }
    }

    #[test]
    fn only_times_of_a_delivery_are_believed() {
        let delivered: Vec<Arrived> = (0..24).map(|n| object(5 * n, 5 * n + 5, 5 * n + 5 + 7 * (n % 3))).collect();
        assert_eq!(implausible(&delivered), None);
        let copied: Vec<Arrived> = (0..24).map(|n| object(5 * n, 5 * n + 5, 130 + n % 2)).collect();
        assert!(implausible(&copied).unwrap().contains("copied"));
        let copied_later: Vec<Arrived> = (0..24).map(|n| object(5 * n, 5 * n + 5, 5 * n + 3_000)).collect();
        assert!(implausible(&copied_later).unwrap().contains("24 of 24"));
        let before: Vec<Arrived> = (0..24).map(|n| object(5 * n, 5 * n + 5, 5 * n)).collect();
        assert!(implausible(&before).is_some());
        // A quarter of an hour that came at once is just that.
        assert_eq!(implausible(&[object(0, 15, 20), object(5, 15, 20)]), None);
        assert!(implausible(&[]).is_some());
    }

    /// Whatever the first pass is that suffices, and whatever was guessed, it is found, and its outcome kept.
    #[test]
    fn the_first_pass_that_suffices_is_found() {
        for passes in 1..40_usize {
            for first in 0..passes {
                let guesses = [None, Some(0), Some(first), Some(passes - 1)];
                for (guess, most) in guesses.into_iter().flat_map(|guess| [1, 2, 3, 8].map(|most| (guess, most))) {
                    let mut search = Search::default();
                    for pass in 0..passes as i64 {
                        search.saw(at(pass), pass);
                    }
                    search.guess = guess;
                    let mut steps = 0;
                    loop {
                        let places = search.next(most);
                        if places.is_empty() {
                            break;
                        }
                        assert!(places.len() <= most.max(1) && places.is_sorted(), "{places:?}");
                        search
                            .take(places.into_iter().map(|place| (place, (place >= first).then_some(Outcome::Block))));
                        steps += 1;
                    }
                    assert_eq!(
                        (search.high, search.at_high),
                        (first, Some(Outcome::Block)),
                        "{passes} {first} {guess:?}"
                    );
                    assert!(steps <= passes.ilog(most + 1) + 4, "{steps} of {passes}, {most} at once");
                }
            }
        }
        let mut never = Search::default();
        never.saw(at(0), 1);
        never.saw(at(0), 2);
        never.saw(at(3), 3);
        assert_eq!(never.passes, [(at(0), 2), (at(3), 3)]);
        while let Some(place) = never.next(1).pop() {
            never.take([(place, None)]);
        }
        assert!(never.at_high.is_none());
    }

    #[test]
    fn a_later_pass_may_block_where_the_first_with_enough_does_not() {
        let found = |blocks_from: usize, most: usize| {
            let mut search = Search::default();
            (0..60).for_each(|pass| search.saw(at(pass), pass));
            loop {
                let places = search.next(most);
                if places.is_empty() {
                    return (search.high, search.at_high);
                }
                search.take(places.into_iter().map(|place| {
                    let outcome = if place >= blocks_from { Outcome::Block } else { Outcome::Not("expired".into()) };
                    (place, (place >= 20).then_some(outcome))
                }));
            }
        };
        for most in [1, 2, 8] {
            assert_eq!(found(20, most), (20, Some(Outcome::Block)));
            assert_eq!(found(21, most), (21, Some(Outcome::Block)));
            assert_eq!(found(29, most), (29, Some(Outcome::Block)));
            assert_eq!(found(60, most), (20, Some(Outcome::Not("expired".into()))));
        }
    }
}
