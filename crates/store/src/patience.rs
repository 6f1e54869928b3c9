//! How often and for how long a failed request is tried again.
//!
//! The budget is one of the whole reader, and of time: any success renews it. So some failures never end a run,
//! however long it is, and a store that answers nothing any more ends it after one such time, not after one for each
//! request.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A range that fails so often while others succeed is broken itself.
const ATTEMPTS: u32 = 12;

/// The budget of a reader.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Time without any success after which all requests are given up.
    limit: Duration,
    /// Since when nothing has succeeded.
    troubled: Mutex<Option<Instant>>,
    random: RandomState,
}

impl Patience {
    pub fn new(limit: Duration) -> Patience {
        Patience { limit, troubled: Mutex::new(None), random: RandomState::new() }
    }

    pub fn succeeded(&self) {
        *self.troubled.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long to wait after this failed attempt of a request, counted from 1; `None` to give up.
    pub fn pause(&self, attempt: u32) -> Option<Duration> {
        let now = Instant::now();
        let mut troubled = self.troubled.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.limit.checked_sub(now - *troubled.get_or_insert(now))?;
        let doubled = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
        // Between a half and all of it, so that requests that failed together do not come back together.
        let jitter = self.random.hash_one(now) as f64 / u64::MAX as f64;
        (attempt < ATTEMPTS).then(|| doubled.mul_f64(0.5 + jitter / 2.0).min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let patience = Patience::new(Duration::from_secs(60));
        for (attempt, longest) in [(1, 50), (2, 100), (4, 400), (9, 5_000), (11, 5_000)] {
            let pause = patience.pause(attempt).expect("once more").as_millis();
            assert!((longest / 2..=longest).contains(&pause), "{attempt}: {pause} ms");
        }
        assert_eq!(patience.pause(ATTEMPTS), None);
        let pauses: std::collections::BTreeSet<_> =
            (0..20).filter_map(|_| patience.pause(9)).collect();
        assert!(pauses.len() > 10, "{pauses:?}");
    }

    #[test]
    fn a_success_renews_the_budget() {
        let patience = Patience::new(Duration::from_millis(30));
        assert!(patience.pause(1).is_some());
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(patience.pause(1), None, "nothing has succeeded for too long");
        patience.succeeded();
        assert!(patience.pause(1).is_some());
    }
}
