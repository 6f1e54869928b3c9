//! What `tch` leaves out of libtorch: custom autograd and c10d's process groups.
//!
//! The only C++ of the project is here.

mod autograd;
mod c10d;
mod tensor;

pub use autograd::with_backward;
pub use c10d::{ProcessGroup, ReduceOp, Store, Work};

/// What libtorch or a backward pass reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An exception of libtorch.
    #[error("libtorch: {0}")]
    Libtorch(#[from] cxx::Exception),
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
