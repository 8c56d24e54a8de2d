//! Where the tables are kept, behind one trait: Delta tables in a folder or in S3, or memory over either.

mod contents;
mod delta;
mod durable;
mod lock;
mod memory;
mod remembered;
mod root;

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;

pub use delta::DeltaStore;
pub use lock::StateLock;
pub use memory::MemoryStore;
pub use root::{ADDRESS_FORM_FILE, ADDRESS_KEY_FILE, Put, Root, TOLD_FAILURE_FILE};

use crate::schema::Table;

/// An application transaction: the table holds everything of `app` up to `version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub app: String,
    pub version: i64,
}

impl Transaction {
    pub fn new(app: impl Into<String>, version: i64) -> Self {
        Transaction { app: app.into(), version }
    }
}

/// The stored tables.
///
/// An append is atomic: rows and transactions are there together or not at all, and what was appended is
/// seen by every later read. There is no commit across tables; the order of appends is the caller's care.
#[async_trait]
pub trait Store: Send + Sync {
    /// The last version of `app` that was appended to the table.
    async fn transaction(&self, table: Table, app: &str) -> Result<Option<i64>, StoreError>;

    /// Appends rows (in the stored schema of the table) and transactions in one commit.
    async fn append(
        &self,
        table: Table,
        rows: Vec<RecordBatch>,
        transactions: &[Transaction],
    ) -> Result<(), StoreError>;

    /// The table as it is now, for queries of this session.
    async fn provider(&self, table: Table, session: &SessionContext) -> Result<Arc<dyn TableProvider>, StoreError>;
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no state at {0} yet: `streamwarden run` makes it")]
    Missing(String),
    #[error(
        "{0} is no streamwarden state but is not empty either: name an empty or new place in [state] location; or if it is one, its file \
         state.json is missing or broken: put that back"
    )]
    Foreign(String),
    #[error("the state at {place} has version {found}, this program works with {expected}: {advice}")]
    Version { place: String, found: u64, expected: u64, advice: &'static str },
    #[error("another run holds the state at {0} (run --wait waits for it)")]
    Locked(String),
    #[error(
        "the lock of the state at {0} was lost to another run, or could not be renewed in time; nothing more is written"
    )]
    Lost(String),
    #[error("the state at {place}: {source}")]
    Io { place: String, source: std::io::Error },
    #[error("table {table} of the state at {place}: {source}")]
    Delta { table: &'static str, place: String, source: Box<deltalake::DeltaTableError> },
    #[error("table {table}: {source}")]
    Engine { table: &'static str, source: Box<datafusion::error::DataFusionError> },
}
