//! skipped.jsonl: one object a damaged sample that was left out, each once even across restarts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{TelemetryError, jsonl};

/// A damaged sample that a step left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedSample {
    /// The step of the run.
    pub step: u64,
    /// URL of the shard.
    pub shard: String,
    /// The row group, from 0.
    pub group: usize,
    /// The row of the row group, from 0.
    pub row: usize,
    /// Its id; null where it cannot be read.
    pub id: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// Adds samples to the list. It is written anew, so that it is whole wherever the process is killed; it is as short as
/// the skip budget.
///
/// # Errors
/// The file cannot be read or written, or a complete line is not a record.
pub fn record(path: &Path, samples: &[SkippedSample]) -> Result<(), TelemetryError> {
    let mut content: String =
        jsonl::read::<SkippedSample>(path)?.into_iter().map(|line| line.text).collect();
    for sample in samples {
        content.push_str(&jsonl::encode(path, sample)?);
    }
    jsonl::replace(path, &content)
}

/// Drops what was skipped after `step`, which the run goes on from.
///
/// # Errors
/// The file cannot be read or written, or a complete line is not a record.
pub fn keep_through(path: &Path, step: u64) -> Result<(), TelemetryError> {
    let lines = jsonl::read::<SkippedSample>(path)?;
    if lines.iter().all(|line| line.record.step <= step) {
        return Ok(());
    }
    let kept = lines.into_iter().filter(|line| line.record.step <= step);
    jsonl::replace(path, &kept.map(|line| line.text).collect::<String>())
}

/// Reads the list; empty where there is no file.
///
/// # Errors
/// The file cannot be read, or a complete line is not a record.
pub fn read(path: &Path) -> Result<Vec<SkippedSample>, TelemetryError> {
    let lines = jsonl::read(path)?;
    Ok(lines.into_iter().map(|line| line.record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_stands_once_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skipped.jsonl");
        let sample = |step| SkippedSample {
            step,
            shard: "s3://b/shard-0.parquet".into(),
            group: 1,
            row: 2,
            id: (step == 1).then(|| "clip-1".into()),
            reason: "checksum mismatch".into(),
        };
        keep_through(&path, 0).unwrap();
        record(&path, &[sample(1), sample(3)]).unwrap();
        keep_through(&path, 2).unwrap();
        record(&path, &[sample(3), sample(4)]).unwrap();
        assert_eq!(read(&path).unwrap(), [sample(1), sample(3), sample(4)]);
        keep_through(&path, 0).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }
}
