//! The training loop of a stage.

use std::time::{Duration, Instant};

use strand_data::{Batch, Cursor, Loader, LoaderOptions};
use strand_recipe::{Length, Normalization, learning_rate};

use crate::cache::open_cache;
use crate::config::{frame_rule, order_rules, video_input};
use crate::error::TrainError;
use crate::feed::Feed;
use crate::masking::Masks;
use crate::metrics::{StepRecord, agree, global_ids};
use crate::optimizer::AdamW;
use crate::plan::StagePlan;
use crate::run::{Observer, Outcome, Position, Run};
use crate::step::{Objective, gradient_norm, gradients, update};

impl Run<'_> {
    /// Trains a stage to its end, or to a request to stop.
    pub(crate) fn train(
        &mut self,
        plan: &StagePlan,
        plans: &[StagePlan],
        position: &Position,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let (mut optimizer, starts_from) = self.start(plan, position)?;
        observer.stage(plan, plans.len(), &starts_from)?;
        let mut loader = self.loader(plan, position)?;
        let total = plans.last().map_or(0, |last| last.first_step + last.steps);
        let every = self.settings.recipe.checkpoint.every_steps;
        loop {
            let started = Instant::now();
            let Some(batch) = loader.next()? else { break };
            let data_wait = started.elapsed();
            self.count_skipped(&batch, plan.first_step + optimizer.updates() + 1)?;
            let (record, ids) = self.step(plan, &mut optimizer, &batch, started, data_wait)?;
            let stop = self.write_down(&record, ids, total, observer)?;
            let done = optimizer.updates();
            if stop || done == plan.steps || done.is_multiple_of(every) {
                let cursor = Cursor { skipped: self.skipped, ..loader.cursor() };
                self.save(plan, &optimizer, &cursor, observer)?;
            }
            if stop {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    /// One optimizer step.
    fn step<'p>(
        &self,
        plan: &'p StagePlan,
        optimizer: &mut AdamW,
        batch: &Batch,
        started: Instant,
        data_wait: Duration,
    ) -> Result<(StepRecord<'p>, Vec<String>), TrainError> {
        let stage = &plan.stage;
        let done = optimizer.updates();
        let step = plan.first_step + done + 1;
        let ids: Vec<String> = batch.samples.iter().map(|sample| sample.id.clone()).collect();
        let named = |source: TrainError| TrainError::Batch {
            step,
            ids: ids.clone(),
            source: Box::new(source),
        };
        let micro_batches = self.feed(plan).micro_batches(&batch.samples, step).map_err(named)?;
        let pass = self.pass(plan, true);
        let losses = gradients(&self.model, self.mesh, &micro_batches, pass, self.objective(plan))
            .map_err(named)?;
        let norm = gradient_norm(&self.model)?;
        if !losses.total.is_finite() || !norm.is_finite() {
            return Err(TrainError::NonFinite { step, loss: losses.total, norm, ids });
        }
        let lr = learning_rate(&stage.optimizer, &stage.schedule, done, plan.steps);
        update(&self.model, optimizer, lr, norm, stage.optimizer.clip_grad_norm);
        let elapsed = started.elapsed();
        let stage = &stage.name;
        Ok((StepRecord { step, stage, losses, norm, lr, elapsed, data_wait }, ids))
    }

    /// Writes the step's line and reports it. Returns whether any rank was asked to stop.
    fn write_down(
        &mut self,
        record: &StepRecord<'_>,
        ids: Vec<String>,
        total: u64,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let consensus = agree(self.mesh, observer.should_stop())?;
        let mut metrics = record.metrics(self.model.config(), consensus.memory_bytes);
        metrics.skipped = (self.settings.recipe.runtime.skip_budget > 0).then_some(self.skipped);
        if self.settings.recipe.trace.samples {
            metrics.sample_ids = Some(global_ids(self.mesh, &ids)?);
        }
        if let Some(writer) = &mut self.metrics {
            writer.write(&metrics)?;
        }
        observer.step(&metrics, total)?;
        Ok(consensus.stop)
    }

    fn feed(&self, plan: &StagePlan) -> Feed<'_> {
        Feed {
            prompter: &self.prompter,
            input: video_input(&plan.stage.video),
            masks: Masks::new(self.settings.recipe.seed, plan.stage.mask),
            micro: plan.batch.micro,
        }
    }

    fn objective(&self, plan: &StagePlan) -> Objective {
        let normalization = self.settings.recipe.loss.normalization;
        Objective {
            mvm_weight: plan.stage.mvm.map_or(0.0, |mvm| mvm.weight),
            per_micro_batch: normalization == Normalization::PerMicroBatch,
            exact_sums: self.settings.recipe.parallel.exact_tp.is_some(),
        }
    }

    fn loader(&self, plan: &StagePlan, position: &Position) -> Result<Loader, TrainError> {
        let recipe = &self.settings.recipe;
        let (steps, epochs) = match plan.stage.length {
            Length::Steps(steps) => (Some(steps), None),
            Length::Epochs(epochs) => (None, Some(epochs)),
        };
        let rules = order_rules(&plan.stage, plan.batch.global as u64);
        let options = LoaderOptions {
            // Each stage has an order of its own.
            seed: recipe.seed.wrapping_add(plan.index as u64),
            dp_rank: self.mesh.dp.rank(),
            dp_size: self.mesh.dp.size(),
            global_batch: plan.batch.global,
            frames: plan.stage.video.frames,
            sampling: frame_rule(plan.stage.video.sampling),
            prefetch_bytes: (recipe.runtime.prefetch_mib as u64) << 20,
            epochs,
            drop_last: false,
            steps,
            one_set: rules.one_set.is_some(),
            by_length: rules.by_length,
            skip_damaged: recipe.runtime.skip_budget > 0,
            cache: open_cache(recipe, &plan.sets, self.settings.ranks_on_node)?,
        };
        let cursor = position.resumed.as_ref().map(|(_, cursor)| cursor.clone());
        let handle = self.settings.handle.clone();
        Ok(Loader::open(handle, plan.sets.clone(), options, cursor)?)
    }
}
