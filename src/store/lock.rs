//! One writer at a time. In a folder a file lock, which the operating system takes back when its holder dies; in S3 a
//! lease: an object that its holder renews, and that anybody may take over once it was not.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::StoreError;
use super::root::{Found, LOCK_FILE, Put, Root, S3Root};

/// Held while a run writes. Readers take none.
pub enum StateLock {
    Folder { _file: File },
    S3 { lease: Arc<Lease>, renewing: AbortOnDropHandle<()> },
}

/// A lease in S3.
///
/// The holder renews it after a third of its length, and takes it for lost when it could not for its whole length: nothing
/// is written after that. Others wait half as long again before they take it over, by S3's clock alone. Delta's own
/// check of versions stands behind both.
#[derive(Debug)]
pub struct Lease {
    root: S3Root,
    holder: String,
    length: Duration,
    state: Mutex<LeaseState>,
}

#[derive(Debug)]
struct LeaseState {
    /// Version of the object as we wrote it last.
    etag: String,
    renewals: u64,
    renewed: Instant,
    /// Somebody else has it.
    lost: bool,
}

impl StateLock {
    /// Takes the lock of the state (whose place is made if need be), or waits for it. `lease` is how long a lease lives
    /// that is not renewed.
    pub async fn acquire(root: &Root, wait: bool, lease: Duration) -> Result<StateLock, StoreError> {
        // Each look at a lease is a handful of requests.
        let pause = match root {
            Root::Folder(_) => Duration::from_millis(100),
            Root::S3(_) => lease / 10,
        };
        let mut told = false;
        loop {
            let taken = match root {
                Root::Folder(folder) => lock_file(folder).map_err(|source| root.error(source))?,
                Root::S3(s3) => take_lease(s3, lease).await?,
            };
            match taken {
                Some(lock) => return Ok(lock),
                None if wait => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!("another run holds the state {}: waiting until it is done", root.name());
                    }
                    tokio::time::sleep(pause).await;
                }
                None => return Err(StoreError::Locked(root.name())),
            }
        }
    }

    /// An error once it is not ours any more, or may not be.
    pub fn check_held(&self) -> Result<(), StoreError> {
        self.lease().map_or(Ok(()), |lease| lease.check())
    }

    /// The lease, where it is one: what is written has to ask whether it is still held.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        match self {
            StateLock::Folder { .. } => None,
            StateLock::S3 { lease, .. } => Some(lease.clone()),
        }
    }

    /// Gives the lock back. One that is not given back is free when its holder is dead, in S3 after its length.
    pub async fn release(self) {
        if let StateLock::S3 { lease, renewing } = self {
            renewing.abort();
            // A renewal that was under way is over before the object is deleted.
            let _ = renewing.await;
            if lease.check().is_ok()
                && let Err(error) = lease.root.delete(LOCK_FILE).await
            {
                tracing::warn!("{error}; the lock is free when its time is over");
            }
        }
    }
}

fn lock_file(folder: &Path) -> std::io::Result<Option<StateLock>> {
    fs::create_dir_all(folder)?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(StateLock::Folder { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

async fn take_lease(root: &S3Root, length: Duration) -> Result<Option<StateLock>, StoreError> {
    let holder = uuid::Uuid::new_v4().to_string();
    let begun = Instant::now();
    let text = lease_text(&holder, 0);
    let mut put = root.put_if(LOCK_FILE, &text, None).await?;
    if put == Put::Refused {
        put = match root.get(LOCK_FILE).await? {
            // Given back in between.
            None => root.put_if(LOCK_FILE, &text, None).await?,
            Some(found) if is_over(root, &holder, &found, length).await? => {
                tracing::warn!("taking over the lock of a run that has gone");
                root.put_if(LOCK_FILE, &text, Some(&found.etag)).await?
            }
            Some(_) => Put::Refused,
        };
    }
    let Put::Done(etag) = put else { return Ok(None) };
    let state = LeaseState { etag, renewals: 0, renewed: begun, lost: false };
    let lease = Arc::new(Lease { root: root.clone(), holder, length, state: Mutex::new(state) });
    let renewing = tokio::spawn({
        let lease = lease.clone();
        async move {
            while lease.check().is_ok() {
                tokio::time::sleep(lease.length / 3).await;
                lease.renew().await;
            }
        }
        .in_current_span()
    });
    // A lease whose holder was dropped runs out.
    Ok(Some(StateLock::S3 { lease, renewing: AbortOnDropHandle::new(renewing) }))
}

fn lease_text(holder: &str, renewals: u64) -> String {
    serde_json::json!({"holder": holder, "process": std::process::id(), "renewals": renewals}).to_string()
}

/// Whether a lease was not renewed for half as long again as it lives. S3 stamps an object of our own with its clock.
async fn is_over(root: &S3Root, holder: &str, lease: &Found, length: Duration) -> Result<bool, StoreError> {
    let name = format!("{LOCK_FILE}-{holder}");
    root.put_if(&name, "", None).await?;
    let now = root.get(&name).await?.and_then(|found| found.modified);
    root.delete(&name).await?;
    let (Some(now), Some(renewed)) = (now, lease.modified) else { return Ok(false) };
    // Stamps are of whole seconds.
    Ok(now.secs() - renewed.secs() > (length + length / 2).as_secs() as i64 + 1)
}

impl Lease {
    /// An error once it is not ours any more, or may not be.
    pub fn check(&self) -> Result<(), StoreError> {
        let state = self.state.lock().expect("nothing panics while it holds the state");
        if state.lost || state.renewed.elapsed() > self.length {
            return Err(StoreError::Lost(Root::S3(self.root.clone()).name()));
        }
        Ok(())
    }

    async fn renew(&self) {
        let (etag, renewals) = {
            let state = self.state.lock().expect("not poisoned");
            (state.etag.clone(), state.renewals + 1)
        };
        let begun = Instant::now();
        let text = lease_text(&self.holder, renewals);
        let put = self.root.put_if(LOCK_FILE, &text, Some(&etag)).await;
        let found = match put {
            // An answer that was lost on the way makes the next attempt look refused: look who has it.
            Ok(Put::Refused) => self.root.get(LOCK_FILE).await.ok().flatten(),
            _ => None,
        };
        let mut state = self.state.lock().expect("not poisoned");
        match put {
            Ok(Put::Done(etag)) => (state.etag, state.renewals, state.renewed) = (etag, renewals, begun),
            Ok(Put::Refused) => match found {
                Some(found) if found.bytes == text.as_bytes() => {
                    (state.etag, state.renewals, state.renewed) = (found.etag, renewals, begun);
                }
                _ => state.lost = true,
            },
            Err(error) => tracing::warn!("the lock cannot be renewed now: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::Folder(folder.path().to_owned());
        let length = Duration::from_secs(60);
        let first = StateLock::acquire(&root, false, length).await.unwrap();
        let second = StateLock::acquire(&root, false, length).await;
        assert!(matches!(second, Err(StoreError::Locked(_))));
        let waiting = tokio::spawn({
            let root = root.clone();
            async move { StateLock::acquire(&root, true, length).await.is_ok() }
        });
        first.release().await;
        assert!(waiting.await.unwrap());
    }
}
