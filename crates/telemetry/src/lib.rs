//! What a run says about itself: metrics, evaluations, progress, logs, and the report made of them.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bad_steps;
mod error;
pub mod evaluation;
mod jsonl;
pub mod logging;
mod memory;
pub mod metrics;
mod progress;
pub mod report;
pub mod skipped;
mod terminal;

pub use bad_steps::BadStep;
pub use error::TelemetryError;
pub use evaluation::{Evaluation, Score};
pub use memory::peak_memory;
pub use metrics::{Metrics, MetricsWriter, TokenCounts};
pub use progress::Progress;
pub use report::Report;
pub use skipped::SkippedSample;
pub use terminal::say;
