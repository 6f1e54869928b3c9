//! A step, a stage, a run.
//!
//! [`run()`] takes a recipe through its stages. The pieces that a test or a tool may want alone are public as well.

mod cache;
mod checkpoints;
mod config;
mod error;
mod evaluate;
mod feed;
mod flops;
mod masking;
mod metrics;
mod optimizer;
mod plan;
mod reduce;
mod run;
mod skips;
mod stage;
mod state;
mod step;

pub use config::model_config;
pub use error::TrainError;
pub use evaluate::{Examiner, Scores};
pub use feed::{Feed, model_sample};
pub use masking::Masks;
pub use optimizer::{AdamW, AdamWConfig, Moments};
pub use plan::{StagePlan, open_set, plan};
pub use run::{Observer, Outcome, Settings, run};
pub use state::{load_parameters, pieces};
pub use step::{Counts, Objective, StepLosses, freeze, gradient_norm, gradients, trained, update};
