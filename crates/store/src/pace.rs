//! When a request is slow, measured by those before it, and how many may be sent a second time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Requests of a size that are remembered.
const REMEMBERED: usize = 32;
/// Fewer say nothing about the next one.
const ENOUGH: usize = 6;
/// A request is slow at this multiple of the median, and never before [`SHORTEST`].
const MULTIPLE: u32 = 4;
const SHORTEST: Duration = Duration::from_millis(250);
/// What is slow while too little is known.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Second requests for each first one: a few percent, saved up to a limit.
const SHARE: f64 = 0.03;
const SAVED_AT_START: f64 = 6.0;
const SAVED_AT_MOST: f64 = 16.0;

/// How fast a store was lately.
#[derive(Debug)]
pub(crate) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Durations by the power of two of the size.
    recent: BTreeMap<u32, VecDeque<Duration>>,
    /// Second requests that may be sent now.
    hedges: f64,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { state: Mutex::new(State { recent: BTreeMap::new(), hedges: SAVED_AT_START }) }
    }

    /// Takes down how long a request of `bytes` took.
    pub fn took(&self, bytes: u64, duration: Duration) {
        let mut state = self.lock();
        state.hedges = (state.hedges + SHARE).min(SAVED_AT_MOST);
        let recent = state.recent.entry(class(bytes)).or_default();
        recent.truncate(REMEMBERED - 1);
        recent.push_front(duration);
    }

    /// From when on a request of `bytes` is slow.
    pub fn slow_after(&self, bytes: u64) -> Duration {
        let state = self.lock();
        let Some(recent) = state.recent.get(&class(bytes)).filter(|it| it.len() >= ENOUGH) else {
            return UNKNOWN;
        };
        let mut sorted: Vec<Duration> = recent.iter().copied().collect();
        sorted.sort_unstable();
        (sorted[sorted.len() / 2] * MULTIPLE).max(SHORTEST)
    }

    /// Whether a slow request may be sent once more; counts it.
    pub fn may_hedge(&self) -> bool {
        let mut state = self.lock();
        let may = state.hedges >= 1.0;
        state.hedges -= if may { 1.0 } else { 0.0 };
        may
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class(bytes: u64) -> u32 {
    bytes.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_a_multiple_of_the_median_of_its_size() {
        let pace = Pace::new();
        assert_eq!(pace.slow_after(1 << 20), UNKNOWN);
        for millis in [90, 100, 110, 100, 100, 5_000] {
            pace.took(1 << 20, Duration::from_millis(millis));
        }
        assert_eq!(pace.slow_after(3 << 19), Duration::from_millis(400));
        assert_eq!(pace.slow_after(1 << 10), UNKNOWN);
        (0..REMEMBERED).for_each(|_| pace.took(1 << 20, Duration::from_millis(1)));
        assert_eq!(pace.slow_after(1 << 20), SHORTEST, "what is long ago does not count");
    }

    #[test]
    fn a_few_percent_are_hedged() {
        let pace = Pace::new();
        let hedges = (0..1000).filter(|_| {
            pace.took(1, Duration::ZERO);
            pace.may_hedge()
        });
        assert!((30..=37).contains(&hedges.count()));
    }
}
