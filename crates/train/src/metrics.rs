//! What a step writes down.

use std::time::Duration;

use strand_comm::{Mesh, ReduceOp};
use strand_recipe::{Llama, Recipe, Stage};
use strand_telemetry::{Metrics, TokenCounts, peak_memory};
use strand_torch::peak_device_memory;
use tch::Tensor;

use crate::error::TrainError;
use crate::step::StepLosses;

/// What a step knows about itself.
pub struct StepRecord<'a> {
    /// Steps done in the run.
    pub step: u64,
    /// The stage's name.
    pub stage: &'a str,
    /// Its losses.
    pub losses: StepLosses,
    /// Gradient norm before clipping.
    pub norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// The whole step.
    pub elapsed: Duration,
    /// Of it, waiting for data.
    pub data_wait: Duration,
    /// Whether its update was left out.
    pub left_out: bool,
}

/// What the speed of a stage's steps is told by.
pub struct Speed<'a> {
    /// The sizes that FLOPs are counted of.
    pub llama: &'a Llama,
    /// Share of its weights that are trained.
    pub trained_share: f64,
    /// FLOPs a second that all ranks' devices reach together, where that is known.
    pub peak_flops: Option<f64>,
}

impl<'a> Speed<'a> {
    /// Of a stage whose `ranks` devices reach `peak_flops` each.
    pub fn new(recipe: &'a Recipe, stage: &Stage, ranks: usize, peak_flops: Option<f64>) -> Self {
        Speed {
            llama: &recipe.model.llama,
            trained_share: recipe.trained_share(stage),
            peak_flops: peak_flops.map(|peak| peak * ranks as f64),
        }
    }
}

impl StepRecord<'_> {
    /// The line of metrics.jsonl.
    pub fn metrics(&self, speed: &Speed<'_>, memory_bytes: Option<u64>) -> Metrics {
        let StepRecord { losses, elapsed, .. } = self;
        let counts = losses.counts;
        let seconds = elapsed.as_secs_f64();
        let flops = speed.llama.step_flops(&counts.work(), speed.trained_share) / seconds;
        Metrics {
            step: self.step,
            stage: self.stage.into(),
            lm_loss: losses.lm,
            mvm_loss: losses.mvm,
            loss: losses.total,
            grad_norm: self.norm,
            lr: self.lr,
            mask_rate: counts.mask_rate(),
            samples: counts.samples as u64,
            tokens: TokenCounts {
                visual_kept: counts.visual_kept as u64,
                visual_all: counts.visual_all as u64,
                text: counts.text as u64,
            },
            step_s: seconds,
            data_wait_s: self.data_wait.as_secs_f64(),
            samples_per_s: counts.samples as f64 / seconds,
            tflops: Some(flops / 1e12),
            mfu: speed.peak_flops.map(|peak| flops / peak),
            memory_bytes,
            skipped: None,
            left_out: self.left_out,
            sample_ids: None,
        }
    }
}

/// What all ranks agree on after a step.
pub struct Consensus {
    /// A rank was asked to stop.
    pub stop: bool,
    /// Peak memory of the rank that used most, in bytes: of its GPU, else of its process; none where no system says.
    pub memory_bytes: Option<u64>,
}

/// Takes the greatest over the ranks. One collective, so that all stop after the same step.
///
/// # Errors
/// The collective failed.
pub fn agree(mesh: &Mesh, stop: bool) -> Result<Consensus, TrainError> {
    let peak = match peak_device_memory(mesh.device)? {
        Some(bytes) => Some(bytes),
        None => peak_memory(),
    };
    let values = Tensor::from_slice(&[i64::from(stop), peak.map_or(-1, |bytes| bytes as i64)]);
    mesh.world.all_reduce(&values, ReduceOp::Max)?.wait()?;
    let [stop, memory] = [0, 1].map(|i| values.int64_value(&[i]));
    Ok(Consensus { stop: stop > 0, memory_bytes: u64::try_from(memory).ok() })
}

/// The ids of the step's samples, in global order.
///
/// # Errors
/// The collective failed.
pub fn global_ids(mesh: &Mesh, mine: &[String]) -> Result<Vec<String>, TrainError> {
    let parts = mesh.dp.all_gather_bytes(&serde_json::to_vec(mine)?)?;
    let lists = parts.iter().map(|part| serde_json::from_slice::<Vec<String>>(part));
    Ok(lists.collect::<Result<Vec<_>, _>>()?.concat())
}
