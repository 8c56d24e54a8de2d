//! Log objects below a prefix of an S3 bucket.

use std::io::Read;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::SyncIoBridge;

use super::{LogSource, ObjectMeta, SourceError, names};
use crate::aws;

/// A prefix of a bucket.
pub struct S3Source {
    client: Client,
    bucket: String,
    prefix: String,
    location: String,
}

impl S3Source {
    pub fn new(client: Client, bucket: String, prefix: String) -> Self {
        let location = super::Location::S3 { bucket: bucket.clone(), prefix: prefix.clone() }.to_string();
        S3Source { client, bucket, prefix, location }
    }

    fn list_error(&self, error: &SdkError<ListObjectsV2Error>) -> SourceError {
        let mut reason = aws::explain(error);
        if aws::code(error) == Some("AccessDenied") {
            reason += " (needs s3:ListBucket on the bucket)";
        }
        SourceError::List { location: self.location.clone(), reason }
    }

    /// Where the listing goes on behind a page: at its last key, or behind all the hours that are too old to matter. A bucket with
    /// years of logs costs some two pages a distribution beside what is new.
    fn next_position(&self, page: &ListObjectsV2Output, since: Option<DateTime<Utc>>) -> Option<String> {
        let last = page.contents().last()?.key()?;
        let skipped = since
            .and_then(|since| names::skip_to(last.strip_prefix(&self.prefix)?, since))
            .map(|skipped| format!("{}{skipped}", self.prefix));
        skipped.filter(|skipped| skipped.as_str() > last).or_else(|| Some(last.to_owned()))
    }
}

/// The object as the ledger knows it; none for what is no log: a folder's marker, or an entry without a name.
fn object_meta(object: aws_sdk_s3::types::Object, prefix: &str) -> Option<ObjectMeta> {
    let key = object.key?;
    let size = u64::try_from(object.size.unwrap_or(0)).unwrap_or(0);
    if key.ends_with('/') && size == 0 {
        return None;
    }
    let modified = object.last_modified?;
    Some(ObjectMeta {
        key: key.strip_prefix(prefix)?.to_owned(),
        etag: object.e_tag.unwrap_or_default(),
        size,
        arrived_at: DateTime::from_timestamp(modified.secs(), modified.subsec_nanos())?,
    })
}

#[async_trait]
impl LogSource for S3Source {
    fn location(&self) -> &str {
        &self.location
    }

    fn object_name(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    fn list(&self, since: Option<DateTime<Utc>>) -> BoxStream<'_, Result<ObjectMeta, SourceError>> {
        stream::try_unfold(Some(None), move |position: Option<Option<String>>| async move {
            let Some(after) = position else { return Ok(None) };
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
            let page = request.set_start_after(after).send().await.map_err(|error| self.list_error(&error))?;
            if page.is_truncated() != Some(true) {
                return Ok(Some((page, None)));
            }
            // Without a key nobody knows where to go on, and what comes must not be taken for read.
            let next = self.next_position(&page, since).ok_or_else(|| SourceError::List {
                location: self.location.clone(),
                reason: "S3 says that there is more, and gave nothing behind which to go on".to_owned(),
            })?;
            Ok(Some((page, Some(Some(next)))))
        })
        .map_ok(move |page| {
            let objects = page.contents.unwrap_or_default();
            stream::iter(objects.into_iter().filter_map(|object| object_meta(object, &self.prefix)).map(Ok))
        })
        .try_flatten()
        .try_filter(move |object| {
            let wanted = since.is_none_or(|since| names::may_hold_since(&object.key, object.arrived_at, since));
            std::future::ready(wanted)
        })
        .boxed()
    }

    async fn open(&self, object: &ObjectMeta) -> Result<Box<dyn Read + Send>, SourceError> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(format!("{}{}", self.prefix, object.key))
            // The version that was listed, or none: another one has another line in the ledger.
            .if_match(&object.etag);
        match request.send().await {
            Ok(answer) => Ok(Box::new(SyncIoBridge::new(answer.body.into_async_read()))),
            Err(error) => {
                let (location, key) = (self.location.clone(), object.key.clone());
                let reason = aws::explain(&error);
                Err(match aws::code(&error).unwrap_or_default() {
                    "NoSuchKey" => SourceError::Gone { location, key, reason },
                    "PreconditionFailed" => SourceError::Changed { location, key, reason },
                    "AccessDenied" | "InvalidObjectState" => {
                        let reason = format!("{reason} (needs s3:GetObject on the prefix)");
                        SourceError::Denied { location, key, reason }
                    }
                    _ => SourceError::Unavailable { location, key, reason },
                })
            }
        }
    }
}
