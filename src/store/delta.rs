//! The state in a folder or in S3: `state.json` with its version, `lock`, and a Delta table per stored table.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionContext, col, lit};
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::logstore::ObjectStoreRef;
use deltalake::operations::vacuum::VacuumMode;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use deltalake::protocol::SaveMode;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use super::contents::Contents;
use super::lock::Lease;
use super::{Root, StateLock, Store, StoreError, Transaction};
use crate::rows::conform;
use crate::schema::Table;

/// Layout of the state that this program reads and writes.
const VERSION: u64 = 4;
const VERSION_FILE: &str = "state.json";
/// When files were last removed.
const VACUUM_FILE: &str = "vacuumed";

/// Size of a compacted file, about.
const COMPACT_BYTES: NonZeroU64 = NonZeroU64::new(16 << 20).expect("it is not zero");

/// Tables that a pass asks several times, each time for most of their columns: they are read once, while their files have no more
/// than [`READ_ONCE_BYTES`] in all.
const READ_ONCE: [Table; 6] =
    [Table::Credentials, Table::Revocations, Table::Enforcement, Table::Syncs, Table::Notifications, Table::Objects];

/// Some ten times as much in memory. A ledger of 10,000 objects has 1 MB.
const READ_ONCE_BYTES: u64 = 2 << 20;

/// How often a table in S3 is tried again that cannot be loaded.
const LOAD_RETRIES: u32 = 4;

/// A reader has some tens of commits to go through at most, commits that a checkpoint holds go after a day, and a file stays
/// for two days that no version needs any more: longer than any reader runs.
const PROPERTIES: [(&str, &str); 3] = [
    ("delta.checkpointInterval", "20"),
    ("delta.logRetentionDuration", "interval 1 days"),
    ("delta.deletedFileRetentionDuration", "interval 2 days"),
];

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u64,
}

/// Delta tables in a folder or in S3.
pub struct DeltaStore {
    root: Root,
    /// What tells this state from others that are or were at its place.
    identity: String,
    /// Where its tables are.
    storage: OnceLock<(ObjectStoreRef, Url)>,
    /// A reader makes no tables: to it, one that is not there is empty.
    writable: bool,
    /// It is new, or of an older version.
    may_lack_tables: bool,
    /// What a writer in S3 holds.
    lease: Option<Arc<Lease>>,
    tables: HashMap<Table, Mutex<Slot>>,
    /// Of the tables [`READ_ONCE`] what was read.
    contents: SyncMutex<HashMap<Table, Contents>>,
}

/// What is known of a table.
#[derive(Default)]
struct Slot {
    /// Loaded when it is first asked for.
    delta: Option<DeltaTable>,
    /// The transactions that were asked for and that were written: the Delta library goes through the log of a table for each question,
    /// and while the store lives nobody else writes, or what was loaded stays as it was.
    transactions: HashMap<String, Option<i64>>,
}

impl DeltaStore {
    /// Opens the state for writing, making it if the place is new or empty and migrating an older one.
    pub async fn open_or_create(root: &Root, lock: &StateLock) -> Result<DeltaStore, StoreError> {
        let (found, identity) = version(root).await?;
        let store = DeltaStore {
            may_lack_tables: found != Some(VERSION),
            ..DeltaStore::new(root, identity, true, lock.lease())
        };
        match found {
            Some(VERSION) => return Ok(store),
            Some(older) if (1..VERSION).contains(&older) => {
                tracing::info!("migrating the state from version {older} to {VERSION}");
                store.migrate().await?;
            }
            Some(other) => return Err(wrong_version(root, other)),
            None => {}
        }
        let text = serde_json::to_string(&StateFile { version: VERSION }).expect("a number becomes JSON");
        store.check_held()?;
        root.write(VERSION_FILE, &(text + "\n")).await?;
        Ok(store)
    }

    /// Opens the state that is there, for reading.
    pub async fn open(root: &Root) -> Result<DeltaStore, StoreError> {
        let (found, identity) = version(root).await?;
        match found {
            Some(VERSION) => Ok(DeltaStore::new(root, identity, false, None)),
            Some(other) => Err(wrong_version(root, other)),
            None => Err(StoreError::Missing(root.name())),
        }
    }

    fn new(root: &Root, identity: String, writable: bool, lease: Option<Arc<Lease>>) -> DeltaStore {
        let (storage, contents) = Default::default();
        let tables = Table::STORED.into_iter().map(|table| (table, Mutex::default())).collect();
        let (root, may_lack_tables) = (root.clone(), false);
        DeltaStore { root, identity, storage, writable, may_lack_tables, lease, tables, contents }
    }

