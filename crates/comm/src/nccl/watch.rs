//! Collectives that nobody waits for: what a GPU does shows only when somebody looks.
//!
//! The host puts collectives into the GPU's queue and goes on. A [`Watch`] remembers those of one group; a thread of the
//! process looks at all groups again and again ([`look_after`]). Where a collective does not end in time, or the
//! communicator reports an error, the group has failed: its communicator is given up, which ends the kernels that wait
//! for others, and the next call on the group says what had happened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tch::Tensor;

use crate::backend::BackendError;
use crate::history::Call;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What a GPU says about a collective in its queue.
pub trait Progress: Send {
    /// Whether what the collective needs is there: its time runs from then on.
    ///
    /// # Errors
    /// The GPU's own.
    fn is_ready(&self) -> Result<bool, BackendError>;

    /// Whether it has ended.
    ///
    /// # Errors
    /// The GPU's own.
    fn is_done(&self) -> Result<bool, BackendError>;
}

/// The connection that a group's collectives use.
pub trait Link: Send + Sync {
    /// What went wrong behind the caller's back.
    fn error(&self) -> Option<BackendError>;

    /// Gives the connection up: what waits for other ranks ends.
    fn abort(&self);

    /// Ends the connection in good order, within `timeout`.
    fn close(&self, timeout: Duration);
}

/// The collectives of one group that the GPU has not finished, and what became of the group.
pub struct Watch<L: Link> {
    link: L,
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    flights: VecDeque<Flight>,
    next: u64,
    failure: Option<(Call, Arc<BackendError>)>,
    last: Option<Call>,
}

struct Flight {
    ticket: Ticket,
    call: Call,
    progress: Box<dyn Progress>,
    /// What the collective reads and writes, while nobody has waited for it.
    tensors: Vec<Tensor>,
    /// Since when it could run: it was ready, and the one before it had ended.
    since: Option<Instant>,
}

/// Names a collective that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

impl<L: Link> Watch<L> {
    /// Watches nothing yet; a collective may take `timeout` once it could run.
    pub fn new(link: L, timeout: Duration) -> Watch<L> {
        Watch { link, timeout, state: Mutex::default() }
    }

    /// The connection.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// How long a collective may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// # Errors
    /// [`BackendError::Earlier`] once a collective has failed.
    pub fn check(&self) -> Result<(), BackendError> {
        match &self.lock().failure {
            None => Ok(()),
            Some((call, source)) => {
                Err(BackendError::Earlier { call: *call, source: Arc::clone(source) })
            }
        }
    }

    /// Watches a collective that is in the queue, and keeps its tensors.
    pub fn enter(&self, call: Call, progress: Box<dyn Progress>, tensors: Vec<Tensor>) -> Ticket {
        let mut state = self.lock();
        let ticket = Ticket(state.next);
        state.next += 1;
        state.last = Some(call);
        state.flights.push_back(Flight { ticket, call, progress, tensors, since: None });
        ticket
    }

