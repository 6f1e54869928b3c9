//! Tensor parallelism: the two conjugate operators of Megatron-LM (arXiv 1909.08053, section 3) and what is made of them.

use strand_comm::{Group, ReduceOp};
use strand_torch::with_backward;
use tch::Tensor;

use crate::error::ModelError;
use crate::precision::wide;
use crate::slices::{Slices, tree_sum};

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
    weight: &Tensor,
    first: i64,
    slices: &Slices,
) -> Result<Tensor, ModelError> {
    if slices.tp.size() == 1 {
        return Ok(weight.index_select(0, ids));
    }
    let (local, outside) = local_ids(ids, first, weight.size()[0]);
    let rows = weight.index_select(0, &local).masked_fill(&outside.unsqueeze(1), 0.0);
    sum_of_ranks(&rows, slices)
}

/// Logits of one slice of the vocabulary.
pub struct Logits {
    /// `[n, columns]`.
    pub values: Tensor,
    /// The first column among those of all slices.
    pub first: i64,
    /// Columns that are not padding.
    pub num_columns: i64,
}

impl Logits {
    /// In fp32 at least, padding out of the way.
    fn widen(&self) -> Tensor {
        let values = self.values.to_kind(wide(self.values.kind()));
        let padding = values.size()[1] - self.num_columns;
        if padding == 0 { values } else { mask_end(&values, self.num_columns, padding) }
    }
}

/// Cross-entropy over logits whose columns are split over the ranks: this rank's slices, `targets` `[n]` → losses `[n]`.
pub fn cross_entropy(
    logits: &[Logits],
    targets: &Tensor,
    slices: &Slices,
) -> Result<Tensor, ModelError> {
    let widened: Vec<Tensor> = logits.iter().map(Logits::widen).collect();
    let greatest: Vec<Tensor> = widened.iter().map(|it| it.detach().amax(1, false)).collect();
    let greatest = max_of_ranks(&Tensor::stack(&greatest, 0).amax(0, false), &slices.tp)?;
    let shifted: Vec<Tensor> = widened.iter().map(|it| it - greatest.unsqueeze(1)).collect();
    let totals = shifted.iter().map(|it| it.exp().sum_dim_intlist(1, false, it.kind())).collect();
    let log_total = sum_of_ranks(&tree_sum(totals), slices)?.log();
    let own = shifted.iter().zip(logits).map(|(it, part)| own_target(it, targets, part.first));
    let target = sum_of_ranks(&tree_sum(own.collect()), slices)?;
    Ok(log_total - target)
}

/// The target's logit where it is one of this slice's, else 0.
fn own_target(shifted: &Tensor, targets: &Tensor, first: i64) -> Tensor {
    let (local, outside) = local_ids(targets, first, shifted.size()[1]);
    let target = shifted.gather(1, &local.unsqueeze(1), false).squeeze_dim(1);
    target.masked_fill(&outside, 0.0)
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
