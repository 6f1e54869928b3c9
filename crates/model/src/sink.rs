//! Where a parameter's gradient goes without a way through autograd's own tensors: a new tensor for each gradient costs
//! as much to get and to copy as to compute.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use strand_torch::{Error, with_backward_of};
use tch::{Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::precision::{input_gradient, linear, product, weight_gradient_into, wide};

/// Writes a gradient into memory of the parameter's shape: adds to what is there, or overwrites it.
pub type Write<'a> = &'a dyn Fn(&Tensor, Existing) -> Result<(), Error>;

/// What the memory of a gradient holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Values to add to.
    Sum,
    /// Anything.
    Nothing,
}

/// Takes the gradient of one parameter. Autograd then has none for it, and calls no hook.
pub trait GradientSink: Send + Sync {
    /// Has the gradient of a backward pass written.
    ///
    /// # Errors
    /// What `write` returns, or a collective that follows failed.
    fn take(&self, write: Write<'_>) -> Result<(), Error>;
}

/// The sink of a parameter, where somebody has set one. Clones are the same.
#[derive(Clone, Default)]
pub struct Sink(Arc<RwLock<Option<Arc<dyn GradientSink>>>>);

impl Sink {
    /// Sets or removes it.
    pub fn set(&self, sink: Option<Arc<dyn GradientSink>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sink;
    }

    pub(crate) fn get(&self) -> Option<Arc<dyn GradientSink>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({})", if self.get().is_some() { "set" } else { "none" })
    }
}

/// As [`linear`]; the weight's gradient goes to its sink, where it has one.
pub(crate) fn linear_into(
    x: &Tensor,
    weight: &Tensor,
    sink: Option<&Sink>,
) -> Result<Tensor, ModelError> {
    let Some(sink) = sink.and_then(Sink::get).filter(|_| weight.requires_grad()) else {
        return linear(x, weight);
    };
    let out = tch::no_grad(|| product(x, weight));
    let asked = x.requires_grad();
    let (x_kept, weight_kept) = (x.detach(), weight.detach());
    let backward = move |grad: Tensor| {
        sink.take(&|memory, existing| Ok(weight_gradient_into(memory, existing, &grad, &x_kept)?))?;
        let of_x = if asked { input_gradient(&grad, &weight_kept) } else { Tensor::new() };
        Ok([of_x, Tensor::new()])
    };
    Ok(with_backward_of([x, weight], &out, backward)?)
}

/// The rows of a table; its gradient goes to its sink, where it has one. `[n, width]` for `ids` `[n]`; the rows of ids
/// that are `outside` are zero.
pub(crate) fn rows_into(
    table: &Tensor,
    ids: &Tensor,
    outside: Option<&Tensor>,
    sink: Option<&Sink>,
) -> Result<Tensor, ModelError> {
    let without = |rows: Tensor| match outside {
        Some(outside) => rows.masked_fill(&outside.unsqueeze(1), 0.0),
        None => rows,
    };
    let Some(sink) = sink.and_then(Sink::get).filter(|_| table.requires_grad()) else {
        return Ok(without(table.index_select(0, ids)));
    };
    let out = tch::no_grad(|| without(table.index_select(0, ids)));
    let (ids, outside) = (ids.shallow_clone(), outside.map(Tensor::shallow_clone));
    let backward = move |grad: Tensor| {
        let grad = match &outside {
            Some(outside) => grad.masked_fill(&outside.unsqueeze(1), 0.0),
            None => grad,
        };
        sink.take(&|memory, existing| Ok(add_rows(memory, existing, &ids, &grad)?))?;
        Ok([Tensor::new()])
    };
    Ok(with_backward_of([table], &out, backward)?)
}

/// Writes the gradient of a table's rows, `[n, width]` for `ids` `[n]`, into memory of its shape, or adds it.
fn add_rows(
    memory: &Tensor,
    existing: Existing,
    ids: &Tensor,
    grad: &Tensor,
) -> Result<(), TchError> {
    let (mut memory, wide) = (memory.shallow_clone(), wide(memory.kind()));
    if existing == Existing::Nothing {
        let _ = memory.f_zero_()?;
    }
    if memory.kind() == wide || ids.numel() == 0 {
        return memory.f_index_add_(0, ids, &grad.to_kind(memory.kind())).map(drop);
    }
    // A row that is used often would round with each use: its uses are added up in wide numbers first, where the first
    // of them stands among the sorted ids. Nobody has to know how many there are.
    let (ids, order) = ids.f_sort(0, false)?;
    let is_new = ids.f_diff::<Tensor>(1, 0, None, None)?.f_ne(0)?.to_kind(Kind::Int64);
    let zero = Tensor::f_zeros([1], (Kind::Int64, ids.device()))?;
    let place = Tensor::f_cat(&[zero, is_new], 0)?.f_cumsum(0, Kind::Int64)?;
    let grad = grad.index_select(0, &order).to_kind(wide);
    let sums = grad.zeros_like().f_index_add(0, &place, &grad)?.index_select(0, &place);
    let sums = match existing {
        Existing::Sum => sums + memory.index_select(0, &ids),
        Existing::Nothing => sums,
    };
    // Uses of the same row write the same.
    memory.f_index_copy_(0, &ids, &sums.to_kind(memory.kind())).map(drop)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn rows_in_narrow_memory_are_added_before_they_are_rounded() {
        let ids = Tensor::from_slice(&[3_i64, 1, 3, 0, 3]);
        // One of these in 256 is lost in bf16.
        let grad = Tensor::from_slice(&[256.0_f32, 2.0, 1.0, 4.0, 1.0]).unsqueeze(1);
        for existing in [Existing::Nothing, Existing::Sum] {
            let memory = Tensor::ones([5, 1], (Kind::BFloat16, Device::Cpu));
            add_rows(&memory, existing, &ids, &grad).unwrap();
            let found = Vec::<f32>::try_from(memory.to_kind(Kind::Float).view(-1)).unwrap();
            let expected = match existing {
                Existing::Nothing => [4.0, 2.0, 0.0, 258.0, 0.0],
                // 259 lies between two numbers.
                Existing::Sum => [5.0, 3.0, 1.0, 260.0, 1.0],
            };
            assert_eq!(found, expected);
        }
        let none = Tensor::zeros([0], (Kind::Int64, Device::Cpu));
        let memory = Tensor::ones([5, 1], (Kind::BFloat16, Device::Cpu));
        add_rows(&memory, Existing::Nothing, &none, &grad.narrow(0, 0, 0)).unwrap();
        assert_eq!(memory.to_kind(Kind::Float).sum(Kind::Float).double_value(&[]), 0.0);
    }
}
