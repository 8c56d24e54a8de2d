//! Log objects below a prefix of an S3 bucket.

use std::io::Read;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
use aws_sdk_s3::types::{EncodingType, Object};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::SyncIoBridge;

use super::{LogSource, ObjectMeta, SourceError, names};
use crate::aws;
use crate::logs::decode;

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
    /// years of logs costs some two pages a distribution beside what is new. Behind a page without keys, which S3 may send, it goes
    /// on where S3 says.
    fn next_position(&self, page: &ListObjectsV2Output, since: Option<DateTime<Utc>>) -> Result<Position, SourceError> {
        if page.is_truncated() != Some(true) {
            return Ok(Position::End);
        }
        if let Some(last) = page.contents().last().and_then(|object| object.key()) {
            let last = &*key_of(last, page.encoding_type());
            let skipped = since
                .and_then(|since| names::skip_to(last.strip_prefix(&self.prefix)?, since))
                .map(|skipped| format!("{}{skipped}", self.prefix));
            let skipped = skipped.filter(|skipped| skipped.as_str() > last);
            return Ok(Position::Behind(skipped.unwrap_or_else(|| last.to_owned())));
        }
        // What comes must not be taken for read.
        let token = page.next_continuation_token().ok_or_else(|| SourceError::List {
            location: self.location.clone(),
            reason: "S3 says that there is more, and gave nothing behind which to go on".to_owned(),
        })?;
        Ok(Position::Token(token.to_owned()))
    }
}

/// Where a listing goes on.
enum Position {
    Start,
    /// Behind this key, which need not be there.
    Behind(String),
    /// Where S3 left off.
    Token(String),
    End,
}

/// A key as it is: in a listing it is encoded as in a form's data, where we ask for that, because XML cannot hold every character of it.
/// Source: Amazon S3 API, ListObjectsV2, `encoding-type`.
fn key_of(listed: &str, encoding: Option<&EncodingType>) -> String {
    match encoding {
        Some(EncodingType::Url) => decode(&listed.replace('+', " ")).into_owned(),
        _ => listed.to_owned(),
    }
}

/// The object as the ledger knows it; none for what is no log: a folder's marker, or an entry without a name.
fn object_meta(object: Object, encoding: Option<&EncodingType>, prefix: &str) -> Option<ObjectMeta> {
    let key = key_of(&object.key?, encoding);
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
        stream::try_unfold(Position::Start, move |position| async move {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
            let request = request.encoding_type(EncodingType::Url);
            let request = match position {
                Position::Start => request,
                Position::Behind(key) => request.start_after(key),
                Position::Token(token) => request.continuation_token(token),
                Position::End => return Ok(None),
            };
            let page = request.send().await.map_err(|error| self.list_error(&error))?;
            let next = self.next_position(&page, since)?;
            Ok(Some((page, next)))
        })
        .map_ok(move |page| {
            let encoding = page.encoding_type;
            let objects = page.contents.unwrap_or_default().into_iter();
            let logs = objects.filter_map(move |object| object_meta(object, encoding.as_ref(), &self.prefix));
            stream::iter(logs.map(Ok))
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    use axum::Router;
    use axum::extract::State;
    use axum::http::Uri;

    use super::*;

    /// A page of a listing: the keys, and what S3 says of what follows.
    type Page = (&'static [&'static str], Option<&'static str>);

    /// A source behind which S3 gives these pages, by the continuation token or the key behind which they are asked for.
    async fn source_of(pages: HashMap<&'static str, Page>) -> S3Source {
        async fn answer(State(pages): State<Arc<HashMap<&'static str, Page>>>, uri: Uri) -> String {
            let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
            let position = query.into_iter().find(|(name, _)| matches!(&**name, "continuation-token" | "start-after"));
            let (keys, next) = pages[&*position.map_or_else(String::new, |(_, value)| value.into_owned())];
            let object = |key: &&str| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-20T20:30:00.000Z</LastModified><ETag>e</ETag><Size>9</Size></Contents>"
                )
            };
            let token = next.filter(|token| !token.is_empty());
            let token =
                token.map_or(String::new(), |token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
            let contents: String = keys.iter().map(object).collect();
            let is_truncated = next.is_some();
            format!(
                "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{is_truncated}</IsTruncated>{token}{contents}</ListBucketResult>"
            )
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Router::new().fallback(answer).with_state(Arc::new(pages));
        tokio::spawn(async move { axum::serve(listener, service).await });
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .endpoint_url(format!("http://{address}"))
            .force_path_style(true)
            .build();
        S3Source::new(Client::from_conf(config), "logs".to_owned(), "cdn/".to_owned())
    }

    async fn listed(source: &S3Source) -> Result<Vec<String>, SourceError> {
        source.list(None).map_ok(|object| object.key).try_collect().await
    }

    #[tokio::test]
    async fn keys_may_hold_what_xml_cannot() {
        let pages = [("", (&["cdn/%1B%5B31m+a%2Bb/c%2525.gz"] as &[_], None))];
        assert_eq!(listed(&source_of(pages.into()).await).await.unwrap(), ["\u{1b}[31m a+b/c%25.gz"]);
    }

    #[tokio::test]
    async fn a_listing_goes_on_behind_a_page_without_keys() {
        let pages = [
            ("", (&["cdn/a.gz", "cdn/b.gz"] as &[_], Some("unused"))),
            ("cdn/b.gz", (&[], Some("t1"))),
            ("t1", (&[], Some("t2"))),
            ("t2", (&["cdn/c.gz"], None)),
        ];
        assert_eq!(listed(&source_of(pages.into()).await).await.unwrap(), ["a.gz", "b.gz", "c.gz"]);
        // It must not be taken for the end.
        let error = listed(&source_of([("", (&[] as &[_], Some("")))].into()).await).await.unwrap_err();
        assert!(error.to_string().contains("there is more"), "{error}");
    }
}
