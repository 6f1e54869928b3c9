//! What `tch` leaves out of libtorch: custom autograd, c10d's process groups, tensors in memory of Rust.
//!
//! The only C++ of the project is here.

mod autograd;
mod blob;
mod c10d;
mod tensor;

pub use autograd::with_backward;
pub use blob::from_bytes;
pub use c10d::{ProcessGroup, ReduceOp, Store, Work};

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
    /// A backward pass failed in Rust.
    #[error("backward pass: {0}")]
    Backward(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A backward pass panicked.
    #[error("backward pass panicked: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
}
