//! Groups of processes that `mpirun` or `srun` started, over MPI.
//!
//! MPI knows its ranks, and they find each other without an address: [`MpiWorld::init`] is the rendezvous. Tensors are
//! those of the CPU; [`with_nccl`](crate::with_nccl) adds GPUs.

mod calls;
mod reduce;
mod thread;

use std::sync::Arc;
use std::time::Duration;

use strand_torch::ReduceOp;
use tch::Tensor;

use self::calls::Work;
use self::thread::{Landing, MpiThread, Ranks};
use crate::backend::{Backend, BackendError, Pending};
use crate::error::CommError;
use crate::group::Group;
use crate::history::Call;
use crate::mesh::Mesh;

/// The ranks that one `mpirun` or `srun` started. MPI is finalised when this and all groups that come of it are dropped,
/// and cannot be initialised again after that.
#[derive(Clone)]
pub struct MpiWorld {
    thread: Arc<MpiThread>,
    ranks: Ranks,
}

impl MpiWorld {
    /// Initialises MPI. A process that nobody started as one of several is a world of its own.
    ///
    /// # Errors
    /// MPI was initialised before, in this process, or cannot be.
    pub fn init() -> Result<MpiWorld, CommError> {
        match MpiThread::start() {
            Ok((thread, ranks)) => Ok(MpiWorld { thread: Arc::new(thread), ranks }),
            Err(source) => Err(CommError::Join {
                group: "mpi".into(),
                rank: 0,
                size: 1,
                source: source.into(),
            }),
        }
    }

    /// This process among all.
    pub fn rank(&self) -> usize {
        self.ranks.rank
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.ranks.size
    }

    /// The same world, where tensors of more than `longest` elements go in pieces. MPI needs that for more than 2³¹; tests
    /// would rather have it sooner.
    #[must_use]
    pub fn in_pieces(&self, longest: usize) -> MpiWorld {
        let ranks = Ranks { longest, ..self.ranks };
        MpiWorld { thread: Arc::clone(&self.thread), ranks }
    }

    /// The worlds of `size` neighbours each, of which this is this rank's; the last has what is left. All ranks call this.
    ///
    /// # Errors
    /// MPI's own.
    pub fn neighbours(&self, size: usize) -> Result<MpiWorld, CommError> {
        let ranks = self.divide("neighbours", self.ranks.rank / size.max(1), self.ranks.rank)?;
        Ok(MpiWorld { thread: Arc::clone(&self.thread), ranks })
    }

    /// This rank's mesh. All ranks call this.
    ///
    /// # Errors
    /// dp × tp does not fill the world, or MPI's own.
    pub fn mesh(&self, dp: usize, tp: usize, timeout: Duration) -> Result<Mesh, CommError> {
        let Ranks { rank, size, .. } = self.ranks;
        Mesh::build(rank, size, dp, tp, |name, rank, members| {
            let size = members.len();
            if size == 1 {
                return Ok(Group::single(name));
            }
            // The least of its ranks names a group among those of its kind.
            let ranks = self.divide(name, members[0], rank)?;
            let backend = Mpi { thread: Arc::clone(&self.thread), ranks };
            Ok(Group::new(name, rank, size, timeout, Arc::new(backend)))
        })
    }

    fn divide(&self, name: &str, color: usize, key: usize) -> Result<Ranks, CommError> {
        self.thread.divide(self.ranks, color, key).map_err(|source| CommError::Join {
            group: name.into(),
            rank: self.ranks.rank,
            size: self.ranks.size,
            source: Box::new(source),
        })
    }
}

struct Mpi {
    thread: Arc<MpiThread>,
    ranks: Ranks,
}

impl Mpi {
    /// How long a rank listens for the others after a failure.
    const DIAGNOSIS: Duration = Duration::from_secs(5);

    fn start(&self, work: Work) -> Result<Box<dyn Pending>, BackendError> {
        Ok(Box::new(MpiPending(self.thread.collective(self.ranks, work)?)))
    }
}

impl Backend for Mpi {
    fn all_reduce(
        &self,
        _call: &Call,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let (output, input) = (tensor.shallow_clone(), copy_of(tensor));
        self.start(Work::AllReduce { output, input, op })
    }

    fn all_gather(
        &self,
        _call: &Call,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let (output, input) = (output.shallow_clone(), apart(input, output));
        self.start(Work::AllGather { output, input })
    }

    fn reduce_scatter(
        &self,
        _call: &Call,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let (output, input) = (output.shallow_clone(), apart(input, output));
        self.start(Work::ReduceScatter { output, input, op })
    }

    fn broadcast(
        &self,
        _call: &Call,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.start(Work::Broadcast { tensor: tensor.shallow_clone(), root })
    }

    fn barrier(&self, _call: &Call) -> Result<Box<dyn Pending>, BackendError> {
        self.start(Work::Barrier)
    }

    fn missing_ranks(&self, sequence: u64) -> Vec<usize> {
        self.thread.roll_call(self.ranks, sequence, Self::DIAGNOSIS)
    }
}

/// MPI's way to reduce in place is a constant that differs between libraries; a copy is the same everywhere.
fn copy_of(tensor: &Tensor) -> Tensor {
    tensor.detach().copy()
}

/// The input, copied where it shares memory with the output, which MPI forbids.
fn apart(input: &Tensor, output: &Tensor) -> Tensor {
    let memory = |tensor: &Tensor| {
        let start = tensor.data_ptr() as usize;
        start..start + tensor.numel() * tensor.kind().elt_size_in_bytes()
    };
    let (a, b) = (memory(input), memory(output));
    if a.start < b.end && b.start < a.end { copy_of(input) } else { input.shallow_clone() }
}

struct MpiPending(Arc<Landing>);

impl Pending for MpiPending {
    fn wait(&mut self, timeout: Duration) -> Result<(), BackendError> {
        self.0.wait(timeout)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn only_inputs_that_share_memory_are_copied() {
        let whole = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let (first, second) = (whole.narrow(0, 0, 4), whole.narrow(0, 4, 4));
        assert_eq!(apart(&first, &second).data_ptr(), first.data_ptr());
        assert_ne!(apart(&first, &whole).data_ptr(), first.data_ptr());
    }
}
