//! Process groups and the device mesh.
//!
//! A [`Group`] is a set of ranks that issue the same collectives in the same order. What carries them is a
//! [`Backend`]: Gloo between processes, MPI between those that `mpirun` or `srun` started (feature `mpi`), or [`local`]
//! threads of one process for tests. [`with_nccl`] adds NCCL for tensors of GPUs to any of them. All backends pass one
//! conformance suite.

mod arguments;
mod backend;
mod dispatch;
mod error;
mod gloo;
mod group;
mod history;
pub mod local;
mod mesh;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;

#[cfg(feature = "mpi")]
pub use self::mpi::MpiWorld;
pub use backend::{Backend, BackendError, Pending};
pub use error::CommError;
pub use gloo::{Endpoint, join_gloo};
pub use group::{Group, Handle};
pub use history::{Call, History, Op};
pub use mesh::Mesh;
#[doc(hidden)]
pub use nccl::nccl_alone;
pub use nccl::{gpu_name, num_gpus, with_nccl};
pub use strand_torch::ReduceOp;
