//! Cross-entropy over a vocabulary that is split over the ranks, with a backward pass of its own: beside the logits
//! nothing of their size is kept, and what is computed in fp32 is a few rows at a time.

use strand_torch::with_backward;
use tch::Tensor;

use crate::error::ModelError;
use crate::parallel::{local_ids, max_of_ranks};
use crate::precision::wide;
use crate::slices::{Slices, tree_sum};

/// Values that are widened at a time.
const CHUNK: i64 = 1 << 22;

/// Logits of one slice of the vocabulary.
pub struct Logits {
    /// `[n, columns]`.
    pub values: Tensor,
    /// The first column among those of all slices.
    pub first: i64,
    /// Columns that are not padding.
    pub num_columns: i64,
}

/// This rank's slices of the logits, `targets` `[n]` → losses `[n]`, in fp32 at least.
pub fn cross_entropy(
    logits: &[Logits],
    targets: &Tensor,
    slices: &Slices,
) -> Result<Tensor, ModelError> {
    let (losses, log_totals) = tch::no_grad(|| forward(logits, targets, slices))?;
    let zero = losses.zeros_like();
    let mut losses = losses;
    for slice in logits {
        let backward = slice.backward(targets, &log_totals);
        // Autograd's way back to each slice; adding zero changes nothing.
        losses += with_backward(&slice.values, &zero, backward)?;
    }
    Ok(losses)
}

/// The losses and the logarithms of the softmax's denominators, `[n]` each.
fn forward(
    logits: &[Logits],
    targets: &Tensor,
    slices: &Slices,
) -> Result<(Tensor, Tensor), ModelError> {
    let greatest: Vec<Tensor> = logits.iter().map(Logits::greatest).collect();
    let greatest = max_of_ranks(&Tensor::stack(&greatest, 0).amax(0, false), &slices.tp)?;
    let totals = logits.iter().map(|slice| slice.exp_sum(&greatest)).collect();
    let log_totals = slices.all_reduce(tree_sum(totals))?.log() + greatest;
    let own = logits.iter().map(|slice| slice.own_target(targets)).collect();
    let target = slices.all_reduce(tree_sum(own))?;
    Ok((&log_totals - target, log_totals))
}

impl Logits {
    /// A few rows of what is not padding, widened: memory of their own.
    fn chunks(&self) -> impl Iterator<Item = (i64, Tensor)> {
        let (rows, columns) = (self.values.size()[0], self.values.size()[1]);
        let size = (CHUNK / columns.max(1)).max(1);
        let real = self.values.detach().narrow(1, 0, self.num_columns);
        (0..rows).step_by(size as usize).map(move |start| {
            let chunk = real.narrow(0, start, size.min(rows - start));
            (start, chunk.totype(wide(chunk.kind())).copy())
        })
    }

    /// The greatest logit of each row; very small where all is padding.
    fn greatest(&self) -> Tensor {
        let kind = wide(self.values.kind());
        if self.num_columns == 0 {
            // Not −∞, or ∞ − ∞ might be computed.
            return Tensor::full([self.values.size()[0]], -1e30, (kind, self.values.device()));
        }
        self.values.detach().narrow(1, 0, self.num_columns).amax(1, false).to_kind(kind)
    }

    /// Sum of exp(logit − greatest) of each row.
    fn exp_sum(&self, greatest: &Tensor) -> Tensor {
        let sums = greatest.zeros_like();
        for (start, mut chunk) in self.chunks() {
            let rows = chunk.size()[0];
            let _ = chunk.g_sub_(&greatest.narrow(0, start, rows).unsqueeze(1)).exp_();
            let sum = chunk.sum_dim_intlist(1, false, chunk.kind());
            sums.narrow(0, start, rows).copy_(&sum);
        }
        sums
    }

    /// The target's logit where it is one of this slice's, else 0.
    fn own_target(&self, targets: &Tensor) -> Tensor {
        let values = self.values.detach();
        let (local, outside) = local_ids(targets, self.first, values.size()[1]);
        let target = values.gather(1, &local.unsqueeze(1), false).squeeze_dim(1);
        target.masked_fill(&outside, 0.0).to_kind(wide(values.kind()))
    }

    /// (softmax − one-hot) · the gradient of each row's loss.
    fn backward(
        &self,
        targets: &Tensor,
        log_totals: &Tensor,
    ) -> impl Fn(Tensor) -> Result<Tensor, strand_torch::Error> + Send + 'static {
        let (values, first, num_columns) = (self.values.detach(), self.first, self.num_columns);
        let slice = Logits { values, first, num_columns };
        let (local, outside) = local_ids(targets, first, slice.values.size()[1]);
        let log_totals = log_totals.shallow_clone();
        move |grad: Tensor| {
            let gradient = slice.values.zeros_like();
            for (start, mut chunk) in slice.chunks() {
                let rows = chunk.size()[0];
                let part = |x: &Tensor| x.narrow(0, start, rows).unsqueeze(1);
                let _ = chunk.g_sub_(&part(&log_totals)).exp_();
                let hit = part(&outside).logical_not().to_kind(chunk.kind());
                if slice.num_columns > 0 {
                    let _ = chunk.scatter_add_(
                        1,
                        &part(&local).clamp_max(slice.num_columns - 1),
                        &hit.neg(),
                    );
                }
                let _ = chunk.g_mul_(&part(&grad));
                gradient.narrow(0, start, rows).narrow(1, 0, slice.num_columns).copy_(&chunk);
            }
            Ok(gradient)
        }
    }
}

#[cfg(test)]
mod tests {
    use strand_comm::Group;
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn losses_and_gradients_are_libtorch_s() {
        tch::manual_seed(1);
        let targets = Tensor::from_slice(&[0_i64, 6, 3]);
        let drawn = Tensor::randn([3, 8], (Kind::Float, Device::Cpu)) * 5.0;
        let weights = Tensor::from_slice(&[1.0_f32, -2.0, 0.5]);
        let expected = drawn.detach().copy().set_requires_grad(true);
        let losses = expected.narrow(1, 0, 7).cross_entropy_loss::<Tensor>(
            &targets,
            None,
            tch::Reduction::None,
            -100,
            0.0,
        );
        (&losses * &weights).sum(Kind::Float).backward();
        let leaf = drawn.detach().copy().set_requires_grad(true);
        for slices in [1, 2, 4] {
            let group = Slices::new(&Group::single("tp"), Some(slices), false);
            let columns = 8 / slices;
            let parts: Vec<Logits> = (0..slices)
                .map(|i| Logits {
                    values: leaf.narrow(1, i * columns, columns),
                    first: i * columns,
                    num_columns: columns.min(7 - i * columns),
                })
                .collect();
            let found = cross_entropy(&parts, &targets, &group).expect("losses");
            assert!((&found - &losses).abs().max().double_value(&[]) < 1e-5);
            leaf.shallow_clone().zero_grad();
            (&found * &weights).sum(Kind::Float).backward();
            assert!((leaf.grad() - expected.grad()).abs().max().double_value(&[]) < 1e-5);
        }
    }
}
