//! What a run is: typed YAML, overrides, stages, JSON schema.
//!
//! [`Recipe::load`] reads a file and applies overrides, [`Recipe::check`] finds everything in it that cannot work,
//! [`Recipe::hash`] names what determines the result, [`diff`] tells two recipes apart.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod absolute;
mod byte_size;
mod check;
mod check_model;
mod check_stage;
mod defaults;
mod diff;
mod error;
mod hash;
mod load;
mod overrides;
mod problem;
mod process_types;
mod schedule;
mod schema;
mod source_error;
mod suggest;
mod types;
mod world;

pub use byte_size::{BadSize, ByteSize};
pub use diff::{Change, diff};
pub use error::RecipeError;
pub use problem::{Problem, Severity};
pub use process_types::*;
pub use schedule::{learning_rate, warmup_steps};
pub use schema::schema;
pub use suggest::closest;
pub use types::*;
