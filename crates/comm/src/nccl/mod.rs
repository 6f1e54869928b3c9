//! Tensors of GPUs, over NCCL.
//!
//! Everything is loaded at run time: strand builds and runs without CUDA. [`with_nccl`] gives a mesh that is joined on
//! CPUs communicators for its GPUs. From then on each group carries tensors of the CPU as before and those of the GPU
//! over NCCL, as one group ([`Dispatch`]).
//!
//! Each group has a stream of its own beside the compute stream, libtorch's default stream. A collective waits there for
//! what the compute stream had to do when it was called; `wait` lets the compute stream wait for the collective, and
//! returns. So the host never waits, gradients are reduced while the backward pass goes on, and a failure shows at a
//! later call: see [`watch`]. Order between groups is the order of calls, which is the same on all ranks.

mod communicator;
mod library;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use strand_torch::ReduceOp;
use tch::{Device, Tensor};

use crate::backend::{Backend, BackendError, Pending};
use crate::dispatch::Dispatch;
use crate::error::CommError;
use crate::group::Group;
use crate::history::Call;
use crate::mesh::Mesh;
use communicator::{Collective, Communicator, ID_BYTES, unique_id};
use watch::{Link, Progress, Ticket, Watch, look_after};

/// How many GPUs this process sees.
///
/// # Errors
/// [`BackendError::Library`]: there is no driver, or no NCCL.
pub fn num_gpus() -> Result<usize, BackendError> {
    library::Nccl::get()?;
    if !library::has_driver() {
        let reason = "there is no CUDA driver".to_owned();
        return Err(BackendError::Library { library: "libcuda.so.1", reason });
    }
    match CudaContext::device_count() {
        Ok(count) => Ok(count.max(0) as usize),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(error) => Err(cuda("cuInit", error)),
    }
}

/// What the driver calls a GPU, by its index among those that this process sees.
///
/// # Errors
/// There is no driver, no NCCL, or no such GPU.
pub fn gpu_name(index: usize) -> Result<String, BackendError> {
    let count = num_gpus()?;
    if index >= count {
        return Err(BackendError::NoDevice { index, count });
    }
    let context =
        CudaContext::new(index).map_err(|error| cuda("cuDevicePrimaryCtxRetain", error))?;
    context.name().map_err(|error| cuda("cuDeviceGetName", error))
}

/// The same mesh, whose groups also carry tensors of this rank's GPU, by its index among those that the process sees.
///
/// All ranks call this. A rank that cannot join says so to the others, so that all fail together.
///
/// # Errors
/// There is no driver, no NCCL or no such GPU here ([`BackendError::Library`], [`BackendError::NoDevice`]) or on another
/// rank ([`BackendError::Peers`]); or the ranks do not come within the groups' time-out.
pub fn with_nccl(mesh: &Mesh, gpu: usize) -> Result<Mesh, CommError> {
    let world = &mesh.world;
    let (context, id) = agree(world, open(gpu, world.rank() == 0))?;
    let device = Device::Cuda(gpu);
    if world.size() == 1 {
        return Ok(Mesh { device, ..mesh.clone() });
    }
    let root = join(world, &context, &id).map_err(|e| joining(world, e))?;
    let (dp_rank, tp_rank) = (mesh.dp.rank(), mesh.tp.rank());
    let part = |group: &Group, color: usize| {
        divide(group, &root, color, &context).map_err(|e| joining(group, e))
    };
    let (dp, gather) = (part(&mesh.dp, tp_rank)?, part(&mesh.gather, tp_rank)?);
    let tp = part(&mesh.tp, dp_rank)?;
    let all = Nccl::new(root, &context, world.timeout()).map_err(|e| joining(world, e))?;
    let all = Some(all);
    let watches = [&all, &dp, &gather, &tp].into_iter().flatten();
    look_after(watches.map(|nccl| Arc::downgrade(&nccl.watch)).collect())
        .map_err(|e| joining(world, native("watch", e)))?;
    Ok(Mesh {
        world: both(world, all),
        dp: both(&mesh.dp, dp),
        gather: both(&mesh.gather, gather),
        tp: both(&mesh.tp, tp),
        device,
    })
}

