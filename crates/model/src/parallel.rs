//! Tensor parallelism: the two conjugate operators of Megatron-LM (arXiv 1909.08053, section 3) and what is made of them.

use strand_comm::{Group, ReduceOp};
use strand_torch::with_backward;
use tch::Tensor;

use crate::error::ModelError;
use crate::precision::wide;

/// Identity forward, all-reduce backward: what enters a column-parallel layer.
pub fn copy_to_ranks(x: &Tensor, tp: &Group) -> Result<Tensor, ModelError> {
    if tp.size() == 1 {
        return Ok(x.shallow_clone());
    }
    let group = tp.clone();
    let backward = move |grad: Tensor| {
        let grad = grad.contiguous().copy();
        sum_over(&group, grad).map_err(|e| strand_torch::Error::Backward(Box::new(e)))
    };
    Ok(with_backward(x, x, backward)?)
}

/// All-reduce forward, identity backward: what leaves a row-parallel layer.
pub fn sum_of_ranks(x: &Tensor, tp: &Group) -> Result<Tensor, ModelError> {
    if tp.size() == 1 {
        return Ok(x.shallow_clone());
    }
    let total = sum_over(tp, x.detach().contiguous().copy())?;
    Ok(with_backward(x, &total, Ok)?)
}

/// The greatest value over the ranks, without gradient.
pub fn max_of_ranks(x: &Tensor, tp: &Group) -> Result<Tensor, ModelError> {
    let greatest = x.detach().contiguous().copy();
    tp.all_reduce(&greatest, ReduceOp::Max)?.wait()?;
    Ok(greatest)
}

fn sum_over(group: &Group, tensor: Tensor) -> Result<Tensor, strand_comm::CommError> {
    group.all_reduce(&tensor, ReduceOp::Sum)?.wait()?;
    Ok(tensor)
}

/// The rows of a table that is split over the ranks: `ids` `[n]` → `[n, width]`.
///
/// `weight` holds the rows from `first`; other ranks' rows count as zero before the sum.
pub fn embed(ids: &Tensor, weight: &Tensor, first: i64, tp: &Group) -> Result<Tensor, ModelError> {
    if tp.size() == 1 {
        return Ok(weight.index_select(0, ids));
    }
    let (local, outside) = local_ids(ids, first, weight.size()[0]);
    let rows = weight.index_select(0, &local).masked_fill(&outside.unsqueeze(1), 0.0);
    sum_of_ranks(&rows, tp)
}

/// Cross-entropy over logits whose columns are split over the ranks: `[n, columns]`, `targets` `[n]` → losses `[n]`.
///
/// `first` is this rank's first column, `num_columns` the number that are not padding.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    first: i64,
    num_columns: i64,
    tp: &Group,
) -> Result<Tensor, ModelError> {
    let logits = logits.to_kind(wide(logits.kind()));
    let padding = logits.size()[1] - num_columns;
    let logits = if padding == 0 { logits } else { mask_end(&logits, num_columns, padding) };
    let greatest = max_of_ranks(&logits.detach().amax(1, false), tp)?;
    let shifted = logits - greatest.unsqueeze(1);
    let log_total =
        sum_of_ranks(&shifted.exp().sum_dim_intlist(1, false, shifted.kind()), tp)?.log();
    let (local, outside) = local_ids(targets, first, shifted.size()[1]);
    let target = shifted.gather(1, &local.unsqueeze(1), false).squeeze_dim(1);
    let target = sum_of_ranks(&target.masked_fill(&outside, 0.0), tp)?;
    Ok(log_total - target)
}

fn mask_end(logits: &Tensor, num_columns: i64, padding: i64) -> Tensor {
    let real = logits.narrow(1, 0, num_columns);
    // Not −∞: a rank whose columns are all padding would compute ∞ − ∞.
    let never = Tensor::full([real.size()[0], padding], -1e30, (real.kind(), real.device()));
    Tensor::cat(&[real, never], 1)
}

/// Ids as indices of this rank's rows, and which of them are another rank's.
fn local_ids(ids: &Tensor, first: i64, rows: i64) -> (Tensor, Tensor) {
    let local = ids - first;
    let outside = local.lt(0).logical_or(&local.ge(rows));
    (local.masked_fill(&outside, 0), outside)
}
