//! How fast a trainer takes batches, and so how much is to be read ahead of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is read ahead lasts so long at the trainer's pace, where the limit of bytes allows it.
const AHEAD: Duration = Duration::from_secs(10);
/// Batches from which the pace is taken.
const REMEMBERED: usize = 32;
/// With fewer the pace is not known.
const ENOUGH: usize = 4;

/// Requests under way at once before there is a first batch: what it needs comes before all else.
const FIRST_IN_FLIGHT: usize = 8;
const IN_FLIGHT: usize = 16;
/// While the trainer has to wait.
const STALLED_IN_FLIGHT: usize = 32;

/// What a loader's consumer does, told to the task that reads ahead.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each of the last batches was taken, and its bytes.
    taken: VecDeque<(Instant, u64)>,
    /// Whether the last batch had to be waited for.
    waited: bool,
}

impl Demand {
    /// A batch was taken; `waited` where it was not there when it was asked for.
    pub fn took(&self, bytes: u64, waited: bool) {
        self.took_at(Instant::now(), bytes, waited);
    }

    fn took_at(&self, now: Instant, bytes: u64, waited: bool) {
        let mut state = self.lock();
        state.waited = waited;
        state.taken.truncate(REMEMBERED - 1);
        state.taken.push_front((now, bytes));
    }

    /// Bytes to read ahead, `limit` at most: all of it for a trainer that waits or whose pace is not known yet.
    pub fn ahead(&self, limit: u64) -> u64 {
        let state = self.lock();
        if state.waited || state.taken.len() < ENOUGH {
            return limit;
        }
        let (Some((newest, _)), Some((oldest, _))) = (state.taken.front(), state.taken.back())
        else {
            return limit;
        };
        let seconds = newest.duration_since(*oldest).as_secs_f64();
        let bytes: u64 = state.taken.iter().map(|(_, bytes)| bytes).sum();
        // The cast saturates.
        limit.min((bytes as f64 / seconds * AHEAD.as_secs_f64()) as u64)
    }

    /// Whether no batch was taken yet.
    pub fn is_first(&self) -> bool {
        self.lock().taken.is_empty()
    }

    /// Requests that may be under way at once.
    pub fn in_flight(&self) -> usize {
        let state = self.lock();
        match (state.taken.is_empty(), state.waited) {
            (true, _) => FIRST_IN_FLIGHT,
            (false, false) => IN_FLIGHT,
            (false, true) => STALLED_IN_FLIGHT,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_trainer_needs_little_ahead() {
        let demand = Demand::default();
        let start = Instant::now();
        assert_eq!((demand.ahead(1_000), demand.in_flight()), (1_000, FIRST_IN_FLIGHT));
        for second in 0..20 {
            demand.took_at(start + Duration::from_secs(second), 10, second == 0);
        }
        // 20 batches of 10 bytes in 19 s.
        assert_eq!((demand.ahead(1_000), demand.in_flight()), (105, IN_FLIGHT));
        assert_eq!(demand.ahead(50), 50);
    }

    #[test]
    fn a_trainer_that_waits_gets_all_there_is() {
        let demand = Demand::default();
        let start = Instant::now();
        for second in 0..9 {
            demand.took_at(start + Duration::from_secs(second), 10, second == 8);
        }
        assert_eq!((demand.ahead(1_000), demand.in_flight()), (1_000, STALLED_IN_FLIGHT));
        let at_once = Demand::default();
        (0..9).for_each(|_| at_once.took_at(start, 10, false));
        assert_eq!(at_once.ahead(1_000), 1_000, "no time between batches");
    }
}
