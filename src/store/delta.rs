//! The state in a folder: `state.json` with its version, `lock`, and a Delta table per stored table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;

use super::{Store, StoreError, Transaction};
use crate::schema::Table;

/// Layout of the state that this program reads and writes.
const VERSION: u64 = 1;
const VERSION_FILE: &str = "state.json";
pub(super) const LOCK_FILE: &str = "lock";

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u64,
}

/// Delta tables in a folder.
pub struct DeltaStore {
    folder: PathBuf,
    /// A reader makes no tables: to it, one that is not there is empty.
    writable: bool,
    tables: Mutex<HashMap<Table, DeltaTable>>,
}

impl DeltaStore {
    /// Opens the state for writing, making it if the folder is new or empty. The caller holds the lock.
    pub fn open_or_create(folder: &Path) -> Result<DeltaStore, StoreError> {
        match Self::open(folder) {
            Err(StoreError::Missing(_)) => {}
            opened => return opened.map(|store| DeltaStore { writable: true, ..store }),
        }
        let io = |source| StoreError::Io { path: folder.to_owned(), source };
        let text = serde_json::to_string(&StateFile { version: VERSION }).expect("a number becomes JSON");
        // Written beside and moved: the file is whole or not there.
        let new = folder.join(format!("{VERSION_FILE}.new"));
        fs::create_dir_all(folder).map_err(io)?;
        fs::write(&new, text + "\n").map_err(io)?;
        fs::rename(&new, folder.join(VERSION_FILE)).map_err(io)?;
        Self::open(folder).map(|store| DeltaStore { writable: true, ..store })
    }

    /// Opens the state that is there, for reading.
    pub fn open(folder: &Path) -> Result<DeltaStore, StoreError> {
        let path = folder.to_owned();
        let file = match fs::read_to_string(folder.join(VERSION_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(if is_empty(folder)? { StoreError::Missing(path) } else { StoreError::Foreign(path) });
            }
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let Ok(StateFile { version }) = serde_json::from_str(&file) else {
            return Err(StoreError::Foreign(path));
        };
        if version != VERSION {
            let advice = if version > VERSION {
                "a newer streamwarden wrote it; use that one"
            } else {
                "it is older than any that can be migrated; name a new folder in [state] location"
            };
            return Err(StoreError::Version { path, found: version, expected: VERSION, advice });
        }
        Ok(DeltaStore { folder: path, writable: false, tables: Mutex::default() })
    }

    fn error(&self, table: Table) -> impl Fn(DeltaTableError) -> StoreError + '_ {
        move |source| StoreError::Delta { table: table.name(), path: self.folder.clone(), source: Box::new(source) }
    }

    /// Loads the table. Where it is not there a writer makes it, and a reader gets none.
    async fn load(&self, table: Table) -> Result<Option<DeltaTable>, StoreError> {
        let error = self.error(table);
        let path = self.folder.join("tables").join(table.name());
        if !self.writable && !path.join("_delta_log").exists() {
            return Ok(None);
        }
        fs::create_dir_all(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let url = Url::from_directory_path(&path).expect("the state's path is absolute");
        let mut delta = DeltaTableBuilder::from_url(url).and_then(DeltaTableBuilder::build).map_err(&error)?;
        if delta.verify_deltatable_existence().await.map_err(&error)? {
            delta.load().await.map_err(&error)?;
            return Ok(Some(delta));
        }
        let schema = table.schema();
        let columns: StructType =
            schema.stored().as_ref().try_into_kernel().map_err(|source| error(DeltaTableError::Arrow { source }))?;
        delta
            .create()
            .with_columns(columns.fields().cloned())
            .with_partition_columns(schema.partition_by.iter())
            .with_table_name(table.name())
            .with_comment(&schema.description)
            .await
            .map(Some)
            .map_err(&error)
    }
}

/// Whether nothing but the lock is in the folder, or the folder is not there.
fn is_empty(folder: &Path) -> Result<bool, StoreError> {
    let io = |source| StoreError::Io { path: folder.to_owned(), source };
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(io)?.file_name();
                if name != LOCK_FILE && name != format!("{VERSION_FILE}.new").as_str() {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(source) => Err(io(source)),
    }
}

#[async_trait]
impl Store for DeltaStore {
    async fn transaction(&self, table: Table, app: &str) -> Result<Option<i64>, StoreError> {
        let mut tables = self.tables.lock().await;
        let Some(delta) = loaded(self, &mut tables, table).await? else {
            return Ok(None);
        };
        let snapshot = delta.snapshot().map_err(self.error(table))?;
        snapshot.transaction_version(&delta.log_store(), app).await.map_err(self.error(table))
    }

    async fn append(
        &self,
        table: Table,
        rows: Vec<RecordBatch>,
        transactions: &[Transaction],
    ) -> Result<(), StoreError> {
        let error = self.error(table);
        let mut tables = self.tables.lock().await;
        let Some(delta) = loaded(self, &mut tables, table).await? else {
            let source = std::io::Error::other("it was opened for reading");
            return Err(StoreError::Io { path: self.folder.clone(), source });
        };
        let commit = CommitProperties::default().with_application_transactions(
            transactions
                .iter()
                .map(|transaction| deltalake::kernel::Transaction::new(&transaction.app, transaction.version))
                .collect(),
        );
        let parquet = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let mut writer = RecordBatchWriter::for_table(delta)
            .map_err(&error)?
            .with_writer_properties(parquet)
            .with_commit_properties(commit);
        for batch in rows {
            writer.write(batch).await.map_err(&error)?;
        }
        writer.flush_and_commit(delta).await.map_err(&error)?;
        Ok(())
    }

    async fn provider(&self, table: Table, session: &SessionContext) -> Result<Arc<dyn TableProvider>, StoreError> {
        let mut tables = self.tables.lock().await;
        let engine = |source| StoreError::Engine { table: table.name(), source: Box::new(source) };
        let Some(delta) = loaded(self, &mut tables, table).await? else {
            return Ok(Arc::new(MemTable::try_new(table.schema().stored(), vec![vec![]]).map_err(engine)?));
        };
        delta.update_datafusion_session(&session.state()).map_err(self.error(table))?;
        Ok(Arc::new(delta.table_provider().build().await.map_err(engine)?))
    }
}

/// The table, loaded at most once.
async fn loaded<'a>(
    store: &DeltaStore,
    tables: &'a mut HashMap<Table, DeltaTable>,
    table: Table,
) -> Result<Option<&'a mut DeltaTable>, StoreError> {
    match tables.entry(table) {
        Entry::Occupied(loaded) => Ok(Some(loaded.into_mut())),
        Entry::Vacant(place) => Ok(store.load(table).await?.map(|delta| place.insert(delta))),
    }
}
