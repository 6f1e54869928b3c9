//! Checkpoints: sharded, reshardable, verified, committed last.
//!
//! A checkpoint is a folder `step-NNNNNNNN` below a run's `checkpoints` folder. Each rank writes the pieces of tensors
//! that it owns into safetensors files ([`write_part`]); then one rank writes `manifest.json` ([`commit`]), which is
//! the commit: a folder without it is not a checkpoint. The manifest names every tensor globally, so that any layout
//! can read any slice ([`Reader::read_slice`]).
//!
//! Everything is checked: bodies carry a checksum for every [`BLOCK_BYTES`], readers fetch whole blocks and check
//! each one, and the manifest carries its own. This crate moves bytes and knows no tensor library.

mod commit;
mod cover;
mod error;
mod layout;
mod manifest;
mod part;
mod read;
mod retention;
mod sums;
mod types;
mod verify;
pub mod weights;

pub use commit::{commit, latest, list, step_folder};
pub use error::CheckpointError;
pub use manifest::{File, Format, MANIFEST, Manifest, Tensor, TensorPart};
pub use part::{Part, PartTensor, PartWriter, write_part};
pub use read::Reader;
pub use retention::{discard, prune};
pub use sums::{BLOCK_BYTES, Sum};
pub use types::{Dtype, Kind, Piece, State};
pub use verify::{Fault, Report, verify};
