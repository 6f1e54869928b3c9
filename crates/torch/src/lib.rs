//! What `tch` leaves out of libtorch: custom autograd, kernels for CPUs, c10d's process groups, tensors in
//! memory of Rust.
//!
//! The only C++ of the project is here.

mod autograd;
mod blob;
mod c10d;
mod cuda;
mod device;
mod kernels;
mod optim;
mod tensor;

pub use autograd::{
    backward, checkpoint, on_gradient, remove_gradient_hook, set_grad, with_backward,
    with_backward_of,
};
pub use blob::from_bytes;
pub use c10d::{ProcessGroup, ReduceOp, Store, Work};
pub use cuda::load_cuda;
pub use device::{PageLocked, peak_device_memory, synchronize, trim_heap, upload};
pub use kernels::{has_kernels, rms_norm, rms_norm_backward, rotate};
pub use optim::{AdamWStep, fused_adamw, resize_storage};

/// What libtorch or a backward pass reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An exception of libtorch.
    #[error("libtorch: {0}")]
    Libtorch(#[from] cxx::Exception),
    /// An error of libtorch that tch reports.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
    /// libtorch's CUDA side is not there, or does not fit.
    #[error("{library} could not be loaded: {reason}")]
    NoCuda {
        /// Its file.
        library: &'static str,
        /// The loader's words.
        reason: String,
    },
    /// Bytes that are no tensor of this shape.
    #[error("{bytes} bytes are no aligned tensor of shape {shape:?} and type {kind:?}")]
    Memory {
        /// How many they are.
        bytes: usize,
        /// The shape that was asked for.
        shape: Vec<i64>,
        /// The type of its elements.
        kind: tch::Kind,
    },
    /// A backward pass failed in Rust. It goes through C++ as a text: with all causes.
    #[error("backward pass: {}", with_causes(.0.as_ref()))]
    Backward(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A backward pass panicked.
    #[error("backward pass panicked: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
