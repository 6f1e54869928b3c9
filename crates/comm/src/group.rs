//! Ranks that work together.

use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strand_torch::ReduceOp;
use tch::{Device, Kind, Tensor};

use crate::backend::{Backend, BackendError, Pending};
use crate::error::CommError;
use crate::history::{Call, History, Op};

/// A set of ranks that issue the same collectives in the same order. Cheap to clone.
///
/// A group of one rank does nothing, and needs no backend.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

struct Inner {
    name: String,
    rank: usize,
    size: usize,
    timeout: Duration,
    backend: Option<Box<dyn Backend>>,
    history: Mutex<History>,
    has_failed: AtomicBool,
}

impl Group {
    /// A group carried by `backend`; a collective that takes longer than `timeout` fails.
    pub fn new(
        name: impl Into<String>,
        rank: usize,
        size: usize,
        timeout: Duration,
        backend: Box<dyn Backend>,
    ) -> Group {
        Group(Arc::new(Inner {
            name: name.into(),
            rank,
            size,
            timeout,
            backend: Some(backend),
            history: Mutex::default(),
            has_failed: AtomicBool::new(false),
        }))
    }

    /// The group of this rank alone.
    pub fn single(name: impl Into<String>) -> Group {
        Group(Arc::new(Inner {
            name: name.into(),
            rank: 0,
            size: 1,
            timeout: Duration::MAX,
            backend: None,
            history: Mutex::default(),
            has_failed: AtomicBool::new(false),
        }))
    }

    /// This rank in the group.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// Ranks of the group.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// The group's name, for messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether a collective of this rank has failed: behind a backward pass nothing else tells.
    pub fn has_failed(&self) -> bool {
        self.0.has_failed.load(Ordering::Relaxed)
    }

    /// Reduces `tensor` over the ranks, in place. All ranks end with the same bits.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Handle, CommError> {
        self.start(Op::AllReduce, bytes_of(tensor), |backend| backend.all_reduce(tensor, op))
    }

    /// Collects every rank's `input` (`[n, …]`) as `[size·n, …]`, in rank order.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn all_gather(&self, input: &Tensor) -> Result<Tensor, CommError> {
        if self.size() == 1 {
            return Ok(input.shallow_clone());
        }
        let input = input.f_contiguous()?;
        let mut shape = input.size();
        shape[0] *= self.size() as i64;
        let output = Tensor::f_empty(&shape, (input.kind(), input.device()))?;
        self.start(Op::AllGather, bytes_of(&input), |backend| backend.all_gather(&output, &input))?
            .wait()?;
        Ok(output)
    }

    /// Reduces `input` (`[size·n, …]`) over the ranks and returns this rank's part `[n, …]`.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn reduce_scatter(&self, input: &Tensor, op: ReduceOp) -> Result<Tensor, CommError> {
        if self.size() == 1 {
            return Ok(input.shallow_clone());
        }
        let input = input.f_contiguous()?;
        let mut shape = input.size();
        shape[0] /= self.size() as i64;
        let output = Tensor::f_empty(&shape, (input.kind(), input.device()))?;
        self.start(Op::ReduceScatter, bytes_of(&input), |backend| {
            backend.reduce_scatter(&output, &input, op)
        })?
        .wait()?;
        Ok(output)
    }

    /// Copies `tensor` from rank `root` to all.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Handle, CommError> {
        self.start(Op::Broadcast, bytes_of(tensor), |backend| backend.broadcast(tensor, root))
    }

    /// Waits until all ranks have come.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn barrier(&self) -> Result<(), CommError> {
        self.start(Op::Barrier, 0, |backend| backend.barrier())?.wait()
    }

    /// Every rank's bytes, in rank order; their lengths may differ.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        let lengths = self.all_gather(&Tensor::from_slice(&[bytes.len() as i64]))?;
        let lengths: Vec<i64> = Vec::try_from(&lengths)?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); self.size()]);
        }
        let padded = Tensor::zeros([longest], (Kind::Uint8, Device::Cpu));
        padded.narrow(0, 0, bytes.len() as i64).copy_(&Tensor::from_slice(bytes));
        let all: Vec<u8> = Vec::try_from(&self.all_gather(&padded)?)?;
        let parts = all.chunks(longest as usize).zip(&lengths);
        Ok(parts.map(|(part, &length)| part[..length as usize].to_vec()).collect())
    }

    #[track_caller]
    fn start(
        &self,
        op: Op,
        bytes: usize,
        begin: impl FnOnce(&dyn Backend) -> Result<Box<dyn Pending>, BackendError>,
    ) -> Result<Handle, CommError> {
        let call = self.history().push(op, bytes, Location::caller());
        let pending = match &self.0.backend {
            None => None,
            Some(backend) => Some(begin(backend.as_ref()).map_err(|e| self.failed(call, e))?),
        };
        Ok(Handle { group: self.clone(), call, pending })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, call: Call, source: BackendError) -> CommError {
        self.0.has_failed.store(true, Ordering::Relaxed);
        for past in self.history().calls() {
            tracing::debug!(group = self.name(), rank = self.rank(), "{past}");
        }
        let missing = match &self.0.backend {
            Some(backend) => backend.missing_ranks(call.sequence),
            None => Vec::new(),
        };
        CommError::Collective {
            group: self.name().into(),
            rank: self.rank(),
            size: self.size(),
            call,
            missing,
            source: Box::new(source),
        }
    }
}

/// A collective under way. Dropping it without [`Handle::wait`] leaves its tensors undefined.
#[must_use = "a collective ends with `wait`"]
pub struct Handle {
    group: Group,
    call: Call,
    pending: Option<Box<dyn Pending>>,
}

impl Handle {
    /// Waits for the end.
    ///
    /// # Errors
    /// A peer is gone, or the group's time-out has passed.
    pub fn wait(self) -> Result<(), CommError> {
        let Handle { group, call, pending } = self;
        match pending {
            None => Ok(()),
            Some(mut pending) => {
                pending.wait(group.0.timeout).map_err(|source| group.failed(call, source))
            }
        }
    }
}

fn bytes_of(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}
