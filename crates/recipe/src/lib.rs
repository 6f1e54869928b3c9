//! What a run is: typed YAML, overrides, stages, JSON schema.
//!
//! [`Recipe::load`] reads a file and applies overrides, [`Recipe::check`] finds everything in it that cannot work,
//! [`Recipe::hash`] names what determines the result, [`diff`] tells two recipes apart, [`Recipe::parameters`] lists what
//! there is to train.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod absolute;
mod adapter;
mod byte_size;
mod check;
mod check_model;
mod check_stage;
mod defaults;
mod diff;
mod error;
mod flops;
mod gpu;
mod hash;
mod hugging_face;
mod llama;
mod load;
mod lora;
mod memory;
mod overrides;
mod problem;
mod process_types;
mod schedule;
mod schema;
mod shapes;
mod source_error;
mod suggest;
mod trained;
mod types;
mod world;

pub use adapter::{AdapterConfig, adapter_json};
pub use byte_size::{BadSize, ByteSize};
pub use diff::{Change, diff};
pub use error::RecipeError;
pub use flops::Work;
pub use gpu::{GPUS, Gpu, Peak};
pub use hugging_face::{LlamaConfig, config_json};
pub use llama::{Llama, Llama3Scaling, RopeScaling};
pub use lora::Lora;
pub use memory::{ActivationCheckpointing, Memory};
pub use problem::{Problem, Severity};
pub use process_types::*;
pub use schedule::{learning_rate, warmup_steps};
pub use schema::schema;
pub use shapes::ParameterShape;
pub use suggest::closest;
pub use types::*;
