//! Gradients added over micro-batches and ranks in 64 bits. There a sum of 32-bit numbers is exact unless they lie 2²⁹
//! apart, so it does not depend on who adds what first.

use strand_comm::{CommError, Group, ReduceOp};
use tch::{Kind, TchError, Tensor};

/// Sums of gradients, of the same shapes.
pub struct ExactSums(Vec<Tensor>);

impl ExactSums {
    /// Zeros.
    ///
    /// # Errors
    /// No memory.
    pub fn new(gradients: &[Tensor]) -> Result<ExactSums, TchError> {
        let zeros =
            |gradient: &Tensor| Tensor::f_zeros(gradient.size(), (Kind::Double, gradient.device()));
        Ok(ExactSums(gradients.iter().map(zeros).collect::<Result<_, _>>()?))
    }

    /// Takes a micro-batch's gradients over, and leaves zeros.
    pub fn take(&mut self, gradients: &[Tensor]) {
        for (sum, gradient) in self.0.iter_mut().zip(gradients) {
            *sum += gradient;
            let _ = gradient.shallow_clone().zero_();
        }
    }

    /// Sums over `dp` and gives the gradients back.
    ///
    /// # Errors
    /// A collective failed.
    pub fn finish(self, gradients: &[Tensor], dp: &Group) -> Result<(), CommError> {
        let handles: Vec<_> =
            self.0.iter().map(|sum| dp.all_reduce(sum, ReduceOp::Sum)).collect::<Result<_, _>>()?;
        for ((sum, gradient), handle) in self.0.iter().zip(gradients).zip(handles) {
            handle.wait()?;
            gradient.shallow_clone().copy_(sum);
        }
        Ok(())
    }
}
