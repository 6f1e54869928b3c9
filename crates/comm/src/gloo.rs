//! Groups of processes over Gloo.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use strand_torch::{ProcessGroup, ReduceOp, Store, Work};
use tch::Tensor;

use crate::backend::{Backend, BackendError, Pending};
use crate::error::CommError;
use crate::group::Group;
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
    Mesh::build(rank, world, dp, tp, |name, rank, members| {
        let size = members.len();
        if size == 1 {
            return Ok(Group::single(name));
        }
        let group = ProcessGroup::gloo(&store, name, host, (rank, size), join_timeout, timeout)
            .map_err(|e| join_error(name, rank, size, e.into()))?;
        let backend = Gloo { group, store: Arc::clone(&store), name: name.into(), rank, size };
        Ok(Group::new(name, rank, size, timeout, Box::new(backend)))
    })
}

struct Gloo {
    group: ProcessGroup,
    store: Arc<Store>,
    name: String,
    rank: usize,
    size: usize,
}

impl Gloo {
    /// How long a rank waits for the others' word after a failure.
    const DIAGNOSIS: Duration = Duration::from_secs(2);

    fn stall_key(&self, rank: usize, sequence: u64) -> String {
        format!("stall/{}/{sequence}/{rank}", self.name)
    }
}

impl Backend for Gloo {
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.all_reduce(tensor, op)?)))
    }

    fn all_gather(
        &self,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.all_gather(output, input)?)))
    }

    fn reduce_scatter(
        &self,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.reduce_scatter(output, input, op)?)))
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.broadcast(tensor, root)?)))
    }

    fn barrier(&self) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(GlooPending(self.group.barrier()?)))
    }

    fn missing_ranks(&self, sequence: u64) -> Vec<usize> {
        // The store may be gone with rank 0; then nothing can be said about the others.
        if self.store.set(&self.stall_key(self.rank, sequence), b"here").is_err() {
            return Vec::new();
        }
        sleep(Self::DIAGNOSIS);
        (0..self.size)
            .filter(|&rank| matches!(self.store.has(&self.stall_key(rank, sequence)), Ok(false)))
            .collect()
    }
}

struct GlooPending(Work);

impl Pending for GlooPending {
    fn wait(&mut self, timeout: Duration) -> Result<(), BackendError> {
        Ok(self.0.wait(timeout)?)
    }
}
