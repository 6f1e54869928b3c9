//! Tensor parallelism: the two conjugate operators of Megatron-LM (arXiv 1909.08053, section 3) and the embedding.

use strand_comm::{Group, ReduceOp};
use strand_torch::with_backward;
use tch::Tensor;

use crate::error::ModelError;
use crate::parameter::Weight;
use crate::sink::rows_into;
use crate::slices::Slices;

/// Identity forward, all-reduce backward: what enters a column-parallel layer.
pub fn copy_to_ranks(x: &Tensor, slices: &Slices) -> Result<Tensor, ModelError> {
    if slices.tp.size() == 1 {
        return Ok(x.shallow_clone());
    }
    let group = slices.clone();
    let backward = move |grad: Tensor| {
        let grad = grad.contiguous().copy();
        group.all_reduce(grad).map_err(|e| strand_torch::Error::Backward(Box::new(e)))
    };
    Ok(with_backward(x, x, backward)?)
}

/// All-reduce forward, identity backward: what leaves a row-parallel layer.
pub fn sum_of_ranks(x: &Tensor, slices: &Slices) -> Result<Tensor, ModelError> {
    if slices.tp.size() == 1 {
        return Ok(x.shallow_clone());
    }
    let total = slices.all_reduce(x.detach().contiguous().copy())?;
    Ok(with_backward(x, &total, Ok)?)
}

/// The greatest value over the ranks, without gradient.
pub fn max_of_ranks(x: &Tensor, tp: &Group) -> Result<Tensor, ModelError> {
    let greatest = x.detach().contiguous().copy();
    tp.all_reduce(&greatest, ReduceOp::Max)?.wait()?;
    Ok(greatest)
}

/// The rows of a table that is split over the ranks: `ids` `[n]` → `[n, width]`.
///
/// `weight` holds the rows from `first`; other ranks' rows count as zero before the sum.
pub fn embed(
    ids: &Tensor,
    weight: &Weight,
    first: i64,
    slices: &Slices,
) -> Result<Tensor, ModelError> {
    let sink = weight.sink(slices);
    if slices.tp.size() == 1 {
        return rows_into(weight, ids, None, sink);
    }
    let (local, outside) = local_ids(ids, first, weight.size()[0]);
    sum_of_ranks(&rows_into(weight, &local, Some(&outside), sink)?, slices)
}

/// Ids as indices of this rank's rows, and which of them are another rank's.
pub fn local_ids(ids: &Tensor, first: i64, rows: i64) -> (Tensor, Tensor) {
    let local = ids - first;
    let outside = local.lt(0).logical_or(&local.ge(rows));
    (local.masked_fill(&outside, 0), outside)
}
