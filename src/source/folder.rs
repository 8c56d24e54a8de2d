//! Log objects in a folder and the folders below it.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{LogSource, ObjectMeta, SourceError, names};

/// A folder. Hidden files are left out: that is how rsync and the like name what is still being written.
pub struct FolderSource {
    root: PathBuf,
    location: String,
}

impl FolderSource {
    pub fn new(root: PathBuf) -> Self {
        let location = root.display().to_string();
        FolderSource { root, location }
    }

    fn walk(&self, since: Option<DateTime<Utc>>) -> Result<Vec<ObjectMeta>, SourceError> {
        let mut objects = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            self.read_folder(&folder, since, &mut folders, &mut objects).map_err(|error| SourceError::List {
                location: self.location.clone(),
                reason: format!("{}: {error}", folder.display()),
            })?;
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn read_folder(
        &self,
        folder: &Path,
        since: Option<DateTime<Utc>>,
        folders: &mut Vec<PathBuf>,
        objects: &mut Vec<ObjectMeta>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // A folder that is a link is not followed: it could lead back here.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) => continue,
                // Removed since it was listed, or a link to nowhere.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let path = entry.path();
            let key = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
            let arrived_at = DateTime::<Utc>::from(metadata.modified()?);
            if since.is_none_or(|since| names::may_hold_since(&key, arrived_at, since)) {
                let etag = format!("{:x}.{:09}-{:x}", metadata.mtime(), metadata.mtime_nsec(), metadata.len());
                objects.push(ObjectMeta { key, etag, size: metadata.len(), arrived_at });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl LogSource for FolderSource {
    fn location(&self) -> &str {
        &self.location
    }

    fn list(&self, since: Option<DateTime<Utc>>) -> BoxStream<'_, Result<ObjectMeta, SourceError>> {
        match self.walk(since) {
            Ok(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
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