/// A group of one rank whose collectives go over NCCL all the same, which a mesh of one rank does without: for tests.
///
/// # Errors
/// As [`with_nccl`].
#[doc(hidden)]
pub fn nccl_alone(gpu: usize, timeout: Duration) -> Result<Group, CommError> {
    let alone = Mesh::single().world;
    let failed = |source| joining(&alone, source);
    let (context, id) = agree(&alone, open(gpu, true))?;
    let communicator = join(&alone, &context, &id).map_err(failed)?;
    let nccl = Nccl::new(communicator, &context, timeout).map_err(failed)?;
    look_after(vec![Arc::downgrade(&nccl.watch)]).map_err(|e| failed(native("watch", e)))?;
    Ok(Group::new("world", 0, 1, timeout, nccl))
}

fn joining(group: &Group, source: BackendError) -> CommError {
    CommError::Join {
        group: format!("{} over NCCL", group.name()),
        rank: group.rank(),
        size: group.size(),
        source: Box::new(source),
    }
}

fn join(
    world: &Group,
    context: &CudaContext,
    id: &[u8; ID_BYTES],
) -> Result<Communicator, BackendError> {
    context.bind_to_thread().map_err(|error| cuda("cuCtxSetCurrent", error))?;
    Communicator::join(id, (world.rank(), world.size()), world.timeout())
}

/// This rank's part of the world. All groups of a kind are of one size: the others divide exactly when this rank does.
fn divide(
    group: &Group,
    root: &Communicator,
    color: usize,
    context: &Arc<CudaContext>,
) -> Result<Option<Arc<Nccl>>, BackendError> {
    if group.size() == 1 {
        return Ok(None);
    }
    let part = root.split(color, group.rank(), group.timeout())?;
    Nccl::new(part, context, group.timeout()).map(Some)
}

fn both(group: &Group, nccl: Option<Arc<Nccl>>) -> Group {
    match nccl {
        None => group.clone(),
        Some(cuda) => group.carried_by(|cpu| Arc::new(Dispatch { cpu, cuda })),
    }
}

/// What this rank needs to join: its GPU and, from rank 0, a communicator's id.
fn open(gpu: usize, is_first: bool) -> Result<(Arc<CudaContext>, Vec<u8>), BackendError> {
    let count = num_gpus()?;
    if gpu >= count {
        return Err(BackendError::NoDevice { index: gpu, count });
    }
    let context = CudaContext::new(gpu).map_err(|error| cuda("cuDevicePrimaryCtxRetain", error))?;
    let id = if is_first { unique_id()?.to_vec() } else { Vec::new() };
    Ok((context, id))
}

/// Tells all ranks whether each is ready, and hands on rank 0's id: whoever is not must not be waited for.
fn agree<T>(
    world: &Group,
    mine: Result<(T, Vec<u8>), BackendError>,
) -> Result<(T, [u8; ID_BYTES]), CommError> {
    let word = match &mine {
        Ok((_, id)) => [b"+", id.as_slice()].concat(),
        Err(error) => [b"-", error.to_string().as_bytes()].concat(),
    };
    let words = world.all_gather_bytes(&word)?;
    let (context, _) = mine.map_err(|e| joining(world, e))?;
    let refusal = |(rank, word): (usize, &Vec<u8>)| {
        let reason = word.strip_prefix(b"-")?;
        Some((rank, String::from_utf8_lossy(reason).into_owned()))
    };
    let peers: Vec<_> = words.iter().enumerate().filter_map(refusal).collect();
    if !peers.is_empty() {
        return Err(joining(world, BackendError::Peers(peers)));
    }
    let id = words[0][1..].try_into().map_err(|_| {
        joining(world, BackendError::Mismatch("rank 0 sent no id of a communicator".into()))
    })?;
    Ok((context, id))
}

