//! Tells the launcher about progress: one JSON event a line on stdout, from rank 0.

use strand_control::{Event, Reporter, StopFlag};
use strand_store::Location;
use strand_telemetry::{Evaluation, Metrics};
use strand_train::{Observer, StagePlan, TrainError};

/// The observer of a rank.
pub struct RankObserver {
    /// Whether this rank speaks for all.
    pub speaks: bool,
    /// Notes the step for an error to name.
    pub reporter: Reporter,
    /// Set by SIGTERM.
    pub stop: StopFlag,
}

impl RankObserver {
    fn emit(&self, event: impl FnOnce() -> Event) -> Result<(), TrainError> {
        if self.speaks { event().emit().map_err(TrainError::Progress) } else { Ok(()) }
    }
}

impl Observer for RankObserver {
    fn stage(
        &mut self,
        plan: &StagePlan,
        stages: usize,
        starts_from: &str,
    ) -> Result<(), TrainError> {
        let stage = plan.stage.name.clone();
        tracing::info!("stage {stage}: {} steps, starts from {starts_from}", plan.steps);
        self.reporter.set_step(plan.first_step + 1);
        self.emit(|| Event::Stage {
            stage,
            index: plan.index,
            count: stages,
            starts_from: starts_from.into(),
            steps: plan.steps,
        })
    }

    fn step(&mut self, metrics: &Metrics, total: u64) -> Result<(), TrainError> {
        self.reporter.set_step(metrics.step + 1);
        let Metrics { step, stage, loss, lm_loss, grad_norm, lr, samples_per_s, .. } = metrics;
        let mvm = metrics.mvm_loss.map(|mvm| format!(" mvm {mvm:.4}")).unwrap_or_default();
        tracing::info!(
            "step {step}/{total} {stage}: loss {loss:.4} lm {lm_loss:.4}{mvm} norm {grad_norm:.3} lr {lr:.2e} {samples_per_s:.0} samples/s"
        );
        self.emit(|| Event::Step {
            step: *step,
            total,
            stage: stage.clone(),
            loss: *loss,
            samples_per_s: *samples_per_s,
        })
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<(), TrainError> {
        let Evaluation { stage, set, total, accuracy, .. } = evaluation;
        tracing::info!("stage {stage}: {:.1} % of {total} questions of {set}", accuracy * 100.0);
        self.emit(|| Event::Evaluation {
            stage: stage.clone(),
            set: set.clone(),
            correct: evaluation.by_kind.values().map(|score| score.correct).sum(),
            total: *total,
        })
    }

    fn checkpoint(&mut self, step: u64, folder: &Location) -> Result<(), TrainError> {
        tracing::info!("step {step}: checkpoint {}", folder.url());
        self.emit(|| Event::Checkpoint { step, path: folder.url() })
    }

    fn should_stop(&self) -> bool {
        self.stop.is_raised()
    }
}
