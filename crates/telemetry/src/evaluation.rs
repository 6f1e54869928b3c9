//! evaluations.jsonl: one object a stage and held-out set.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{TelemetryError, jsonl};

/// How a held-out set was answered after a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done in the run.
    pub step: u64,
    /// The stage that was evaluated.
    pub stage: String,
    /// The data set.
    pub set: String,
    /// Right answers ÷ questions.
    pub accuracy: f64,
    /// Questions.
    pub total: u64,
    /// Scores by kind of question.
    pub by_kind: BTreeMap<String, Score>,
}

/// Right answers among questions of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Right answers.
    pub correct: u64,
    /// Questions.
    pub total: u64,
    /// What guessing gets: the mean of 1 ÷ options; `None` where questions have no options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
}

impl Score {
    /// Right answers ÷ questions; 0 without questions.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.total.max(1) as f64
    }
}

impl Evaluation {
    /// Sums up the scores by kind.
    pub fn new(step: u64, stage: &str, set: &str, by_kind: BTreeMap<String, Score>) -> Evaluation {
        let correct = by_kind.values().map(|score| score.correct).sum();
        let total = by_kind.values().map(|score| score.total).sum();
        let all = Score { correct, total, chance: None };
        Evaluation {
            step,
            stage: stage.into(),
            set: set.into(),
            accuracy: all.accuracy(),
            total,
            by_kind,
        }
    }
}

/// Records an evaluation in place of an earlier one of the same stage and set.
///
/// # Errors
/// The file cannot be read or written, or a complete line is not a record.
pub fn record(path: &Path, evaluation: &Evaluation) -> Result<(), TelemetryError> {
    let mut content: String = jsonl::read::<Evaluation>(path)?
        .into_iter()
        .filter(|line| {
            (&line.record.stage, &line.record.set) != (&evaluation.stage, &evaluation.set)
        })
        .map(|line| line.text)
        .collect();
    content.push_str(&jsonl::encode(path, evaluation)?);
    jsonl::replace(path, &content)
}

/// Drops the evaluations after `step`, which the run goes on from.
///
/// # Errors
/// The file cannot be read or written, or a complete line is not a record.
pub fn keep_through(path: &Path, step: u64) -> Result<(), TelemetryError> {
    let lines = jsonl::read::<Evaluation>(path)?;
    if lines.iter().all(|line| line.record.step <= step) {
        return Ok(());
    }
    let kept = lines.into_iter().filter(|line| line.record.step <= step);
    jsonl::replace(path, &kept.map(|line| line.text).collect::<String>())
}

/// Reads all evaluations in the order they were recorded; none where there is no file.
///
/// # Errors
/// The file cannot be read, or a complete line is not a record.
pub fn read(path: &Path) -> Result<Vec<Evaluation>, TelemetryError> {
    let lines = jsonl::read(path)?;
    Ok(lines.into_iter().map(|line| line.record).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(stage: &str, kinds: &[(&str, u64)]) -> Evaluation {
        let score = |&(kind, correct): &(&str, u64)| {
            let chance = Some(0.25);
            let total = 200;
            (kind.to_owned(), Score { correct, total, chance })
        };
        Evaluation::new(100, stage, "held_out", kinds.iter().map(score).collect())
    }

    #[test]
    fn a_stage_and_set_stands_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evaluations.jsonl");
        record(&path, &example("mean", &[("colour", 60)])).unwrap();
        record(&path, &example("all", &[("colour", 150)])).unwrap();
        let better = example("mean", &[("colour", 100), ("direction", 50)]);
        record(&path, &better).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read[0].stage, "all");
        assert_eq!(read[1], better);
        assert_eq!(read[1].accuracy, 150.0 / 400.0);
        assert_eq!(read.len(), 2);
    }
}
