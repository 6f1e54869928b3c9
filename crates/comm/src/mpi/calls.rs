//! The functions of MPI that start something and come back.
//!
//! All of it runs on the one thread that has initialised MPI. Counts of MPI are ints: longer tensors go in pieces.

#![allow(unsafe_code, reason = "functions of a C library")]

use std::ffi::{CStr, c_char, c_int, c_void};

use ::mpi::ffi;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{AsRaw, Communicator};
use strand_torch::ReduceOp;
use tch::{Kind, Tensor};

use super::reduce::HalfOps;
use crate::backend::BackendError;
use crate::history::Op;

/// Elements that one call of MPI takes.
pub const LONGEST: usize = c_int::MAX as usize;

/// The tag of messages between ranks whose collective has failed.
const ROLL_CALL: c_int = 1;

/// A collective. Its tensors are contiguous, on the CPU, and do not overlap.
pub enum Work {
    AllReduce { output: Tensor, input: Tensor, op: ReduceOp },
    AllGather { output: Tensor, input: Tensor },
    ReduceScatter { output: Tensor, input: Tensor, op: ReduceOp },
    Broadcast { tensor: Tensor, root: usize },
    Barrier,
}

/// What MPI still works on; it may write to the tensors and buffers until that is done.
#[derive(Default)]
pub struct Requests(Vec<ffi::MPI_Request>);

impl Requests {
    /// Whether all is done; MPI makes progress meanwhile.
    ///
    /// # Errors
    /// MPI's own.
    pub fn are_done(&mut self) -> Result<bool, BackendError> {
        let (count, mut done) = (self.0.len() as c_int, 0);
        // Safety: the requests are those of this list, and their buffers live as long as it does.
        let code = unsafe {
            let ignore = ffi::RSMPI_STATUSES_IGNORE;
            ffi::MPI_Testall(count, self.0.as_mut_ptr(), &raw mut done, ignore)
        };
        check("MPI_Testall", code).map(|()| done != 0)
    }

    /// Adds the request that `start` begins.
    fn add(
        &mut self,
        call: &'static str,
        start: impl FnOnce(*mut ffi::MPI_Request) -> c_int,
    ) -> Result<(), BackendError> {
        // Safety: it is a constant of the library.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        check(call, start(&raw mut request))?;
        self.0.push(request);
        Ok(())
    }
}

/// Where a collective runs: a communicator, and what MPI is told about types.
pub struct Place<'a> {
    pub comm: &'a SimpleCommunicator,
    pub half_ops: &'a HalfOps,
    /// [`LONGEST`], but for tests.
    pub longest: usize,
}

/// Where a tensor's elements lie.
#[derive(Clone, Copy)]
struct Memory {
    start: *mut u8,
    width: usize,
}

impl Memory {
    fn of(tensor: &Tensor) -> Memory {
        let width = tensor.kind().elt_size_in_bytes();
        Memory { start: tensor.data_ptr().cast(), width }
    }

    /// The place of an element.
    fn at(self, element: usize) -> *mut c_void {
        self.start.wrapping_add(element * self.width).cast()
    }
}

