//! DataFusion as streamwarden uses it: a memory limit, bound parameters, SELECT only, SQL from files.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::future::try_join_all;
use tokio::sync::OnceCell;
use tracing::Instrument;

use crate::memory_pool::Pool;
use crate::schema::Table;
use crate::store::{Store, StoreError};

/// A statement of `queries/`.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    /// Its file below `queries/`.
    pub file: &'static str,
    pub text: &'static str,
}

/// Names a file of `queries/` as a [`Sql`].
macro_rules! sql {
    ($file:literal) => {
        $crate::engine::Sql { file: $file, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/queries/", $file)) }
    };
}
pub(crate) use sql;

/// The public tables, each from what is stored.
const VIEWS: [(Table, Sql); 12] = [
    (Table::Activity, sql!("views/activity.sql")),
    (Table::Refusals, sql!("views/refusals.sql")),
    (Table::Deliveries, sql!("views/deliveries.sql")),
    (Table::Credentials, sql!("views/credentials.sql")),
    (Table::Findings, sql!("views/findings.sql")),
    (Table::Revocations, sql!("views/revocations.sql")),
    (Table::ActiveRevocations, sql!("views/active_revocations.sql")),
    (Table::Enforcement, sql!("views/enforcement.sql")),
    (Table::Syncs, sql!("views/syncs.sql")),
    (Table::Notifications, sql!("views/notifications.sql")),
    (Table::Objects, sql!("views/objects.sql")),
    (Table::Runs, sql!("views/runs.sql")),
];

/// Footers of Parquet files that are remembered. A daemon writes some files with each pass and soon reads none of them again: by
/// its own limit of 50 MB DataFusion would only grow with them.
const METADATA_CACHE_BYTES: usize = 8 << 20;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("queries/{file}: {source}")]
    Query { file: &'static str, source: Box<DataFusionError> },
    #[error("the query engine cannot start: {0}")]
    Start(Box<DataFusionError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("queries/{file} gave rows of an unexpected form: {message}")]
    Rows { file: &'static str, message: String },
}

/// Of `[engine] memory`, what a row of a window is allowed: it has some 200 bytes, is there for each detector that is shown other
/// columns, on each thread, and what queries make of it comes on top.
const BYTES_PER_WINDOW_ROW: usize = 4_000;

/// The limits that all sessions share.
#[derive(Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    threads: usize,
    memory_bytes: usize,
    window_rows: u64,
}

impl Engine {
    pub fn new(config: &crate::config::Engine) -> Result<Engine, EngineError> {
        let memory_bytes = config.memory.bytes();
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(Pool::new(memory_bytes)))
            .with_metadata_cache_limit(METADATA_CACHE_BYTES)
            .build_arc()
            .map_err(|error| EngineError::Start(Box::new(error)))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 { cores } else { config.threads };
        Ok(Engine { runtime, threads, memory_bytes, window_rows: (memory_bytes / BYTES_PER_WINDOW_ROW) as u64 })
    }

    /// Whether a plan with this environment counts its memory here.
    pub fn is_of(&self, runtime: &Arc<RuntimeEnv>) -> bool {
        Arc::ptr_eq(&self.runtime, runtime)
    }

    /// Threads that a query uses, and objects that are read at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// `[engine] memory`.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Rows of `activity` that a window may hold at once: of more, the sessions are looked at in parts.
    pub fn window_rows(&self) -> u64 {
        self.window_rows
    }

    #[cfg(test)]
    pub fn with_window_rows(self, window_rows: u64) -> Engine {
        Engine { window_rows, ..self }
    }

    /// A session without tables.
    pub fn session(&self) -> SessionContext {
        self.session_of_threads(self.threads)
    }

    /// A session without tables, whose queries run on one thread each.
    pub fn session_of_one_thread(&self) -> SessionContext {
        self.session_of_threads(1)
    }

    fn session_of_threads(&self, threads: usize) -> SessionContext {
        let mut config = SessionConfig::new().with_target_partitions(threads).with_information_schema(false);
        // So that errors in a detector tell their line.
        config.options_mut().sql_parser.collect_spans = true;
        // Our own statements are planned right the first time, and each more costs a small one more than to run it.
        config.options_mut().optimizer.max_passes = 1;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(self.runtime.clone())
            .with_default_features()
            .build();
        SessionContext::new_with_state(state)
    }

    /// A session with the public tables of a store, as they are now.
    pub async fn session_over(&self, store: &dyn Store, now: DateTime<Utc>) -> Result<SessionContext, EngineError> {
        let start = |error| EngineError::Start(Box::new(error));
        let (session, stored) = (self.session(), self.session());
        // In S3 each is several requests.
        let providers = Table::STORED.map(|table| store.provider(table, &session));
        for (table, provider) in Table::STORED.into_iter().zip(try_join_all(providers).await?) {
            let name = format!("stored_{}", table.name());
            stored.register_table(name.as_str(), provider.clone()).map_err(start)?;
            session.register_table(name, provider).map_err(start)?;
        }
        let (catalog, schema) = {
            let state = session.state();
            let defaults = &state.config_options().catalog;
            (defaults.default_catalog.clone(), defaults.default_schema.clone())
        };
        let catalog = session.catalog(&catalog).expect("a session has it");
        let tables = catalog.schema(&schema).expect("a session has it");
        let views = PublicTables { tables, stored, now, views: VIEWS.map(|_| OnceCell::new()) };
        catalog.register_schema(&schema, Arc::new(views)).map_err(start)?;
        Ok(session)
    }
}

