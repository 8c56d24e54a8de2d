//! Tables in memory, over nothing (`replay`) or over a state that is not to be changed (`run --dry-run`). Of many rows most are in
//! temporary files.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use super::{Store, StoreError, Transaction};
use crate::schema::Table;

/// Rows of a table in memory, beyond which they go to a file: of `activity`, the largest, some 50 MB. A gigabyte of logs stays
/// below it.
const MOST_ROWS: usize = 150_000;

/// Rows of a file that are read or passed over together. They come in order of their arrival, so that most groups are of a few
/// minutes.
const GROUP_ROWS: usize = 32_768;

/// Appends are kept here and nowhere else.
pub struct MemoryStore {
    base: Option<Arc<dyn Store>>,
    appended: Mutex<Appended>,
    most_rows: usize,
}

#[derive(Default)]
struct Appended {
    rows: HashMap<Table, Vec<RecordBatch>>,
    /// Files with the rows that are no longer in memory.
    spilled: HashMap<Table, Arc<TempDir>>,
    /// It failed once: there may be no room.
    keeps_all: bool,
    transactions: HashMap<(Table, String), i64>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore { base: None, appended: Mutex::default(), most_rows: MOST_ROWS }
    }
}

impl MemoryStore {
    /// What is read is `base` and what was appended here.
    pub fn over(base: Arc<dyn Store>) -> Self {
        MemoryStore { base: Some(base), ..MemoryStore::default() }
    }

    /// Takes the rows of a table out of memory, if they are too many for it; and the folder of its files.
    fn surplus(&self, table: Table) -> Option<(Vec<RecordBatch>, std::io::Result<Arc<TempDir>>)> {
        let Appended { rows, spilled, keeps_all, .. } = &mut *self.appended.lock().expect("not poisoned");
        let rows = rows.get_mut(&table)?;
        if *keeps_all || rows.iter().map(RecordBatch::num_rows).sum::<usize>() < self.most_rows {
            return None;
        }
        let folder = match spilled.get(&table) {
            Some(folder) => Ok(folder.clone()),
            None => TempDir::with_prefix("streamwarden-").map(Arc::new),
        };
        Some((std::mem::take(rows), folder))
    }

    /// Moves the rows of a table to a file, if they are too many for memory. Where that fails they stay.
    async fn spill(&self, table: Table) {
        let Some((rows, folder)) = self.surplus(table) else { return };
        let written = async {
            let (folder, rows) = (folder?, rows.clone());
            SpawnedTask::spawn_blocking(move || write(&folder, &rows).map(|()| folder))
                .join_unwind()
                .await
                .map_err(|error| ParquetError::External(Box::new(error)))?
        };
        let written = written.await;
        let mut appended = self.appended.lock().expect("not poisoned");
        match written {
            Ok(folder) => drop(appended.spilled.insert(table, folder)),
            Err(error) => {
                tracing::warn!(
                    "rows of {} stay in memory: no temporary file could be written ({}): {error}",
                    table.name(),
                    std::env::temp_dir().display()
                );
                appended.keeps_all = true;
                appended.rows.entry(table).or_default().splice(0..0, rows);
            }
        }
    }
}

fn files(folder: &TempDir) -> std::io::Result<Vec<String>> {
    folder.path().read_dir()?.map(|file| Ok(file?.path().to_string_lossy().into_owned())).collect()
}

/// Writes rows to one more file of a folder.
fn write(folder: &TempDir, rows: &[RecordBatch]) -> Result<(), ParquetError> {
    let Some(schema) = rows.first().map(RecordBatch::schema) else { return Ok(()) };
    let number = files(folder)?.len();
    let place = folder.path().join(format!("{number}.parquet"));
    let properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let written = (|| {
        let mut writer = ArrowWriter::try_new(File::create(&place)?, schema, Some(properties))?;
        rows.iter().try_for_each(|rows| writer.write(rows))?;
        writer.close().map(drop)
    })();
    if written.is_err() {
        // Half of a file would be read with the whole ones.
        let _ = std::fs::remove_file(place);
    }
    written
}

#[async_trait]
impl Store for MemoryStore {
    async fn transaction(&self, table: Table, app: &str) -> Result<Option<i64>, StoreError> {
        let known = self.appended.lock().expect("not poisoned").transactions.get(&(table, app.to_owned())).copied();
        match (known, &self.base) {
            (None, Some(base)) => base.transaction(table, app).await,
            (known, _) => Ok(known),
        }
    }

