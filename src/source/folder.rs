//! Log objects in a folder and the folders below it.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::common::runtime::SpawnedTask;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

use super::{LogSource, ObjectMeta, SourceError, names};

/// A folder. Hidden files are left out: that is how rsync and the like name what is still being written.
#[derive(Clone)]
pub struct FolderSource {
    root: PathBuf,
    location: String,
}

impl FolderSource {
    pub fn new(root: PathBuf) -> Self {
        let location = root.display().to_string();
        FolderSource { root, location }
    }

    /// Everything below the root, and what could not be looked at: one bad entry does not hide the others.
    fn walk(&self, since: Option<DateTime<Utc>>) -> Vec<Result<ObjectMeta, SourceError>> {
        let mut objects = Vec::new();
        let mut failures = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            match fs::read_dir(&folder) {
                Ok(entries) => {
                    for entry in entries {
                        match entry.and_then(|entry| self.look_at(&entry, since, &mut folders)) {
                            Ok(object) => objects.extend(object),
                            Err(error) => failures.push(self.list_error(&folder, &error)),
                        }
                    }
                }
                Err(error) => failures.push(self.list_error(&folder, &error)),
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.into_iter().map(Ok).chain(failures.into_iter().map(Err)).collect()
    }

    fn list_error(&self, folder: &Path, error: &io::Error) -> SourceError {
        let reason = if folder == self.root { error.to_string() } else { format!("{}: {error}", folder.display()) };
        SourceError::List { location: self.location.clone(), reason }
    }

    /// A log object, a folder to go into, or nothing.
    fn look_at(
        &self,
        entry: &fs::DirEntry,
        since: Option<DateTime<Utc>>,
        folders: &mut Vec<PathBuf>,
    ) -> io::Result<Option<ObjectMeta>> {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            return Ok(None);
        }
        // A folder that is a link is not followed: it could lead back here.
        if entry.file_type()?.is_dir() {
            let path = entry.path();
            let below = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
            let may_hold = |since| names::folders_may_hold_since(below?, since);
            if since.and_then(may_hold).unwrap_or(true) {
                folders.push(path);
            }
            return Ok(None);
        }
        let path = entry.path();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            // Removed since it was listed, or a link to nowhere.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        let key = path.strip_prefix(&self.root).unwrap_or(&path);
        let key = key.to_str().ok_or_else(|| io::Error::other(format!("{}: the name is not UTF-8", path.display())))?;
        let arrived_at = DateTime::<Utc>::from(metadata.modified()?);
        let wanted = since.is_none_or(|since| names::may_hold_since(key, arrived_at, since));
        Ok(wanted.then(|| ObjectMeta {
            key: key.to_owned(),
            etag: format!("{:x}.{:09}-{:x}", metadata.mtime(), metadata.mtime_nsec(), metadata.len()),
            size: metadata.len(),
            arrived_at,
        }))
    }
}

#[async_trait]
impl LogSource for FolderSource {
    fn location(&self) -> &str {
        &self.location
    }

    fn object_name(&self, key: &str) -> String {
        format!("{}/{key}", self.location)
    }

    fn list(&self, since: Option<DateTime<Utc>>) -> BoxStream<'_, Result<ObjectMeta, SourceError>> {
        let folder = self.clone();
        let walk = SpawnedTask::spawn_blocking(move || folder.walk(since));
        let walked = async { walk.join_unwind().await.expect("it is cancelled with whoever asks for it") };
        walked.map(stream::iter).flatten_stream().boxed()
    }

    async fn open(&self, object: &ObjectMeta) -> Result<Box<dyn Read + Send>, SourceError> {
        match fs::File::open(self.root.join(&object.key)) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => {
                let (location, key, reason) = (self.location.clone(), object.key.clone(), error.to_string());
                Err(match error.kind() {
                    ErrorKind::PermissionDenied => SourceError::Denied { location, key, reason },
                    ErrorKind::NotFound => SourceError::Gone { location, key, reason },
                    _ => SourceError::Unavailable { location, key, reason },
                })
            }
        }
    }
}
