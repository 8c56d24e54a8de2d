//! Upkeep of the state, at the end of a pass: small files are folded and compacted, old hours are dropped, files that
//! nobody needs any more are removed. The history of revocations is kept.
//!
//! Each step is one commit of one table and may be cut off anywhere; what is due is seen from the tables themselves, so that
//! the cost of a pass follows what was written since, not the size of the state.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::common::ScalarValue;
use serde::Deserialize;

use crate::config::Config;
use crate::engine::{Engine, EngineError, Sql, collect, fetch, sql, timestamp};
use crate::rows;
use crate::schema::Table;
use crate::store::{DeltaStore, StoreError};

/// The tables that are partitioned by hour, and how an hour of them is folded.
const FOLDED: [(Table, Sql); 3] = [
    (Table::Activity, sql!("upkeep/fold_activity.sql")),
    (Table::Refusals, sql!("upkeep/fold_refusals.sql")),
    (Table::Deliveries, sql!("upkeep/fold_deliveries.sql")),
];

const CREDENTIALS_IN_USE: Sql = sql!("upkeep/credentials_in_use.sql");

/// A session that is blocked.
#[derive(Deserialize)]
struct InUse {
    session_id: String,
}

/// Files of one hour, or of a table without hours, beyond which they are made one.
const MAX_FILES: usize = 16;

/// How often the files are looked through that no version needs any more.
const VACUUM_EVERY: TimeDelta = TimeDelta::days(1);

/// Why upkeep failed. Nothing is lost by it but room and time.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("queries/{file}: {message}")]
    Rows { file: &'static str, message: String },
}

/// The hour of a partition, and its beginning and end.
fn hour_parameters(hour: &str) -> Option<Vec<(&'static str, ScalarValue)>> {
    let start = format!("{hour}:00:00Z").parse::<DateTime<Utc>>().ok()?;
    let text = ScalarValue::Utf8(Some(hour.to_owned()));
    Some(vec![("hour", text), ("start", timestamp(start)), ("end", timestamp(start + TimeDelta::hours(1)))])
}

/// Does what is due. Minute tables of before `now` less `activity_retention` are dropped; credentials that much later as an
/// automatic block may last, but for those of sessions that are blocked still, as WAF matches them until the block ends.
pub async fn upkeep(
    engine: &Engine,
    store: &DeltaStore,
    now: DateTime<Utc>,
    config: &Config,
) -> Result<(), UpkeepError> {
    let retention = config.activity_retention.delta();
    let cutoff = now - retention;
    let oldest = cutoff.format("%Y-%m-%dT%H").to_string();
    for (table, fold) in FOLDED {
        let hours: BTreeMap<String, usize> = store.files(table).await?;
        if hours.keys().any(|hour| *hour < oldest) {
            store.drop_hours_before(table, &oldest).await?;
        }
        for (hour, files) in hours.range(oldest.clone()..) {
            if *files > MAX_FILES {
                let session = engine.session_over(store, now).await?;
                let parameters = hour_parameters(hour)
                    .ok_or_else(|| UpkeepError::Rows { file: fold.file, message: format!("{hour:?} is no hour") })?;
                let (_, folded) = collect(&session, fold, parameters).await?;
                let folded: Result<Vec<_>, String> =
                    folded.iter().map(|batch| rows::conform(batch, &table.schema().stored())).collect();
                let folded = folded.map_err(|message| UpkeepError::Rows { file: fold.file, message })?;
                store.replace_hour(table, hour, folded).await?;
            }
        }
    }
    // The others that grow.
    for table in Table::STORED.into_iter().filter(|table| table.schema().partition_by.is_none()) {
        if store.files(table).await?.values().sum::<usize>() > MAX_FILES {
            store.compact(table).await?;
        }
    }
    // Delta stamps its files and versions with the machine's clock, whatever `now` is.
    if store.last_vacuum().await?.is_none_or(|last| Utc::now() - last > VACUUM_EVERY) {
        let before = cutoff - retention.max(config.guard.ttl_max.delta());
        let session = engine.session_over(store, now).await?;
        let in_use: Vec<InUse> = fetch(&session, CREDENTIALS_IN_USE, vec![("before", timestamp(before))]).await?;
        let in_use = in_use.into_iter().map(|row| row.session_id).collect();
        store.drop_credentials_before(before, in_use).await?;
        store.vacuum().await?;
    }
    Ok(())
}
