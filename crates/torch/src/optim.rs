//! Kernels of the optimizer, and memory that comes and goes under tensors that stay.

use cxx::UniquePtr;
use tch::Tensor;

use crate::{Error, tensor};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    /// Constants of one update.
    struct AdamWStep {
        updates: f64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        grad_scale: f64,
    }

    unsafe extern "C++" {
        include!("optim.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;
        type TensorList;

        fn tensor_list() -> UniquePtr<TensorList>;
        fn push(self: Pin<&mut TensorList>, tensor: &Tensor) -> Result<()>;
        fn fused_adamw(
            weights: &TensorList,
            grads: &TensorList,
            exp_avgs: &TensorList,
            exp_avg_sqs: &TensorList,
            step: &AdamWStep,
        ) -> Result<()>;
        fn resize_storage(tensor: &Tensor, bytes: i64) -> Result<()>;
    }
}

pub(crate) use ffi::TensorList;

/// One update of AdamW (arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Updates done, this one counted.
    pub updates: u64,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// What gradients are multiplied with.
    pub grad_scale: f64,
}

/// Updates weights and moments in place, each read and written once. Gradients may be changed.
///
/// # Errors
/// libtorch's own: lists, shapes or types that do not fit.
pub fn fused_adamw(
    weights: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    step: AdamWStep,
) -> Result<(), Error> {
    let [beta1, beta2] = step.betas;
    let step = ffi::AdamWStep {
        updates: step.updates as f64,
        lr: step.lr,
        beta1,
        beta2,
        weight_decay: step.weight_decay,
        eps: step.eps,
        grad_scale: step.grad_scale,
    };
    let [weights, grads] = [list(weights)?, list(grads)?];
    let [exp_avgs, exp_avg_sqs] = [list(exp_avgs)?, list(exp_avg_sqs)?];
    Ok(ffi::fused_adamw(&weights, &grads, &exp_avgs, &exp_avg_sqs, &step)?)
}

/// Tensors for C++.
pub(crate) fn list<'t>(
    tensors: impl IntoIterator<Item = &'t Tensor>,
) -> Result<UniquePtr<TensorList>, Error> {
    let mut list = ffi::tensor_list();
    for tensor in tensors {
        list.pin_mut().push(tensor::as_cxx(tensor))?;
    }
    Ok(list)
}

/// Gives the memory under a tensor, and under all that share it, another size in bytes. What was there is lost where it
/// shrinks; nothing may read a tensor whose memory is too small for it.
///
/// # Errors
/// libtorch's own: no memory.
pub fn resize_storage(tensor: &Tensor, bytes: usize) -> Result<(), Error> {
    Ok(ffi::resize_storage(tensor::as_cxx(tensor), bytes as i64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn an_update_is_adamw() {
        let values = |values: &[f64]| Tensor::from_slice(values);
        let (weight, grad) = (values(&[1.0, -2.0]), values(&[0.5, 4.0]));
        let (exp_avg, exp_avg_sq) = (values(&[0.1, 0.2]), values(&[0.3, 0.4]));
        let step = AdamWStep {
            updates: 3,
            lr: 0.01,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 0.1,
            grad_scale: 0.5,
        };
        let one = |i: usize| {
            let get = |tensor: &Tensor| tensor.double_value(&[i as i64]);
            let grad = get(&grad) * 0.5;
            let exp_avg = 0.9 * get(&exp_avg) + 0.1 * grad;
            let exp_avg_sq = 0.99 * get(&exp_avg_sq) + 0.01 * grad * grad;
            let [c1, c2] = [0.9_f64, 0.99].map(|beta| 1.0 - beta.powi(3));
            let decayed = get(&weight) * (1.0 - 0.01 * 0.1);
            decayed - 0.01 * (exp_avg / c1) / ((exp_avg_sq / c2).sqrt() + 1e-8)
        };
        let expected = [one(0), one(1)];
        let share = |tensor: &Tensor| [tensor.shallow_clone()];
        fused_adamw(&share(&weight), &share(&grad), &share(&exp_avg), &share(&exp_avg_sq), step)
            .unwrap();
        for (i, expected) in expected.into_iter().enumerate() {
            assert!((weight.double_value(&[i as i64]) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn memory_comes_and_goes_under_views() {
        let flat = Tensor::ones([8], (Kind::Float, Device::Cpu));
        let view = flat.narrow(0, 4, 4);
        resize_storage(&flat, 0).unwrap();
        resize_storage(&flat, 32).unwrap();
        let _ = flat.shallow_clone().fill_(3.0);
        assert_eq!(Vec::<f32>::try_from(&view).unwrap(), [3.0; 4]);
    }
}
