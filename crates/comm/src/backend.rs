//! What carries a collective.

use std::time::Duration;

use strand_torch::ReduceOp;
use tch::Tensor;

/// One way to move tensors between the ranks of a group. All ranks make the same calls in the same order.
///
/// Every call starts a collective and returns at once; the tensors belong to it until [`Pending::wait`] returns.
pub trait Backend: Send + Sync {
    /// Reduces `tensor` over the ranks, in place. All ranks end with the same bits.
    ///
    /// # Errors
    /// The tensor's type or layout is not supported.
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Box<dyn Pending>, BackendError>;

    /// Collects every rank's `input` (`[n, …]`) in `output` (`[size·n, …]`), in rank order.
    ///
    /// # Errors
    /// The sizes do not fit.
    fn all_gather(&self, output: &Tensor, input: &Tensor)
    -> Result<Box<dyn Pending>, BackendError>;

    /// Reduces `input` (`[size·n, …]`); `output` (`[n, …]`) gets this rank's part.
    ///
    /// # Errors
    /// The sizes do not fit.
    fn reduce_scatter(
        &self,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError>;

    /// Copies `tensor` from rank `root` to all.
    ///
    /// # Errors
    /// The tensor's layout is not supported.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Box<dyn Pending>, BackendError>;

    /// Ends when all ranks have come.
    ///
    /// # Errors
    /// The group is broken.
    fn barrier(&self) -> Result<Box<dyn Pending>, BackendError>;

    /// After a failed collective: tells the others how far this rank has come, and names the ranks that have not come
    /// as far. Empty where nothing can be said.
    fn missing_ranks(&self, sequence: u64) -> Vec<usize>;
}

/// A collective under way.
pub trait Pending: Send {
    /// Waits for its end.
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
}
