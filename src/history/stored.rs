//! The history where it is kept, the table `revocations`: what stands by it, and how it goes on.

use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use serde::Deserialize;

use super::Event;
use crate::engine::{Begun, EngineError, Sql, begin, fetch, sql, timestamp};
use crate::rows;
use crate::schema::Table;

const STANDING_BLOCKS: Sql = sql!("engine/standing_blocks.sql");
const HELD: Sql = sql!("engine/held.sql");
const HISTORY_STATE: Sql = sql!("engine/history_state.sql");
const EVENTS_OF: Sql = sql!("engine/events_of.sql");

/// How far the history goes.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Length {
    /// The number of its last event; 0 where there is none.
    pub sequence: i64,
    /// How many automatic first blocks it has since the instant that was asked for.
    pub blocks: u64,
}

/// How far the history goes, with the automatic first blocks since an instant.
pub async fn length(session: &SessionContext, since: DateTime<Utc>) -> Result<Length, EngineError> {
    let lengths: Vec<Length> = fetch(session, HISTORY_STATE, vec![("since", timestamp(since))]).await?;
    Ok(lengths.first().copied().unwrap_or_default())
}

/// The event on which each block stands that has not been ended; its time may be over.
pub async fn standing_blocks(session: &SessionContext) -> Result<Vec<Event>, EngineError> {
    begin_standing_blocks(session).rows().await
}

/// The same, beside what is done meanwhile.
pub fn begin_standing_blocks(session: &SessionContext) -> Begun {
    begin(session, STANDING_BLOCKS, vec![])
}

/// The events by which sessions are held.
pub async fn held(session: &SessionContext) -> Result<Vec<Event>, EngineError> {
    begin_held(session).rows().await
}

/// The same, beside what is done meanwhile.
pub fn begin_held(session: &SessionContext) -> Begun {
    begin(session, HELD, vec![])
}

/// The events of the sessions of the table `candidates`, in order.
pub async fn of_candidates(session: &SessionContext) -> Result<Vec<Event>, EngineError> {
    fetch(session, EVENTS_OF, vec![]).await
}

/// Events as the table keeps them.
///
/// # Errors
///
/// Why they do not fit its schema.
pub fn rows_of(events: &[Event]) -> Result<Vec<RecordBatch>, String> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    let rows = rows::encode(Table::Revocations.schema().stored(), events);
    Ok(vec![rows.map_err(|message| format!("events cannot be written: {message}"))?])
}
