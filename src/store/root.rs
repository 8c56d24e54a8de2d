//! Where a state lives: a folder or a prefix of an S3 bucket, as far as it is more than Delta tables.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use deltalake::DeltaTableError;
use deltalake::aws::storage::S3ObjectStoreFactory;
use deltalake::logstore::{ObjectStoreFactory, ObjectStoreRef, StorageConfig};
use url::Url;

use super::StoreError;
use super::durable::Durable;
use super::remembered::Remembering;
use crate::aws;
use crate::source::Location;

pub const LOCK_FILE: &str = "lock";
/// The key of the digests that stand for addresses, where the config names none of its own.
pub const ADDRESS_KEY_FILE: &str = "address-key";
/// In which form addresses are stored, and since when.
pub const ADDRESS_FORM_FILE: &str = "address-form";
/// A note that a run failed or was cut off before it could tell that itself: which of these, and when it was told.
pub const TOLD_FAILURE_FILE: &str = "told-failure";

/// The place of a state, opened.
#[derive(Clone, Debug)]
pub enum Root {
    Folder(PathBuf),
    S3(S3Root),
}

/// A prefix of a bucket; it ends with `/` or is empty.
#[derive(Clone, Debug)]
pub struct S3Root {
    client: Client,
    bucket: String,
    prefix: String,
    /// What the Delta library needs to get at the same place.
    options: HashMap<String, String>,
}

/// What a conditional write came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Put {
    /// The version that it made.
    Done(String),
    /// The object was there, or was another than expected.
    Refused,
}

/// An object of a state in S3.
pub struct Found {
    pub bytes: Vec<u8>,
    pub etag: String,
    /// By S3's clock.
    pub modified: Option<DateTime>,
}

