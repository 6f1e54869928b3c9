//! A step, a stage, a run.
//!
//! [`run()`] takes a recipe through its stages. The pieces that a test or a tool may want alone are public as well.

mod batch_memory;
mod bench;
mod cache;
mod checkpoints;
mod config;
mod error;
mod evaluate;
mod exact;
mod feed;
mod guard;
mod hugging_face;
mod masking;
mod metrics;
mod optimizer;
mod plan;
mod run;
mod sharded;
mod skips;
mod stage;
mod state;
mod step;

pub use bench::{BenchOptions, BenchReport, bench};
pub use config::model_config;
pub use error::TrainError;
pub use evaluate::{Examiner, Scores};
pub use feed::{Feed, model_sample};
pub use masking::Masks;
pub use optimizer::AdamWConfig;
pub use plan::{StagePlan, open_set, plan};
pub use run::{Observer, Outcome, Settings, run};
pub use sharded::{Held, Sharded, Sharding, Zero};
pub use state::{load_parameters, pieces};
pub use step::{Counts, Objective, StepLosses, freeze, gradients, trained};
