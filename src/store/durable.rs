//! The objects of a state in a folder, on the disk before anything relies on them.
//!
//! A pass writes one thing after the other, and takes what is written for done: a ledger that says that an object was read, say, whose
//! rows come next. Without this the disk would have them in any order, and after a power cut the ledger could be older than the rows:
//! these would be counted twice.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::object_store::local::LocalFileSystem;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use futures::stream::BoxStream;

/// A folder whose files are on the disk, with their names, when writing them is done.
#[derive(Clone, Debug)]
pub struct Durable {
    inner: Arc<LocalFileSystem>,
    folder: PathBuf,
    /// Folders whose own names are on the disk.
    known: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Durable {
    /// Of a folder with an absolute path. Locations begin at the root of the file system.
    pub fn new(folder: &std::path::Path) -> Durable {
        Durable { inner: Arc::default(), folder: folder.to_owned(), known: Arc::default() }
    }

    /// Waits until a file is on the disk, its name in its folder, and the names of the folders down to that: one of them may be new.
    async fn sync(&self, location: &Path) -> Result<()> {
        let (path, store) = (self.inner.path_to_filesystem(location)?, self.clone());
        let sync = move || -> io::Result<()> {
            File::open(&path)?.sync_all()?;
            let mut new = Vec::new();
            for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(&store.folder)) {
                File::open(folder)?.sync_all()?;
                if store.known.lock().expect("not poisoned").contains(folder) {
                    break;
                }
                new.push(folder.to_owned());
            }
            // Only now: whoever finds one here does not look at those above it.
            store.known.lock().expect("not poisoned").extend(new);
            Ok(())
        };
        let synced = tokio::task::spawn_blocking(sync).await.map_err(|source| Error::JoinError { source })?;
        synced.map_err(|source| generic(source.into()))
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "Durable", source }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Durable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let done = self.inner.put_opts(location, payload, options).await?;
        self.sync(location).await?;
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { inner, store: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

/// A file that is written in parts.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    store: Durable,
    location: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.inner.put_part(payload)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await?;
        self.store.sync(&self.location).await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
