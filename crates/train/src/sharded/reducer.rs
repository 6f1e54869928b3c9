//! Gradients: added up in flat tensors as they come, most of them written there by the backward pass itself, and reduced
//! over the data-parallel ranks while the backward pass goes on.
//!
//! All ranks reduce the units in one order, from the head down, whatever order their own backward passes finish in: a
//! unit waits for those before it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use strand_comm::{CommError, Group, Handle, ReduceOp};
use strand_model::{Existing, GradientSink, Member, Parameters, Write, wide};
use strand_torch::{on_gradient, remove_gradient_hook, set_grad};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;
use crate::sharded::Sharding;
use crate::sharded::part::{Part, Zero};

/// Units whose reduction may be under way beside the newest one. Each holds the gradients of a layer.
const UNDER_WAY: usize = 1;

/// Adds and reduces the gradients of a step. Its clones are the same.
#[derive(Clone)]
pub(crate) struct Reducer(Arc<Inner>);

struct Inner {
    dp: Group,
    zero: Zero,
    state: Mutex<State>,
}

struct State {
    /// In the order of their reduction.
    units: Vec<Unit>,
    /// The unit that is reduced next.
    next: usize,
    /// Whether units are reduced in this backward pass.
    reduces: bool,
}

struct Unit {
    gradients: Vec<Gradient>,
    leaves: usize,
    /// Leaves whose gradient autograd has not finished yet.
    waiting: usize,
}

/// The gradient of a part.
struct Gradient {
    /// Of all values; undefined while it is not needed.
    whole: Tensor,
    members: Vec<Member>,
    /// Which members have values since the step, or this memory, began.
    has_values: Vec<bool>,
    /// Of this rank's values, reduced: the whole itself where it is not divided.
    own: Tensor,
    values: i64,
    range: Range<i64>,
    kind: Kind,
    device: Device,
    /// And where this rank's part of it goes, where it is divided.
    pending: Option<(Handle, Option<Tensor>)>,
}

impl Reducer {
    /// A reducer for the trained parts of units, which come in the order of their reduction.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn new(
        units: &[Vec<Part>],
        parameters: &Parameters,
        dp: &Group,
        sharding: Sharding,
    ) -> Result<Reducer, TrainError> {
        let zero = sharding.zero;
        let adds = sharding.accumulates || dp.size() > 1;
        let unit = |parts: &Vec<Part>| {
            let trained = || parts.iter().filter(|part| part.trained.is_some());
            let leaves = trained().map(|part| part.flat.members.len()).sum();
            Unit {
                gradients: trained().map(|part| Gradient::new(part, adds)).collect(),
                leaves,
                waiting: leaves,
            }
        };
        let state = State { units: units.iter().map(unit).collect(), next: 0, reduces: false };
        let reducer = Reducer(Arc::new(Inner { dp: dp.clone(), zero, state: Mutex::new(state) }));
        for (unit, parts) in units.iter().enumerate() {
            let trained = parts.iter().filter(|part| part.trained.is_some());
            for (part, gradient) in trained.enumerate() {
                for (place, member) in gradient.flat.members.iter().enumerate() {
                    reducer.listen(parameters, [unit, part, place], member)?;
                }
            }
        }
        Ok(reducer)
    }

    /// Has autograd tell when a parameter's gradient is there.
    fn listen(
        &self,
        parameters: &Parameters,
        place: [usize; 3],
        member: &Member,
    ) -> Result<(), TrainError> {
        let Some(parameter) = parameters.get(&member.name) else { return Ok(()) };
        let inner = Arc::downgrade(&self.0);
        parameter.sink.set(Some(Arc::new(Leaf { inner: inner.clone(), place })));
        on_gradient(&parameter.tensor, move |leaf| match inner.upgrade() {
            Some(inner) => inner
                .finished(place, &leaf)
                .map_err(|error| strand_torch::Error::Backward(Box::new(error))),
            None => Ok(()),
        })?;
        Ok(())
    }

    /// Begins a step: no gradients.
    ///
    /// # Errors
    /// No memory.
    pub fn begin(&self) -> Result<(), TrainError> {
        let keeps = self.0.zero <= Zero::Zero1;
        let mut state = self.0.lock();
        let mut gradients = state.units.iter_mut().flat_map(|unit| &mut unit.gradients);
        gradients.try_for_each(|gradient| gradient.begin(keeps))
    }

    /// Begins a backward pass, the step's `last` or one before it.
    pub fn begin_pass(&self, last: bool) {
        let mut state = self.0.lock();
        state.next = 0;
        // Divided gradients leave no room to add more to.
        state.reduces = last || self.0.zero >= Zero::Zero2;
        state.units.iter_mut().for_each(|unit| unit.waiting = unit.leaves);
    }

    /// Ends a backward pass: what no sample of this rank had a gradient for is zero, and reduced.
    ///
    /// # Errors
    /// A collective failed.
    pub fn end_pass(&self) -> Result<(), TrainError> {
        let mut state = self.0.lock();
        let next = state.next;
        let mut gradients = state.units[next..].iter_mut().flat_map(|unit| &mut unit.gradients);
        gradients.try_for_each(Gradient::fill)?;
        if state.reduces {
            state.units.iter_mut().for_each(|unit| unit.waiting = 0);
            self.0.advance(&mut state)?;
            let all = state.units.len();
            self.0.absorb(&mut state, all)?;
        }
        Ok(())
    }

    /// This rank's gradients of the trained parts, in the units' order.
    pub fn own(&self) -> Vec<Tensor> {
        let state = self.0.lock();
        let gradients = state.units.iter().flat_map(|unit| &unit.gradients);
        gradients.map(|gradient| gradient.own.shallow_clone()).collect()
    }
}