/// The tables of a session, and the public ones, each planned when it is first asked for: most sessions ask for a few of them.
struct PublicTables {
    tables: Arc<dyn SchemaProvider>,
    /// What the views are made of.
    stored: SessionContext,
    now: DateTime<Utc>,
    /// In the order of [`VIEWS`].
    views: [OnceCell<Arc<dyn TableProvider>>; VIEWS.len()],
}

impl PublicTables {
    fn place(name: &str) -> Option<usize> {
        VIEWS.iter().position(|(table, _)| table.name() == name)
    }

    async fn view(&self, place: usize) -> Result<Arc<dyn TableProvider>, EngineError> {
        let (table, sql) = VIEWS[place];
        let parameters = match table {
            Table::ActiveRevocations => vec![("now", timestamp(self.now))],
            _ => vec![],
        };
        let plan = async || Ok(prepare(&self.stored, sql, parameters).await?.into_view());
        self.views[place].get_or_try_init(plan).await.cloned()
    }
}

impl fmt::Debug for PublicTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicTables").field("tables", &self.tables).finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for PublicTables {
    fn table_names(&self) -> Vec<String> {
        let views = VIEWS.iter().map(|(table, _)| table.name().to_owned());
        self.tables.table_names().into_iter().chain(views).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match (self.tables.table(name).await?, PublicTables::place(name)) {
            (None, Some(place)) => {
                let view = self.view(place).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
                Ok(Some(view))
            }
            (table, _) => Ok(table),
        }
    }

    fn register_table(
        &self,
        name: String,
        table: Arc<dyn TableProvider>,
    ) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.tables.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.tables.deregister_table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.table_exist(name) || PublicTables::place(name).is_some()
    }
}

/// Lets a session optimize its plans as often as DataFusion does by itself: for statements that others write.
pub fn optimize_fully(session: &SessionContext) {
    let state = session.state_ref();
    state.write().config_mut().options_mut().optimizer.max_passes = ConfigOptions::default().optimizer.max_passes;
}

/// An instant as a parameter.
pub fn timestamp(time: DateTime<Utc>) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(time.timestamp_micros()), Some("UTC".into()))
}

