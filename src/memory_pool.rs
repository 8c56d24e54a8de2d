//! The memory of all queries together: shared out fairly, but never refused to what hands rows on between threads.
//!
//! DataFusion 55's `RepartitionExec` can wait for itself for ever once it has to spill
//! (<https://github.com/apache/datafusion/issues/24883>, mended after 55.2): a run that never ends, with its lock held. That is what
//! we take our own hangs for: idle threads, after spills. It holds some batches at a time; that they are counted and granted makes sorts and aggregates spill earlier.

use std::fmt;

use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};

/// What the consumers that are always granted memory are called.
const HANDS_ON: &str = "RepartitionExec";

/// A fair pool that says in its errors who has most.
#[derive(Debug)]
pub struct Pool(TrackConsumersPool<FairSpillPool>);

impl Pool {
    pub fn new(bytes: usize) -> Pool {
        let named = std::num::NonZeroUsize::new(3).expect("three is not zero");
        Pool(TrackConsumersPool::new(FairSpillPool::new(bytes), named))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl MemoryPool for Pool {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.0.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.0.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.0.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        if reservation.consumer().name().starts_with(HANDS_ON) {
            self.0.grow(reservation, additional);
            return Ok(());
        }
        self.0.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Whether it never waits for itself then cannot be tested in little time: a run over 50 objects of 40,000 lines hung three
    /// times in eight, and with this not once in six.
    #[test]
    fn what_hands_rows_on_is_never_refused() {
        let pool: Arc<dyn MemoryPool> = Arc::new(Pool::new(1_000));
        let handing_on = MemoryConsumer::new("RepartitionExec[3]").with_can_spill(true).register(&pool);
        let sorting = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        handing_on.try_grow(5_000).unwrap();
        assert_eq!(pool.reserved(), 5_000);
        assert!(sorting.try_grow(501).is_err(), "the others have their share");
        sorting.try_grow(500).unwrap();
        drop((handing_on, sorting));
        assert_eq!(pool.reserved(), 0);
    }
}