/// A parameter, as the sink of its gradient.
struct Leaf {
    inner: Weak<Inner>,
    place: [usize; 3],
}

impl GradientSink for Leaf {
    fn take(&self, write: Write<'_>) -> Result<(), strand_torch::Error> {
        match self.inner.upgrade() {
            Some(inner) => inner
                .taken(self.place, write)
                .map_err(|error| strand_torch::Error::Backward(Box::new(error))),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a gradient that autograd has finished.
    fn finished(&self, [unit, part, place]: [usize; 3], leaf: &Tensor) -> Result<(), TrainError> {
        let gradient = leaf.grad();
        // One that went to its sink leaves none here.
        if !gradient.defined() {
            return Ok(());
        }
        let mut state = self.lock();
        state.units[unit].gradients[part].add(place, &gradient)?;
        set_grad(leaf, None)?;
        self.count(&mut state, unit)
    }

    /// Has a gradient written that does not go through autograd.
    fn taken(&self, place: [usize; 3], write: Write<'_>) -> Result<(), TrainError> {
        let mut state = self.lock();
        let [unit, part, member] = place;
        let (memory, existing) = state.units[unit].gradients[part].memory(member)?;
        tch::no_grad(|| write(&memory, existing))?;
        self.count(&mut state, unit)
    }

    /// One leaf of a unit less to wait for.
    fn count(&self, state: &mut State, unit: usize) -> Result<(), TrainError> {
        let unit = &mut state.units[unit];
        unit.waiting = unit.waiting.saturating_sub(1);
        if state.reduces { self.advance(state) } else { Ok(()) }
    }

    /// Starts the reductions whose turn has come.
    fn advance(&self, state: &mut State) -> Result<(), TrainError> {
        while let Some(unit) = state.units.get_mut(state.next).filter(|unit| unit.waiting == 0) {
            for gradient in &mut unit.gradients {
                gradient.reduce(&self.dp)?;
            }
            state.next += 1;
            let older = state.next.saturating_sub(1 + UNDER_WAY);
            self.absorb(state, older)?;
        }
        Ok(())
    }

    /// Waits for the reductions of the first `units`.
    fn absorb(&self, state: &mut State, units: usize) -> Result<(), TrainError> {
        let gradients = state.units[..units].iter_mut().flat_map(|unit| &mut unit.gradients);
        for gradient in gradients {
            gradient.absorb(self.zero)?;
        }
        Ok(())
    }
}

impl Gradient {
    /// The gradient of a part; in wide numbers where others are added to it.
    fn new(part: &Part, adds: bool) -> Gradient {
        let weights = &part.flat.weights;
        let kind = match weights.kind() {
            kind if adds => wide(kind),
            kind => kind,
        };
        Gradient {
            whole: Tensor::new(),
            members: part.flat.members.clone(),
            has_values: vec![false; part.flat.members.len()],
            own: Tensor::new(),
            values: weights.size()[0],
            range: part.range.clone(),
            kind,
            device: weights.device(),
            pending: None,
        }
    }

    /// Whether this rank keeps all values.
    fn is_undivided(&self) -> bool {
        self.range.end - self.range.start == self.values
    }

    fn begin(&mut self, keeps: bool) -> Result<(), TrainError> {
        self.has_values.fill(false);
        if keeps || self.is_undivided() {
            self.whole()?;
        } else {
            self.whole = Tensor::new();
        }
        if self.is_undivided() {
            self.own = self.whole.shallow_clone();
        } else if self.own.defined() {
            let _ = self.own.zero_();
        } else {
            let length = self.range.end - self.range.start;
            self.own = Tensor::f_zeros([length], (self.kind, self.device))?;
        }
        Ok(())
    }

    /// The gradient of all values. New memory has zeros where there is no member.
    fn whole(&mut self) -> Result<&Tensor, TrainError> {
        if !self.whole.defined() {
            self.whole = Tensor::f_empty([self.values], (self.kind, self.device))?;
            self.has_values.fill(false);
            let ends = self.members.iter().map(|member| member.start + member.numel());
            let starts = self.members.iter().skip(1).map(|member| member.start);
            for (end, start) in ends.zip(starts.chain([self.values])) {
                let _ = self.whole.narrow(0, end, start - end).zero_();
            }
        }
        Ok(&self.whole)
    }

    /// Adds to a member's gradient. The first to come is copied: nothing need be zero before.
    fn add(&mut self, place: usize, gradient: &Tensor) -> Result<(), TrainError> {
        let (mut sum, existing) = self.memory(place)?;
        tch::no_grad(|| match existing {
            Existing::Sum => sum.f_add_(gradient).map(drop),
            Existing::Nothing => sum.f_copy_(gradient),
        })?;
        Ok(())
    }

    /// The memory of a member's gradient, which gets values now.
    fn memory(&mut self, place: usize) -> Result<(Tensor, Existing), TrainError> {
        let whole = self.whole()?.shallow_clone();
        let existing = match std::mem::replace(&mut self.has_values[place], true) {
            true => Existing::Sum,
            false => Existing::Nothing,
        };
        Ok((self.members[place].view(&whole), existing))
    }

    /// Zeros for the members that have no values.
    fn fill(&mut self) -> Result<(), TrainError> {
        let whole = self.whole()?.shallow_clone();
        for (member, has_values) in self.members.iter().zip(&mut self.has_values) {
            if !std::mem::replace(has_values, true) {
                let _ = member.view(&whole).zero_();
            }
        }
        Ok(())
    }

    fn reduce(&mut self, dp: &Group) -> Result<(), TrainError> {
        self.fill()?;
        let whole = self.whole.shallow_clone();
        let pending = if self.is_undivided() {
            (dp.all_reduce(&whole, ReduceOp::Sum)?, None)
        } else {
            let length = self.range.end - self.range.start;
            let part = Tensor::f_empty([length], (self.kind, self.device))?;
            (dp.reduce_scatter_into(&part, &whole, ReduceOp::Sum)?, Some(part))
        };
        self.pending = Some(pending);
        Ok(())
    }

    /// Waits for the reduction. Divided gradients free the memory of all values.
    fn absorb(&mut self, zero: Zero) -> Result<(), CommError> {
        let Some((handle, part)) = self.pending.take() else { return Ok(()) };
        handle.wait()?;
        if let Some(part) = part {
            self.own += part;
            if zero >= Zero::Zero2 {
                self.whole = Tensor::new();
            }
        }
        Ok(())
    }
}

/// Takes the hooks of an earlier reducer away.
///
/// # Errors
/// libtorch's own.
pub(crate) fn forget(parameters: &Parameters) -> Result<(), TrainError> {
    for parameter in parameters.iter() {
        remove_gradient_hook(&parameter.tensor)?;
        parameter.sink.set(None);
        set_grad(&parameter.tensor, None)?;
    }
    Ok(())
}