/// One group of GPUs.
struct Nccl {
    watch: Arc<Watch<Wire>>,
    /// libtorch's.
    compute: Arc<CudaStream>,
    side: Arc<CudaStream>,
    device: Device,
    /// Held while a collective is put into the queues: the events before and after belong to it.
    order: Mutex<()>,
}

impl Nccl {
    fn new(
        communicator: Communicator,
        context: &Arc<CudaContext>,
        timeout: Duration,
    ) -> Result<Arc<Nccl>, BackendError> {
        let side = context.new_stream().map_err(|error| cuda("cuStreamCreate", error))?;
        Ok(Arc::new(Nccl {
            watch: Arc::new(Watch::new(Wire { communicator, side: Arc::clone(&side) }, timeout)),
            compute: context.default_stream(),
            side,
            device: Device::Cuda(context.ordinal()),
            order: Mutex::default(),
        }))
    }

    fn start(
        &self,
        call: &Call,
        tensors: &[&Tensor],
        collective: &Collective<'_>,
    ) -> Result<Box<dyn Pending>, BackendError> {
        if let Some(tensor) = tensors.iter().find(|tensor| tensor.device() != self.device) {
            let expected = format!("{:?}", self.device);
            return Err(BackendError::Device { found: tensor.device(), expected });
        }
        self.watch.check()?;
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.enqueue(collective).inspect_err(|error| self.give_up(call, error))?;
        let done = Arc::clone(&events.done);
        let kept = tensors.iter().map(|tensor| tensor.shallow_clone()).collect();
        let ticket = self.watch.enter(*call, Box::new(events), kept);
        let (watch, compute) = (Arc::clone(&self.watch), Arc::clone(&self.compute));
        Ok(Box::new(NcclPending { watch, compute, done, ticket }))
    }

    fn enqueue(&self, collective: &Collective<'_>) -> Result<Events, BackendError> {
        let record = |stream: &CudaStream| {
            stream.record_event(None).map_err(|error| cuda("cuEventRecord", error))
        };
        let ready = record(&self.compute)?;
        self.side.wait(&ready).map_err(|error| cuda("cuStreamWaitEvent", error))?;
        self.watch.link().communicator.launch(collective, &self.side, self.watch.timeout())?;
        Ok(Events { ready, done: Arc::new(record(&self.side)?) })
    }

    /// Half a collective in the queue is worse than none: the group ends with it.
    fn give_up(&self, call: &Call, error: &BackendError) {
        if error.concerns_peers() {
            self.watch.fail(*call, native("launch", error));
        }
    }
}

impl Backend for Nccl {
    fn all_reduce(
        &self,
        call: &Call,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.start(call, &[tensor], &Collective::AllReduce(tensor, op))
    }

    fn all_gather(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.start(call, &[output, input], &Collective::AllGather { output, input })
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.start(call, &[output, input], &Collective::ReduceScatter { output, input, op })
    }

    fn broadcast(
        &self,
        call: &Call,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.start(call, &[tensor], &Collective::Broadcast(tensor, root))
    }

    /// Ends when the GPUs have come; [`Dispatch`] has the CPUs meet instead.
    fn barrier(&self, call: &Call) -> Result<Box<dyn Pending>, BackendError> {
        let token = Tensor::zeros([1], (tch::Kind::Float, self.device));
        self.all_reduce(call, &token, ReduceOp::Sum)
    }

    fn check(&self) -> Result<(), BackendError> {
        self.watch.check()
    }

    /// NCCL cannot tell; the CPUs' group is asked.
    fn missing_ranks(&self, _sequence: u64) -> Vec<usize> {
        Vec::new()
    }
}

/// A communicator, and the stream that its kernels run on.
struct Wire {
    communicator: Communicator,
    side: Arc<CudaStream>,
}

impl Link for Wire {
    fn error(&self) -> Option<BackendError> {
        self.communicator.error()
    }

    fn abort(&self) {
        self.communicator.abort();
    }

