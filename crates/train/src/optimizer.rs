//! AdamW (arXiv 1711.05101) over fp32 parameters.

use std::collections::BTreeMap;

use strand_model::{Parameter, Partition, Slices};
use tch::{Device, Kind, Tensor};

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// First and second moment of one parameter, of the shape of this rank's part.
#[derive(Debug)]
pub struct Moments {
    /// Decaying mean of the gradient.
    pub exp_avg: Tensor,
    /// Decaying mean of its square.
    pub exp_avg_sq: Tensor,
}

/// The optimizer's state on one rank.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, Moments>,
    updates: u64,
}

impl AdamW {
    /// Zero moments for the parameters that are trained.
    pub fn new<'a>(config: AdamWConfig, trained: impl Iterator<Item = &'a Parameter>) -> AdamW {
        let moments = trained.map(|parameter| {
            let zeros = || parameter.tensor.detach().zeros_like();
            (parameter.name.clone(), Moments { exp_avg: zeros(), exp_avg_sq: zeros() })
        });
        AdamW { config, moments: moments.collect(), updates: 0 }
    }

    /// The moments of a parameter; none where it is not trained.
    pub fn moments(&self, name: &str) -> Option<&Moments> {
        self.moments.get(name)
    }

    /// Updates done so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Continues after `updates` updates.
    pub fn resume_at(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// One update at rate `lr` with gradients scaled by `grad_scale`.
    pub fn update<'a>(
        &mut self,
        parameters: impl Iterator<Item = &'a Parameter>,
        lr: f64,
        grad_scale: f64,
    ) {
        self.updates += 1;
        tch::no_grad(|| {
            for parameter in parameters {
                if let Some(moments) = self.moments.get_mut(&parameter.name) {
                    let grad = parameter.tensor.grad() * grad_scale;
                    apply(&self.config, self.updates, moments, &parameter.tensor, &grad, lr);
                }
            }
        });
    }
}

fn apply(
    config: &AdamWConfig,
    updates: u64,
    moments: &mut Moments,
    weight: &Tensor,
    grad: &Tensor,
    lr: f64,
) {
    let [beta1, beta2] = config.betas;
    let correction1 = 1.0 - beta1.powf(updates as f64);
    let correction2 = 1.0 - beta2.powf(updates as f64);
    let Moments { exp_avg, exp_avg_sq } = moments;
    let _ = exp_avg.g_mul_scalar_(beta1).g_add_(&(grad * (1.0 - beta1)));
    let _ = exp_avg_sq.g_mul_scalar_(beta2).g_add_(&(grad.square() * (1.0 - beta2)));
    let denominator = exp_avg_sq.sqrt() / correction2.sqrt() + config.eps;
    let mut weight = weight.shallow_clone();
    let _ = weight.g_mul_scalar_(1.0 - lr * config.weight_decay);
    let _ = weight.g_sub_(&(&*exp_avg / denominator * (lr / correction1)));
}

/// Sums of the gradients' squares in fp64: over what all ranks hold, and `[slices]` over this rank's slices of the rest.
pub fn squares<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
    slices: &Slices,
) -> (f64, Vec<Tensor>) {
    let square = |grad: &Tensor| grad.square().sum(Kind::Double);
    let mut replicated = 0.0;
    let zero = |_| Tensor::zeros([1], (Kind::Double, Device::Cpu));
    let mut split: Vec<Tensor> = (0..slices.count).map(zero).collect();
    for parameter in parameters {
        let grad = parameter.tensor.grad();
        match parameter.partition {
            Partition::Replicated => replicated += square(&grad).double_value(&[]),
            Partition::Split { dim, .. } => {
                for (sum, grad) in split.iter_mut().zip(slices.cut(&grad, dim)) {
                    *sum = &*sum + square(&grad);
                }
            }
        }
    }
    (replicated, split)
}
