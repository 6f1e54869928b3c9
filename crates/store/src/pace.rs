//! When a request is slow, measured by those before it, and how many may be sent a second time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests of a size that are remembered.
const REMEMBERED: usize = 32;
/// Fewer say nothing about the next one.
const ENOUGH: usize = 6;
/// A request is slow at this multiple of the median, and never before [`SHORTEST`].
const MULTIPLE: u32 = 4;
const SHORTEST: Duration = Duration::from_millis(250);
/// What is slow while too little is known.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Second requests for each first one and for each second, saved up to a limit. A store that is slow as a whole has a
/// long median, and so few slow requests; the share is for one that fails so badly that the reader would only make it
/// worse.
const SHARE: f64 = 0.1;
/// Without these, requests that nobody answers would use up the share and keep all others from renewing it.
const A_SECOND: f64 = 2.0;
const SAVED_AT_START: f64 = 8.0;
const SAVED_AT_MOST: f64 = 32.0;

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
    /// Since when those for the time that passes are still to be added.
    since: Instant,
}

impl Pace {
    pub fn new() -> Pace {
        let (recent, hedges, since) = (BTreeMap::new(), SAVED_AT_START, Instant::now());
        Pace { state: Mutex::new(State { recent, hedges, since }) }
    }

    /// Takes down how long a request of `bytes` took.
    pub fn took(&self, bytes: u64, duration: Duration) {
        let mut state = self.lock();
        state.save(SHARE);
        let recent = state.recent.entry(class(bytes)).or_default();
        recent.truncate(REMEMBERED - 1);
        recent.push_front(duration);
    }

    /// From when on a request of `bytes` is slow.
    pub fn slow_after(&self, bytes: u64) -> Duration {
        let state = self.lock();
        // Larger ones tell enough where there were none of its size: it takes no longer than they.
        let mut known = state.recent.range(class(bytes)..).filter(|(_, it)| it.len() >= ENOUGH);
        let Some((_, recent)) = known.next() else {
            return UNKNOWN;
        };
        let mut sorted: Vec<Duration> = recent.iter().copied().collect();
        sorted.sort_unstable();
        (sorted[sorted.len() / 2] * MULTIPLE).max(SHORTEST)
    }

    /// Whether a slow request may be sent once more; counts it.
    pub fn may_hedge(&self) -> bool {
        let mut state = self.lock();
        let passed = std::mem::replace(&mut state.since, Instant::now()).elapsed();
        state.save(A_SECOND * passed.as_secs_f64());
        let may = state.hedges >= 1.0;
        state.hedges -= if may { 1.0 } else { 0.0 };
        may
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn save(&mut self, hedges: f64) {
        self.hedges = (self.hedges + hedges).min(SAVED_AT_MOST);
    }
}

/// The power of two of a size; 0, which is no size of a range, has a class of its own.
fn class(bytes: u64) -> u32 {
    bytes.checked_ilog2().map_or(0, |power| power + 1)
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
        assert_eq!(pace.slow_after(1 << 10), Duration::from_millis(400), "no longer than a larger");
        assert_eq!(pace.slow_after(1 << 21), UNKNOWN);
        (0..REMEMBERED).for_each(|_| pace.took(1 << 20, Duration::from_millis(1)));
        assert_eq!(pace.slow_after(1 << 20), SHORTEST, "what is long ago does not count");
    }

    #[test]
    fn a_tenth_is_hedged() {
        let pace = Pace::new();
        let hedges = (0..1000).filter(|_| {
            pace.took(1, Duration::ZERO);
            pace.may_hedge()
        });
        assert!((100..=115).contains(&hedges.count()));
    }

    #[test]
    fn time_renews_what_is_spent() {
        let pace = Pace::new();
        while pace.may_hedge() {}
        pace.lock().since -= Duration::from_secs(1);
        assert!(pace.may_hedge() && pace.may_hedge() && !pace.may_hedge());
    }
}