    /// An error where the lock was lost, so that the tables may have changed since they were loaded.
    pub fn check_held(&self) -> Result<(), StoreError> {
        self.lease.as_ref().map_or(Ok(()), |lease| lease.check())
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
            let delta = match new.is_empty() {
                true => delta,
                false => delta.add_columns().with_fields(new).await.map_err(&error)?,
            };
            let properties = PROPERTIES.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            delta.set_tbl_properties().with_properties(properties).await.map_err(&error)?;
        }
        Ok(())
    }

    /// How many files each hour of a table has; a table without hours has one entry without a name.
    pub async fn files(&self, table: Table) -> Result<BTreeMap<String, usize>, StoreError> {
        let mut slot = self.tables[&table].lock().await;
        let mut files = BTreeMap::new();
        if let Some(delta) = loaded(self, &mut slot, table).await? {
            for uri in delta.get_file_uris().map_err(self.error(table))? {
                let hour = uri.split('/').find_map(|part| part.strip_prefix("hour=")).unwrap_or_default();
                *files.entry(hour.to_owned()).or_default() += 1;
            }
        }
        Ok(files)
    }

    /// Puts rows in the place of an hour's, in one commit.
    pub async fn replace_hour(&self, table: Table, hour: &str, rows: Vec<RecordBatch>) -> Result<(), StoreError> {
        let schema = table.schema().stored();
        self.change(table, async |delta| {
            let rows: Result<Vec<RecordBatch>, DeltaTableError> =
                rows.iter().map(|rows| written(&schema, rows)).collect();
            let write = delta.write(rows?).with_save_mode(SaveMode::Overwrite);
            write.with_replace_where(col("hour").eq(lit(hour))).with_writer_properties(writer_properties()).await
        })
        .await
    }

    pub async fn drop_hours_before(&self, table: Table, hour: &str) -> Result<(), StoreError> {
        let old = col("hour").lt(lit(hour));
        self.change(table, async |delta| delta.delete().with_predicate(old).await.map(|(delta, _)| delta)).await
    }

    /// Drops the credentials that were last seen before a time, but for those of some sessions.
    pub async fn drop_credentials_before(&self, time: DateTime<Utc>, kept: Vec<String>) -> Result<(), StoreError> {
        let mut old = col("last_seen").lt(lit(crate::engine::timestamp(time)));
        if !kept.is_empty() {
            old = old.and(col("session_id").in_list(kept.into_iter().map(lit).collect(), true));
        }
        let delete = async |delta: DeltaTable| delta.delete().with_predicate(old).await.map(|(delta, _)| delta);
        self.change(Table::Credentials, delete).await
    }

    /// Makes many small files few large ones.
    pub async fn compact(&self, table: Table) -> Result<(), StoreError> {
        self.change(table, async |delta| {
            let optimize = delta.optimize().with_target_size(COMPACT_BYTES).with_writer_properties(writer_properties());
            optimize.await.map(|(delta, _)| delta)
        })
        .await
    }

    /// Removes the files that no version has needed for two days: what runs that were cut off left behind, and what was
    /// replaced long before any reader that still runs began.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        for table in Table::STORED {
            let vacuum =
                async |delta: DeltaTable| delta.vacuum().with_mode(VacuumMode::Full).await.map(|(delta, _)| delta);
            self.change(table, vacuum).await?;
        }
        self.root.write(VACUUM_FILE, &format!("{}\n", crate::time::rfc3339(Utc::now()))).await
    }

    /// When files were last removed, by the machine's clock.
    pub async fn last_vacuum(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let file = self.root.read(VACUUM_FILE).await?;
        Ok(file.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
    }

    /// Changes a table by an operation of the Delta library.
    async fn change(
        &self,
        table: Table,
        operation: impl AsyncFnOnce(DeltaTable) -> Result<DeltaTable, DeltaTableError>,
    ) -> Result<(), StoreError> {
        self.check_held()?;
        let mut slot = self.tables[&table].lock().await;
        if let Some(delta) = loaded(self, &mut slot, table).await? {
            self.contents().remove(&table);
            *delta = operation(delta.clone()).await.map_err(self.error(table))?;
        }
        Ok(())
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<Table, Contents>> {
        self.contents.lock().expect("not poisoned")
    }

    fn error(&self, table: Table) -> impl Fn(DeltaTableError) -> StoreError + '_ {
        move |source| StoreError::Delta { table: table.name(), place: self.root.name(), source: Box::new(source) }
    }

    /// Loads the table. Where it is not there a writer makes it, and a reader gets none.
    ///
    /// In S3 what fails is tried again: the Delta library does not when an answer breaks off. Appends are not tried again, as
    /// nobody knows whether one was done; the next run sees it.
    async fn load(&self, table: Table) -> Result<Option<DeltaTable>, StoreError> {
        let mut pause = Duration::from_millis(200);
        for _ in 0..LOAD_RETRIES {
            match self.try_load(table).await {
                Err(error @ StoreError::Delta { .. }) if matches!(self.root, Root::S3(_)) => {
                    tracing::warn!("{error}; trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                loaded => return loaded,
            }
        }
        self.try_load(table).await
    }

    async fn try_load(&self, table: Table) -> Result<Option<DeltaTable>, StoreError> {
        let error = self.error(table);
        let Some(url) = self.root.table(table.name(), self.writable)? else { return Ok(None) };
        let mut builder = DeltaTableBuilder::from_url(url).map_err(&error)?.with_storage_options(self.root.options());
        if self.storage.get().is_none() {
            // Another table may have been quicker.
            let _ = self.storage.set(self.root.storage(&self.identity).map_err(&error)?);
        }
        if let Some((storage, url)) = self.storage.get() {
            builder = builder.with_storage_backend(storage.clone(), url.clone());
        }
        let mut delta = builder.build().map_err(&error)?;
        // To ask takes a listing of the table's log; not to ask, where there is none, an error of the Delta library in ours.
        if !self.may_lack_tables || delta.verify_deltatable_existence().await.map_err(&error)? {
            let Err(failed) = delta.load().await else { return Ok(Some(delta)) };
            if delta.verify_deltatable_existence().await.map_err(&error)? {
                return Err(error(failed));
            }
        }
        if !self.writable {
            return Ok(None);
        }
        let schema = table.schema();
        let columns = columns(table).map_err(&error)?;
        delta
            .create()
            .with_columns(columns.fields().cloned())
            .with_partition_columns(schema.partition_by.iter())
            .with_table_name(table.name())
            .with_comment(&schema.description)
            .with_configuration(PROPERTIES.map(|(key, value)| (key, Some(value))))
            .await
            .map(Some)
            .map_err(&error)
    }
}

fn writer_properties() -> WriterProperties {
    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build()
}

/// Rows with the columns of a schema, as they are written: the Delta library takes no texts but `Utf8`.
fn written(schema: &Schema, rows: &RecordBatch) -> Result<RecordBatch, DeltaTableError> {
    let as_utf8 = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => field.as_ref().clone().with_data_type(DataType::Utf8),
        _ => field.as_ref().clone(),
    };
    let fields: Vec<Field> = schema.fields().iter().map(as_utf8).collect();
    conform(rows, &Arc::new(Schema::new(fields))).map_err(DeltaTableError::Generic)
}

/// The columns of a table as Delta has them.
fn columns(table: Table) -> Result<StructType, DeltaTableError> {
    table.schema().stored().as_ref().try_into_kernel().map_err(|source| DeltaTableError::Arrow { source })
}

/// The version of the state at a place, none where there is no state yet; and what tells it from others that were there.
async fn version(root: &Root) -> Result<(Option<u64>, String), StoreError> {
    let mut file = root.read_dated(VERSION_FILE).await?;
    if file.is_none() {
        if root.is_empty().await? {
            return Ok((None, Uuid::new_v4().to_string()));
        }
        // Another run may have made it in between.
        file = root.read_dated(VERSION_FILE).await?;
    }
    let (bytes, modified) = file.unwrap_or_default();
    match serde_json::from_slice(&bytes) {
        Ok(StateFile { version }) => Ok((Some(version), format!("{} {modified:?}", root.name()))),
        Err(_) => Err(StoreError::Foreign(root.name())),
    }
}

fn wrong_version(root: &Root, found: u64) -> StoreError {
    let advice = match found {
        0 => "it is older than any that can be migrated; name a new place in [state] location",
        1..VERSION => "an older streamwarden wrote it; `streamwarden run` migrates it",
        _ => "a newer streamwarden wrote it; use that one",
    };
    StoreError::Version { place: root.name(), found, expected: VERSION, advice }
}

#[async_trait]
impl Store for DeltaStore {
    async fn transaction(&self, table: Table, app: &str) -> Result<Option<i64>, StoreError> {
        let mut slot = self.tables[&table].lock().await;
        if let Some(known) = slot.transactions.get(app) {
            return Ok(*known);
        }
        let Some(delta) = loaded(self, &mut slot, table).await? else {
            return Ok(None);
        };
        let snapshot = delta.snapshot().map_err(self.error(table))?;
        let version = snapshot.transaction_version(&delta.log_store(), app).await.map_err(self.error(table))?;
        slot.transactions.insert(app.to_owned(), version);
        Ok(version)
    }

    async fn append(
        &self,
        table: Table,
        rows: Vec<RecordBatch>,
        transactions: &[Transaction],
    ) -> Result<(), StoreError> {
        let error = self.error(table);
        self.check_held()?;
        let mut slot = self.tables[&table].lock().await;
        // Until the commit is done, nobody knows.
        slot.transactions.retain(|app, _| transactions.iter().all(|written| written.app != *app));
        let Some(delta) = loaded(self, &mut slot, table).await? else {
            return Err(self.root.error(std::io::Error::other("it was opened for reading")));
        };
        let contents = self.contents().remove(&table);
        // Old commits are removed when the table is compacted: to look for them takes a listing of the log each time.
        let commit = CommitProperties::default().with_cleanup_expired_logs(Some(false)).with_application_transactions(
            transactions
                .iter()
                .map(|transaction| deltalake::kernel::Transaction::new(&transaction.app, transaction.version))
                .collect(),
        );
        let started = Instant::now();
        let (before, schema) = (delta.version(), table.schema().stored());
        let written = async {
            let mut writer = RecordBatchWriter::for_table(delta)?
                .with_writer_properties(writer_properties())
                .with_commit_properties(commit);
            for batch in &rows {
                writer.write(written(&schema, batch)?).await?;
            }
            writer.flush_and_commit(delta).await
        };
        let Err(failed) = written.await else {
            tracing::trace!("written to {} in {:.2?}", table.name(), started.elapsed());
            slot.transactions.extend(transactions.iter().map(|one| (one.app.clone(), Some(one.version))));
            if let Some(grown) = contents.and_then(|contents| contents.with(&rows)) {
                self.contents().insert(table, grown);
            }
            return Ok(());
        };
        // What is in memory may be half of it.
        *slot = Slot::default();
        // In S3 the answer may have broken off behind a commit that was done. There is one writer: a newer version is ours.
        if self.lease.is_some()
            && let Ok(Some(again)) = loaded(self, &mut slot, table).await
            && again.version() > before
        {
            tracing::warn!("table {}: the commit was done, though: {failed}", table.name());
            return Ok(());
        }
        Err(error(failed))
    }

    async fn provider(&self, table: Table, session: &SessionContext) -> Result<Arc<dyn TableProvider>, StoreError> {
        let mut slot = self.tables[&table].lock().await;
        let engine = |source| StoreError::Engine { table: table.name(), source: Box::new(source) };
        let Some(delta) = loaded(self, &mut slot, table).await? else {
            return Ok(Arc::new(MemTable::try_new(table.schema().stored(), vec![vec![]]).map_err(engine)?));
        };
        delta.update_datafusion_session(&session.state()).map_err(self.error(table))?;
        let known = self.contents().get(&table).cloned();
        if let Some(contents) = known {
            return Ok(Arc::new(contents));
        }
        let provider: Arc<dyn TableProvider> = Arc::new(delta.table_provider().build().await.map_err(engine)?);
        if !READ_ONCE.contains(&table) || bytes_of(delta).map_err(self.error(table))? > READ_ONCE_BYTES {
            return Ok(provider);
        }
        let contents = Contents::of(provider);
        self.contents().insert(table, contents.clone());
        Ok(Arc::new(contents))
    }
}

/// The table, loaded at most once.
async fn loaded<'a>(
    store: &DeltaStore,
    slot: &'a mut Slot,
    table: Table,
) -> Result<Option<&'a mut DeltaTable>, StoreError> {
    if slot.delta.is_none() {
        slot.delta = store.load(table).await?;
    }
    Ok(slot.delta.as_mut())
}