/// Plans a statement of `queries/` with its parameters bound.
pub async fn prepare(
    session: &SessionContext,
    sql: Sql,
    parameters: Vec<(&'static str, ScalarValue)>,
) -> Result<DataFrame, EngineError> {
    let frame = select(session, sql.text).await.map_err(|error| query_error(sql, error))?;
    if parameters.is_empty() {
        return Ok(frame);
    }
    frame.with_param_values(ParamValues::from(parameters)).map_err(|error| query_error(sql, error))
}

/// Runs a statement of `queries/` and keeps its rows in memory.
pub async fn collect(
    session: &SessionContext,
    sql: Sql,
    parameters: Vec<(&'static str, ScalarValue)>,
) -> Result<(SchemaRef, Vec<RecordBatch>), EngineError> {
    let started = Instant::now();
    let frame = prepare(session, sql, parameters).await?;
    let planned = started.elapsed();
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.map_err(|error| query_error(sql, error))?;
    tracing::trace!("{} took {:.2?}, {planned:.2?} of it until it was planned", sql.file, started.elapsed());
    Ok((schema, batches))
}

/// Makes the rows of a statement of `queries/` a table of the session, in place of one that had the name before.
pub async fn register(
    session: &SessionContext,
    name: &str,
    sql: Sql,
    parameters: Vec<(&'static str, ScalarValue)>,
) -> Result<(), EngineError> {
    let (schema, batches) = collect(session, sql, parameters).await?;
    replace(session, name, schema, batches).map_err(|error| query_error(sql, error))
}

/// Makes rows a table of the session, in place of one that had the name before.
pub fn replace(
    session: &SessionContext,
    name: &str,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
) -> Result<(), DataFusionError> {
    let table = MemTable::try_new(schema, vec![batches])?;
    session.deregister_table(name)?;
    session.register_table(name, Arc::new(table))?;
    Ok(())
}

/// Runs a statement of `queries/` and decodes its rows.
pub async fn fetch<T: serde::de::DeserializeOwned>(
    session: &SessionContext,
    sql: Sql,
    parameters: Vec<(&'static str, ScalarValue)>,
) -> Result<Vec<T>, EngineError> {
    let (_, batches) = collect(session, sql, parameters).await?;
    crate::rows::decode(&batches).map_err(|message| EngineError::Rows { file: sql.file, message })
}

/// A statement that is on its way.
pub struct Begun {
    sql: Sql,
    running: SpawnedTask<Result<(SchemaRef, Vec<RecordBatch>), EngineError>>,
}

/// Begins to run a statement of `queries/`, beside what is done until its rows are asked for.
pub fn begin(session: &SessionContext, sql: Sql, parameters: Vec<(&'static str, ScalarValue)>) -> Begun {
    let session = session.clone();
    let run = async move { collect(&session, sql, parameters).await };
    Begun { sql, running: SpawnedTask::spawn(run.in_current_span()) }
}

impl Begun {
    /// Its rows, once they are there.
    pub async fn batches(self) -> Result<Vec<RecordBatch>, EngineError> {
        let (_, batches) = self.running.join_unwind().await.expect("it is cancelled with whoever asks for it")?;
        Ok(batches)
    }

    /// Its rows, decoded.
    pub async fn rows<T: serde::de::DeserializeOwned>(self) -> Result<Vec<T>, EngineError> {
        let file = self.sql.file;
        crate::rows::decode(&self.batches().await?).map_err(|message| EngineError::Rows { file, message })
    }
}

/// Plans a text that must be one SELECT: anything that changes or sets something is refused.
pub async fn select(session: &SessionContext, text: &str) -> Result<DataFrame, DataFusionError> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    session.sql_with_options(text, options).await
}

pub fn query_error(sql: Sql, error: DataFusionError) -> EngineError {
    EngineError::Query { file: sql.file, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{ColumnType, Role};
    use crate::store::MemoryStore;

    fn engine() -> Engine {
        Engine::new(&crate::config::Engine::default()).unwrap()
    }

    /// The views are the interface: the same columns, in the same order, of the same types as `schemas/` says.
    #[tokio::test]
    async fn every_view_has_the_columns_of_its_schema() {
        let session = engine().session_over(&MemoryStore::default(), Utc::now()).await.unwrap();
        for (table, _) in VIEWS {
            let frame = session.table(table.name()).await.unwrap();
            let found: Vec<(String, String)> =
                frame.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect();
            let expected: Vec<(String, String)> = table
                .schema()
                .public()
                .fields()
                .iter()
                .map(|f| (f.name().clone(), f.data_type().to_string()))
                .collect();
            assert_eq!(found, expected, "{}", table.name());
        }
    }

    /// What folds partial rows is what the schema says of each measure.
    #[test]
    fn the_folding_views_fold_as_the_schemas_say() {
        for (table, sql) in VIEWS {
            for column in &table.schema().columns {
                let name = &column.name;
                let expected = match (column.role, column.kind) {
                    (Role::Sum, ColumnType::Int) => format!("CAST(SUM({name}) AS BIGINT) AS {name}"),
                    (Role::Min, _) => format!("MIN({name}) AS {name}"),
                    (Role::Max, _) => format!("MAX({name}) AS {name}"),
                    (Role::And, _) => format!("bool_and({name}) AS {name}"),
                    (Role::Or, _) => format!("bool_or({name}) AS {name}"),
                    _ => continue,
                };
                assert!(sql.text.contains(&expected), "queries/{} lacks {expected}", sql.file);
            }
        }
    }

    #[tokio::test]
    async fn only_a_select_is_taken() {
        let session = engine().session();
        assert!(select(&session, "SELECT 1").await.is_ok());
        for text in [
            "CREATE TABLE t AS SELECT 1",
            "SET datafusion.execution.batch_size = 1",
            "SELECT 1; SELECT 2",
            "DROP TABLE t",
        ] {
            assert!(select(&session, text).await.is_err(), "{text}");
        }
    }
}
