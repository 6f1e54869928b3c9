//! Sequence parallelism (arXiv 2205.05198): between the tensor-parallel products each rank has a part of every sequence.
//!
//! What one rank would do with all tokens there (norms, sums of residuals) each does with its own, and keeps only those.
//! The two collectives of a layer become an all-gather and a reduce-scatter, which move as much together.

use strand_comm::{CommError, Group, ReduceOp};
use strand_torch::with_backward;
use tch::Tensor;

use crate::error::ModelError;
use crate::parallel::{copy_to_ranks, sum_of_ranks};
use crate::slices::Slices;

/// What enters a column-parallel product: all tokens, whose gradients are summed over the ranks.
pub fn enter(x: &Tensor, slices: &Slices) -> Result<Tensor, ModelError> {
    if !slices.splits_sequences() {
        return copy_to_ranks(x, slices);
    }
    let (tp, whole) = (slices.tp.clone(), gathered(x, &slices.tp)?);
    Ok(with_backward(x, &whole, move |grad| scattered(&grad, &tp).map_err(in_backward))?)
}

/// What leaves a row-parallel product: the sum over the ranks, of this rank's tokens.
pub fn leave(x: &Tensor, slices: &Slices) -> Result<Tensor, ModelError> {
    if !slices.splits_sequences() {
        return sum_of_ranks(x, slices);
    }
    let (tp, own) = (slices.tp.clone(), scattered(x, &slices.tp)?);
    Ok(with_backward(x, &own, move |grad| gathered(&grad, &tp).map_err(in_backward))?)
}

/// This rank's tokens of `x` `[batch, length, hidden]`, behind which as many zeros are put as an equal division needs.
pub fn split(x: &Tensor, slices: &Slices) -> Result<Tensor, ModelError> {
    if !slices.splits_sequences() {
        return Ok(x.shallow_clone());
    }
    let tp = slices.tp.clone();
    let padding = (-x.size()[1]).rem_euclid(tp.size() as i64);
    let x = x.constant_pad_nd([0, 0, 0, padding]);
    let part = own(&x, &tp).contiguous();
    Ok(with_backward(&x, &part, move |grad| gathered(&grad, &tp).map_err(in_backward))?)
}

/// All `length` tokens, of which each rank has its own. Every rank goes on with all of them and the same gradients.
pub fn join(x: &Tensor, length: i64, slices: &Slices) -> Result<Tensor, ModelError> {
    if !slices.splits_sequences() {
        return Ok(x.shallow_clone());
    }
    let (tp, whole) = (slices.tp.clone(), gathered(x, &slices.tp)?);
    let whole = with_backward(x, &whole, move |grad| Ok(own(&grad, &tp).contiguous()))?;
    Ok(whole.narrow(1, 0, length))
}

/// A weight that each rank uses for its own tokens: the gradient is the sum over the ranks.
pub fn shared(weight: &Tensor, slices: &Slices) -> Result<Tensor, ModelError> {
    match slices.splits_sequences() {
        true => copy_to_ranks(weight, slices),
        false => Ok(weight.shallow_clone()),
    }
}

fn own(x: &Tensor, tp: &Group) -> Tensor {
    let length = x.size()[1] / tp.size() as i64;
    x.narrow(1, tp.rank() as i64 * length, length)
}

/// `[batch, length ÷ ranks, hidden]` of each rank → `[batch, length, hidden]`.
fn gathered(x: &Tensor, tp: &Group) -> Result<Tensor, CommError> {
    let x = x.detach();
    let (batch, length, hidden) = x.size3()?;
    let ranks = tp.size() as i64;
    let all = tp.all_gather(&x.unsqueeze(0))?;
    let all = all.view([ranks, batch, length, hidden]).transpose(0, 1);
    Ok(all.reshape([batch, ranks * length, hidden]))
}

/// `[batch, length, hidden]`, summed over the ranks → this rank's `[batch, length ÷ ranks, hidden]`.
fn scattered(x: &Tensor, tp: &Group) -> Result<Tensor, CommError> {
    let x = x.detach();
    let (batch, length, hidden) = x.size3()?;
    let ranks = tp.size() as i64;
    let parts = x.view([batch, ranks, length / ranks, hidden]).transpose(0, 1).contiguous();
    Ok(tp.reduce_scatter(&parts, ReduceOp::Sum)?.squeeze_dim(0))
}

fn in_backward(error: CommError) -> strand_torch::Error {
    strand_torch::Error::Backward(Box::new(error))
}