    /// Lets go of a collective's tensors: the compute stream waits for it, and with it whoever gets their memory next.
    pub fn release(&self, ticket: Ticket) {
        let mut state = self.lock();
        if let Some(flight) = state.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            flight.tensors.clear();
        }
    }

    /// The group has failed at `call`. The first to say so is believed.
    pub fn fail(&self, call: Call, error: BackendError) {
        // First the word, then the deed: who sees results of kernels that were ended early sees the failure too.
        self.lock().failure.get_or_insert((call, Arc::new(error)));
        self.link.abort();
    }

    fn look(&self, now: Instant) {
        if let Some((call, error)) = self.trouble(now) {
            tracing::error!(%call, "{error}: the communicator is given up");
            self.fail(call, error);
        }
    }

    fn trouble(&self, now: Instant) -> Option<(Call, BackendError)> {
        let mut state = self.lock();
        if state.failure.is_some() {
            return None;
        }
        let overdue = match state.advance(now, self.timeout) {
            Ok(overdue) => overdue,
            Err(trouble) => return Some(trouble),
        };
        let suspect = state.flights.front().map(|flight| flight.call).or(state.last);
        drop(state);
        match (overdue, suspect, self.link.error()) {
            (true, Some(call), _) => {
                Some((call, BackendError::Timeout { seconds: self.timeout.as_secs_f64() }))
            }
            (false, Some(call), Some(error)) => Some((call, error)),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets what has ended, and tells whether the first of the rest is overdue.
    fn advance(&mut self, now: Instant, timeout: Duration) -> Result<bool, (Call, BackendError)> {
        while let Some(flight) = self.flights.front_mut() {
            let at = |error| (flight.call, error);
            if !flight.progress.is_done().map_err(at)? {
                if flight.since.is_none() && flight.progress.is_ready().map_err(at)? {
                    flight.since = Some(now);
                }
                return Ok(flight.since.is_some_and(|since| now - since > timeout));
            }
            self.flights.pop_front();
        }
        Ok(false)
    }
}

impl<L: Link> Drop for Watch<L> {
    fn drop(&mut self) {
        // Tensors may only go once nothing works on them any more.
        self.link.close(self.timeout);
    }
}

/// Looks at all watches until they are gone, on a thread of its own.
///
/// # Errors
/// The system has no thread left.
pub fn look_after<L: Link + 'static>(watches: Vec<Weak<Watch<L>>>) -> std::io::Result<()> {
    let look = move || {
        loop {
            let alive: Vec<_> = watches.iter().filter_map(Weak::upgrade).collect();
            if alive.is_empty() {
                return;
            }
            alive.iter().for_each(|watch| watch.look(Instant::now()));
            drop(alive);
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("nccl-watch".into()).spawn(look).map(drop)
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::history::Op;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[derive(Default)]
    struct FakeLink {
        broken: AtomicBool,
        aborted: AtomicBool,
    }

    impl Link for FakeLink {
        fn error(&self) -> Option<BackendError> {
            self.broken.load(Ordering::Relaxed).then_some(BackendError::PeerLeft)
        }

        fn abort(&self) {
            self.aborted.store(true, Ordering::Relaxed);
        }

        fn close(&self, _timeout: Duration) {}
    }

    /// How far a collective has come: 0 waits for its input, 1 runs, 2 has ended.
    struct Stage(Arc<Mutex<u8>>);

    impl Progress for Stage {
        fn is_ready(&self) -> Result<bool, BackendError> {
            Ok(*self.0.lock().unwrap() > 0)
        }

        fn is_done(&self) -> Result<bool, BackendError> {
            Ok(*self.0.lock().unwrap() > 1)
        }
    }

    fn call(sequence: u64) -> Call {
        Call { sequence, op: Op::AllReduce, bytes: 4, site: Location::caller() }
    }

    fn enter(watch: &Watch<FakeLink>, sequence: u64) -> (Arc<Mutex<u8>>, Ticket) {
        let stage = Arc::new(Mutex::new(0));
        let progress = Box::new(Stage(Arc::clone(&stage)));
        (stage, watch.enter(call(sequence), progress, vec![Tensor::from(1.0)]))
    }

    #[test]
    fn time_runs_while_a_collective_could_run() {
        let watch = Watch::new(FakeLink::default(), TIMEOUT);
        let ((first, _), (second, _)) = (enter(&watch, 0), enter(&watch, 1));
        let start = Instant::now();
        watch.look(start + 5 * TIMEOUT);
        *first.lock().unwrap() = 1;
        *second.lock().unwrap() = 1;
        watch.look(start + 6 * TIMEOUT);
        *first.lock().unwrap() = 2;
        watch.look(start + 8 * TIMEOUT);
        watch.check().unwrap();
        watch.look(start + 10 * TIMEOUT);
        let error = watch.check().unwrap_err();
        assert_eq!(error.culprit().unwrap().sequence, 1);
        assert!(watch.link().aborted.load(Ordering::Relaxed));
    }

    #[test]
    fn a_broken_connection_fails_the_next_call() {
        let watch = Watch::new(FakeLink::default(), TIMEOUT);
        enter(&watch, 7);
        watch.look(Instant::now());
        watch.check().unwrap();
        watch.link().broken.store(true, Ordering::Relaxed);
        watch.look(Instant::now());
        let error = watch.check().unwrap_err();
        assert!(matches!(&error, BackendError::Earlier { call, .. } if call.sequence == 7));
        assert!(error.to_string().contains("watch.rs"), "{error}");
    }

    #[test]
    fn tensors_stay_until_they_are_waited_for_or_done() {
        let watch = Watch::new(FakeLink::default(), TIMEOUT);
        let (_, ticket) = enter(&watch, 0);
        let (dropped, _) = enter(&watch, 1);
        let kept = || watch.lock().flights.iter().map(|f| f.tensors.len()).collect::<Vec<_>>();
        assert_eq!(kept(), [1, 1]);
        watch.release(ticket);
        assert_eq!(kept(), [0, 1]);
        *dropped.lock().unwrap() = 2;
        watch.look(Instant::now());
        assert_eq!(kept(), [0, 1], "the queue is in order: the first still runs");
    }

    #[test]
    fn the_thread_finds_what_is_overdue() {
        let watch = Arc::new(Watch::new(FakeLink::default(), Duration::from_millis(50)));
        look_after(vec![Arc::downgrade(&watch)]).unwrap();
        let (stage, _) = enter(&watch, 0);
        *stage.lock().unwrap() = 1;
        let end = Instant::now() + TIMEOUT;
        while watch.check().is_ok() {
            assert!(Instant::now() < end, "nothing was found");
            thread::sleep(PAUSE);
        }
    }
}