    async fn append(
        &self,
        table: Table,
        rows: Vec<RecordBatch>,
        transactions: &[Transaction],
    ) -> Result<(), StoreError> {
        {
            let mut appended = self.appended.lock().expect("not poisoned");
            appended.rows.entry(table).or_default().extend(rows);
            for transaction in transactions {
                appended.transactions.insert((table, transaction.app.clone()), transaction.version);
            }
        }
        self.spill(table).await;
        Ok(())
    }

    async fn provider(&self, table: Table, session: &SessionContext) -> Result<Arc<dyn TableProvider>, StoreError> {
        let io = |source| StoreError::Io { place: std::env::temp_dir().display().to_string(), source };
        let engine = |source: DataFusionError| StoreError::Engine { table: table.name(), source: Box::new(source) };
        let (rows, spilled) = {
            let appended = self.appended.lock().expect("not poisoned");
            (appended.rows.get(&table).cloned().unwrap_or_default(), appended.spilled.get(&table).cloned())
        };
        let schema = table.schema().stored();
        let memory: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(schema.clone(), vec![rows]).map_err(engine)?);
        let mut parts = Vec::new();
        if let Some(base) = &self.base {
            parts.push(base.provider(table, session).await?);
        }
        if let Some(folder) = spilled {
            let options = ParquetReadOptions::default().schema(&schema);
            // By their names: DataFusion remembers what a folder holds.
            let files = session.read_parquet(files(&folder).map_err(io)?, options).await.map_err(engine)?;
            parts.push(files.into_view());
        }
        if parts.is_empty() {
            return Ok(memory);
        }
        parts.push(memory);
        let scan = |part| LogicalPlanBuilder::scan("part", provider_as_source(part), None);
        let mut parts = parts.into_iter().map(scan);
        let first = parts.next().expect("there are two at least").map_err(engine)?;
        let union = parts
            .try_fold(first, |union, part| union.union_by_name(part?.build()?))
            .and_then(LogicalPlanBuilder::build)
            .map_err(engine)?;
        Ok(Arc::new(ViewTable::new(union, None)))
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::engine::Engine;
    use crate::rows;

    /// A table is the same whether its rows are in memory or in files, which are gone with it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_goes_to_files_is_still_there() {
        let engine = Engine::new(&Default::default()).unwrap();
        let schema = Table::Deliveries.schema().stored();
        let small = MemoryStore { most_rows: 5, ..MemoryStore::default() };
        let (large, over) =
            (MemoryStore::default(), MemoryStore { most_rows: 3, ..MemoryStore::over(Arc::new(small)) });
        let mut folders = Vec::new();
        for batch in 1i64..=7 {
            let rows: Vec<_> = (0..batch)
                .map(|row| {
                    let session = if row == 2 { None } else { Some(format!("a session of some length {}", row % 2)) };
                    serde_json::json!({"batch": batch, "session_id": session, "segment": row, "minute": "2026-11-20T20:00:00Z"})
                })
                .collect();
            let rows = rows::encode(schema.clone(), &rows).unwrap();
            for store in [&large as &dyn Store, &over] {
                let transactions = [Transaction::new("test", batch)];
                store.append(Table::Deliveries, vec![rows.clone()], &transactions).await.unwrap();
            }
            let mut all = Vec::new();
            for store in [&large as &dyn Store, &over] {
                let session = engine.session_over(store, DateTime::UNIX_EPOCH).await.unwrap();
                let sql = "SELECT * FROM stored_deliveries WHERE segment >= 1 ORDER BY batch, segment";
                let found = session.sql(sql).await.unwrap().collect().await.unwrap();
                all.push(rows::to_json(&found).unwrap());
            }
            assert_eq!(all[0].len(), usize::try_from(batch * (batch - 1) / 2).unwrap());
            assert_eq!(all[0], all[1]);
            folders.extend(over.appended.lock().unwrap().spilled.values().map(|folder| folder.path().to_owned()));
        }
        folders.dedup();
        assert_eq!(folders.len(), 1);
        assert!(over.appended.lock().unwrap().rows.values().flatten().count() < 2, "they are in files");
        assert!(folders[0].read_dir().unwrap().count() > 2);
        drop(over);
        assert!(!folders[0].exists());
    }
}