/// Bytes of the table's files.
fn bytes_of(delta: &DeltaTable) -> Result<u64, DeltaTableError> {
    let files = delta.snapshot()?.log_data();
    Ok(files.iter().map(|file| u64::try_from(file.size()).unwrap_or(0)).sum())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::detect::WINDOWED;
    use crate::engine::{Engine, sql};
    use crate::rows;
    use crate::store::MemoryStore;

    /// A table of version 1 gets the new column, keeps its rows, and its view says what they mean.
    #[tokio::test]
    async fn an_older_state_is_migrated_and_a_reader_does_not_do_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::Folder(folder.path().to_owned());
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
        let rows = rows::encode(old.clone(), &[row("before")]).unwrap();
        writer.write(written(&old, &rows).unwrap()).await.unwrap();
        writer.flush_and_commit(&mut table).await.unwrap();
        fs::write(folder.path().join(VERSION_FILE), "{\"version\":1}").unwrap();

        let lock = StateLock::acquire(&root, false, std::time::Duration::from_secs(60)).await.unwrap();
        let refused = DeltaStore::open(&root).await.err().unwrap();
        assert!(refused.to_string().contains("`streamwarden run` migrates it"), "{refused}");
        let store = DeltaStore::open_or_create(&root, &lock).await.unwrap();
        let mut after = row("after");
        after["component"] = "query:token".into();
        store.append(Table::Credentials, vec![rows::encode(stored, &[after]).unwrap()], &[]).await.unwrap();

        let store = DeltaStore::open(&root).await.unwrap();
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

    /// Detectors that were planned over nothing serve over a state: its tables have the same schemas.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_tables_of_a_state_are_those_that_detectors_are_planned_over() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::Folder(folder.path().to_owned());
        let lock = StateLock::acquire(&root, false, Duration::from_secs(60)).await.unwrap();
        let store = DeltaStore::open_or_create(&root, &lock).await.unwrap();
        let engine = Engine::new(&crate::config::Engine::default()).unwrap();
        let kept = engine.session_over(&store, DateTime::UNIX_EPOCH).await.unwrap();
        let of_nothing = engine.session_over(&MemoryStore::default(), DateTime::UNIX_EPOCH).await.unwrap();
        for (table, _) in WINDOWED {
            let schema =
                async |session: &SessionContext| session.table(table).await.unwrap().schema().as_arrow().clone();
            assert_eq!(schema(&kept).await, schema(&of_nothing).await, "{table}");
        }
    }

    /// What is read once is what the table holds, whatever is written meanwhile; a session has the rows of when it was made.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_read_once_follows_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::Folder(folder.path().to_owned());
        let lock = StateLock::acquire(&root, false, Duration::from_secs(60)).await.unwrap();
        let store = DeltaStore::open_or_create(&root, &lock).await.unwrap();
        let engine = Engine::new(&crate::config::Engine::default()).unwrap();
        let over = async |store: &DeltaStore| engine.session_over(store, DateTime::UNIX_EPOCH).await.unwrap();
        let keys = async |session: &SessionContext| {
            let sql = "SELECT key, batch, reason FROM stored_objects ORDER BY batch";
            let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
            rows::to_json(&rows).unwrap().into_iter().map(|row| format!("{row:?}")).collect::<Vec<String>>()
        };
        let add = async |batch: i64| {
            let row = serde_json::json!({"location": "logs", "key": format!("{batch}.gz"), "batch": batch});
            let rows = rows::encode(Table::Objects.schema().stored(), &[row]).unwrap();
            store.append(Table::Objects, vec![rows], &[Transaction::new("test", batch)]).await.unwrap();
        };
        let stored = async || keys(&over(&DeltaStore::open(&root).await.unwrap()).await).await;

        assert_eq!(keys(&over(&store).await).await, Vec::<String>::new());
        let before = over(&store).await;
        for batch in 1..=3 {
            add(batch).await;
            let now = keys(&over(&store).await).await;
            assert_eq!((now.len(), &now), (usize::try_from(batch).unwrap(), &stored().await));
        }
        assert_eq!(keys(&before).await, Vec::<String>::new());
        // Nobody has asked between these two.
        add(4).await;
        add(5).await;
        store.compact(Table::Objects).await.unwrap();
        let all = keys(&over(&store).await).await;
        assert_eq!((all.len(), &all), (5, &stored().await));
        for file in fs::read_dir(folder.path().join("tables/objects")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "parquet") {
                fs::remove_file(path).unwrap();
            }
        }
        assert_eq!(keys(&over(&store).await).await, all, "it is not read again");
    }
}
