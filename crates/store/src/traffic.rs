//! What was read so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of the reads of objects of a [`crate::Location`] and all its clones and subfolders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were sent, second ones and failed ones included.
    pub requests: u64,
    /// Bytes that came, those of failed and of second requests included.
    pub bytes: u64,
    /// Requests that failed and were sent again.
    pub retries: u64,
    /// Requests that were sent a second time because they were slow.
    pub hedges: u64,
}

impl Traffic {
    /// What came since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Traffic) -> Traffic {
        Traffic {
            requests: self.requests - earlier.requests,
            bytes: self.bytes - earlier.bytes,
            retries: self.retries - earlier.retries,
            hedges: self.hedges - earlier.hedges,
        }
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Traffic>>(counts: I) -> Traffic {
        counts.fold(Traffic::default(), |sum, more| Traffic {
            requests: sum.requests + more.requests,
            bytes: sum.bytes + more.bytes,
            retries: sum.retries + more.retries,
            hedges: sum.hedges + more.hedges,
        })
    }
}

/// The counters behind [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub retries: AtomicU64,
    pub hedges: AtomicU64,
}

impl Counters {
    pub fn now(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            hedges: self.hedges.load(Ordering::Relaxed),
        }
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
