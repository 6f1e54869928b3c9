//! Kernels for CPUs that pass over memory once where libtorch's operators pass over it once each. They take contiguous
//! fp32 tensors.

use tch::{Device, Kind, Tensor};

use crate::{Error, tensor};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    unsafe extern "C++" {
        include!("kernels.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;

        fn rms_norm(
            x: &Tensor,
            weight: &Tensor,
            eps: f64,
            out: &Tensor,
            inverse: &Tensor,
        ) -> Result<()>;
        fn rms_norm_backward(
            grad: &Tensor,
            x: &Tensor,
            weight: &Tensor,
            inverse: &Tensor,
            of_x: &Tensor,
            of_weight: &Tensor,
        ) -> Result<()>;
        fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, back: bool, out: &Tensor) -> Result<()>;
    }
}

/// Values that a row of partial sums stands for, and most such rows: as in `kernels.cpp`.
const GRAIN: i64 = 1 << 14;
const MOST_PARTS: i64 = 64;

/// Whether the kernels take a tensor.
pub fn has_kernels(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}

/// RMSNorm (arXiv 1910.07467) of `x` `[…, columns]`: x · inverse · weight, and inverse = 1 ÷ √(mean(x²) + eps) of each
/// row, `[…, 1]`.
///
/// # Errors
/// The tensors are none that kernels take, or do not fit each other.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor), Error> {
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = 1;
    }
    let (out, inverse) = (x.f_empty_like()?, Tensor::f_empty(&shape, (x.kind(), x.device()))?);
    let [x, weight, to, of_rows] = [x, weight, &out, &inverse].map(tensor::as_cxx);
    ffi::rms_norm(x, weight, eps, to, of_rows)?;
    Ok((out, inverse))
}

/// The gradients of [`rms_norm`]'s input and weight.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_backward(
    grad: &Tensor,
    (x, weight): (&Tensor, &Tensor),
    inverse: &Tensor,
) -> Result<[Tensor; 2], Error> {
    let columns = weight.numel() as i64;
    let parts = (x.numel() as i64 / GRAIN).clamp(1, MOST_PARTS);
    let of_x = x.f_empty_like()?;
    let sums = Tensor::f_empty([parts, columns], (x.kind(), x.device()))?;
    let tensors = [grad, x, weight, inverse, &of_x, &sums];
    let [grad, x, weight, inverse, to, partial] = tensors.map(tensor::as_cxx);
    ffi::rms_norm_backward(grad, x, weight, inverse, to, partial)?;
    Ok([of_x, sums.f_sum_dim_intlist(0, false, Kind::Float)?])
}

/// Turns the halves of each head of `x` `[batch, length, heads, head_dim]` by the angles of its position, or `back`; the
/// tables are `[length, head_dim]` (rotary position embedding, arXiv 2104.09864).
///
/// # Errors
/// As [`rms_norm`].
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, back: bool) -> Result<Tensor, Error> {
    let out = x.f_empty_like()?;
    let [x, cos, sin, to] = [x, cos, sin, &out].map(tensor::as_cxx);
    ffi::rotate(x, cos, sin, back, to)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let ones = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        assert!(rms_norm(&ones(&[2, 3]), &ones(&[4]), 1e-6).is_err());
        assert!(rms_norm(&ones(&[3, 2]).tr(), &ones(&[3]), 1e-6).is_err());
        assert!(rotate(&ones(&[1, 2, 1, 4]), &ones(&[2, 2]), &ones(&[2, 4]), false).is_err());
    }
}
