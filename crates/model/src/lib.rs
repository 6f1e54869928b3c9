//! ST-LLM's model: LLaMA under tensor parallelism, the video input, masking and masked video modelling.
//!
//! [`VideoLm`] holds one tensor-parallel rank's slices. [`VideoLm::losses`] takes a micro-batch of ragged samples and
//! returns sums of losses with their counts; who trains divides them once, by the counts of the whole step.

mod attention;
mod batch;
mod config;
mod cross_entropy;
mod dropout;
mod error;
mod flat;
mod frames;
mod init;
mod llama;
mod lm_loss;
mod mlp;
mod mvm;
mod norm;
mod parallel;
mod parameter;
mod precision;
mod projection;
mod residency;
mod rope;
mod sequence;
mod sink;
mod slices;
mod video_lm;

pub use batch::Sample;
pub use config::{Config, Lora, RopeScaling, VideoInput};
pub use error::ModelError;
pub use flat::{Flat, Member, TensorBox, boxes};
pub use frames::local_frame_indices;
pub use llama::Recompute;
pub use parameter::{Parameter, Parameters, Partition, Slice};
pub use precision::wide;
pub use residency::{Direction, Residency};
pub use sink::{Existing, GradientSink, Sink, Write};
pub use slices::{Slices, tree_sum};
pub use video_lm::{Losses, Pass, VideoLm};