impl Place<'_> {
    /// Starts a collective.
    ///
    /// # Errors
    /// A type that is not supported, or MPI's own.
    pub fn start(&self, work: &Work) -> Result<Requests, BackendError> {
        let mut requests = Requests::default();
        match work {
            Work::AllReduce { output, input, op } => {
                self.all_reduce(&mut requests, output, input, *op)?;
            }
            Work::AllGather { output, input } => self.all_gather(&mut requests, output, input)?,
            Work::ReduceScatter { output, input, op } => {
                self.reduce_scatter(&mut requests, output, input, *op)?;
            }
            Work::Broadcast { tensor, root } => {
                let data = data_type(tensor.kind(), Op::Broadcast)?;
                self.copy_from(&mut requests, Memory::of(tensor), 0..tensor.numel(), data, *root)?;
            }
            // Safety: the communicator is good.
            Work::Barrier => requests
                .add("MPI_Ibarrier", |request| unsafe { ffi::MPI_Ibarrier(self.raw(), request) })?,
        }
        Ok(requests)
    }

    fn raw(&self) -> ffi::MPI_Comm {
        self.comm.as_raw()
    }

    fn all_reduce(
        &self,
        requests: &mut Requests,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<(), BackendError> {
        let data = data_type(input.kind(), Op::AllReduce)?;
        let rule = self.half_ops.of(input.kind(), op);
        let (to, from) = (Memory::of(output), Memory::of(input));
        for (at, count) in pieces(0..input.numel(), self.longest) {
            // Safety: both hold the piece, and live until the request is done.
            requests.add("MPI_Iallreduce", |request| unsafe {
                ffi::MPI_Iallreduce(from.at(at), to.at(at), count, data, rule, self.raw(), request)
            })?;
        }
        Ok(())
    }

    fn all_gather(
        &self,
        requests: &mut Requests,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<(), BackendError> {
        let (len, data) = (input.numel(), data_type(input.kind(), Op::AllGather)?);
        let (to, from) = (Memory::of(output), Memory::of(input));
        if len <= self.longest {
            let (at, to, count) = (from.at(0), to.at(0), len as c_int);
            // Safety: `output` holds `size` times what `input` holds, and both live until the request is done.
            return requests.add("MPI_Iallgather", |request| unsafe {
                ffi::MPI_Iallgather(at, count, data, to, count, data, self.raw(), request)
            });
        }
        let mine = self.comm.rank() as usize * len;
        // Safety: this rank's part of the output is as long as the input, and they do not overlap.
        unsafe {
            let bytes = len * from.width;
            std::ptr::copy_nonoverlapping(from.at(0).cast::<u8>(), to.at(mine).cast(), bytes);
        }
        let ranks = 0..self.comm.size() as usize;
        ranks.into_iter().try_for_each(|root| {
            self.copy_from(requests, to, root * len..(root + 1) * len, data, root)
        })
    }

    fn reduce_scatter(
        &self,
        requests: &mut Requests,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<(), BackendError> {
        let (len, data) = (output.numel(), data_type(input.kind(), Op::ReduceScatter)?);
        let rule = self.half_ops.of(input.kind(), op);
        let (to, from) = (Memory::of(output), Memory::of(input));
        if len <= self.longest {
            let (at, to, count) = (from.at(0), to.at(0), len as c_int);
            // Safety: `input` holds `size` times what `output` holds, and both live until the request is done.
            return requests.add("MPI_Ireduce_scatter_block", |request| unsafe {
                ffi::MPI_Ireduce_scatter_block(at, to, count, data, rule, self.raw(), request)
            });
        }
        for root in 0..self.comm.size() as usize {
            for (at, count) in pieces(0..len, self.longest) {
                let part = from.at(root * len + at);
                // Safety: as above; only the root's output is written.
                requests.add("MPI_Ireduce", |request| unsafe {
                    let (to, root) = (to.at(at), root as c_int);
                    ffi::MPI_Ireduce(part, to, count, data, rule, root, self.raw(), request)
                })?;
            }
        }
        Ok(())
    }

    /// Copies a range of elements from rank `root` to all.
    fn copy_from(
        &self,
        requests: &mut Requests,
        memory: Memory,
        elements: std::ops::Range<usize>,
        data: ffi::MPI_Datatype,
        root: usize,
    ) -> Result<(), BackendError> {
        for (at, count) in pieces(elements, self.longest) {
            // Safety: the memory holds the range, and lives until the request is done.
            requests.add("MPI_Ibcast", |request| unsafe {
                ffi::MPI_Ibcast(memory.at(at), count, data, root as c_int, self.raw(), request)
            })?;
        }
        Ok(())
    }
}

/// Tells all other ranks of `comm` that this one has come to a collective that has failed. `word` holds its number, and
/// has to live until the requests are done.
///
/// # Errors
/// MPI's own.
pub fn say_here(comm: &SimpleCommunicator, word: &u64) -> Result<Requests, BackendError> {
    let mut requests = Requests::default();
    for rank in (0..comm.size()).filter(|&rank| rank != comm.rank()) {
        // Safety: the word lives until the requests are done, as the caller sees to.
        requests.add("MPI_Isend", |request| unsafe {
            let from = std::ptr::from_ref(word).cast();
            let data = ffi::RSMPI_UINT64_T;
            ffi::MPI_Isend(from, 1, data, rank, ROLL_CALL, comm.as_raw(), request)
        })?;
    }
    Ok(requests)
}

/// The next rank that has said it is here, and the collective that it has come to.
///
/// # Errors
/// MPI's own.
pub fn hear(comm: &SimpleCommunicator) -> Result<Option<(usize, u64)>, BackendError> {
    let (mut flag, mut word) = (0, 0_u64);
    // Safety: a status is plain data that MPI fills; one word is received into one.
    unsafe {
        let mut status: ffi::MPI_Status = std::mem::zeroed();
        let (any, raw) = (ffi::RSMPI_ANY_SOURCE, comm.as_raw());
        let code = ffi::MPI_Iprobe(any, ROLL_CALL, raw, &raw mut flag, &raw mut status);
        check("MPI_Iprobe", code)?;
        if flag == 0 {
            return Ok(None);
        }
        let (source, data) = (status.MPI_SOURCE, ffi::RSMPI_UINT64_T);
        let to = (&raw mut word).cast();
        let ignore = ffi::RSMPI_STATUS_IGNORE;
        check("MPI_Recv", ffi::MPI_Recv(to, 1, data, source, ROLL_CALL, raw, ignore))?;
        Ok(Some((source as usize, word)))
    }
}

/// Has errors returned instead of ending the process.
pub fn return_errors(comm: &SimpleCommunicator) -> Result<(), BackendError> {
    // Safety: the communicator is good, the handler a constant of the library.
    let code = unsafe { ffi::MPI_Comm_set_errhandler(comm.as_raw(), ffi::RSMPI_ERRORS_RETURN) };
    check("MPI_Comm_set_errhandler", code)
}

/// MPI's name of a type. Half precision has none: it travels as words of 16 bits, with reductions of our own.
fn data_type(kind: Kind, op: Op) -> Result<ffi::MPI_Datatype, BackendError> {
    // Safety: they are constants of the library.
    unsafe {
        Ok(match kind {
            Kind::Float => ffi::RSMPI_FLOAT,
            Kind::Double => ffi::RSMPI_DOUBLE,
            Kind::Int64 => ffi::RSMPI_INT64_T,
            Kind::Int => ffi::RSMPI_INT32_T,
            Kind::Int8 => ffi::RSMPI_INT8_T,
            Kind::Uint8 => ffi::RSMPI_UINT8_T,
            Kind::BFloat16 | Kind::Half => ffi::RSMPI_UINT16_T,
            kind => return Err(BackendError::Unsupported { library: "MPI", op, kind }),
        })
    }
}

/// Cuts a range into starts and counts that MPI takes.
fn pieces(
    elements: std::ops::Range<usize>,
    longest: usize,
) -> impl Iterator<Item = (usize, c_int)> {
    let end = elements.end;
    elements.step_by(longest).map(move |at| (at, longest.min(end - at) as c_int))
}

/// An error unless `code` is success; in MPI's words.
pub fn check(call: &'static str, code: c_int) -> Result<(), BackendError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = vec![0 as c_char; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // Safety: the buffer is as long as MPI says that it has to be, and ends with a zero.
    let reason = unsafe {
        ffi::MPI_Error_string(code, text.as_mut_ptr(), &raw mut length);
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    };
    Err(BackendError::Native { library: "MPI", call, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_and_in_order() {
        let cut = |range, longest| pieces(range, longest).collect::<Vec<_>>();
        assert_eq!(cut(0..7, 3), [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(cut(5..6, 3), [(5, 1)]);
        assert_eq!(cut(0..0, 3), []);
    }
}
