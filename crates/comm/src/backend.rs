//! What carries a collective.

use std::sync::Arc;
use std::time::Duration;

use strand_torch::ReduceOp;
use tch::{Device, Kind, Tensor};

use crate::history::{Call, Op};

/// One way to move tensors between the ranks of a group. All ranks make the same calls in the same order.
///
/// Every call starts a collective and returns at once; the tensors belong to it until [`Pending::wait`] returns. They
/// are contiguous, hold something, and their sizes fit: [`Group`](crate::Group) has seen to that. `call` is the same on
/// all ranks but for its place in the code, and names the collective in what a backend has to say about it.
pub trait Backend: Send + Sync {
    /// Reduces `tensor` over the ranks, in place. All ranks end with the same bits.
    ///
    /// # Errors
    /// The tensor's type is not supported.
    fn all_reduce(
        &self,
        call: &Call,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError>;

    /// Collects every rank's `input` (`[n, …]`) in `output` (`[size·n, …]`), in rank order.
    ///
    /// # Errors
    /// The tensors' type is not supported.
    fn all_gather(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError>;

    /// Reduces `input` (`[size·n, …]`); `output` (`[n, …]`) gets this rank's part.
    ///
    /// # Errors
    /// The tensors' type is not supported.
    fn reduce_scatter(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError>;

    /// Copies `tensor` from rank `root` to all.
    ///
    /// # Errors
    /// The tensor's type is not supported.
    fn broadcast(
        &self,
        call: &Call,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Box<dyn Pending>, BackendError>;

    /// Ends when all ranks have come.
    ///
    /// # Errors
    /// The group is broken.
    fn barrier(&self, call: &Call) -> Result<Box<dyn Pending>, BackendError>;

    /// Whether all is well with the collectives that run behind the caller's back.
    ///
    /// # Errors
    /// [`BackendError::Earlier`], where one of them has failed since it was waited for.
    fn check(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// After a failed collective: tells the others how far this rank has come, and names the ranks that have not come
    /// as far. Empty where nothing can be said.
    fn missing_ranks(&self, sequence: u64) -> Vec<usize>;
}

/// A collective under way.
pub trait Pending: Send {
    /// Waits for its end: what is done with the tensors from now on sees the result.
    ///
    /// For tensors of a GPU this puts the GPU's queue in order and returns; a failure shows at a later call.
    ///
    /// # Errors
    /// A peer is gone, or `timeout` has passed.
    fn wait(&mut self, timeout: Duration) -> Result<(), BackendError>;
}

/// Why a backend could not carry a collective.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// libtorch's or Gloo's own words.
    #[error(transparent)]
    Torch(#[from] strand_torch::Error),
    /// Not all ranks came in time.
    #[error("timed out after {seconds:.1} s")]
    Timeout {
        /// How long was waited.
        seconds: f64,
    },
    /// The ranks disagree about what they do together.
    #[error("ranks disagree: {0}")]
    Mismatch(String),
    /// A peer has given up.
    #[error("a peer has left the group")]
    PeerLeft,
    /// A collective has failed after the caller had gone on, and took the group with it.
    #[error("{call} had failed before")]
    Earlier {
        /// The one that failed.
        call: Call,
        /// Why.
        #[source]
        source: Arc<BackendError>,
    },
    /// The library has no such collective.
    #[error("{library} does not know {op:?} of {kind:?} tensors")]
    Unsupported {
        /// What carries the group.
        library: &'static str,
        /// The collective.
        op: Op,
        /// The tensors' type.
        kind: Kind,
    },
    /// A tensor lies where the group cannot reach it.
    #[error("the tensor is on {found:?}, but the group works on {expected}")]
    Device {
        /// Where the tensor lies.
        found: Device,
        /// Where the group works.
        expected: String,
    },
    /// A library that is loaded at run time is not there.
    #[error("{library} could not be loaded: {reason}")]
    Library {
        /// Its file.
        library: &'static str,
        /// The loader's words.
        reason: String,
    },
    /// This machine has no such GPU.
    #[error("there is no GPU {index}: this process sees {count}")]
    NoDevice {
        /// The one that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// Other ranks cannot join, so that none can.
    #[error("{}", peers_text(.0))]
    Peers(Vec<(usize, String)>),
    /// A library's own words.
    #[error("{library}: {call}: {reason}")]
    Native {
        /// Its name.
        library: &'static str,
        /// The function that failed.
        call: &'static str,
        /// Its reason.
        reason: String,
    },
}

impl BackendError {
    /// The collective that failed, where it is another than the one that was asked for.
    pub fn culprit(&self) -> Option<Call> {
        match self {
            BackendError::Earlier { call, .. } => Some(*call),
            _ => None,
        }
    }

    /// Whether other ranks may know more about it.
    pub fn concerns_peers(&self) -> bool {
        !matches!(self, BackendError::Unsupported { .. } | BackendError::Device { .. })
    }

    /// What to look at where a group could not be joined.
    pub fn join_hint(&self) -> &'static str {
        match self {
            BackendError::Library { .. } => {
                "point LIBTORCH at a libtorch with CUDA, and LD_LIBRARY_PATH at the folder of the \
                 library where it lies elsewhere; or train on CPUs"
            }
            BackendError::NoDevice { .. } => {
                "start as many ranks on a node as it has GPUs, and look at CUDA_VISIBLE_DEVICES"
            }
            BackendError::Peers(_) => "look at the logs of the ranks that are named",
            _ => "check that all ranks started and that MASTER_ADDR can be reached from each",
        }
    }
}

fn peers_text(peers: &[(usize, String)]) -> String {
    let texts: Vec<String> =
        peers.iter().map(|(rank, reason)| format!("rank {rank}: {reason}")).collect();
    texts.join("; ")
}
