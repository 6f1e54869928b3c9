//! Masked video modelling: the masked pass predicts the hidden states of the unmasked one.

use tch::Tensor;

use crate::error::ModelError;
use crate::frames::affine;
use crate::parameter::{Parameters, Weight};
use crate::precision::wide;

/// Linear and LayerNorm on the student's side.
pub struct Decoder {
    head: (Weight, Weight),
    norm: (Weight, Weight),
}

impl Decoder {
    const EPS: f64 = 1e-5;

    pub fn new(parameters: &Parameters) -> Result<Decoder, ModelError> {
        let handle = |name: &str| parameters.handle(&format!("mvm_decoder.{name}"));
        Ok(Decoder {
            head: (handle("head.weight")?, handle("head.bias")?),
            norm: (handle("norm.weight")?, handle("norm.bias")?),
        })
    }

    /// `[n, hidden]` → `[n, hidden]` in fp32, or fp64 where `x` is.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (weight, bias): (&Tensor, &Tensor) = (&self.norm.0, &self.norm.1);
        let x = affine(x, &self.head.0, &self.head.1)?.to_kind(wide(x.kind()));
        Ok(x.layer_norm(weight.size(), Some(weight), Some(bias), Self::EPS, true))
    }
}

/// Sum over the rows of 2 − 2·cos(student, teacher): the squared distance of unit vectors.
pub fn distance_sum(student: &Tensor, teacher: &Tensor) -> Tensor {
    let kind = wide(student.kind());
    let student = unit(&student.to_kind(kind));
    let teacher = unit(&teacher.to_kind(kind));
    (student - teacher).square().sum(kind)
}

fn unit(x: &Tensor) -> Tensor {
    let norm = x.square().sum_dim_intlist(-1, true, x.kind()).sqrt();
    // The same floor as torch.nn.functional.normalize.
    x / norm.clamp_min(1e-12)
}
