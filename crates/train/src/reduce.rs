//! Gradients summed over the data-parallel ranks, in buckets.

use strand_comm::{CommError, Group, Handle, ReduceOp};
use strand_model::Parameter;
use tch::{Kind, Tensor};

/// Values of one bucket: 25 MiB of fp32, as PyTorch's DDP has it.
const BUCKET_VALUES: usize = 25 * 1024 * 1024 / 4;

/// Gives every parameter a gradient: zeros where the last one was, so that backward passes add up.
pub fn zero_gradients<'a>(parameters: impl Iterator<Item = &'a Parameter>) {
    for parameter in parameters {
        let mut grad = parameter.tensor.grad();
        if grad.defined() {
            let _ = grad.zero_();
        }
    }
}

/// Sums the gradients over `dp`, in place. A parameter that no sample of this rank touched counts as zero.
///
/// # Errors
/// A collective failed.
pub fn sum_gradients(parameters: &[&Parameter], dp: &Group) -> Result<(), CommError> {
    let gradients: Vec<Tensor> = parameters.iter().map(|p| gradient(p)).collect();
    sum_in_buckets(&gradients, dp)
}

/// Gradients added over micro-batches and ranks in 64 bits. There a sum of 32-bit numbers is exact unless they lie 2²⁹
/// apart, so it does not depend on who adds what first.
pub struct ExactSums(Vec<Tensor>);

impl ExactSums {
    /// Zeros.
    pub fn new(parameters: &[&Parameter]) -> ExactSums {
        let zeros = |p: &&Parameter| p.tensor.detach().to_kind(Kind::Double).zeros_like();
        ExactSums(parameters.iter().map(zeros).collect())
    }

    /// Takes a micro-batch's gradients over, and leaves zeros.
    pub fn take(&mut self, parameters: &[&Parameter]) {
        for (sum, parameter) in self.0.iter_mut().zip(parameters) {
            let mut grad = parameter.tensor.grad();
            if grad.defined() {
                *sum += &grad;
                let _ = grad.zero_();
            }
        }
    }

    /// Sums over `dp` and gives the gradients back.
    ///
    /// # Errors
    /// A collective failed.
    pub fn finish(self, parameters: &[&Parameter], dp: &Group) -> Result<(), CommError> {
        sum_in_buckets(&self.0, dp)?;
        for (sum, parameter) in self.0.iter().zip(parameters) {
            gradient(parameter).copy_(sum);
        }
        Ok(())
    }
}

fn sum_in_buckets(gradients: &[Tensor], dp: &Group) -> Result<(), CommError> {
    if dp.size() == 1 {
        return Ok(());
    }
    let buckets: Vec<Bucket> =
        cut(gradients).into_iter().map(|part| Bucket::start(part, dp)).collect::<Result<_, _>>()?;
    buckets.into_iter().try_for_each(Bucket::finish)
}

/// The gradient of a parameter, made where autograd has left none.
fn gradient(parameter: &Parameter) -> Tensor {
    let grad = parameter.tensor.grad();
    if grad.defined() {
        return grad;
    }
    // The only way that libtorch's C interface has to set a gradient is to compute one.
    (&parameter.tensor * 0.0).sum(Kind::Float).backward();
    parameter.tensor.grad()
}

fn cut(gradients: &[Tensor]) -> Vec<Vec<Tensor>> {
    let mut buckets: Vec<Vec<Tensor>> = Vec::new();
    let mut values = usize::MAX;
    for grad in gradients {
        if values.saturating_add(grad.numel()) > BUCKET_VALUES {
            buckets.push(Vec::new());
            values = 0;
        }
        values += grad.numel();
        if let Some(bucket) = buckets.last_mut() {
            bucket.push(grad.shallow_clone());
        }
    }
    buckets
}

struct Bucket {
    gradients: Vec<Tensor>,
    flat: Tensor,
    handle: Handle,
}

impl Bucket {
    fn start(gradients: Vec<Tensor>, dp: &Group) -> Result<Bucket, CommError> {
        let views: Vec<Tensor> = gradients.iter().map(|grad| grad.reshape(-1)).collect();
        let flat = Tensor::cat(&views, 0);
        let handle = dp.all_reduce(&flat, ReduceOp::Sum)?;
        Ok(Bucket { gradients, flat, handle })
    }

    fn finish(self) -> Result<(), CommError> {
        self.handle.wait()?;
        let mut start = 0;
        for mut grad in self.gradients {
            let count = grad.numel() as i64;
            grad.copy_(&self.flat.narrow(0, start, count).view_as(&grad));
            start += count;
        }
        Ok(())
    }
}
