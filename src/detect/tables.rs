//! The rows that detectors see: loaded an hour of event time at once, then cut to each window.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use chrono::TimeDelta;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::file::{Detector, Scope};
use super::result::text_column;
use super::window::Window;
use crate::engine::{Engine, EngineError, Sql, collect, fetch, query_error, register, sql, timestamp};
use crate::schema::Table;

const ACTIVITY_OF_TOUCHED: Sql = sql!("engine/activity_of_touched.sql");
const ACTIVITY_BETWEEN: Sql = sql!("engine/activity_between.sql");
const REFUSALS_BETWEEN: Sql = sql!("engine/refusals_between.sql");
const WINDOW_OF_TOUCHED: Sql = sql!("engine/window_of_touched.sql");
const WINDOW_OF_ALL: Sql = sql!("engine/window_of_all.sql");
const WINDOW_OF_REFUSALS: Sql = sql!("engine/window_of_refusals.sql");
const DELIVERIES_OF_LOADED: Sql = sql!("engine/deliveries_of_loaded.sql");
const WINDOW_OF_DELIVERIES: Sql = sql!("engine/window_of_deliveries.sql");
const WINDOW_OF_TOUCHED_DELIVERIES: Sql = sql!("engine/window_of_touched_deliveries.sql");
pub const PACE: Sql = sql!("engine/pace.sql");
const SESSIONS_IN_MINUTES: Sql = sql!("engine/sessions_in_minutes.sql");

/// What one viewer of a session's contents fetches in a minute: a table for detectors with scope = "all".
pub const PACE_TABLE: &str = "pace";

/// The tables that a detector can read, cut to its window.
pub const WINDOWED: [&str; 4] = ["activity", "refusals", "deliveries", PACE_TABLE];

/// Loads the folded rows that the windows of a chunk can see.
pub async fn load(
    session: &SessionContext,
    chunk: &[(Window, &Vec<usize>)],
    detectors: &[Detector],
) -> Result<(), EngineError> {
    let start = chunk.iter().map(|(window, _)| window.start).min().unwrap_or_default();
    let end = chunk.iter().map(|(window, _)| window.end).max().unwrap_or_default();
    let bounds = || vec![("start", timestamp(start)), ("end", timestamp(end))];
    let of_chunk = || chunk.iter().flat_map(|(_, indexes)| indexes.iter().map(|&index| &detectors[index]));
    let all = of_chunk().any(|detector| detector.scope == Scope::All);
    register(session, "loaded_activity", if all { ACTIVITY_BETWEEN } else { ACTIVITY_OF_TOUCHED }, bounds()).await?;
    register(session, "loaded_refusals", REFUSALS_BETWEEN, bounds()).await?;
    if of_chunk().any(|detector| detector.reads(Table::Deliveries.name())) {
        register(session, "loaded_deliveries", DELIVERIES_OF_LOADED, bounds()).await?;
    }
    Ok(())
}

/// A table cut to a window, and its rows.
type Cut = (Arc<MemTable>, Vec<RecordBatch>);

/// The tables of one window, each made once for all detectors that see the same.
pub struct WindowTables<'a> {
    session: &'a SessionContext,
    engine: &'a Engine,
    window: Window,
    /// By name, and the batch after which rows are new, where that matters.
    cut: HashMap<(&'static str, Option<i64>), Cut>,
    sessions: HashMap<Option<i64>, Arc<HashSet<String>>>,
}

impl<'a> WindowTables<'a> {
    pub fn new(session: &'a SessionContext, engine: &'a Engine, window: Window) -> Self {
        WindowTables { session, engine, window, cut: HashMap::new(), sessions: HashMap::new() }
    }

    /// Every table that a detector reads, which has evaluated the rows of batches until `after`.
    pub async fn of(
        &mut self,
        detector: &Detector,
        after: i64,
    ) -> Result<Vec<(&'static str, Arc<MemTable>)>, EngineError> {
        // With scope = "all" everybody is looked at again.
        let after = (detector.scope == Scope::Session).then_some(after);
        let mut tables = Vec::new();
        for name in WINDOWED {
            if detector.reads(name) {
                tables.push((name, self.table(name, after).await?));
            }
        }
        Ok(tables)
    }

    /// The sessions that such a detector looks at.
    pub async fn sessions(&mut self, scope: Scope, after: i64) -> Result<Arc<HashSet<String>>, EngineError> {
        let after = (scope == Scope::Session).then_some(after);
        if let Some(known) = self.sessions.get(&after) {
            return Ok(known.clone());
        }
        self.activity(after).await?;
        let rows = |message| EngineError::Rows { file: WINDOW_OF_ALL.file, message };
        let mut sessions = HashSet::new();
        for batch in &self.cut[&(Table::Activity.name(), after)].1 {
            sessions.extend(text_column(batch, "session_id").map_err(rows)?.into_iter().flatten());
        }
        let sessions = Arc::new(sessions);
        self.sessions.insert(after, sessions.clone());
        Ok(sessions)
    }

    async fn activity(&mut self, after: Option<i64>) -> Result<Arc<MemTable>, EngineError> {
        self.cut(Table::Activity.name(), after, if after.is_some() { WINDOW_OF_TOUCHED } else { WINDOW_OF_ALL }).await
    }

    async fn table(&mut self, name: &'static str, after: Option<i64>) -> Result<Arc<MemTable>, EngineError> {
        if name == Table::Activity.name() {
            self.activity(after).await
        } else if name == Table::Refusals.name() {
            self.cut(name, None, WINDOW_OF_REFUSALS).await
        } else if name == Table::Deliveries.name() {
            self.cut(name, after, if after.is_some() { WINDOW_OF_TOUCHED_DELIVERIES } else { WINDOW_OF_DELIVERIES })
                .await
        } else {
            self.pace().await
        }
    }

    async fn pace(&mut self) -> Result<Arc<MemTable>, EngineError> {
        if let Some((known, _)) = self.cut.get(&(PACE_TABLE, None)) {
            return Ok(known.clone());
        }
        let activity = self.activity(None).await?;
        let session = self.engine.session();
        session.register_table(Table::Activity.name(), activity).map_err(|error| query_error(PACE, error))?;
        self.keep(PACE_TABLE, None, PACE, collect(&session, PACE, vec![]).await?)
    }

    async fn cut(&mut self, name: &'static str, after: Option<i64>, sql: Sql) -> Result<Arc<MemTable>, EngineError> {
        if let Some((known, _)) = self.cut.get(&(name, after)) {
            return Ok(known.clone());
        }
        let mut parameters = vec![("start", timestamp(self.window.start)), ("end", timestamp(self.window.end))];
        parameters.extend(after.map(|after| ("after", ScalarValue::Int64(Some(after)))));
        self.keep(name, after, sql, collect(self.session, sql, parameters).await?)
    }

    fn keep(
        &mut self,
        name: &'static str,
        after: Option<i64>,
        sql: Sql,
        (schema, batches): (SchemaRef, Vec<RecordBatch>),
    ) -> Result<Arc<MemTable>, EngineError> {
        let table = MemTable::try_new(schema, vec![batches.clone()]).map_err(|error| query_error(sql, error))?;
        let table = Arc::new(table);
        self.cut.insert((name, after), (table.clone(), batches));
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
