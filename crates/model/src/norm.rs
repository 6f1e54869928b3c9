//! RMSNorm (arXiv 1910.07467), in fp32 at least.

use strand_torch::{has_kernels, with_backward_of};
use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::parameter::{Parameters, Weight};
use crate::precision::wide;
use crate::sequence::shared;
use crate::slices::Slices;

/// The norm of hidden states, with a weight for each column.
#[derive(Clone)]
pub struct RmsNorm {
    pub weight: Weight,
    eps: f64,
    slices: Slices,
}

impl RmsNorm {
    pub fn new(
        parameters: &Parameters,
        name: &str,
        eps: f64,
        slices: &Slices,
    ) -> Result<RmsNorm, ModelError> {
        let weight = parameters.handle(&format!("{name}.weight"))?;
        Ok(RmsNorm { weight, eps, slices: slices.clone() })
    }

    /// `[…, hidden]` → the same shape and type.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        rms_norm(x, &shared(&self.weight, &self.slices)?, self.eps)
    }
}

/// x / √(mean(x²) + eps) · weight.
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, ModelError> {
    if matches!(x.device(), Device::Cuda(_)) && x.kind() != Kind::Double {
        return fused(x, weight, eps);
    }
    let (out, inverse) = tch::no_grad(|| values(x, weight, eps))?;
    let asked = [x, weight].map(Tensor::requires_grad);
    // Nothing is kept but the input and a value a row.
    let (x_kept, weight_kept) = (x.detach(), weight.detach());
    let backward = move |grad: Tensor| {
        let inputs = (&x_kept, &weight_kept);
        match has_kernels(&x_kept) && has_kernels(&weight_kept) {
            true => strand_torch::rms_norm_backward(&grad.contiguous(), inputs, &inverse),
            false => Ok(gradients(&grad, inputs, &inverse, asked)),
        }
    };
    Ok(with_backward_of([x, weight], &out, backward)?)
}

/// The result, and what each row was multiplied with, in fp32 at least.
fn values(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor), ModelError> {
    if has_kernels(x) && has_kernels(weight) {
        return Ok(strand_torch::rms_norm(x, weight, eps)?);
    }
    let x_wide = x.to_kind(wide(x.kind()));
    let inverse = (x_wide.square().mean_dim(-1, true, x_wide.kind()) + eps).rsqrt();
    let mut out = &x_wide * &inverse;
    out *= weight;
    Ok((out.to_kind(x.kind()), inverse))
}

/// One kernel in each direction, which computes in fp32 and takes the weight in the input's type.
fn fused(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, ModelError> {
    let weight = weight.to_kind(x.kind());
    let fused = x.f_internal_fused_rms_norm(weight.size(), Some(&weight), Some(eps));
    Ok(fused.map_err(strand_torch::Error::from)?.0)
}

/// With x̂ = x · inverse and p = grad · x̂: of x, inverse · (grad · weight − x̂ · mean(p · weight)); of the weight, the sum of
/// p over the rows. Undefined where not asked for.
fn gradients(
    grad: &Tensor,
    (x, weight): (&Tensor, &Tensor),
    inverse: &Tensor,
    asked: [bool; 2],
) -> [Tensor; 2] {
    let columns = weight.size()[0];
    let grad = grad.to_kind(inverse.kind());
    let normed = x.to_kind(inverse.kind()) * inverse;
    let product = &grad * &normed;
    let of_weight = match asked[1] {
        true => product.view([-1, columns]).sum_dim_intlist(0, false, product.kind()),
        false => Tensor::new(),
    };
    if !asked[0] {
        return [Tensor::new(), of_weight];
    }
    let mean = product.matmul(weight).unsqueeze(-1) / columns as f64;
    let mut of_x = grad * weight;
    of_x -= normed * mean;
    of_x *= inverse;
    [of_x.to_kind(x.kind()), of_weight]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_gradients_are_autograd_s() {
        tch::manual_seed(3);
        // More rows than one part of the kernel's sums.
        let drawn = |size: &[i64]| Tensor::randn(size, (Kind::Double, Device::Cpu));
        let (x, weight, wanted) = (drawn(&[2, 300, 72]), drawn(&[72]), drawn(&[2, 300, 72]));
        let run_in = |kind: Kind, norm: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
            let [x, weight] =
                [&x, &weight].map(|it| it.to_kind(kind).copy().set_requires_grad(true));
            let out = norm(&x, &weight);
            (&out * wanted.to_kind(kind)).sum(kind).backward();
            [out.detach(), x.grad(), weight.grad()].map(|it| it.to_kind(Kind::Double))
        };
        let run = |norm: &dyn Fn(&Tensor, &Tensor) -> Tensor| run_in(Kind::Double, norm);
        let plain = run(&|x, weight| {
            let inverse = (x.square().mean_dim(-1, true, Kind::Double) + 1e-6).rsqrt();
            x * inverse * weight
        });
        let found = run(&|x, weight| rms_norm(x, weight, 1e-6).unwrap());
        // What a GPU runs, in libtorch's own words for a CPU.
        let fused = run(&|x, weight| fused(x, weight, 1e-6).unwrap());
        let kernel = run_in(Kind::Float, &|x, weight| rms_norm(x, weight, 1e-6).unwrap());
        for (others, most) in [(&found, 1e-12), (&fused, 1e-12), (&kernel, 1e-3)] {
            for (plain, other) in plain.iter().zip(others) {
                let worst = (plain - other).abs().max().double_value(&[]);
                assert!(worst < most, "{worst:e}");
            }
        }
    }
}
