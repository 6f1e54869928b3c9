//! Damaged samples that were left out: counted over all ranks and restarts, listed by rank 0.

use std::collections::BTreeSet;

use strand_comm::{Mesh, ReduceOp};
use strand_data::{Batch, Skipped};
use strand_telemetry::{SkippedSample, skipped};
use tch::Tensor;

use crate::error::TrainError;
use crate::run::Run;

impl Run<'_> {
    /// Counts what the step left out against the run's budget. All ranks come to the same end: the step goes on with
    /// the samples that are left, or none goes on.
    ///
    /// One small collective a step, and only in runs with a budget.
    ///
    /// # Errors
    /// The budget is spent, no sample of the step is left, or ranks that share their samples read different ones.
    pub(crate) fn count_skipped(&mut self, batch: &Batch, step: u64) -> Result<(), TrainError> {
        let budget = self.settings.recipe.runtime.skip_budget;
        if budget == 0 {
            return Ok(());
        }
        let mine = Tensor::from_slice(&[batch.skipped.len() as i64]);
        self.mesh.world.all_reduce(&mine, ReduceOp::Sum)?.wait()?;
        if mine.int64_value(&[0]) == 0 {
            return Ok(());
        }
        let samples = gather(self.mesh, &batch.skipped, step)?;
        self.skipped += samples.len() as u64;
        if self.mesh.world.rank() == 0 {
            let listed: Vec<_> = samples.iter().map(|sample| listed(step, sample)).collect();
            skipped::record(&self.settings.skipped, &listed)?;
            let reasons = samples.iter().map(|sample| format!("\n  {}", sample.reason));
            let reasons: String = reasons.collect();
            tracing::warn!("step {step}: left out, {} of {budget}:{reasons}", self.skipped);
        }
        if self.skipped > budget {
            let last = samples.last().map(|sample| sample.reason.clone()).unwrap_or_default();
            return Err(TrainError::SkipBudget { step, skipped: self.skipped, budget, last });
        }
        if samples.len() == batch.global {
            return Err(TrainError::NothingLeft { step, samples: batch.global });
        }
        Ok(())
    }
}

/// What all ranks left out, in global order. Ranks of one tensor-parallel group have the same samples.
fn gather(mesh: &Mesh, mine: &[Skipped], step: u64) -> Result<Vec<Skipped>, TrainError> {
    let parts = mesh.world.all_gather_bytes(&serde_json::to_vec(mine)?)?;
    let mut all = Vec::new();
    for group in parts.chunks(mesh.tp.size()) {
        if group.iter().collect::<BTreeSet<_>>().len() != 1 {
            return Err(TrainError::OtherSamples { step });
        }
        all.extend(serde_json::from_slice::<Vec<Skipped>>(&group[0])?);
    }
    Ok(all)
}

fn listed(step: u64, sample: &Skipped) -> SkippedSample {
    let Skipped { shard, group, row, id, reason } = sample.clone();
    SkippedSample { step, shard, group, row, id, reason }
}
