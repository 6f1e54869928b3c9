//! Rotary position embedding (arXiv 2104.09864), in Hugging Face's half-rotated layout.

use std::f64::consts::TAU;

use strand_torch::{has_kernels, rotate, upload, with_backward};
use tch::{Device, Kind, Tensor};

use crate::config::{Config, RopeScaling};
use crate::error::ModelError;

/// How far each pair of values turns from one position to the next: fp32, as Hugging Face's.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies(Vec<f32>);

impl Frequencies {
    /// The frequencies of a model.
    pub fn new(config: &Config) -> Frequencies {
        let dim = config.head_dim();
        let plain = |i: i64| (-config.rope_theta.ln() * (i as f64 / dim as f64)).exp();
        let scaled = |frequency| config.rope_scaling.map_or(frequency, |it| scale(it, frequency));
        Frequencies((0..dim).step_by(2).map(|i| scaled(plain(i)) as f32).collect())
    }
}

fn scale(scaling: RopeScaling, frequency: f64) -> f64 {
    match scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let turns = original_max_position_embeddings as f64 * frequency / TAU;
            let share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let share = share.clamp(0.0, 1.0);
            frequency * (share + (1.0 - share) / factor)
        }
    }
}

/// Cosines and sines of the positions 0…length−1, each `[length, head_dim]`.
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Clone for Rope {
    /// The same tables.
    fn clone(&self) -> Rope {
        Rope { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone() }
    }
}

impl Rope {
    /// The table for `length` positions.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        length: i64,
        frequencies: &Frequencies,
        kind: Kind,
        device: Device,
    ) -> Result<Rope, ModelError> {
        let frequencies = upload(&Tensor::from_slice(&frequencies.0), device)?;
        let positions = Tensor::arange(length, (Kind::Float, device));
        let angles = positions.outer(&frequencies);
        let angles = Tensor::cat(&[&angles, &angles], 1);
        Ok(Rope { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) })
    }

    /// Turns `x` `[batch, length, heads, head_dim]`.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn turn(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        if !has_kernels(x) {
            return Ok(self.turned(x));
        }
        let out = tch::no_grad(|| rotate(x, &self.cos, &self.sin, false))?;
        let (cos, sin) = (self.cos.shallow_clone(), self.sin.shallow_clone());
        let backward = move |grad: Tensor| rotate(&grad.contiguous(), &cos, &sin, true);
        Ok(with_backward(x, &out, backward)?)
    }

    fn turned(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        let rotated = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
        x * self.cos.unsqueeze(1) + rotated * self.sin.unsqueeze(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_turns_there_and_back_as_the_formula_does() {
        tch::manual_seed(5);
        let frequencies = Frequencies((0..4).map(|i| 0.7_f32.powi(i)).collect());
        let rope = Rope::new(6, &frequencies, Kind::Float, Device::Cpu).expect("tables");
        let x = Tensor::randn([2, 6, 3, 8], (Kind::Float, Device::Cpu));
        let wanted = x.roll([1], [3]);
        let run = |turn: &dyn Fn(&Tensor) -> Tensor| {
            let x = x.detach().copy().set_requires_grad(true);
            let out = turn(&x);
            (&out * &wanted).sum(Kind::Float).backward();
            [out.detach(), x.grad()]
        };
        let (formula, kernel) = (run(&|x| rope.turned(x)), run(&|x| rope.turn(x).expect("turned")));
        for (formula, kernel) in formula.iter().zip(&kernel) {
            assert!((formula - kernel).abs().max().double_value(&[]) < 1e-5);
        }
    }

    #[test]
    fn fast_frequencies_stay_and_slow_ones_are_divided() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let turning = |turns: f64| turns / 64.0 * TAU;
        assert_eq!(scale(llama3, turning(5.0)), turning(5.0));
        assert_eq!(scale(llama3, turning(0.5)), turning(0.5) / 8.0);
        // Two and a half turns lie in the middle of 1 and 4.
        let between = scale(llama3, turning(2.5)) / turning(2.5);
        assert!((between - (0.5 + 0.5 / 8.0)).abs() < 1e-12, "{between}");
        assert_eq!(scale(RopeScaling::Linear { factor: 4.0 }, 1.0), 0.25);
    }
}
