//! Ranks that work together.

use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strand_torch::ReduceOp;
use tch::{Device, Kind, Tensor};

use crate::arguments::Arguments;
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
    backend: Option<Arc<dyn Backend>>,
    history: Arc<Mutex<History>>,
    has_failed: AtomicBool,
}

impl Inner {
    /// One rank without a name.
    fn over(backend: Option<Arc<dyn Backend>>) -> Inner {
        Inner {
            name: String::new(),
            rank: 0,
            size: 1,
            timeout: Duration::MAX,
            backend,
            history: Arc::default(),
            has_failed: AtomicBool::new(false),
        }
    }
}

impl Group {
    /// A group carried by `backend`; a collective that takes longer than `timeout` fails.
    pub fn new(
        name: impl Into<String>,
        rank: usize,
        size: usize,
        timeout: Duration,
        backend: Arc<dyn Backend>,
    ) -> Group {
        Group::of(Inner { name: name.into(), rank, size, timeout, ..Inner::over(Some(backend)) })
    }

    /// The group of this rank alone.
    pub fn single(name: impl Into<String>) -> Group {
        Group::of(Inner { name: name.into(), ..Inner::over(None) })
    }

    fn of(inner: Inner) -> Group {
        Group(Arc::new(inner))
    }

    /// The same ranks, carried by what `wrap` makes of this group's backend; calls are numbered on. A group without a
    /// backend stays as it is.
    #[must_use]
    pub fn carried_by(&self, wrap: impl FnOnce(Arc<dyn Backend>) -> Arc<dyn Backend>) -> Group {
        let Some(backend) = &self.0.backend else { return self.clone() };
        Group::of(Inner {
            name: self.0.name.clone(),
            rank: self.0.rank,
            size: self.0.size,
            timeout: self.0.timeout,
            history: Arc::clone(&self.0.history),
            ..Inner::over(Some(wrap(Arc::clone(backend))))
        })
    }

    /// How long a collective may take.
    pub fn timeout(&self) -> Duration {
        self.0.timeout
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

    /// Reduces a contiguous `tensor` over the ranks, in place. All ranks end with the same bits.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Handle, CommError> {
        self.start(Op::AllReduce, &Arguments::InPlace(tensor), |backend, call| {
            backend.all_reduce(call, tensor, op)
        })
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
        *self.rows(Op::AllGather, &mut shape)? *= self.size() as i64;
        let output = Tensor::f_empty(&shape, (input.kind(), input.device()))?;
        self.all_gather_into(&output, &input)?.wait()?;
        Ok(output)
    }

    /// As [`Group::all_gather`], into memory that is there, without waiting. Both are contiguous; a group of one rank
    /// copies.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn all_gather_into(&self, output: &Tensor, input: &Tensor) -> Result<Handle, CommError> {
        if self.size() == 1 {
            output.shallow_clone().f_copy_(input)?;
        }
        self.start(Op::AllGather, &Arguments::Gather { output, input }, |backend, call| {
            backend.all_gather(call, output, input)
        })
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
        *self.rows(Op::ReduceScatter, &mut shape)? /= self.size() as i64;
        let output = Tensor::f_empty(&shape, (input.kind(), input.device()))?;
        self.reduce_scatter_into(&output, &input, op)?.wait()?;
        Ok(output)
    }

    /// As [`Group::reduce_scatter`], into memory that is there, without waiting. Both are contiguous; a group of one
    /// rank copies.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn reduce_scatter_into(
        &self,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Handle, CommError> {
        if self.size() == 1 {
            output.shallow_clone().f_copy_(input)?;
        }
        self.start(Op::ReduceScatter, &Arguments::Scatter { output, input }, |backend, call| {
            backend.reduce_scatter(call, output, input, op)
        })
    }

    /// Copies a contiguous `tensor` from rank `root` to all.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Handle, CommError> {
        if root >= self.size() {
            let problem = format!("its root, rank {root}, is none of the {}", self.size());
            return Err(self.refused(Op::Broadcast, problem));
        }
        self.start(Op::Broadcast, &Arguments::InPlace(tensor), |backend, call| {
            backend.broadcast(call, tensor, root)
        })
    }

    /// Waits until all ranks have come.
    ///
    /// # Errors
    /// See [`CommError`].
    #[track_caller]
    pub fn barrier(&self) -> Result<(), CommError> {
        self.start(Op::Barrier, &Arguments::Nothing, |backend, call| backend.barrier(call))?.wait()
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
        arguments: &Arguments<'_>,
        begin: impl FnOnce(&dyn Backend, &Call) -> Result<Box<dyn Pending>, BackendError>,
    ) -> Result<Handle, CommError> {
        if let Some(problem) = arguments.problem(self.size()) {
            return Err(self.refused(op, problem));
        }
        let call = self.history().push(op, arguments.bytes(), Location::caller());
        let pending = match &self.0.backend {
            Some(backend) if !arguments.is_empty() => {
                Some(begin(backend.as_ref(), &call).map_err(|e| self.failed(call, e))?)
            }
            _ => None,
        };
        Ok(Handle { group: self.clone(), call, pending })
    }

    /// The first of a tensor's sizes, along which ranks' parts lie.
    #[track_caller]
    fn rows<'a>(&self, op: Op, shape: &'a mut [i64]) -> Result<&'a mut i64, CommError> {
        match shape.first_mut() {
            Some(rows) => Ok(rows),
            None => Err(self.refused(op, "the input has no dimension".into())),
        }
    }

    #[track_caller]
    fn refused(&self, op: Op, problem: String) -> CommError {
        CommError::Argument { group: self.name().into(), op, site: Location::caller(), problem }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, call: Call, source: BackendError) -> CommError {
        let call = source.culprit().unwrap_or(call);
        self.0.has_failed.store(true, Ordering::Relaxed);
        for past in self.history().calls() {
            tracing::debug!(group = self.name(), rank = self.rank(), "{past}");
        }
        let missing = match &self.0.backend {
            Some(backend) if source.concerns_peers() => backend.missing_ranks(call.sequence),
            _ => Vec::new(),
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
