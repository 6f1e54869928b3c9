//! Steps whose loss or gradient is of no use: found on all ranks together before their update, left out within a budget,
//! then a reason to go back to the last checkpoint, then one to stop.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use serde::de::DeserializeOwned;
use strand_comm::{Mesh, ReduceOp};
use strand_recipe::BadSteps;
use strand_telemetry::bad_steps::{self, Action};
use strand_telemetry::{BadStep, TelemetryError, metrics};
use tch::Tensor;

use crate::error::TrainError;

/// Good steps that a spike is held against.
const WINDOW: usize = 64;
/// With fewer of them nothing is called a spike: the first steps of a stage fall steeply.
const FEWEST: usize = 16;

/// What a run knows of its good and bad steps. The same on every rank.
pub(crate) struct Guard {
    rule: BadSteps,
    /// Steps that are left out when they come again.
    known: BTreeSet<u64>,
    /// Steps left out since the run began or last went back.
    left_out: u64,
    rolled_back: u64,
    /// Losses and norms of the stage's last good steps.
    window: VecDeque<[f64; 2]>,
}

/// What is done about a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It is made.
    Update,
    /// It was bad before, and is left out again.
    Again,
    /// It is bad.
    Bad {
        /// What is done.
        action: Action,
        /// What is wrong.
        reason: String,
    },
}

impl Guard {
    /// Goes on from what rank 0 finds in bad-steps.jsonl.
    ///
    /// # Errors
    /// The file is damaged, or a collective failed.
    pub fn open(rule: BadSteps, path: &Path, mesh: &Mesh) -> Result<Guard, TrainError> {
        let found = from_first(mesh, || bad_steps::read(path))?;
        let mut guard = Guard::new(rule);
        found.iter().for_each(|bad| guard.count(bad.step, bad.action));
        Ok(guard)
    }

    fn new(rule: BadSteps) -> Guard {
        let (known, window) = (BTreeSet::new(), VecDeque::new());
        Guard { rule, known, left_out: 0, rolled_back: 0, window }
    }

    /// Begins a stage, or goes on in it, with the good steps that rank 0 finds in metrics.jsonl.
    ///
    /// # Errors
    /// The file is damaged, or a collective failed.
    pub fn begin(&mut self, stage: &str, path: &Path, mesh: &Mesh) -> Result<(), TrainError> {
        self.window.clear();
        if self.rule.spike_factor.is_some() {
            self.window = from_first(mesh, || good_steps(stage, path))?;
        }
        Ok(())
    }

    /// Judges a step by its loss and norm. All ranks come to the same verdict.
    ///
    /// # Errors
    /// A collective failed.
    pub fn judge(
        &mut self,
        mesh: &Mesh,
        step: u64,
        loss: f64,
        norm: f64,
    ) -> Result<Verdict, TrainError> {
        let found = self.fault(loss, norm);
        let any = Tensor::from_slice(&[i64::from(found.is_some())]);
        mesh.world.all_reduce(&any, ReduceOp::Max)?.wait()?;
        let any = any.int64_value(&[0]) > 0;
        let found = found.or_else(|| any.then(|| "another rank found it bad".to_owned()));
        Ok(self.decide(step, [loss, norm], found))
    }

    fn decide(&mut self, step: u64, values: [f64; 2], fault: Option<String>) -> Verdict {
        if self.known.contains(&step) {
            return Verdict::Again;
        }
        let Some(reason) = fault else {
            self.window.push_back(values);
            self.window.drain(..self.window.len().saturating_sub(WINDOW));
            return Verdict::Update;
        };
        let action = if self.left_out < self.rule.budget {
            Action::LeftOut
        } else if self.rolled_back < self.rule.roll_backs {
            Action::RolledBack
        } else {
            Action::Stopped
        };
        self.count(step, action);
        Verdict::Bad { action, reason }
    }

    fn count(&mut self, step: u64, action: Action) {
        match action {
            Action::LeftOut => self.left_out += 1,
            Action::RolledBack => (self.left_out, self.rolled_back) = (0, self.rolled_back + 1),
            // The budgets may be greater when it comes again.
            Action::Stopped => return,
        }
        self.known.insert(step);
    }