impl Root {
    /// Connects to a place. The S3 client is made from the usual AWS environment.
    pub async fn connect(location: &Location) -> Root {
        match location.as_folder() {
            Location::Folder(folder) => Root::Folder(folder),
            Location::S3 { bucket, prefix } => {
                let (client, options) = aws::state_clients().await;
                Root::S3(S3Root { client, bucket, prefix, options })
            }
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        match self {
            Root::Folder(folder) => folder.display().to_string(),
            Root::S3(root) => root.url("").to_string(),
        }
    }

    pub fn error(&self, source: io::Error) -> StoreError {
        StoreError::Io { place: self.name(), source }
    }

    /// A small file, or none where there is none.
    pub async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read_dated(name).await?.map(|(bytes, _)| bytes))
    }

    /// A small file, and when it was written, by S3's clock.
    pub async fn read_dated(&self, name: &str) -> Result<Option<(Vec<u8>, Option<DateTime>)>, StoreError> {
        match self {
            Root::Folder(folder) => match fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some((bytes, None))),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.error(error)),
            },
            Root::S3(root) => Ok(root.get(name).await?.map(|found| (found.bytes, found.modified))),
        }
    }

    /// Writes a small file: it is whole or not there.
    pub async fn write(&self, name: &str, text: &str) -> Result<(), StoreError> {
        match self {
            Root::Folder(folder) => {
                let new = folder.join(format!("{name}.new"));
                let write = || {
                    fs::create_dir_all(folder)?;
                    let mut file = File::create(&new)?;
                    file.write_all(text.as_bytes())?;
                    file.sync_all()?;
                    fs::rename(&new, folder.join(name))?;
                    File::open(folder)?.sync_all()
                };
                write().map_err(|error| self.error(error))
            }
            Root::S3(root) => {
                let put = root.client.put_object().bucket(&root.bucket).key(root.key(name));
                let put = put.body(ByteStream::from(text.as_bytes().to_vec())).send().await;
                put.map(|_| ()).map_err(|error| root.error("write", &error))
            }
        }
    }

    /// Writes a small file that only its owner may read, if it is not there yet.
    pub async fn create(&self, name: &str, text: &str) -> Result<Put, StoreError> {
        match self {
            Root::Folder(folder) => {
                let create = || {
                    fs::create_dir_all(folder)?;
                    // Whole or not there, and never over another one.
                    let mut new = tempfile::NamedTempFile::new_in(folder)?;
                    new.write_all(text.as_bytes())?;
                    new.as_file().sync_all()?;
                    new.persist_noclobber(folder.join(name)).map_err(|error| error.error)
                };
                match create() {
                    Ok(_) => Ok(Put::Done(String::new())),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Put::Refused),
                    Err(error) => Err(self.error(error)),
                }
            }
            Root::S3(root) => root.put_if(name, text, None).await,
        }
    }

    /// Whether something can be written, found out without writing.
    pub async fn can_write(&self) -> Result<(), StoreError> {
        match self {
            Root::Folder(folder) => {
                // Where it is not made yet, whether it can be made.
                let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
                // A run of another user may have left folders of its own in one that everybody may write to.
                let within = if there == folder { folders(folder) } else { vec![] };
                let lock = [folder.join(LOCK_FILE)].into_iter().filter(|lock| lock.exists());
                [there.to_owned()].into_iter().chain(within).chain(lock).try_for_each(|path| may_write(&path))
            }
            // An object is not written over whose version is another one; whoever may not write is told so first.
            Root::S3(root) => {
                root.put_if(LOCK_FILE, "", Some("\"00000000000000000000000000000000\"")).await.map(|_| ())
            }
        }
    }

    /// Bytes that are free there; none where nobody counts.
    pub fn free_bytes(&self) -> Option<u64> {
        let Root::Folder(folder) = self else { return None };
        let there = folder.ancestors().find(|ancestor| ancestor.exists())?;
        let path = CString::new(there.as_os_str().as_encoded_bytes()).ok()?;
        // SAFETY: zeros are a value of this type, and the call writes nothing else.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let done = unsafe { libc::statvfs(path.as_ptr(), &mut found) };
        (done == 0).then(|| found.f_bavail * found.f_frsize)
    }

    /// Removes a small file, if it is there.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self {
            Root::Folder(folder) => match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(self.error(error)),
                _ => Ok(()),
            },
            Root::S3(root) => root.delete(name).await,
        }
    }

    /// Whether nothing is there but what a run leaves that could not begin.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        let is_ours = |name: &str| {
            name.starts_with(LOCK_FILE)
                || name.ends_with(".new")
                || [TOLD_FAILURE_FILE, ADDRESS_KEY_FILE].contains(&name)
        };
        match self {
            Root::Folder(folder) => match fs::read_dir(folder) {
                Ok(entries) => {
                    for entry in entries {
                        let name = entry.map_err(|error| self.error(error))?.file_name();
                        if !is_ours(&name.to_string_lossy()) {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
                Err(error) => Err(self.error(error)),
            },
            Root::S3(root) => {
                let list = root.client.list_objects_v2().bucket(&root.bucket).prefix(&root.prefix).max_keys(10);
                let page = list.send().await.map_err(|error| root.error("list", &error))?;
                let keys = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&root.prefix));
                Ok(keys.filter(|key| !key.is_empty()).all(is_ours))
            }
        }
    }

    /// The place of a table; in a folder it is made if `make` says so. None where there is no such table and none is to be
    /// made.
    pub fn table(&self, name: &str, make: bool) -> Result<Option<Url>, StoreError> {
        match self {
            Root::Folder(folder) => {
                let path = folder.join("tables").join(name);
                if !make && !path.join("_delta_log").exists() {
                    return Ok(None);
                }
                fs::create_dir_all(&path).map_err(|error| self.error(error))?;
                Ok(Some(Url::from_directory_path(&path).expect("the state's path is absolute")))
            }
            Root::S3(root) => Ok(Some(root.url(&format!("tables/{name}/")))),
        }
    }

    /// Where the Delta library finds its tables; `identity` tells this state from others that are or were there.
    pub fn storage(&self, identity: &str) -> Result<(ObjectStoreRef, Url), DeltaTableError> {
        match self {
            Root::Folder(folder) => {
                let url = Url::from_directory_path(folder).expect("the state's path is absolute");
                Ok((Arc::new(Durable::new(folder)), url))
            }
            Root::S3(root) => {
                let url = root.url("");
                let options = StorageConfig::parse_options(root.options.clone())?;
                let (bucket, _) = S3ObjectStoreFactory::default().parse_url_opts(&url, &options)?;
                Ok((Arc::new(Remembering::new(bucket, identity.to_owned())), url))
            }
        }
    }

    /// What the Delta library needs to get at its tables.
    pub fn options(&self) -> HashMap<String, String> {
        match self {
            Root::Folder(_) => HashMap::new(),
            Root::S3(root) => root.options.clone(),
        }
    }
}

