//! Row groups in memory: fetched ahead in the order of their first use, within a budget of bytes, and kept for as
//! long as a planned sample needs them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::batch::RowGroup;
use crate::demand::Demand;
use crate::fetch::Fetcher;
use crate::{DataError, Dataset, SampleRef};

/// A row group: set, shard, group.
type Key = (usize, usize, usize);

/// How much was fetched so far.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub groups: AtomicU64,
    pub bytes: AtomicU64,
}

impl Fetched {
    /// Counts a row group.
    pub fn count(&self, bytes: u64) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The row groups that planned samples need.
pub(crate) struct Groups {
    sets: Vec<Dataset>,
    fetcher: Fetcher,
    /// Bytes of the windows that are being read: below this the same groups would be fetched again and again.
    windows: u64,
    /// Most bytes that are fetched beyond them.
    ahead: u64,
    demand: Arc<Demand>,
    is_local: bool,
    /// Bytes of all groups that are there or on their way.
    held: u64,
    groups: HashMap<Key, Held>,
    /// Groups that wait for room, in the order of their first use.
    waiting: VecDeque<Key>,
    fetches: JoinSet<(Key, Result<RowGroup, DataError>)>,
    /// Counts uses, to tell the group that was used longest ago.
    clock: u64,
}

struct Held {
    state: State,
    /// Planned samples that still need it.
    needed: usize,
    /// Rows that were given out.
    given: u64,
    used: u64,
}

enum State {
    Waiting,
    Fetching,
    Ready(Arc<RowGroup>),
    Failed(DataError),
}

impl Groups {
    /// No groups yet. `ahead` bytes at most are fetched beyond the windows that are being read, as `demand` needs it.
    pub fn new(sets: Vec<Dataset>, ahead: u64, demand: Arc<Demand>, fetcher: Fetcher) -> Groups {
        let windows = sets.iter().map(window_bytes).sum();
        let (groups, waiting, fetches) = (HashMap::new(), VecDeque::new(), JoinSet::new());
        let (held, clock) = (0, 0);
        let is_local = sets.iter().all(|set| set.location().local_path().is_some());
        Groups {
            sets,
            fetcher,
            windows,
            ahead,
            demand,
            is_local,
            held,
            groups,
            waiting,
            fetches,
            clock,
        }
    }

    /// Plans for a sample: its group stays until [`Self::row`] was called for it.
    pub fn plan(&mut self, at: SampleRef) {
        let key = key(at);
        let waiting = &mut self.waiting;
        let held = self.groups.entry(key).or_insert_with(|| {
            waiting.push_back(key);
            Held { state: State::Waiting, needed: 0, given: 0, used: 0 }
        });
        held.needed += 1;
    }

    /// Fetches that count against those that may be under way. On a local disk they share the cores with what the first
    /// batch waits for, so until it is taken those that have ended count too.
    fn under_way(&self) -> usize {
        if self.is_local && self.demand.is_first() {
            return self.groups.len() - self.waiting.len();
        }
        self.fetches.len()
    }

    /// Starts what fits. True where nothing waits any more, so that more can be planned.
    pub fn start(&mut self) -> bool {
        // Fetches that ended while nobody waited for them are no longer under way.
        while let Some(Ok((key, group))) = self.fetches.try_join_next() {
            self.settle(key, group);
        }
        while let Some(&next) = self.waiting.front() {
            if self.under_way() >= self.demand.in_flight() || !self.make_room(next) {
                return false;
            }
            self.waiting.pop_front();
            self.fetch(next);
        }
        true
    }

    /// The planned row, once its group is there.
    ///
    /// # Errors
    /// What fetching its group ended with.
    pub async fn row(&mut self, at: SampleRef) -> Result<(Arc<RowGroup>, usize), DataError> {
        let key = key(at);
        loop {
            match self.take(key)? {
                Some(group) => return Ok((group, at.row)),
                None => self.absorb().await?,
            }
        }
    }

    fn take(&mut self, key: Key) -> Result<Option<Arc<RowGroup>>, DataError> {
        let Some(held) = self.groups.get_mut(&key) else {
            return Err(DataError::Stopped);
        };
        match &mut held.state {
            State::Ready(group) => {
                self.clock += 1;
                held.used = self.clock;
                held.needed = held.needed.saturating_sub(1);
                held.given += 1;
                let group = group.clone();
                // All of it was given out: its memory is better used for the next group.
                if held.needed == 0 && held.given >= group.rows.len() as u64 {
                    self.remove(key);
                }
                Ok(Some(group))
            }
            State::Fetching => Ok(None),
            State::Waiting => {
                // What is needed now is fetched even beyond the budget, or nothing would move.
                self.waiting.retain(|waiting| *waiting != key);
                self.make_room(key);
                self.fetch(key);
                Ok(None)
            }
            State::Failed(error) => {
                held.needed = held.needed.saturating_sub(1);
                // Damage is the same for every row of the group; another failure ends the loader.
                Err(error.damage().unwrap_or_else(|| std::mem::replace(error, DataError::Stopped)))
            }
        }
    }

    /// Waits for any fetch to end and fills the gap it leaves.
    async fn absorb(&mut self) -> Result<(), DataError> {
        let Some(Ok((key, group))) = self.fetches.join_next().await else {
            return Err(DataError::Stopped);
        };
        self.settle(key, group);
        self.start();
        Ok(())
    }

    fn settle(&mut self, key: Key, group: Result<RowGroup, DataError>) {
        if let Some(held) = self.groups.get_mut(&key) {
            held.state = group.map_or_else(State::Failed, |group| State::Ready(Arc::new(group)));
        }
    }

    fn fetch(&mut self, key: Key) {
        let (set, shard, group) = key;
        let bytes = self.bytes(key);
        self.held += bytes;
        if let Some(held) = self.groups.get_mut(&key) {
            held.state = State::Fetching;
        }
        let (set, fetcher) = (self.sets[set].clone(), self.fetcher.clone());
        // What the first batch needs comes before all else.
        let whole = !self.demand.is_first();
        let read = async move { set.load_group(&fetcher, shard, group, whole).await };
        self.fetches.spawn(async move { (key, read.await) });
    }

    /// Whether a group fits, where need be in place of groups that no planned sample needs.
    fn make_room(&mut self, key: Key) -> bool {
        let bytes = self.bytes(key);
        let budget = self.windows + self.demand.ahead(self.ahead);
        while self.held + bytes > budget {
            let unneeded = self.groups.iter().filter(|(_, held)| held.needed == 0);
            let Some(oldest) = unneeded.min_by_key(|(_, held)| held.used).map(|(&key, _)| key)
            else {
                return false;
            };
            self.remove(oldest);
        }
        true
    }

    fn remove(&mut self, key: Key) {
        if self.groups.remove(&key).is_some() {
            self.held -= self.bytes(key);
        }
    }

    fn bytes(&self, (set, shard, group): Key) -> u64 {
        self.sets[set].manifest().shards[shard].groups[group].bytes
    }
}

fn key(at: SampleRef) -> Key {
    (at.set, at.shard, at.group)
}

/// Bytes of the largest window that a set may have.
pub(crate) fn window_bytes(set: &Dataset) -> u64 {
    let groups = set.manifest().shards.iter().flat_map(|shard| &shard.groups);
    let largest = groups.clone().map(|group| group.bytes).max().unwrap_or_default();
    largest * (groups.count() as u64).min(crate::epoch::WINDOW)
}
