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
const VERSION: u64 = 2;
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
    /// Opens the state for writing, making it if the folder is new or empty and migrating an older one. The caller holds
    /// the lock.
    pub async fn open_or_create(folder: &Path) -> Result<DeltaStore, StoreError> {
        let found = version(folder)?;
        let store = DeltaStore { folder: folder.to_owned(), writable: true, tables: Mutex::default() };
        match found {
            Some(VERSION) => return Ok(store),
            Some(older) if (1..VERSION).contains(&older) => {
                tracing::info!("migrating the state from version {older} to {VERSION}");
                store.migrate().await?;
            }
            Some(other) => return Err(wrong_version(folder, other)),
            None => {}
        }
        let io = |source| StoreError::Io { path: folder.to_owned(), source };
        let text = serde_json::to_string(&StateFile { version: VERSION }).expect("a number becomes JSON");
        // Written beside and moved: the file is whole or not there.
        let new = folder.join(format!("{VERSION_FILE}.new"));
        fs::create_dir_all(folder).map_err(io)?;
        fs::write(&new, text + "\n").map_err(io)?;
        fs::rename(&new, folder.join(VERSION_FILE)).map_err(io)?;
        Ok(store)
    }

    /// Opens the state that is there, for reading.
    pub fn open(folder: &Path) -> Result<DeltaStore, StoreError> {
        match version(folder)? {
            Some(VERSION) => Ok(DeltaStore { folder: folder.to_owned(), writable: false, tables: Mutex::default() }),
            Some(other) => Err(wrong_version(folder, other)),
            None => Err(StoreError::Missing(folder.to_owned())),
        }
    }

    /// Gives the tables the columns that they lack; their old rows have nulls there, which the views read as what was
    /// meant. May be cut off and done again.
    async fn migrate(&self) -> Result<(), StoreError> {
        for table in Table::STORED {
            let error = self.error(table);
            let Some(delta) = self.load(table).await? else { continue };
            let columns: StructType = columns(table).map_err(&error)?;
            let known = delta.snapshot().map_err(&error)?.schema();
            let new: Vec<_> = columns.fields().filter(|column| known.field(column.name()).is_none()).cloned().collect();
            if !new.is_empty() {
                delta.add_columns().with_fields(new).await.map_err(&error)?;
            }
        }
        Ok(())
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
        let columns = columns(table).map_err(&error)?;
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

/// The columns of a table as Delta has them.
fn columns(table: Table) -> Result<StructType, DeltaTableError> {
    table.schema().stored().as_ref().try_into_kernel().map_err(|source| DeltaTableError::Arrow { source })
}

/// The version of the state in a folder; none where there is no state yet.
fn version(folder: &Path) -> Result<Option<u64>, StoreError> {
    let path = folder.to_owned();
    let file = match fs::read_to_string(folder.join(VERSION_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if is_empty(folder)? { Ok(None) } else { Err(StoreError::Foreign(path)) };
        }
        Err(source) => return Err(StoreError::Io { path, source }),
    };
    match serde_json::from_str(&file) {
        Ok(StateFile { version }) => Ok(Some(version)),
        Err(_) => Err(StoreError::Foreign(path)),
    }
}

fn wrong_version(folder: &Path, found: u64) -> StoreError {
    let advice = match found {
        0 => "it is older than any that can be migrated; name a new folder in [state] location",
        1..VERSION => "an older streamwarden wrote it; `streamwarden run` migrates it",
        _ => "a newer streamwarden wrote it; use that one",
    };
    StoreError::Version { path: folder.to_owned(), found, expected: VERSION, advice }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, sql};
    use crate::rows;

    /// A table of version 1 gets the new column, keeps its rows, and its view says what they mean.
    #[tokio::test]
    async fn an_older_state_is_migrated_and_a_reader_does_not_do_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tables/credentials");
        fs::create_dir_all(&path).unwrap();
        let stored = Table::Credentials.schema().stored();
        let old: Vec<usize> = (0..stored.fields().len()).filter(|n| stored.field(*n).name() != "component").collect();
        let old = Arc::new(stored.project(&old).unwrap());
        let columns: StructType = old.as_ref().try_into_kernel().unwrap();
        let url = Url::from_directory_path(&path).unwrap();
        let table = DeltaTableBuilder::from_url(url).unwrap().build().unwrap();
        let mut table = table.create().with_columns(columns.fields().cloned()).await.unwrap();
        let time = "2026-11-20T19:00:00Z";
        let row = |session: &str| {
            serde_json::json!({"batch": 1, "session_id": session, "scheme": "secure-media-delivery", "credential": session,
                "unknown_expiry": true, "first_seen": time, "last_seen": time})
        };
        let mut writer = RecordBatchWriter::for_table(&table).unwrap();
        writer.write(rows::encode(old, &[row("before")]).unwrap()).await.unwrap();
        writer.flush_and_commit(&mut table).await.unwrap();
        fs::write(folder.path().join(VERSION_FILE), "{\"version\":1}").unwrap();

        let refused = DeltaStore::open(folder.path()).err().unwrap();
        assert!(refused.to_string().contains("`streamwarden run` migrates it"), "{refused}");
        let store = DeltaStore::open_or_create(folder.path()).await.unwrap();
        let mut after = row("after");
        after["component"] = "query:token".into();
        store.append(Table::Credentials, vec![rows::encode(stored, &[after]).unwrap()], &[]).await.unwrap();

        let store = DeltaStore::open(folder.path()).unwrap();
        let engine = Engine::new(&crate::config::Engine::default()).unwrap();
        let session = engine.session_over(&store, time.parse().unwrap()).await.unwrap();
        let view = crate::engine::collect(&session, sql!("views/credentials.sql"), vec![]).await.unwrap().1;
        let mut seen: Vec<String> = rows::to_json(&view)
            .unwrap()
            .iter()
            .map(|row| format!("{} {}", row["session_id"].as_str().unwrap(), row["component"].as_str().unwrap()))
            .collect();
        seen.sort();
        assert_eq!(seen, ["after query:token", "before path-start"]);
    }
}
