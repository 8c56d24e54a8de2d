//! Where log objects come from: a folder or an S3 prefix, behind one small trait.

mod folder;
pub mod names;
mod s3;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

pub use folder::FolderSource;
pub use s3::S3Source;

/// A log object as its store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Name below the location, `/` separated.
    pub key: String,
    /// Version as the store names it: changes when the bytes do.
    pub etag: String,
    /// Bytes as stored.
    pub size: u64,
    /// Last-modified.
    pub arrived_at: DateTime<Utc>,
}

/// A place that holds log objects.
///
/// Implementations are free of state: a listing shows what is there at the time, in ascending order of
/// keys where the store allows it, and `open` reads the version that was listed or fails.
#[async_trait]
pub trait LogSource: Send + Sync {
    /// Name of the place in the ledger and in messages.
    fn location(&self) -> &str;

    /// Name of an object in the column `object`: no other object of any place has it.
    fn object_name(&self, key: &str) -> String;

    /// Lists the objects that can hold requests of `since` or later (all of them without it).
    fn list(&self, since: Option<DateTime<Utc>>) -> BoxStream<'_, Result<ObjectMeta, SourceError>>;

    /// Opens an object for one read from its start to its end, on a thread that may block.
    async fn open(&self, object: &ObjectMeta) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// Why a place or an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot list {location}: {reason}")]
    List { location: String, reason: String },
    /// Later attempts may succeed: the network, throttling, an object that is still being written.
    #[error("cannot read {location}/{key} now: {reason}")]
    Unavailable { location: String, key: String, reason: String },
    /// Removed since it was listed.
    #[error("{location}/{key} is gone: {reason}")]
    Gone { location: String, key: String, reason: String },
    /// Replaced since it was listed: the next listing shows it as it is.
    #[error("{location}/{key} has changed: {reason}")]
    Changed { location: String, key: String, reason: String },
    /// Later attempts fail alike until somebody changes something.
    #[error("cannot read {location}/{key}: {reason}")]
    Denied { location: String, key: String, reason: String },
}

/// A place as the config names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Folder(PathBuf),
    /// The prefix is empty or ends where the config says; nothing is added to it.
    S3 {
        bucket: String,
        prefix: String,
    },
}

/// Why a text names no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LocationError {
    #[error("the location is empty")]
    Empty,
    #[error("{0:?} names no bucket: write s3://bucket or s3://bucket/prefix")]
    NoBucket(String),
    #[error("{0:?}: only folders and s3://bucket/prefix can be read")]
    UnknownScheme(String),
    #[error("{0:?}: ~, $ and * mean nothing here; write the whole path of the folder")]
    Shell(String),
}

impl Location {
    pub fn is_s3(&self) -> bool {
        matches!(self, Location::S3 { .. })
    }

    /// Reads a location; a relative folder is relative to `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Location, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(LocationError::NoBucket(text.to_owned()));
            }
            return Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if text.contains("://") || text.starts_with("s3:") {
            return Err(LocationError::UnknownScheme(text.to_owned()));
        }
        if text.starts_with(['~', '$']) || text.contains('*') {
            return Err(LocationError::Shell(text.to_owned()));
        }
        // Dots are resolved in the text, so that ./logs and logs are one place in the ledger.
        let mut path = PathBuf::new();
        for part in base.join(text).components() {
            match part {
                std::path::Component::CurDir => {}
                std::path::Component::ParentDir => {
                    path.pop();
                }
                part => path.push(part),
            }
        }
        Ok(Location::Folder(path))
    }
}

impl Location {
    /// The same as the place of a state: a prefix in S3 ends like a folder.
    pub fn as_folder(&self) -> Location {
        match self {
            Location::S3 { bucket, prefix } => {
                let prefix = match prefix.trim_end_matches('/') {
                    "" => String::new(),
                    prefix => format!("{prefix}/"),
                };
                Location::S3 { bucket: bucket.clone(), prefix }
            }
            folder => folder.clone(),
        }
    }

    /// Whether one of the places is the other, or lies below it.
    pub fn overlaps(&self, other: &Location) -> bool {
        match (self, other) {
            (Location::Folder(one), Location::Folder(other)) => one.starts_with(other) || other.starts_with(one),
            (Location::S3 { bucket, prefix }, Location::S3 { bucket: other_bucket, prefix: other }) => {
                // Prefixes of keys, not folders: `a` holds all of `abc/`.
                bucket == other_bucket && (prefix.starts_with(other.as_str()) || other.starts_with(prefix.as_str()))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) => write!(f, "{}", path.display()),
            Location::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Connects to a location. The S3 client is made from the usual AWS environment.
pub async fn connect(location: &Location) -> Arc<dyn LogSource> {
    match location {
        Location::Folder(path) => Arc::new(FolderSource::new(path.clone())),
        Location::S3 { bucket, prefix } => {
            Arc::new(S3Source::new(crate::aws::s3_client().await, bucket.clone(), prefix.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_parse() {
        let base = Path::new("/etc/sw");
        assert_eq!(Location::parse("./a/../logs", base).unwrap(), Location::Folder("/etc/sw/logs".into()));
        assert_eq!(
            Location::parse("s3://b/p/q/", base).unwrap(),
            Location::S3 { bucket: "b".into(), prefix: "p/q/".into() }
        );
        let in_s3 = |text| Location::parse(text, base).unwrap();
        assert!(!in_s3("s3://b/sw").as_folder().overlaps(&in_s3("s3://b/sw-logs/")));
        assert!(in_s3("s3://b/sw").as_folder().overlaps(&in_s3("s3://b/s")), "as a prefix of logs it has the state");
        assert!(in_s3("s3://b/").as_folder().overlaps(&in_s3("s3://b/sw-logs/")));
        assert_eq!(Location::parse("s3://", base), Err(LocationError::NoBucket("s3://".into())));
        assert_eq!(Location::parse("ftp://x", base), Err(LocationError::UnknownScheme("ftp://x".into())));
        assert_eq!(Location::parse("", base), Err(LocationError::Empty));
    }
}
