//! A communicator of NCCL that never blocks its callers for longer than they say.
//!
//! It is made with `blocking = 0`: every call comes back at once, and the communicator is asked until it is done. So one
//! that waits for a rank that does not come can be given up by its deadline, which a call that blocks inside NCCL
//! cannot. The price is a thread that NCCL starts for each collective.

#![allow(unsafe_code, reason = "functions of a C library")]

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cudarc::driver::CudaStream;
use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId,
};
use strand_torch::ReduceOp;
use tch::{Kind, Tensor};

use super::library::{Code, IN_PROGRESS, Nccl, SUCCESS};
use crate::backend::BackendError;

/// Pause between two questions whether a communicator is done.
const POLL: Duration = Duration::from_micros(20);

/// Bytes by which the ranks of a new communicator find each other.
pub const ID_BYTES: usize = 128;

/// One rank's end of a communicator.
pub struct Communicator {
    nccl: &'static Nccl,
    /// None once it is given up. Whoever holds the lock may call NCCL with it.
    handle: Mutex<Option<Handle>>,
}

#[derive(Clone, Copy)]
struct Handle(ncclComm_t);

// Safety: NCCL lets any thread use a communicator, one at a time; the mutex sees to that.
unsafe impl Send for Handle {}

/// What a collective does, with the tensors it does it to. All are contiguous and on the communicator's device.
pub enum Collective<'a> {
    AllReduce(&'a Tensor, ReduceOp),
    AllGather { output: &'a Tensor, input: &'a Tensor },
    ReduceScatter { output: &'a Tensor, input: &'a Tensor, op: ReduceOp },
    Broadcast(&'a Tensor, usize),
}

/// Bytes for one new communicator; one rank makes them, all need them.
///
/// # Errors
/// NCCL finds no network interface.
pub fn unique_id() -> Result<[u8; ID_BYTES], BackendError> {
    let nccl = Nccl::get()?;
    let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
    // Safety: it fills the struct.
    nccl.started("ncclGetUniqueId", unsafe { (nccl.get_unique_id)(&raw mut id) })?;
    Ok(id.internal.map(|byte| byte as u8))
}

impl Communicator {
    /// Joins the communicator of `id` with the calling thread's current device.
    ///
    /// # Errors
    /// Not all ranks come within `timeout`, or NCCL's own.
    pub fn join(
        id: &[u8; ID_BYTES],
        (rank, size): (usize, usize),
        timeout: Duration,
    ) -> Result<Communicator, BackendError> {
        let nccl = Nccl::get()?;
        let id = ncclUniqueId { internal: id.map(|byte| byte as _) };
        let mut config = unblocking();
        let mut handle = null_mut();
        // Safety: NCCL copies id and configuration, and sets the handle before it returns.
        let code = unsafe {
            let (rank, size) = (rank as c_int, size as c_int);
            (nccl.comm_init_rank_config)(&raw mut handle, size, id, rank, &raw mut config)
        };
        nccl.started("ncclCommInitRankConfig", code)?;
        let communicator = Communicator::of(nccl, handle);
        communicator.settle("ncclCommInitRankConfig", timeout)?;
        Ok(communicator)
    }

    /// Divides the communicator: ranks of the same `color` go together, in the order of `key`. All of its ranks call
    /// this.
    ///
    /// # Errors
    /// As [`Communicator::join`].
    pub fn split(
        &self,
        color: usize,
        key: usize,
        timeout: Duration,
    ) -> Result<Communicator, BackendError> {
        // NCCL may set the new handle at any time until the parent has settled. Where it never does, the place is lost.
        let place: *mut ncclComm_t = Box::into_raw(Box::new(null_mut()));
        let mut config = unblocking();
        self.call("ncclCommSplit", |nccl, parent| {
            let (color, key) = (color as c_int, key as c_int);
            // Safety: the place lives on, the configuration is copied.
            unsafe { (nccl.comm_split)(parent, color, key, place, &raw mut config) }
        })?;
        self.settle("ncclCommSplit", timeout)?;
        // Safety: the parent has settled, so NCCL does not write any more; the pointer came out of a box.
        let handle = unsafe { *Box::from_raw(place) };
        if handle.is_null() {
            return Err(BackendError::PeerLeft);
        }
        let child = Communicator::of(self.nccl, handle);
        child.settle("ncclCommSplit", timeout)?;
        Ok(child)
    }

    fn of(nccl: &'static Nccl, handle: ncclComm_t) -> Communicator {
        Communicator { nccl, handle: Mutex::new(Some(Handle(handle))) }
    }

    /// Puts a collective into the queue of `stream`, and waits until it is there.
    ///
    /// # Errors
    /// A type that NCCL does not know, NCCL's own, or no end within `timeout`: then the communicator is given up.
    pub fn launch(
        &self,
        collective: &Collective<'_>,
        stream: &CudaStream,
        timeout: Duration,
    ) -> Result<(), BackendError> {
        let stream: cudaStream_t = stream.cu_stream().cast();
        let name = collective.name();
        let kind = data_type(collective.tensor().kind()).ok_or_else(|| collective.unsupported())?;
        // Safety: the tensors' memory is on the device and as long as the counts say, and the caller keeps it until the
        // stream has passed.
        self.call(name, |nccl, handle| unsafe { collective.call(nccl, kind, handle, stream) })?;
        self.settle(name, timeout)
    }

    /// What went wrong behind the caller's back.
    pub fn error(&self) -> Option<BackendError> {
        match self.state() {
            None | Some(SUCCESS | IN_PROGRESS) => None,
            Some(code) => Some(self.nccl.error("ncclCommGetAsyncError", code)),
        }
    }

    /// Gives the communicator up: its kernels end, whatever they wait for. Does nothing a second time.
    pub fn abort(&self) {
        if let Some(Handle(handle)) = self.lock().take() {
            // Safety: nobody else has the handle any more.
            let code = unsafe { (self.nccl.comm_abort)(handle) };
            if let Err(error) = self.nccl.started("ncclCommAbort", code) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Ends the communicator after its collectives; gives it up where they do not end within `timeout`.
    pub fn close(&self, timeout: Duration) {
        const FINALIZE: &str = "ncclCommFinalize";
        // Safety: the handle is one that is not given up.
        let begun = self.call(FINALIZE, |nccl, handle| unsafe { (nccl.comm_finalize)(handle) });
        if begun.and_then(|()| self.settle(FINALIZE, timeout)).is_err() {
            return self.abort();
        }
        if let Some(Handle(handle)) = self.lock().take() {
            // Safety: as in `abort`; it is finalized.
            let code = unsafe { (self.nccl.comm_destroy)(handle) };
            if let Err(error) = self.nccl.started("ncclCommDestroy", code) {
                tracing::warn!("{error}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(
        &self,
        name: &'static str,
        function: impl FnOnce(&Nccl, ncclComm_t) -> Code,
    ) -> Result<(), BackendError> {
        let handle = self.lock();
        let Some(Handle(comm)) = *handle else { return Err(BackendError::PeerLeft) };
        self.nccl.started(name, function(self.nccl, comm))
    }

    /// The code of what the communicator does; none once it is given up.
    fn state(&self) -> Option<Code> {
        let handle = self.lock();
        let Handle(comm) = (*handle)?;
        let mut state = SUCCESS;
        // Safety: the handle is good while the lock is held; one int is written.
        match unsafe { (self.nccl.comm_get_async_error)(comm, &raw mut state) } {
            SUCCESS => Some(state),
            code => Some(code),
        }
    }

    /// Waits until what was begun is done; gives the communicator up where it fails or lasts longer than `timeout`.
    fn settle(&self, name: &'static str, timeout: Duration) -> Result<(), BackendError> {
        let started = Instant::now();
        let error = loop {
            match self.state() {
                Some(SUCCESS) => return Ok(()),
                None => return Err(BackendError::PeerLeft),
                Some(IN_PROGRESS) if started.elapsed() < timeout => sleep(POLL),
                Some(IN_PROGRESS) => {
                    break BackendError::Timeout { seconds: timeout.as_secs_f64() };
                }
                Some(code) => break self.nccl.error(name, code),
            }
        };
        self.abort();
        Err(error)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Collective<'_> {
    fn name(&self) -> &'static str {
        match self {
            Collective::AllReduce(..) => "ncclAllReduce",
            Collective::AllGather { .. } => "ncclAllGather",
            Collective::ReduceScatter { .. } => "ncclReduceScatter",
            Collective::Broadcast(..) => "ncclBroadcast",
        }
    }

    fn tensor(&self) -> &Tensor {
        match self {
            Collective::AllReduce(tensor, _) | Collective::Broadcast(tensor, _) => tensor,
            Collective::AllGather { input, .. } | Collective::ReduceScatter { input, .. } => input,
        }
    }

    fn unsupported(&self) -> BackendError {
        use crate::history::Op;
        let op = match self {
            Collective::AllReduce(..) => Op::AllReduce,
            Collective::AllGather { .. } => Op::AllGather,
            Collective::ReduceScatter { .. } => Op::ReduceScatter,
            Collective::Broadcast(..) => Op::Broadcast,
        };
        BackendError::Unsupported { library: "NCCL", op, kind: self.tensor().kind() }
    }

    /// Safety of the callers: `comm` is good, and the tensors are on its device.
    unsafe fn call(
        &self,
        nccl: &Nccl,
        kind: ncclDataType_t,
        comm: ncclComm_t,
        stream: cudaStream_t,
    ) -> Code {
        let place = |tensor: &Tensor| tensor.data_ptr();
        unsafe {
            match *self {
                Collective::AllReduce(tensor, op) => {
                    let (at, op) = (place(tensor), reduction(op));
                    (nccl.all_reduce)(at, at, tensor.numel(), kind, op, comm, stream)
                }
                Collective::AllGather { output, input } => {
                    let (to, from) = (place(output), place(input));
                    (nccl.all_gather)(from, to, input.numel(), kind, comm, stream)
                }
                Collective::ReduceScatter { output, input, op } => {
                    let (to, from, op) = (place(output), place(input), reduction(op));
                    (nccl.reduce_scatter)(from, to, output.numel(), kind, op, comm, stream)
                }
                Collective::Broadcast(tensor, root) => {
                    let (at, root) = (place(tensor), root as c_int);
                    (nccl.broadcast)(at, at, tensor.numel(), kind, root, comm, stream)
                }
            }
        }
    }
}

/// NCCL's name of a type.
fn data_type(kind: Kind) -> Option<ncclDataType_t> {
    Some(match kind {
        Kind::Float => ncclDataType_t::ncclFloat32,
        Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
        Kind::Half => ncclDataType_t::ncclFloat16,
        Kind::Double => ncclDataType_t::ncclFloat64,
        Kind::Int64 => ncclDataType_t::ncclInt64,
        Kind::Int => ncclDataType_t::ncclInt32,
        Kind::Int8 => ncclDataType_t::ncclInt8,
        Kind::Uint8 => ncclDataType_t::ncclUint8,
        _ => return None,
    })
}

fn reduction(op: ReduceOp) -> ncclRedOp_t {
    match op {
        ReduceOp::Sum => ncclRedOp_t::ncclSum,
        ReduceOp::Max => ncclRedOp_t::ncclMax,
        ReduceOp::Min => ncclRedOp_t::ncclMin,
    }
}

/// A configuration with nothing set but that calls do not block, as the initialiser of `nccl.h` of version 2.18 makes
/// it; later versions take it for what it says it is.
fn unblocking() -> ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 21_803,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: null_mut(),
        splitShare: UNDEFINED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_keep_their_width() {
        for (kind, expected) in [
            (Kind::Float, ncclDataType_t::ncclFloat32),
            (Kind::BFloat16, ncclDataType_t::ncclBfloat16),
            (Kind::Double, ncclDataType_t::ncclFloat64),
            (Kind::Int64, ncclDataType_t::ncclInt64),
            (Kind::Uint8, ncclDataType_t::ncclUint8),
        ] {
            assert_eq!(data_type(kind), Some(expected), "{kind:?}");
        }
        assert_eq!(data_type(Kind::ComplexFloat), None);
    }

    #[test]
    fn without_the_library_the_error_says_so() {
        // Where NCCL is installed there is nothing to see here: the conformance suite runs it.
        if let Err(error) = unique_id() {
            assert!(matches!(&error, BackendError::Library { .. }), "{error}");
            assert!(error.to_string().contains(".so"), "{error}");
            assert!(error.join_hint().contains("LD_LIBRARY_PATH"));
        }
    }
}
