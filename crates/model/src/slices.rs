//! How the tensor-parallel parts of a sum are added.
//!
//! Float addition is not associative, so a sum depends on how many ranks share it. Where a run asks for the same bits on
//! every layout, each rank cuts its part further, into as many slices as the largest layout has ranks, computes them one
//! by one, and all sums follow one binary tree over the slices, whoever holds them.

use strand_comm::{Group, ReduceOp};
use tch::Tensor;

/// This rank's tensor-parallel group, and the slices that it computes.
#[derive(Clone)]
pub struct Slices {
    /// The ranks that share the model.
    pub tp: Group,
    /// Slices of this rank: 1 where layouts need not agree to the bit.
    pub count: i64,
    /// Whether sums follow the tree.
    is_exact: bool,
    /// Whether each rank has a part of every sequence between the tensor-parallel products.
    sequence_parallel: bool,
}

impl Slices {
    /// The slices of a rank of `tp`; `exact_tp` is their number over all ranks.
    pub fn new(tp: &Group, exact_tp: Option<i64>, sequence_parallel: bool) -> Slices {
        let count = exact_tp.map_or(1, |slices| slices / tp.size() as i64);
        Slices { tp: tp.clone(), count, is_exact: exact_tp.is_some(), sequence_parallel }
    }

    /// Whether this rank has only a part of every sequence between the tensor-parallel products.
    pub fn splits_sequences(&self) -> bool {
        self.sequence_parallel && self.tp.size() > 1
    }

    /// Whether sums have one order on all layouts.
    pub fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// The first of this rank's slices among those of all.
    pub fn first(&self) -> i64 {
        self.tp.rank() as i64 * self.count
    }

    /// Cuts a weight of this rank along `dim`. Each slice lies in memory as it does on a rank that has only this one.
    pub fn cut(&self, weight: &Tensor, dim: usize) -> Vec<Tensor> {
        if self.count == 1 {
            return vec![weight.shallow_clone()];
        }
        let size = weight.size()[dim] / self.count;
        let slice = |i| weight.narrow(dim as i64, i * size, size).contiguous();
        (0..self.count).map(slice).collect()
    }

    /// `x` for each slice. Their gradients are added along the tree.
    pub fn fan_out(&self, x: &Tensor) -> Vec<Tensor> {
        let mut level = vec![x.shallow_clone()];
        while (level.len() as i64) < self.count {
            level = level.iter().flat_map(|x| [x.view_as(x), x.view_as(x)]).collect();
        }
        level
    }

    /// Sum over the ranks, of which each brings the sum of its slices.
    pub fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, strand_comm::CommError> {
        // Two numbers have one sum; of more, a collective chooses its own order.
        if self.is_exact && self.tp.size() > 2 {
            let all = self.tp.all_gather(&tensor.unsqueeze(0))?;
            return Ok(tree_sum(all.unbind(0)));
        }
        self.tp.all_reduce(&tensor, ReduceOp::Sum)?.wait()?;
        Ok(tensor)
    }
}

/// The sum over slices: neighbours are added, then their sums.
pub fn tree_sum(mut parts: Vec<Tensor>) -> Tensor {
    while parts.len() > 1 {
        let pairs = parts.chunks(2);
        parts = pairs
            .map(|pair| match pair {
                [left, right] => left + right,
                _ => pair[0].shallow_clone(),
            })
            .collect();
    }
    parts.swap_remove(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(exact_tp: i64) -> Slices {
        Slices::new(&Group::single("tp"), Some(exact_tp), false)
    }

    #[test]
    fn sums_and_gradients_follow_the_tree() {
        let slices = alone(4);
        let x = Tensor::from_slice(&[1.0_f32]).set_requires_grad(true);
        // In fp32 (1e8 + 1) + (−1e8 + 1) is 0, and 1e8 + 1 − 1e8 + 1 is 1.
        let weights = [1e8, 1.0, -1e8, 1.0];
        let parts: Vec<Tensor> =
            slices.fan_out(&x).iter().zip(weights).map(|(x, weight)| x * weight).collect();
        let sum = tree_sum(parts);
        assert_eq!(sum.double_value(&[0]), 0.0);
        sum.backward();
        assert_eq!(x.grad().double_value(&[0]), 0.0);
    }

    #[test]
    fn slices_lie_side_by_side() {
        let weight = Tensor::arange(8, (tch::Kind::Float, tch::Device::Cpu)).view([2, 4]);
        let columns = alone(2).cut(&weight, 1);
        assert_eq!(
            Vec::<Vec<f32>>::try_from(&columns[1]).ok(),
            Some(vec![vec![2.0, 3.0], vec![6.0, 7.0]])
        );
        assert!(columns[1].is_contiguous());
    }
}
