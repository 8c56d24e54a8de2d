//! One writer at a time: a file lock, which the operating system takes back when its holder dies.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::StoreError;

/// Held while a run writes. Readers take none.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock of the state in `folder` (made if need be), or waits for it.
    pub async fn acquire(folder: &Path, wait: bool) -> Result<StateLock, StoreError> {
        let io = |source| StoreError::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(super::delta::LOCK_FILE))
            .map_err(io)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(StateLock { _file: file }),
                Err(TryLockError::WouldBlock) if wait => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(folder.to_owned())),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(folder.path(), false).await.unwrap();
        let second = StateLock::acquire(folder.path(), false).await;
        assert!(matches!(second, Err(StoreError::Locked(_))));
        let waiting = tokio::spawn({
            let path = folder.path().to_owned();
            async move { StateLock::acquire(&path, true).await.is_ok() }
        });
        drop(first);
        assert!(waiting.await.unwrap());
    }
}
