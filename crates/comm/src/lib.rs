//! Process groups and the device mesh.
//!
//! A [`Group`] is a set of ranks that issue the same collectives in the same order. What carries them is a
//! [`Backend`]: Gloo between processes, or [`local`] threads of one process for tests. All backends pass one
//! conformance suite.

mod backend;
mod error;
mod gloo;
mod group;
mod history;
pub mod local;
mod mesh;

pub use backend::{Backend, BackendError, Pending};
pub use error::CommError;
pub use gloo::{Endpoint, join_gloo};
pub use group::{Group, Handle};
pub use history::{Call, History, Op};
pub use mesh::Mesh;
pub use strand_torch::ReduceOp;