    fn close(&self, timeout: Duration) {
        self.communicator.close(timeout);
        // Given up or not: no kernel of it uses a tensor after this.
        if let Err(error) = self.side.synchronize() {
            tracing::warn!("{}", cuda("cuStreamSynchronize", error));
        }
    }
}

/// Before and after a collective.
struct Events {
    ready: CudaEvent,
    done: Arc<CudaEvent>,
}

impl Progress for Events {
    fn is_ready(&self) -> Result<bool, BackendError> {
        has_come(&self.ready)
    }

    fn is_done(&self) -> Result<bool, BackendError> {
        has_come(&self.done)
    }
}

fn has_come(event: &CudaEvent) -> Result<bool, BackendError> {
    // The thread that asks need not have used CUDA before.
    let bound = event.context().bind_to_thread();
    bound.and_then(|()| event.try_is_complete()).map_err(|error| cuda("cuEventQuery", error))
}

struct NcclPending {
    watch: Arc<Watch<Wire>>,
    compute: Arc<CudaStream>,
    done: Arc<CudaEvent>,
    ticket: Ticket,
}

impl Pending for NcclPending {
    /// Puts the compute stream behind the collective. How long that may take, the watch knows.
    fn wait(&mut self, _timeout: Duration) -> Result<(), BackendError> {
        self.watch.check()?;
        self.compute.wait(&self.done).map_err(|error| cuda("cuStreamWaitEvent", error))?;
        self.watch.release(self.ticket);
        Ok(())
    }
}

fn cuda(call: &'static str, error: DriverError) -> BackendError {
    BackendError::Native { library: "CUDA", call, reason: error.to_string() }
}

fn native(call: &'static str, error: impl std::fmt::Display) -> BackendError {
    BackendError::Native { library: "NCCL", call, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::local;

    fn refused() -> BackendError {
        BackendError::Library { library: "libnccl.so.2", reason: "not there".into() }
    }

    /// Rank 1 has no NCCL: it says why, the others say that it was rank 1.
    #[test]
    fn a_rank_without_nccl_keeps_nobody_waiting() {
        let meshes = local::meshes(3, 1, Duration::from_secs(20)).unwrap();
        let join = |mesh: Mesh| {
            let rank = mesh.world.rank();
            let mine = if rank == 1 { Err(refused()) } else { Ok(((), vec![7; ID_BYTES])) };
            let error = agree(&mesh.world, mine).unwrap_err();
            let CommError::Join { source, .. } = &error else { panic!("{error}") };
            assert!(error.hint().is_some());
            match (rank, source.as_ref()) {
                (1, BackendError::Library { .. }) => {}
                (0 | 2, BackendError::Peers(peers)) => assert_eq!(peers[0].0, 1),
                (_, other) => panic!("rank {rank}: {other}"),
            }
        };
        thread::scope(|scope| {
            meshes.into_iter().for_each(|mesh| {
                scope.spawn(move || join(mesh));
            });
        });
    }

    #[test]
    fn the_first_ranks_id_reaches_all() {
        let meshes = local::meshes(2, 1, Duration::from_secs(20)).unwrap();
        let join = |mesh: Mesh| {
            let id = if mesh.world.rank() == 0 { vec![9; ID_BYTES] } else { Vec::new() };
            let (_, id) = agree(&mesh.world, Ok(((), id))).unwrap();
            assert_eq!(id, [9; ID_BYTES]);
        };
        thread::scope(|scope| {
            meshes.into_iter().for_each(|mesh| {
                scope.spawn(move || join(mesh));
            });
        });
    }

    #[test]
    fn without_a_gpu_the_mesh_says_what_is_missing() {
        if num_gpus().is_ok_and(|count| count > 0) {
            eprintln!("not checked: this machine has a GPU");
            return;
        }
        let error = with_nccl(&Mesh::single(), 0).err().unwrap();
        let CommError::Join { source, .. } = &error else { panic!("{error}") };
        assert!(matches!(
            source.as_ref(),
            BackendError::Library { .. } | BackendError::NoDevice { .. }
        ));
        assert!(error.hint().is_some());
    }
}