    fn fault(&self, loss: f64, norm: f64) -> Option<String> {
        if !loss.is_finite() || !norm.is_finite() {
            return Some(format!("loss {loss}, gradient norm {norm}"));
        }
        let factor = self.rule.spike_factor.filter(|_| self.window.len() >= FEWEST)?;
        [("loss", loss), ("gradient norm", norm)].into_iter().enumerate().find_map(|(i, named)| {
            let (name, value) = named;
            let median = median(self.window.iter().map(|values| values[i]).collect());
            (value > factor * median).then(|| {
                format!("{name} {value:.4}, of which {median:.4} is the median of the steps before")
            })
        })
    }
}

/// What rank 0 reads, on all ranks.
fn from_first<T: serde::Serialize + DeserializeOwned>(
    mesh: &Mesh,
    read: impl FnOnce() -> Result<T, TelemetryError>,
) -> Result<T, TrainError> {
    let mine = match mesh.world.rank() {
        0 => serde_json::to_vec(&read()?)?,
        _ => Vec::new(),
    };
    Ok(serde_json::from_slice(&mesh.world.all_gather_bytes(&mine)?[0])?)
}

/// Losses and norms of the last good steps of a stage.
fn good_steps(stage: &str, path: &Path) -> Result<VecDeque<[f64; 2]>, TelemetryError> {
    let steps = metrics::read(path)?;
    let good = steps.iter().filter(|step| step.stage == stage && !step.left_out);
    let mut values: VecDeque<_> = good.map(|step| [step.loss, step.grad_norm]).collect();
    values.drain(..values.len().saturating_sub(WINDOW));
    Ok(values)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A step as bad-steps.jsonl has it.
pub(crate) fn bad_step(
    (attempt, step, stage): (u64, u64, &str),
    (loss, grad_norm): (f64, f64),
    (action, reason): (Action, &str),
    sample_ids: Vec<String>,
) -> BadStep {
    let (stage, reason) = (stage.to_owned(), reason.to_owned());
    BadStep { attempt, step, stage, loss, grad_norm, reason, action, sample_ids }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(rule: BadSteps, losses: &[f64]) -> Vec<Option<Action>> {
        let mut guard = Guard::new(rule);
        let mut judge = |(step, &loss): (usize, &f64)| match guard
            .judge(&Mesh::single(), step as u64, loss, 1.0)
            .expect("one rank")
        {
            Verdict::Update => None,
            Verdict::Again => Some(Action::LeftOut),
            Verdict::Bad { action, .. } => Some(action),
        };
        losses.iter().enumerate().map(&mut judge).collect()
    }

    #[test]
    fn steps_are_left_out_then_the_run_goes_back_then_it_stops() {
        let rule = BadSteps { budget: 1, roll_backs: 1, spike_factor: None };
        let nan = f64::NAN;
        assert_eq!(
            actions(rule, &[1.0, nan, f64::INFINITY, 2.0, nan, nan]),
            [
                None,
                Some(Action::LeftOut),
                Some(Action::RolledBack),
                None,
                Some(Action::LeftOut),
                Some(Action::Stopped)
            ]
        );
        assert_eq!(actions(BadSteps::default(), &[nan]), [Some(Action::Stopped)]);
    }

    #[test]
    fn what_was_bad_is_left_out_when_it_comes_again() {
        let mut guard = Guard::new(BadSteps { budget: 1, ..BadSteps::default() });
        let mesh = Mesh::single();
        let first = guard.judge(&mesh, 7, f64::NAN, 1.0).expect("one rank");
        assert!(matches!(first, Verdict::Bad { action: Action::LeftOut, .. }), "{first:?}");
        assert_eq!(guard.judge(&mesh, 7, 1.0, 1.0).expect("one rank"), Verdict::Again);
    }

    #[test]
    fn a_spike_needs_steps_to_stand_out_of() {
        let rule = BadSteps { budget: 9, roll_backs: 0, spike_factor: Some(3.0) };
        let mut losses = vec![2.0; FEWEST + 2];
        (losses[3], losses[FEWEST + 1]) = (50.0, 6.5);
        let mut expected = vec![None; FEWEST + 2];
        expected[FEWEST + 1] = Some(Action::LeftOut);
        assert_eq!(actions(rule, &losses), expected);
    }
}
