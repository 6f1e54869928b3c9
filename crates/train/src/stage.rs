//! The training loop of a stage.

use std::time::{Duration, Instant};

use strand_data::{Batch, Cursor, Loader, LoaderOptions};
use strand_recipe::{Length, learning_rate};
use strand_telemetry::bad_steps::{self, Action};

use crate::cache::open_cache;
use crate::config::{frame_rule, objective, order_rules, video_input};
use crate::error::TrainError;
use crate::feed::Feed;
use crate::guard::{Verdict, bad_step};
use crate::masking::Masks;
use crate::metrics::{Speed, StepRecord, agree, global_ids};
use crate::plan::StagePlan;
use crate::run::{Observer, Outcome, Position, Run, Settings};
use crate::sharded::Sharded;
use crate::step::gradients;

/// Why a stage's loop ended.
enum Ended {
    /// The stage is done, or the run is to stop.
    With(Outcome),
    /// A step calls for the last checkpoint.
    RolledBack,
}

impl Run<'_> {
    /// Trains a stage to its end, or to a request to stop.
    pub(crate) fn train(
        &mut self,
        plan: &StagePlan,
        plans: &[StagePlan],
        position: &Position,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let mut ended = self.train_from(plan, plans, position, observer)?;
        loop {
            match ended {
                Ended::With(outcome) => return Ok(outcome),
                Ended::RolledBack => {
                    let position = self.roll_back(plan, plans)?;
                    ended = self.train_from(plan, plans, &position, observer)?;
                }
            }
        }
    }

    fn train_from(
        &mut self,
        plan: &StagePlan,
        plans: &[StagePlan],
        position: &Position,
        observer: &mut dyn Observer,
    ) -> Result<Ended, TrainError> {
        let (mut sharded, starts_from) = self.start(plan, position)?;
        observer.stage(plan, plans.len(), &starts_from)?;
        self.guard.begin(&plan.stage.name, &self.settings.metrics, self.mesh)?;
        let mut loader = self.loader(plan, position)?;
        let total = plans.last().map_or(0, |last| last.first_step + last.steps);
        let Settings { recipe, peak_flops, .. } = self.settings;
        let speed = Speed::new(recipe, &plan.stage, self.mesh.world.size(), *peak_flops);
        let every = recipe.checkpoint.every_steps;
        let mut saved = sharded.updates();
        loop {
            let started = Instant::now();
            let Some(batch) = loader.next()? else { break };
            let data_wait = started.elapsed();
            self.count_skipped(&batch, plan.first_step + sharded.updates() + 1)?;
            let step = self.step(plan, &mut sharded, &batch, started, data_wait)?;
            let Some((record, ids)) = step else {
                sharded.dissolve(&mut self.model)?;
                return Ok(Ended::RolledBack);
            };
            let stop = self.write_down(&record, (&speed, total), ids, observer)?;
            let done = sharded.updates();
            // No checkpoint after a bad step: a run that goes back wants one from before.
            let is_due = done / every > saved / every && !record.left_out;
            if stop || done == plan.steps || is_due {
                saved = done;
                let cursor = Cursor { skipped: self.skipped, ..loader.cursor() };
                self.save(plan, &sharded, &cursor, observer)?;
            }
            if stop {
                return Ok(Ended::With(Outcome::Stopped));
            }
        }
        sharded.dissolve(&mut self.model)?;
        Ok(Ended::With(Outcome::Finished))
    }

    /// One optimizer step: its line, and this rank's samples. None where the run is to go back.
    fn step<'p>(
        &mut self,
        plan: &'p StagePlan,
        sharded: &mut Sharded,
        batch: &Batch,
        started: Instant,
        data_wait: Duration,
    ) -> Result<Option<(StepRecord<'p>, Vec<String>)>, TrainError> {
        let stage = &plan.stage;
        let done = sharded.updates();
        let step = plan.first_step + done + 1;
        let ids: Vec<String> = batch.samples.iter().map(|sample| sample.id.clone()).collect();
        let named = |source: TrainError| TrainError::Batch {
            step,
            ids: ids.clone(),
            source: Box::new(source),
        };
        let micro_batches = self.feed(plan).micro_batches(&batch.samples, step).map_err(named)?;
        let pass = self.pass(plan, true);
        let objective = objective(&self.settings.recipe, stage);
        let losses = gradients(&self.model, sharded, self.mesh, &micro_batches, pass, objective)
            .map_err(named)?;
        let norm = sharded.norm(&self.model)?;
        let lr = learning_rate(&stage.optimizer, &stage.schedule, done, plan.steps);
        let verdict = self.guard.judge(self.mesh, step, losses.total, norm)?;
        let left_out = verdict != Verdict::Update;
        if let Verdict::Bad { action, reason } = verdict {
            self.record_bad(plan, step, (losses.total, norm), (action, &reason), &ids)?;
            match action {
                Action::LeftOut => {}
                Action::RolledBack => return Ok(None),
                Action::Stopped => return Err(TrainError::BadStep { step, reason, ids }),
            }
        }
        match left_out {
            true => sharded.leave_out()?,
            false => sharded.update(lr, norm, stage.optimizer.clip_grad_norm)?,
        }
        let (elapsed, stage) = (started.elapsed(), &stage.name);
        let record = StepRecord { step, stage, losses, norm, lr, elapsed, data_wait, left_out };
        Ok(Some((record, ids)))
    }

    /// Lists a bad step with its samples.
    fn record_bad(
        &self,
        plan: &StagePlan,
        step: u64,
        values: (f64, f64),
        (action, reason): (Action, &str),
        ids: &[String],
    ) -> Result<(), TrainError> {
        let ids = global_ids(self.mesh, ids)?;
        if self.mesh.world.rank() == 0 {
            let words = match action {
                Action::LeftOut => "left out",
                Action::RolledBack => "going back to the last checkpoint",
                Action::Stopped => "stopping",
            };
            tracing::warn!("step {step}: {reason}: {words}");
            let place = (self.settings.attempt, step, &*plan.stage.name);
            let bad = bad_step(place, values, (action, reason), ids);
            bad_steps::record(&self.settings.bad_steps, &bad)?;
        }
        Ok(())
    }

    /// Goes back to the stage's last checkpoint, or to its beginning.
    fn roll_back(&mut self, plan: &StagePlan, plans: &[StagePlan]) -> Result<Position, TrainError> {
        let last = self.position(plans)?;
        let skipped = last.skipped();
        let position = match last.stage == plan.index {
            true => last,
            false => Position::start_of(plan.index),
        };
        // Of what earlier stages left out, the last checkpoint knows.
        self.skipped = skipped;
        self.open_metrics(position.step(plans))?;
        Ok(position)
    }

    /// Writes the step's line and reports it. Returns whether any rank was asked to stop.
    fn write_down(
        &mut self,
        record: &StepRecord<'_>,
        (speed, total): (&Speed<'_>, u64),
        ids: Vec<String>,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let consensus = agree(self.mesh, observer.should_stop())?;
        let mut metrics = record.metrics(speed, consensus.memory_bytes);
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
        Ok(Loader::open_in(&self.pool, handle, plan.sets.clone(), options, cursor)?)
    }
}
