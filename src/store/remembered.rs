//! The objects of a state in S3 that never change, remembered: a pass reads commits and small data files again and again, and
//! each time would be a request.
//!
//! A commit of a Delta table, a checkpoint and a data file have their names once and for all. What is remembered is kept by the
//! state's identity as well, so that a state that was deleted and made anew at the same place is another one.

use std::fmt;
use std::ops::Range;
use std::sync::{LazyLock, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::ObjectStoreRef;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use lru::LruCache;

/// A larger object is not remembered.
const MOST_BYTES_EACH: u64 = 1 << 20;

/// What is remembered at most; beyond it what was not asked for longest is forgotten.
const MOST_BYTES: usize = 64 << 20;

/// Of this process: a daemon reads in one pass what it wrote in the one before.
static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

/// An identity of a state, and a name.
type Key = (String, Path);

struct Memory {
    objects: LruCache<Key, Remembered>,
    bytes: usize,
}

#[derive(Clone)]
enum Remembered {
    Whole(ObjectMeta, Bytes),
    TooLarge,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { objects: LruCache::unbounded(), bytes: 0 }
    }
}

impl Remembered {
    /// What it takes, about.
    fn size(&self) -> usize {
        let bytes = match self {
            Remembered::Whole(_, bytes) => bytes.len(),
            Remembered::TooLarge => 0,
        };
        bytes + 500
    }
}

impl Memory {
    fn put(&mut self, key: Key, object: Remembered) {
        self.bytes += object.size();
        self.bytes -= self.objects.put(key, object).map_or(0, |old| old.size());
        while self.bytes > MOST_BYTES
            && let Some((_, oldest)) = self.objects.pop_lru()
        {
            self.bytes -= oldest.size();
        }
    }
}

/// An object store that remembers what never changes.
#[derive(Debug)]
pub struct Remembering {
    inner: ObjectStoreRef,
    /// What tells the state from others, at other places or times.
    identity: String,
}

impl Remembering {
    pub fn new(inner: ObjectStoreRef, identity: String) -> Self {
        Remembering { inner, identity }
    }

    fn key(&self, location: &Path) -> Key {
        (self.identity.clone(), location.clone())
    }

    fn known(&self, location: &Path) -> Option<Remembered> {
        MEMORY.lock().expect("not poisoned").objects.get(&self.key(location)).cloned()
    }

    fn remember(&self, location: &Path, object: Remembered) {
        MEMORY.lock().expect("not poisoned").put(self.key(location), object);
    }

    /// Reads an object as a whole, if it is small; none if it is not.
    async fn read(&self, location: &Path) -> Result<Option<(ObjectMeta, Bytes)>> {
        let start = GetOptions { range: Some(GetRange::Bounded(0..MOST_BYTES_EACH)), ..GetOptions::default() };
        let answer = self.inner.get_opts(location, start).await?;
        if answer.meta.size > MOST_BYTES_EACH {
            self.remember(location, Remembered::TooLarge);
            return Ok(None);
        }
        let meta = answer.meta.clone();
        let bytes = alone(&answer.bytes().await?);
        self.remember(location, Remembered::Whole(meta.clone(), bytes.clone()));
        Ok(Some((meta, bytes)))
    }
}

impl fmt::Display for Remembering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remembering({})", self.inner)
    }
}

/// Whether an object of this name never changes: a commit or a checkpoint of a Delta table, or a data file.
/// Source: Delta Transaction Log Protocol, "File Types".
fn never_changes(location: &Path) -> bool {
    let Some(name) = location.filename() else { return false };
    match name.strip_suffix(".json") {
        Some(version) => version.len() == 20 && version.bytes().all(|byte| byte.is_ascii_digit()),
        None => name.ends_with(".parquet"),
    }
}

/// Whether an object is asked for as it is, or a part of it.
fn is_plain(options: &GetOptions) -> bool {
    let GetOptions { if_match, if_none_match, if_modified_since, if_unmodified_since, version, head, .. } = options;
    !head
        && [if_match, if_none_match, version].into_iter().all(Option::is_none)
        && [if_modified_since, if_unmodified_since].into_iter().all(Option::is_none)
}

#[async_trait]
impl ObjectStore for Remembering {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let size = payload.content_length();
        let kept =
            (never_changes(location) && size as u64 <= MOST_BYTES_EACH).then(|| alone(&Bytes::from(payload.clone())));
        let done = self.inner.put_opts(location, payload, options).await?;
        if let Some(bytes) = kept {
            let meta = ObjectMeta {
                location: location.clone(),
                last_modified: chrono::Utc::now(),
                size: size as u64,
                e_tag: done.e_tag.clone(),
                version: done.version.clone(),
            };
            self.remember(location, Remembered::Whole(meta, bytes));
        }
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !never_changes(location) || !is_plain(&options) {
            return self.inner.get_opts(location, options).await;
        }
        let found = match self.known(location) {
            Some(Remembered::TooLarge) => None,
            Some(Remembered::Whole(meta, bytes)) => Some((meta, bytes)),
            None => self.read(location).await?,
        };
        let Some((meta, bytes)) = found else { return self.inner.get_opts(location, options).await };
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => {
                let wrong = |source| Error::Generic { store: "Remembering", source: Box::new(source) };
                range.as_range(meta.size).map_err(wrong)?
            }
        };
        let part = bytes.slice(in_memory(&range));
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(part) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
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
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).boxed().await
    }
}

