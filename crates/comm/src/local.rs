//! Groups of threads in one process, for tests. Sums are taken in rank order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use strand_torch::ReduceOp;
use tch::Tensor;

use crate::backend::{Backend, BackendError, Pending};
use crate::error::CommError;
use crate::group::Group;
use crate::history::{Call, Op};
use crate::mesh::Mesh;

/// The meshes of dp × tp threads, in rank order.
///
/// # Errors
/// None: the mesh fills its own world.
pub fn meshes(dp: usize, tp: usize, timeout: Duration) -> Result<Vec<Mesh>, CommError> {
    let mut rooms: BTreeMap<String, Arc<Room>> = BTreeMap::new();
    let world = dp * tp;
    let mut mesh = |rank| {
        Mesh::build(rank, world, dp, tp, |name, rank, members| {
            let size = members.len();
            if size == 1 {
                return Ok(Group::single(name));
            }
            let room = rooms.entry(name.into()).or_insert_with(|| Arc::new(Room::new(size)));
            let backend = Local { room: Arc::clone(room), rank };
            Ok(Group::new(name, rank, size, timeout, Arc::new(backend)))
        })
    };
    (0..world).map(&mut mesh).collect()
}

/// Where the threads of a group meet: one slot for each collective under way.
struct Room {
    size: usize,
    slots: Mutex<BTreeMap<u64, Slot>>,
    changed: Condvar,
}

/// A collective under way.
struct Slot {
    op: Op,
    inputs: BTreeMap<usize, Tensor>,
    /// Once all have come: the result for each rank, or what they disagree about.
    results: Option<Result<BTreeMap<usize, Tensor>, String>>,
    left: usize,
}

impl Room {
    fn new(size: usize) -> Room {
        Room { size, slots: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves this rank's input; the last to come computes `combine(inputs in rank order)`.
    fn enter(
        &self,
        sequence: u64,
        rank: usize,
        op: Op,
        input: Tensor,
        combine: impl FnOnce(&[Tensor]) -> Result<Vec<Tensor>, tch::TchError>,
    ) -> Result<(), BackendError> {
        let mut slots = self.lock();
        let slot = slots.entry(sequence).or_insert_with(|| Slot {
            op,
            inputs: BTreeMap::new(),
            results: None,
            left: self.size,
        });
        if slot.op != op {
            let text =
                format!("collective {sequence}: rank {rank} calls {op:?}, another {:?}", slot.op);
            slot.results = Some(Err(text.clone()));
            self.changed.notify_all();
            return Err(BackendError::Mismatch(text));
        }
        slot.inputs.insert(rank, input);
        if slot.inputs.len() == self.size {
            let inputs: Vec<Tensor> = std::mem::take(&mut slot.inputs).into_values().collect();
            let results = tch::no_grad(|| combine(&inputs)).map_err(|e| e.to_string());
            slot.results = Some(results.map(|all| all.into_iter().enumerate().collect()));
            self.changed.notify_all();
        }
        Ok(())
    }

    fn leave(&self, sequence: u64, rank: usize, timeout: Duration) -> Result<Tensor, BackendError> {
        let started = Instant::now();
        let mut slots = self.lock();
        loop {
            let slot = slots.get_mut(&sequence).ok_or(BackendError::PeerLeft)?;
            match &mut slot.results {
                Some(Err(text)) => return Err(BackendError::Mismatch(text.clone())),
                Some(Ok(results)) => {
                    let result = results.remove(&rank).ok_or(BackendError::PeerLeft)?;
                    slot.left -= 1;
                    if slot.left == 0 {
                        slots.remove(&sequence);
                    }
                    return Ok(result);
                }
                None => {}
            }
            let Some(remaining) = timeout.checked_sub(started.elapsed()) else {
                return Err(BackendError::Timeout { seconds: timeout.as_secs_f64() });
            };
            let wait = self.changed.wait_timeout(slots, remaining);
            slots = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct Local {
    room: Arc<Room>,
    rank: usize,
}

impl Local {
    fn start(
        &self,
        call: &Call,
        input: Tensor,
        output: Option<Tensor>,
        combine: impl FnOnce(&[Tensor]) -> Result<Vec<Tensor>, tch::TchError>,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let &Call { sequence, op, .. } = call;
        self.room.enter(sequence, self.rank, op, input, combine)?;
        let room = Arc::clone(&self.room);
        Ok(Box::new(LocalPending { room, sequence, rank: self.rank, output }))
    }
}

impl Backend for Local {
    fn all_reduce(
        &self,
        call: &Call,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let size = self.room.size;
        let (input, output) = (tensor.shallow_clone(), Some(tensor.shallow_clone()));
        self.start(call, input, output, move |inputs| {
            let total = reduce(inputs, op)?;
            Ok((0..size).map(|_| total.shallow_clone()).collect())
        })
    }

    fn all_gather(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let size = self.room.size;
        let (input, output) = (input.shallow_clone(), Some(output.shallow_clone()));
        self.start(call, input, output, move |inputs| {
            let all = Tensor::f_cat(inputs, 0)?;
            Ok((0..size).map(|_| all.shallow_clone()).collect())
        })
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let size = self.room.size as i64;
        let (input, output) = (input.shallow_clone(), Some(output.shallow_clone()));
        self.start(call, input, output, move |inputs| reduce(inputs, op)?.f_chunk(size, 0))
    }

    fn broadcast(
        &self,
        call: &Call,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Box<dyn Pending>, BackendError> {
        let (input, output) = (tensor.shallow_clone(), Some(tensor.shallow_clone()));
        self.start(call, input, output, move |inputs| {
            let value = inputs[root].copy();
            Ok(inputs.iter().map(|_| value.shallow_clone()).collect())
        })
    }

    fn barrier(&self, call: &Call) -> Result<Box<dyn Pending>, BackendError> {
        self.start(call, Tensor::from(0_i64), None, |inputs| {
            Ok(inputs.iter().map(Tensor::shallow_clone).collect())
        })
    }

    fn missing_ranks(&self, sequence: u64) -> Vec<usize> {
        let slots = self.room.lock();
        let Some(slot) = slots.get(&sequence) else {
            return Vec::new();
        };
        (0..self.room.size).filter(|rank| !slot.inputs.contains_key(rank)).collect()
    }
}

fn reduce(inputs: &[Tensor], op: ReduceOp) -> Result<Tensor, tch::TchError> {
    let mut total = inputs[0].copy();
    for input in &inputs[1..] {
        total = match op {
            ReduceOp::Sum => total.f_add(input)?,
            ReduceOp::Max => total.f_maximum(input)?,
            ReduceOp::Min => total.f_minimum(input)?,
        };
    }
    Ok(total)
}

struct LocalPending {
    room: Arc<Room>,
    sequence: u64,
    rank: usize,
    output: Option<Tensor>,
}

impl Pending for LocalPending {
    fn wait(&mut self, timeout: Duration) -> Result<(), BackendError> {
        let result = self.room.leave(self.sequence, self.rank, timeout)?;
        if let Some(output) = &mut self.output {
            tch::no_grad(|| output.f_copy_(&result))
                .map(drop)
                .map_err(|e| BackendError::Mismatch(e.to_string()))?;
        }
        Ok(())
    }
}
