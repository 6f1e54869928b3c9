//! Where the weights of a layer are only there while it computes.

use std::sync::Arc;

use strand_torch::with_backward;
use tch::Tensor;

use crate::error::ModelError;

/// The way that a pass takes through the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first layer to the last.
    Forward,
    /// From the last layer to the first.
    Backward,
}

/// Brings the weights of layers and takes them away.
pub trait Residency: Send + Sync {
    /// Returns once the weights of a layer are there. What comes next in that direction may be brought ahead.
    ///
    /// # Errors
    /// A collective failed.
    fn acquire(&self, layer: usize, direction: Direction) -> Result<(), ModelError>;

    /// The weights of a layer are not needed for now.
    ///
    /// # Errors
    /// A collective failed.
    fn release(&self, layer: usize) -> Result<(), ModelError>;
}

/// Runs a layer with its weights there, now and in the backward pass, and at no other time.
pub(crate) fn resident(
    residency: &Arc<dyn Residency>,
    layer: usize,
    x: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    residency.acquire(layer, Direction::Forward)?;
    // Autograd comes here last, with all gradients of the layer done, ...
    let out = residency.clone();
    let x = with_backward(x, x, move |grad| {
        out.release(layer).map_err(in_backward)?;
        Ok(grad)
    })?;
    let y = forward(&x)?;
    residency.release(layer)?;
    // ... and here first.
    let back = residency.clone();
    Ok(with_backward(&y, &y, move |grad| {
        back.acquire(layer, Direction::Backward).map_err(in_backward)?;
        Ok(grad)
    })?)
}

fn in_backward(error: ModelError) -> strand_torch::Error {
    strand_torch::Error::Backward(Box::new(error))
}
