//! The rows that detectors see: loaded an hour of event time at once, then cut to each window.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use chrono::TimeDelta;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::file::{Detector, Scope};
use super::result::text_column;
use super::window::Window;
use crate::engine::{EngineError, Sql, collect, fetch, query_error, register, sql, timestamp};
use crate::schema::Table;

const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const WINDOW_OF_TOUCHED: Sql = sql!("engine/window_of_touched.sql");
const WINDOW_OF_ALL: Sql = sql!("engine/window_of_all.sql");
const WINDOW_OF_REFUSALS: Sql = sql!("engine/window_of_refusals.sql");
const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");

/// Loads the folded rows that the windows of a chunk can see.
pub async fn load(
    session: &SessionContext,
    chunk: &[(Window, &Vec<usize>)],
    detectors: &[Detector],
) -> Result<(), EngineError> {
    let start = chunk.iter().map(|(window, _)| window.start).min().unwrap_or_default();
    let end = chunk.iter().map(|(window, _)| window.end).max().unwrap_or_default();
    let bounds = || vec![("start", timestamp(start)), ("end", timestamp(end))];
    let all = chunk.iter().any(|(_, indexes)| indexes.iter().any(|&index| detectors[index].scope == Scope::All));
    register(session, "loaded_activity", if all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED }, bounds()).await?;
    register(session, "loaded_refusals", REFUSALS_BETWEEN, bounds()).await
}

/// A minute table cut to a window, and the sessions in it.
pub type Cut = (Arc<MemTable>, Arc<HashSet<String>>);

/// The minute tables cut to one window, made once for all detectors that see the same.
pub struct WindowTables<'a> {
    session: &'a SessionContext,
    window: Window,
    cut: HashMap<(Table, Option<i64>), Cut>,
}

impl<'a> WindowTables<'a> {
    pub fn new(session: &'a SessionContext, window: Window) -> Self {
        WindowTables { session, window, cut: HashMap::new() }
    }

    fn bounds(&self) -> Vec<(&'static str, ScalarValue)> {
        vec![("start", timestamp(self.window.start)), ("end", timestamp(self.window.end))]
    }

    /// The window's activity, and the sessions in it.
    pub async fn activity(&mut self, scope: Scope, after: i64) -> Result<Cut, EngineError> {
        let key = (Table::Activity, (scope == Scope::Session).then_some(after));
        if let Some(known) = self.cut.get(&key) {
            return Ok(known.clone());
        }
        let mut parameters = self.bounds();
        let sql = match scope {
            Scope::Session => {
                parameters.push(("after", ScalarValue::Int64(Some(after))));
                WINDOW_OF_TOUCHED
            }
            Scope::All => WINDOW_OF_ALL,
        };
        let (schema, batches) = collect(self.session, sql, parameters).await?;
        let mut sessions = HashSet::new();
        for batch in &batches {
            let ids =
                text_column(batch, "session_id").map_err(|message| EngineError::Rows { file: sql.file, message })?;
            sessions.extend(ids.into_iter().flatten());
        }
        let table = MemTable::try_new(schema, vec![batches]).map_err(|error| query_error(sql, error))?;
        let made = (Arc::new(table), Arc::new(sessions));
        self.cut.insert(key, made.clone());
        Ok(made)
    }

    /// The window's refusals, of all sessions.
    pub async fn refusals(&mut self) -> Result<Arc<MemTable>, EngineError> {
        let key = (Table::Refusals, None);
        if let Some((table, _)) = self.cut.get(&key) {
            return Ok(table.clone());
        }
        let (schema, batches) = collect(self.session, WINDOW_OF_REFUSALS, self.bounds()).await?;
        let table = MemTable::try_new(schema, vec![batches]).map_err(|error| query_error(WINDOW_OF_REFUSALS, error))?;
        let table = Arc::new(table);
        self.cut.insert(key, (table.clone(), Arc::default()));
        Ok(table)
    }
}

/// Sessions that were active in any of the windows.
pub async fn sessions_in(session: &SessionContext, windows: impl Iterator<Item = &Window>) -> Result<u64, EngineError> {
    #[derive(Deserialize)]
    struct Count {
        sessions: u64,
    }
    let mut minutes = BTreeSet::new();
    for window in windows {
        let mut minute = window.start;
        while minute < window.end {
            minutes.insert(minute.timestamp_micros());
            minute += TimeDelta::minutes(1);
        }
    }
    let schema = Arc::new(Schema::new(vec![Field::new(
        "minute",
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        false,
    )]));
    let column = TimestampMicrosecondArray::from_iter_values(minutes).with_timezone("UTC");
    let rows = |error: String| EngineError::Rows { file: SESSIONS_IN_MINUTES.file, message: error };
    let batch =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(column)]).map_err(|error| rows(error.to_string()))?;
    let table =
        MemTable::try_new(schema, vec![vec![batch]]).map_err(|error| query_error(SESSIONS_IN_MINUTES, error))?;
    session
        .register_table("evaluated_minutes", Arc::new(table))
        .map_err(|error| query_error(SESSIONS_IN_MINUTES, error))?;
    let counts: Vec<Count> = fetch(session, SESSIONS_IN_MINUTES, vec![]).await?;
    Ok(counts.first().map_or(0, |count| count.sessions))
}
