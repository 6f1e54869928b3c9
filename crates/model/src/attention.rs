//! Causal attention over the heads of a rank.

use strand_torch::with_backward_of;
use tch::Tensor;

use crate::error::ModelError;
use crate::precision::product_kind;

/// Queries, keys and values `[batch, heads, length, head_dim]` → the same, in their type.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, ModelError> {
    let (kind, inner) = (q.kind(), product_kind(q.kind(), q.device()));
    if kind == inner {
        return Ok(Tensor::scaled_dot_product_attention::<Tensor>(
            q, k, v, None, 0.0, true, None, false,
        ));
    }
    // The kernel that a CPU takes for the above. Autograd would keep what it reads and gives, all in the wider type.
    let widened = [q, k, v].map(|heads| heads.detach().to_kind(inner));
    let [wide_q, wide_k, wide_v] = &widened;
    let (out, log_sums) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu::<Tensor>(
        wide_q, wide_k, wide_v, 0.0, true, None, None,
    );
    drop(widened);
    let out = out.to_kind(kind);
    let kept = [q, k, v, &out].map(Tensor::detach);
    let backward = move |grad: Tensor| {
        let [q, k, v, out] = kept.each_ref().map(|heads| heads.to_kind(inner));
        let (of_q, of_k, of_v) =
            Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward::<Tensor>(
                &grad.to_kind(inner),
                &q,
                &k,
                &v,
                &out,
                &log_sums,
                0.0,
                true,
                None,
                None,
            )?;
        Ok([of_q, of_k, of_v].map(|heads| heads.to_kind(kind)))
    };
    Ok(with_backward_of([q, k, v], &out, backward)?)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn values_and_gradients_in_bf16_are_those_of_wider_numbers() {
        tch::manual_seed(6);
        let shape = [2, 3, 5, 8];
        let drawn: Vec<Tensor> = (0..4)
            .map(|_| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16))
            .collect();
        let run = |kind: Kind| {
            let leaves: Vec<Tensor> = drawn[..3]
                .iter()
                .map(|it| it.to_kind(kind).detach().copy().set_requires_grad(true))
                .collect();
            let out = causal_attention(&leaves[0], &leaves[1], &leaves[2]).unwrap();
            assert_eq!(out.kind(), kind);
            (&out * drawn[3].to_kind(kind)).sum(kind).backward();
            let gradients = leaves.iter().map(Tensor::grad);
            gradients.chain([out.detach()]).map(|it| it.to_kind(Kind::Float)).collect::<Vec<_>>()
        };
        for (narrow, wide) in run(Kind::BFloat16).iter().zip(run(Kind::Float)) {
            let deviation = (narrow - &wide).abs().max().double_value(&[]);
            assert!(deviation <= 0.02 * wide.abs().max().double_value(&[]), "{deviation}");
        }
    }
}
