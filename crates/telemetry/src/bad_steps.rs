//! bad-steps.jsonl: one object for each step whose update was not made. Nothing is dropped from it, so a run that goes
//! on knows what it has found out before.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metrics::number_or_nan;
use crate::{TelemetryError, jsonl};

/// A step whose loss or gradient was of no use. What is not finite stands as `null` and reads back as NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BadStep {
    /// The attempt that found it.
    pub attempt: u64,
    /// The step of the run.
    pub step: u64,
    /// The stage.
    pub stage: String,
    /// Loss over all ranks.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    #[serde(deserialize_with = "number_or_nan")]
    pub grad_norm: f64,
    /// What is wrong with them.
    pub reason: String,
    /// What was done.
    pub action: Action,
    /// Ids of the step's samples in global order.
    pub sample_ids: Vec<String>,
}

/// What a run does about a bad step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes on without the step's update.
    LeftOut,
    /// It goes back to the last checkpoint, and will leave the step out when it comes again.
    RolledBack,
    /// It stops.
    Stopped,
}

/// Adds a step. The file is written anew, so that it is whole wherever the process is killed; it is as short as the
/// budgets.
///
/// # Errors
/// The file cannot be read or written, or a complete line is not a record.
pub fn record(path: &Path, step: &BadStep) -> Result<(), TelemetryError> {
    let mut content: String =
        jsonl::read::<BadStep>(path)?.into_iter().map(|line| line.text).collect();
    content.push_str(&jsonl::encode(path, step)?);
    jsonl::replace(path, &content)
}

/// Reads the list; empty where there is no file.
///
/// # Errors
/// The file cannot be read, or a complete line is not a record.
pub fn read(path: &Path) -> Result<Vec<BadStep>, TelemetryError> {
    let lines = jsonl::read(path)?;
    Ok(lines.into_iter().map(|line| line.record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad-steps.jsonl");
        let step = |step, action| BadStep {
            attempt: 1,
            step,
            stage: "all".into(),
            loss: 2.0,
            grad_norm: f64::INFINITY,
            reason: "gradient norm inf".into(),
            action,
            sample_ids: vec!["clip-1".into()],
        };
        assert_eq!(read(&path).unwrap(), []);
        record(&path, &step(3, Action::LeftOut)).unwrap();
        record(&path, &step(5, Action::RolledBack)).unwrap();
        let found = read(&path).unwrap();
        assert_eq!(found.iter().map(|bad| bad.step).collect::<Vec<_>>(), [3, 5]);
        assert!(found[1].grad_norm.is_nan() && found[1].action == Action::RolledBack);
    }
}