/// The folders of a state, at any depth, as far as they can be listed.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.flat_map(|entry| [vec![entry.path()], folders(&entry.path())].concat()).collect()
}

/// Whether this process may write there.
fn may_write(path: &Path) -> Result<(), StoreError> {
    let error = |source| StoreError::Io { place: path.display().to_string(), source };
    let mode = if path.is_dir() { libc::W_OK | libc::X_OK } else { libc::W_OK };
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|source| error(source.into()))?;
    // SAFETY: the path is a text that ends with a zero and lives until the call is over.
    match unsafe { libc::access(name.as_ptr(), mode) } {
        0 => Ok(()),
        _ => Err(error(io::Error::last_os_error())),
    }
}

impl S3Root {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn url(&self, name: &str) -> Url {
        let mut url = Url::parse(&format!("s3://{}", self.bucket)).expect("the config was checked to name a bucket");
        url.set_path(&self.key(name));
        url
    }

    fn error<E>(&self, action: &str, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let source = io::Error::other(format!("cannot {action}: {}", aws::explain(error)));
        StoreError::Io { place: self.url("").to_string(), source }
    }

    pub async fn get(&self, name: &str) -> Result<Option<Found>, StoreError> {
        match self.client.get_object().bucket(&self.bucket).key(self.key(name)).send().await {
            Ok(answer) => {
                let (etag, modified) = (answer.e_tag().unwrap_or_default().to_owned(), answer.last_modified().copied());
                let bytes = answer.body.collect().await.map_err(|error| StoreError::Io {
                    place: self.url(name).to_string(),
                    source: io::Error::other(error),
                })?;
                Ok(Some(Found { bytes: bytes.to_vec(), etag, modified }))
            }
            Err(error) if aws::code(&error) == Some("NoSuchKey") => Ok(None),
            Err(error) => Err(self.error("read", &error)),
        }
    }

    /// Writes an object if it is not there (`expected` none), or if it still is the version that is expected.
    pub async fn put_if(&self, name: &str, text: &str, expected: Option<&str>) -> Result<Put, StoreError> {
        let put = self.client.put_object().bucket(&self.bucket).key(self.key(name));
        let put = put.body(ByteStream::from(text.as_bytes().to_vec()));
        let put = match expected {
            None => put.if_none_match("*"),
            Some(etag) => put.if_match(etag),
        };
        match put.send().await {
            Ok(answer) => Ok(Put::Done(answer.e_tag().unwrap_or_default().to_owned())),
            Err(error) => match aws::code(&error) {
                // The second: somebody else writes at the same time. The third: it was deleted meanwhile.
                Some("PreconditionFailed" | "ConditionalRequestConflict" | "NoSuchKey") => Ok(Put::Refused),
                _ => Err(self.error("write", &error)),
            },
        }
    }

    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let delete = self.client.delete_object().bucket(&self.bucket).key(self.key(name)).send().await;
        delete.map(|_| ()).map_err(|error| self.error("delete", &error))
    }
}
