//! Stops a query that takes more memory than the machine should give it.
//!
//! DataFusion's memory pool does not see everything: several `COUNT(DISTINCT …)` in one SELECT keep a hash
//! set per group outside of it (measured: 21 GB where one took 0.5). Detectors are written by users, so the
//! process watches itself while one runs.

use std::time::Duration;

/// How often the process looks at itself.
const INTERVAL: Duration = Duration::from_millis(50);

/// The query was stopped.
#[derive(Debug, thiserror::Error)]
#[error(
    "took more than {limit_mb} MB beside what was in use and was stopped; raise [engine] memory, or write it so \
     that no SELECT has more than one COUNT(DISTINCT …) over all sessions"
)]
pub struct TooMuchMemory {
    limit_mb: usize,
}

/// Runs a query, and drops it as soon as the process has grown by more than `limit_bytes`.
pub async fn watched<T>(limit_bytes: usize, query: impl Future<Output = T>) -> Result<T, TooMuchMemory> {
    let before = resident_bytes();
    let grown = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if resident_bytes().saturating_sub(before) > limit_bytes {
                return;
            }
        }
    };
    tokio::select! {
        result = query => Ok(result),
        () = grown => Err(TooMuchMemory { limit_mb: limit_bytes / 1_000_000 }),
    }
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<usize>().ok())
        .unwrap_or(0);
    // SAFETY: sysconf only reads a constant of the system.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * usize::try_from(page_bytes).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_query_that_takes_too_much_is_stopped_and_a_modest_one_is_not() {
        let greedy = watched(100 << 20, async {
            let mut taken = Vec::new();
            for _ in 0..200 {
                taken.push(vec![1u8; 10 << 20]);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            taken.len()
        });
        let error = greedy.await.unwrap_err();
        assert!(error.to_string().contains("more than 104 MB"), "{error}");
        let modest = watched(100 << 20, async {
            tokio::time::sleep(3 * INTERVAL).await;
            7
        });
        assert_eq!(modest.await.unwrap(), 7);
    }
}
