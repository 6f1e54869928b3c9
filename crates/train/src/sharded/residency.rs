//! ZeRO-3: the weights of a layer are there while it computes, gathered one layer ahead, and gone otherwise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strand_comm::{Group, Handle};
use strand_model::{Direction, ModelError, Residency};
use strand_torch::resize_storage;
use tch::Tensor;

use crate::sharded::part::Part;

/// The weights of all units, the layers' first, in the layers' order; then what stays for a whole step.
pub(crate) struct Residents {
    /// Gathers have ranks of their own to talk to: they never wait for reductions.
    gather: Group,
    units: Mutex<Vec<Unit>>,
    layers: usize,
}

struct Unit {
    weights: Vec<Weights>,
    state: State,
}

struct Weights {
    /// Of all ranks; its memory comes and goes.
    whole: Tensor,
    own: Tensor,
}

enum State {
    Gone,
    Coming(Vec<Handle>),
    There,
}

impl Residents {
    /// Takes the weights of units away, of which the first `layers` are the layers.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn new<'a>(
        units: impl Iterator<Item = &'a [Part]>,
        layers: usize,
        gather: &Group,
    ) -> Result<Arc<Residents>, ModelError> {
        let weights =
            |part: &Part| Weights { whole: part.flat.weights.shallow_clone(), own: part.own() };
        let unit = |parts: &[Part]| Unit {
            weights: parts.iter().map(weights).collect(),
            state: State::There,
        };
        let units = Mutex::new(units.map(unit).collect());
        let residents = Residents { gather: gather.clone(), units, layers };
        residents.release_all()?;
        Ok(Arc::new(residents))
    }

    /// Gathers what stays for a whole step.
    ///
    /// # Errors
    /// A collective failed.
    pub fn begin(&self) -> Result<(), ModelError> {
        let mut units = self.lock();
        for unit in &mut units[self.layers..] {
            unit.start(&self.gather)?;
        }
        units[self.layers..].iter_mut().try_for_each(Unit::wait)
    }

    /// Gathers everything: what follows computes with all weights, as often as it likes.
    ///
    /// # Errors
    /// A collective failed.
    pub fn gather_all(&self) -> Result<(), ModelError> {
        for unit in self.lock().iter_mut() {
            unit.start(&self.gather)?;
            unit.wait()?;
        }
        Ok(())
    }

    /// Takes the layers' weights away that a backward pass has left or has gathered ahead in vain.
    ///
    /// # Errors
    /// A collective under way failed.
    pub fn end_pass(&self) -> Result<(), ModelError> {
        self.lock()[..self.layers].iter_mut().try_for_each(Unit::release)
    }

    /// Takes all weights away.
    ///
    /// # Errors
    /// A collective under way failed.
    pub fn release_all(&self) -> Result<(), ModelError> {
        self.lock().iter_mut().try_for_each(Unit::release)
    }

    /// The gathers of a forward pass without the pass: for a rank that has no sample for one.
    ///
    /// # Errors
    /// A collective failed.
    pub fn walk(&self, direction: Direction) -> Result<(), ModelError> {
        let layers = 0..self.layers;
        let layers: Vec<usize> = match direction {
            Direction::Forward => layers.collect(),
            Direction::Backward => layers.rev().collect(),
        };
        for layer in layers {
            self.acquire(layer, direction)?;
            self.release(layer)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Unit>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Residency for Residents {
    fn acquire(&self, layer: usize, direction: Direction) -> Result<(), ModelError> {
        let mut units = self.lock();
        units[layer].start(&self.gather)?;
        units[layer].wait()?;
        let next = match direction {
            Direction::Forward => layer + 1,
            Direction::Backward => layer.wrapping_sub(1),
        };
        if next < self.layers {
            units[next].start(&self.gather)?;
        }
        Ok(())
    }

    fn release(&self, layer: usize) -> Result<(), ModelError> {
        self.lock()[layer].release()
    }
}

impl Unit {
    fn start(&mut self, gather: &Group) -> Result<(), ModelError> {
        if !matches!(self.state, State::Gone) {
            return Ok(());
        }
        let mut handles = Vec::with_capacity(self.weights.len());
        for Weights { whole, own } in &self.weights {
            resize_storage(whole, bytes(whole))?;
            handles.push(gather.all_gather_into(whole, own)?);
        }
        self.state = State::Coming(handles);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), ModelError> {
        if matches!(self.state, State::Coming(_))
            && let State::Coming(handles) = std::mem::replace(&mut self.state, State::There)
        {
            handles.into_iter().try_for_each(Handle::wait)?;
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), ModelError> {
        self.wait()?;
        for weights in &self.weights {
            resize_storage(&weights.whole, 0)?;
        }
        self.state = State::Gone;
        Ok(())
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}
