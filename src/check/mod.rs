//! Everything tried without changing anything, and what the newest logs show: formats, fields, sessions under each scheme, and
//! what is missing, with the mend.

mod trials;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::datasource::MemTable;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::config::{Config, LogFormat};
use crate::engine::{Engine, Sql, fetch, query_error, sql};
use crate::logs::fields::{Field, FieldSet};
use crate::logs::{Batches, ObjectReport, ReadContext};
use crate::notices::{Facts, Notice, notices};
use crate::pass::Warden;
use crate::requests::{LogObject, ObjectError, Place, places, read};
use crate::schema::Table;
use crate::session::Scheme;
use crate::source::ObjectMeta;
use crate::source::names;
use crate::time::Clock;
pub use trials::{Outcome, Trial};

const SCHEME: Sql = sql!("check/scheme.sql");
const LOGGED_SHARE: Sql = sql!("check/logged_share.sql");

/// Objects of a place that are looked at, the newest.
const OBJECTS: usize = 10;

/// Sorts of keys of which objects are looked at.
const SORTS: usize = 8;

/// Requests that are looked at, about.
const REQUESTS: u64 = 200_000;

/// Steps from one segment to the next, at least, to tell that requests are missing between them, and the share of them that
/// is expected where all are logged.
const LEAST_STEPS: i64 = 200;
const LEAST_LOGGED_SHARE: f64 = 0.85;

/// What `streamwarden check` found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Every key of the config with the value that is in force.
    pub config: toml::Table,
    pub tried: Vec<Trial>,
    pub logs: Vec<CheckedLogs>,
    pub requests: u64,
    pub accepted: u64,
    /// What each scheme makes of the accepted requests: those of the config one by one, then the others that need
    /// nothing to be told.
    pub schemes: Vec<CheckedScheme>,
    pub notices: Vec<Notice>,
    #[serde(skip)]
    pub failures: Vec<String>,
}

/// One place.
#[derive(Debug, Serialize)]
pub struct CheckedLogs {
    pub location: String,
    /// Objects within `lookback`.
    pub objects: u64,
    /// How many of them were read, by format.
    pub formats: BTreeMap<&'static str, u64>,
    /// Names of the columns, keys or configured fields.
    pub fields: BTreeSet<String>,
    pub rows: u64,
    pub rejected: u64,
    pub rejected_examples: Vec<String>,
    pub newest_request: Option<DateTime<Utc>>,
    /// Newest objects that cannot be read, and why.
    pub unreadable: Vec<String>,
}

/// One scheme.
#[derive(Debug, Serialize)]
pub struct CheckedScheme {
    pub scheme: &'static str,
    /// It is in the config.
    pub configured: bool,
    /// Accepted requests with a session id under it, and their share of all accepted ones.
    pub requests: i64,
    pub share: f64,
    /// Of these, with an id that the signature covers, and with one that stands in for an id.
    pub bound: i64,
    pub derived: i64,
    pub sessions: i64,
    /// Networks that one session was used from.
    pub mean_networks: f64,
    pub most_networks: i64,
}

/// Tries everything, and looks at the newest log objects of every place.
pub async fn check(warden: &Warden, clock: Clock) -> anyhow::Result<Checked> {
    let (config, now) = (&warden.config, clock.now());
    let mut checked = Checked {
        config: config.resolved.clone(),
        tried: trials::of_what_is_needed(warden, clock).await,
        logs: vec![],
        requests: 0,
        accepted: 0,
        schemes: vec![],
        notices: vec![],
        failures: vec![],
    };
    let mut facts = Facts::default();
    let mut objects = Vec::new();
    for place in places(&config.logs, now).await {
        let (logs, newest) = look_at(&place, &mut checked.failures).await;
        checked.logs.push(logs);
        objects.push(newest);
    }
    let schema = columns(&[
        "session_id",
        "bound",
        "derived",
        "network",
        "country",
        "user_agent",
        "content",
        "path",
        "kind",
        "accepted",
    ]);
    let mut batches = Vec::new();
    let mut read = Vec::new();
    for (logs, newest) in checked.logs.iter_mut().zip(objects) {
        for object in newest {
            if facts.counts.rows >= REQUESTS {
                break;
            }
            match rows_of(&object, &warden.context, schema.clone()).await {
                Ok((report, rows)) => {
                    logs.take(&report);
                    facts.add(&report);
                    batches.extend(rows);
                    read.push(object);
                }
                Err(error) => logs.unreadable.push(format!("{}: {error}", object.name())),
            }
        }
    }
    (checked.requests, checked.accepted) = (facts.counts.rows, facts.counts.accepted);

    let named: Vec<Scheme> = config.sessions.clone();
    let others = Scheme::without_keys();
    // Each is a reading of its own: not for what the logs do not show.
    let can_be = |scheme: &Scheme| scheme.fields() == FieldSet::default() || scheme.fields().overlaps(facts.seen);
    let others =
        others.into_iter().filter(|other| named.iter().all(|scheme| scheme.name() != other.name()) && can_be(other));
    for (scheme, configured) in named.iter().cloned().map(|s| (s, true)).chain(others.map(|s| (s, false))) {
        let found = scheme_facts(warden, &read, scheme, configured, facts.counts.accepted).await?;
        if configured || found.requests > 0 {
            checked.schemes.push(found);
        }
    }

    checked.tried.extend(trials::of_logs(&checked.logs, &checked.failures, clock));
    checked.notices = notices(&facts, config, &warden.detectors);
    checked.notices.extend(more_notices(&checked, &facts, config));
    if facts.formats.contains(&LogFormat::Realtime)
        && let Some(share) = logged_share(&warden.engine, schema, batches).await?
    {
        checked.notices.push(Notice::problem(
            format!("only about {:.0} % of the segments that viewers watch in a row are logged", share * 100.0),
            "set the sampling rate of the real-time log configuration to 100: detectors count networks and segments, and see too few",
        ));
    }
    Ok(checked)
}

