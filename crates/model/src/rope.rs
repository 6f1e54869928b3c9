//! Rotary position embedding (arXiv 2104.09864), in Hugging Face's half-rotated layout.

use tch::{Device, Kind, Tensor};

/// Cosines and sines of the positions 0…length−1, each `[length, head_dim]`.
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// The table for `length` positions.
    pub fn new(length: i64, head_dim: i64, theta: f64, kind: Kind, device: Device) -> Rope {
        let exponents =
            Tensor::arange_start_step(0, head_dim, 2, (Kind::Double, device)) / head_dim as f64;
        // The frequencies are rounded to fp32, as Hugging Face's are.
        let frequencies = (exponents * -theta.ln()).exp().to_kind(Kind::Float);
        let positions = Tensor::arange(length, (Kind::Float, device));
        let angles = positions.outer(&frequencies);
        let angles = Tensor::cat(&[&angles, &angles], 1);
        Rope { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }

    /// Turns `x` `[batch, heads, length, head_dim]`.
    pub fn turn(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        let rotated = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
        x * &self.cos + rotated * &self.sin
    }
}