/// A copy that keeps no more in memory than it holds: what comes from the network, or goes there, is a piece of a large buffer.
fn alone(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A range of something small.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    let place = |at: u64| usize::try_from(at).expect("it is in memory");
    place(range.start)..place(range.end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use deltalake::logstore::object_store::memory::InMemory;
    use deltalake::logstore::object_store::{ObjectStoreExt, PutMode};
    use proptest::prelude::*;

    use super::*;

    const COMMIT: &str = "tables/findings/_delta_log/00000000000000000007.json";

    fn remembering(inner: &Arc<InMemory>, identity: &str) -> Remembering {
        Remembering::new(inner.clone(), identity.to_owned())
    }

    #[tokio::test]
    async fn what_never_changes_is_asked_for_once_and_the_rest_each_time() {
        let inner = Arc::new(InMemory::new());
        let store = remembering(&inner, "once");
        let (read, written, hint) =
            (Path::from(COMMIT), Path::from("a/part-1.parquet"), Path::from("_delta_log/_last_checkpoint"));
        inner.put(&read, "read".into()).await.unwrap();
        store.put(&written, "written".into()).await.unwrap();
        store.put(&hint, "7".into()).await.unwrap();
        let text = async |store: &Remembering, path: &Path| store.get(path).await.unwrap().bytes().await.unwrap();
        assert_eq!(text(&store, &read).await, "read");
        for path in [&read, &written] {
            inner.delete(path).await.unwrap();
        }
        inner.put(&hint, "8".into()).await.unwrap();
        assert_eq!((text(&store, &read).await, text(&store, &written).await), ("read".into(), "written".into()));
        assert_eq!(text(&store, &hint).await, "8");
        // Another state at the same place, later.
        let other = remembering(&inner, "another");
        assert!(matches!(other.get(&read).await, Err(Error::NotFound { .. })));
        // What was refused is not what is there.
        inner.put(&read, "of somebody else".into()).await.unwrap();
        let refused = other.put_opts(&read, "ours".into(), PutMode::Create.into()).await;
        assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
        assert_eq!(text(&other, &read).await, "of somebody else");
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        let meta = |name: &str| ObjectMeta {
            location: Path::from(name),
            last_modified: chrono::Utc::now(),
            size: 0,
            e_tag: None,
            version: None,
        };
        for number in 0..200 {
            let name = format!("{number}.parquet");
            let object = Remembered::Whole(meta(&name), Bytes::from(vec![0; 1 << 20]));
            memory.put((String::new(), Path::from(name)), object);
            assert!(memory.bytes <= MOST_BYTES);
        }
        let kept: usize = memory.objects.iter().map(|(_, object)| object.size()).sum();
        assert!(kept == memory.bytes && memory.objects.len() >= 60, "{} objects", memory.objects.len());
        assert!(memory.objects.contains(&(String::new(), Path::from("199.parquet"))));
    }

    proptest! {
        /// Whole or in part, the first time or later, small or large: what is read is what the store has.
        #[test]
        fn every_part_is_as_the_store_has_it(size in prop::sample::select(vec![1usize, 100, (1 << 20) - 1, 1 << 20, (1 << 20) + 1]), start in 0u64..1_100_000, length in 0u64..2_000, kind in 0..4) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let inner = Arc::new(InMemory::new());
                let store = remembering(&inner, &format!("parts {size} {start} {length} {kind}"));
                let path = Path::from(COMMIT);
                let bytes: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
                inner.put(&path, bytes.into()).await.unwrap();
                let range = match kind {
                    0 => None,
                    1 => Some(GetRange::Bounded(start % (size as u64 + 5)..start % (size as u64 + 5) + length)),
                    2 => Some(GetRange::Offset(start % (size as u64 + 5))),
                    _ => Some(GetRange::Suffix(length)),
                };
                let options = || GetOptions { range: range.clone(), ..GetOptions::default() };
                let expected = match inner.get_opts(&path, options()).await {
                    Ok(answer) => Some((answer.range.clone(), answer.meta.size, answer.bytes().await.unwrap())),
                    Err(_) => None,
                };
                for _ in 0..2 {
                    let got = match store.get_opts(&path, options()).await {
                        Ok(answer) => Some((answer.range.clone(), answer.meta.size, answer.bytes().await.unwrap())),
                        Err(_) => None,
                    };
                    assert_eq!(got, expected);
                }
            });
        }
    }
}