/// Notices that only a check has the facts for.
fn more_notices(checked: &Checked, facts: &Facts, config: &Config) -> Vec<Notice> {
    let mut notices = Vec::new();
    for logs in &checked.logs {
        if logs.objects == 0 && checked.failures.is_empty() {
            notices.push(Notice::problem(
                format!("{} holds no log object within `lookback`", logs.location),
                "look at location and lookback; delivery begins some hours after logging was switched on",
            ));
        }
        if !logs.unreadable.is_empty() {
            notices.push(Notice::problem(
                format!(
                    "{} of the newest objects of {} cannot be read: {}",
                    logs.unreadable.len(),
                    logs.location,
                    logs.unreadable[0]
                ),
                "look at format and fields, and at what else is written there",
            ));
        }
        if logs.rejected > 0 {
            notices.push(Notice::problem(
                format!(
                    "{} of {} records of {} cannot be read: {}",
                    logs.rejected,
                    logs.rejected + logs.rows,
                    logs.location,
                    logs.rejected_examples.join("; ")
                ),
                "look at these lines; where the fields of real-time logs were changed, change `fields` too",
            ));
        }
    }
    if facts.counts.rows > 0 && !facts.seen.has(Field::UserAgent) {
        notices.push(Notice::hint(
            "no request has a user agent, so many_user_agents finds nothing",
            "add the field cs(User-Agent) to the logs",
        ));
    }
    for scheme in &checked.schemes {
        if scheme.configured && scheme.requests == 0 && facts.counts.accepted > 0 {
            notices.push(Notice::problem(
                format!("no accepted request has a session id under the scheme {}", scheme.scheme),
                "look at the keys of this [[session]], and at min_length, max_length and alphabet",
            ));
        }
        if !scheme.configured && scheme.share >= 0.05 {
            notices.push(Notice::hint(
                format!("{:.0} % of the accepted requests have a session id under the scheme {}, which is not in the config",
                    scheme.share * 100.0, scheme.scheme),
                format!("perhaps a [[session]] with scheme = \"{}\" is missing", scheme.scheme),
            ));
        }
        let shared = scheme.configured && scheme.derived > 0 && scheme.most_networks > 1;
        if shared && !config.guard.enforce_derived {
            notices.push(Notice::hint(
                format!(
                    "one signature or key of the scheme {} is used from {} networks, {:.1} on average",
                    scheme.scheme, scheme.most_networks, scheme.mean_networks
                ),
                "viewers with equal policies have equal signatures, and then such sessions must not be blocked (guard.enforce_derived)",
            ));
        }
    }
    notices
}

impl CheckedLogs {
    fn take(&mut self, report: &ObjectReport) {
        *self.formats.entry(report.format.map_or("none", LogFormat::name)).or_default() += 1;
        self.fields.extend(report.fields.iter().cloned());
        self.rows += report.counts.rows;
        self.rejected += report.rejected;
        self.rejected_examples.extend(report.rejected_examples.iter().cloned());
        self.rejected_examples.truncate(3);
        self.newest_request = self.newest_request.max(report.last_time);
    }
}

