//! Groups of processes over Gloo.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use strand_torch::{ProcessGroup, ReduceOp, Store, Work};
use tch::Tensor;

use crate::backend::{Backend, BackendError, Pending};
use crate::error::CommError;
use crate::group::Group;
use crate::history::Call;
use crate::mesh::Mesh;

/// Where the ranks of a run meet.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host of rank 0's store.
    pub host: String,
    /// Port of rank 0's store.
    pub port: u16,
    /// Rank 0 only: a listening socket for that port, inherited from the launcher.
    pub listen_fd: Option<i32>,
}

/// Ranks may start that far apart, however short the time-out of a collective is.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);

/// Meets the other ranks at `endpoint` and makes this rank's mesh.
///
/// # Errors
/// dp × tp does not fill the world, or not all ranks came within two minutes (or `timeout`, where that is more).
pub fn join_gloo(
    endpoint: &Endpoint,
    rank: usize,
    world: usize,
    dp: usize,
    tp: usize,
    timeout: Duration,
) -> Result<Mesh, CommError> {
    let join_error = |name: &str, rank: usize, size: usize, source: BackendError| CommError::Join {
        group: name.into(),
        rank,
        size,
        source: Box::new(source),
    };
    let Endpoint { host, port, listen_fd } = endpoint;
    let join_timeout = timeout.max(JOIN_TIMEOUT);
    let store = Store::tcp(host, *port, *listen_fd, rank == 0, join_timeout)
        .map_err(|e| join_error("store", rank, world, e.into()))?;
    let store = Arc::new(store);
    let serves_store = rank == 0;
    let mut groups: Vec<Arc<ProcessGroup>> = Vec::new();
    let mesh = Mesh::build(rank, world, dp, tp, |name, rank, members| {
        let size = members.len();
        if size == 1 {
            return Ok(Group::single(name));
        }
        let group = ProcessGroup::gloo(&store, name, host, (rank, size), join_timeout)
            .map_err(|e| join_error(name, rank, size, e.into()))?;
        let group = Arc::new(group);
        groups.push(Arc::clone(&group));
        let store = Arc::clone(&store);
        let backend = Gloo { group, store, serves_store, name: name.into(), rank, size };
        Ok(Group::new(name, rank, size, timeout, Arc::new(backend)))
    })?;
    settle(&groups, join_timeout, timeout)
        .map_err(|e| join_error("world", rank, world, e.into()))?;
    Ok(mesh)
}

/// Waits until every rank has all of its groups (the first is the world): one that left before would take the store and
/// its ends of the connections along. From then on `timeout` holds.
fn settle(
    groups: &[Arc<ProcessGroup>],
    join_timeout: Duration,
    timeout: Duration,
) -> Result<(), strand_torch::Error> {
    if let Some(world) = groups.first() {
        world.barrier()?.wait(join_timeout)?;
    }
    groups.iter().try_for_each(|group| group.set_timeout(timeout))
}

struct Gloo {
    group: Arc<ProcessGroup>,
    store: Arc<Store>,
    /// Whether the store ends with this rank.
    serves_store: bool,
    name: String,
    rank: usize,
    size: usize,
}

impl Gloo {
    /// How long a rank waits for the others' word after a failure.
    const DIAGNOSIS: Duration = Duration::from_secs(5);

    fn stall_key(&self, word: &str, sequence: u64, rank: usize) -> String {
        format!("stall/{}/{sequence}/{word}/{rank}", self.name)
    }

    /// The ranks that have not said a word of a stalled collective.
    fn silent(&self, word: &str, sequence: u64) -> Vec<usize> {
        let has_not = |&rank: &usize| {
            matches!(self.store.has(&self.stall_key(word, sequence, rank)), Ok(false))
        };
        (0..self.size).filter(has_not).collect()
    }

    /// Keeps the store until the ranks that are there have read what they came for.
    fn outlast(&self, sequence: u64, missing: &[usize]) {
        let end = Instant::now() + Self::DIAGNOSIS;
        while Instant::now() < end && self.silent("read", sequence) != missing {
            sleep(Duration::from_millis(20));
        }
    }
}

impl Backend for Gloo {
    fn all_reduce(
        &self,
        _call: &Call,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.all_reduce(tensor, op)?)))
    }

    fn all_gather(
        &self,
        _call: &Call,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.all_gather(output, input)?)))
    }

    fn reduce_scatter(
        &self,
        _call: &Call,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.reduce_scatter(output, input, op)?)))
    }

    fn broadcast(
        &self,
        _call: &Call,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.broadcast(tensor, root)?)))
    }

    fn barrier(&self, _call: &Call) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.barrier()?)))
    }

    fn missing_ranks(&self, sequence: u64) -> Vec<usize> {
        // The store may be gone with rank 0; then nothing can be said about the others.
        if self.store.set(&self.stall_key("here", sequence, self.rank), b"").is_err() {
            return Vec::new();
        }
        sleep(Self::DIAGNOSIS);
        let missing = self.silent("here", sequence);
        let told = self.store.set(&self.stall_key("read", sequence, self.rank), b"");
        if self.serves_store && told.is_ok() {
            self.outlast(sequence, &missing);
        }
        missing
    }
}

struct GlooPending(Work);

impl Pending for GlooPending {
    fn wait(&mut self, timeout: Duration) -> Result<(), BackendError> {
        Ok(self.0.wait(timeout)?)
    }
}