/// How many objects a place has, and the newest of them, the latest first.
async fn look_at(place: &Place, failures: &mut Vec<String>) -> (CheckedLogs, Vec<LogObject>) {
    let mut logs = CheckedLogs {
        location: place.source.location().to_owned(),
        objects: 0,
        formats: BTreeMap::new(),
        fields: BTreeSet::new(),
        rows: 0,
        rejected: 0,
        rejected_examples: vec![],
        newest_request: None,
        unreadable: vec![],
    };
    // Of each sort of key some: a bucket may hold several kinds of log, and other things.
    let mut newest: BTreeMap<String, BTreeMap<(DateTime<Utc>, String), ObjectMeta>> = BTreeMap::new();
    let mut listing = place.source.list(place.since);
    loop {
        match listing.try_next().await {
            Ok(Some(meta)) => {
                logs.objects += 1;
                let time = names::period(&meta.key).map_or(meta.arrived_at, |period| period.start);
                let sort = sort_of(&meta.key);
                if newest.contains_key(&sort) || newest.len() < SORTS {
                    let of_sort = newest.entry(sort).or_default();
                    of_sort.insert((time, meta.key.clone()), meta);
                    if of_sort.len() > OBJECTS {
                        of_sort.pop_first();
                    }
                }
            }
            Ok(None) => break,
            Err(error) => failures.push(error.to_string()),
        }
    }
    // In turn, the newest of each sort first.
    let share = OBJECTS.div_ceil(newest.len().max(1)).max(3);
    let chosen = newest.into_values().flat_map(|of_sort| of_sort.into_values().rev().take(share).collect::<Vec<_>>());
    (logs, chosen.map(|meta| place.object(meta)).collect())
}

/// The sort of a key: its first folder, without the digits, and its ending.
fn sort_of(key: &str) -> String {
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    let folder: String =
        folders.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{folder}/{}", name.rsplit_once('.').map_or("", |(_, ending)| ending))
}

fn columns(names: &[&str]) -> SchemaRef {
    let requests = Table::Requests.schema().public();
    let wanted: Vec<usize> =
        (0..requests.fields().len()).filter(|place| names.contains(&requests.field(*place).name().as_str())).collect();
    Arc::new(requests.project(&wanted).expect("the places are those of its fields"))
}

async fn rows_of(
    object: &LogObject,
    context: &ReadContext,
    schema: SchemaRef,
) -> Result<(ObjectReport, Vec<RecordBatch>), ObjectError> {
    // All of it is read, and so much of it kept.
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = {
        let kept = kept.clone();
        move |rows: RecordBatch| {
            let mut kept = kept.lock().expect("not poisoned");
            if kept.iter().map(RecordBatch::num_rows).sum::<usize>() < REQUESTS as usize {
                kept.push(rows);
            }
            ControlFlow::Continue(())
        }
    };
    let (report, _) = read(object, context, Batches::new(schema, keep)).await?;
    let kept = std::mem::take(&mut *kept.lock().expect("not poisoned"));
    Ok((report, kept))
}

/// What one scheme alone makes of the objects.
async fn scheme_facts(
    warden: &Warden,
    objects: &[LogObject],
    scheme: Scheme,
    configured: bool,
    accepted: u64,
) -> anyhow::Result<CheckedScheme> {
    #[derive(Deserialize)]
    struct Row {
        requests: i64,
        sessions: i64,
        bound: i64,
        derived: i64,
        most_networks: i64,
        mean_networks: f64,
    }
    let name = scheme.name();
    let context = warden.context.with_sessions([scheme].into());
    let schema = columns(&["session_id", "bound", "derived", "network", "accepted"]);
    let mut batches = Vec::new();
    for object in objects {
        if let Ok((_, rows)) = rows_of(object, &context, schema.clone()).await {
            batches.extend(rows);
        }
    }
    let rows: Vec<Row> = over_requests(&warden.engine, schema, batches, SCHEME).await?;
    let row = rows.first().ok_or_else(|| anyhow::anyhow!("queries/{} gave no row", SCHEME.file))?;
    Ok(CheckedScheme {
        scheme: name,
        configured,
        requests: row.requests,
        share: row.requests as f64 / accepted.max(1) as f64,
        bound: row.bound,
        derived: row.derived,
        sessions: row.sessions,
        mean_networks: row.mean_networks,
        most_networks: row.most_networks,
    })
}

/// The share of requests that are logged, where it is clearly less than all.
async fn logged_share(engine: &Engine, schema: SchemaRef, batches: Vec<RecordBatch>) -> anyhow::Result<Option<f64>> {
    #[derive(Deserialize)]
    struct Row {
        steps: i64,
        share: Option<f64>,
    }
    let rows: Vec<Row> = over_requests(engine, schema, batches, LOGGED_SHARE).await?;
    let told = rows.first().filter(|row| row.steps >= LEAST_STEPS).and_then(|row| row.share);
    Ok(told.filter(|share| *share < LEAST_LOGGED_SHARE))
}

/// Runs a statement over these rows of `requests`.
async fn over_requests<T: serde::de::DeserializeOwned>(
    engine: &Engine,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    sql: Sql,
) -> anyhow::Result<Vec<T>> {
    let session = engine.session();
    let table = MemTable::try_new(schema, vec![batches]).map_err(|error| query_error(sql, error))?;
    session.register_table(Table::Requests.name(), Arc::new(table)).map_err(|error| query_error(sql, error))?;
    Ok(fetch(&session, sql, vec![]).await?)
}
