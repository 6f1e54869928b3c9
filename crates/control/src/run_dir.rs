//! Where everything of a run lies.

use std::fs;
use std::path::{Path, PathBuf};

use strand_store::{Location, StoreError};

use crate::FileError;
use crate::files::io_error;

/// The layout of a run directory. Making one touches nothing.
///
/// One in object storage has a working copy on this machine, in which all paths lie: see [`RunDir::pull`]. Only the
/// checkpoints are never copied.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
    pub(crate) remote: Option<Location>,
}

impl RunDir {
    /// The layout under the local folder `root`.
    pub fn new(root: impl Into<PathBuf>) -> RunDir {
        RunDir { root: root.into(), remote: None }
    }

    /// The run directory at `url`, with its working copy in the local folder `copy`.
    ///
    /// # Errors
    /// The URL names no storage.
    pub fn in_storage(url: &str, copy: impl Into<PathBuf>) -> Result<RunDir, StoreError> {
        Ok(RunDir { root: copy.into(), remote: Some(Location::open(url)?) })
    }

    /// The run directory itself, or the working copy of one in storage.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What people call it: its path or URL.
    pub fn url(&self) -> String {
        self.remote.as_ref().map_or_else(|| self.root.display().to_string(), Location::url)
    }

    /// Where it really lies.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn location(&self) -> Result<Location, StoreError> {
        match &self.remote {
            Some(remote) => Ok(remote.clone()),
            None => Location::open(&self.url()),
        }
    }

    /// Whether it lies in object storage.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> PathBuf {
        self.root.join("recipe.yaml")
    }

    /// The run's record: see [`RunRecord`](crate::RunRecord).
    pub fn record(&self) -> PathBuf {
        self.root.join("run.json")
    }

    /// One object an optimizer step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// One object a stage and held-out set.
    pub fn evaluations(&self) -> PathBuf {
        self.root.join("evaluations.jsonl")
    }

    /// Steps whose loss or gradient was of no use; none where there was no such step.
    pub fn bad_steps(&self) -> PathBuf {
        self.root.join("bad-steps.jsonl")
    }

    /// Damaged samples that were left out; none where no sample was.
    pub fn skipped(&self) -> PathBuf {
        self.root.join("skipped.jsonl")
    }

    /// The first cause of the last failure.
    pub fn error(&self) -> PathBuf {
        self.root.join("error.json")
    }

    /// Loss curves and accuracies.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Folder of the checkpoints (`step-NNNNNNNN`), a path or URL.
    pub fn checkpoints(&self) -> String {
        format!("{}/checkpoints", self.url())
    }

    /// Lock file of the one launcher that writes this run.
    pub fn lock(&self) -> PathBuf {
        self.root.join(".lock")
    }

    /// Folder of the attempts' logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Folder of one attempt's logs.
    pub fn attempt_logs(&self, attempt: u64) -> PathBuf {
        self.logs().join(format!("attempt-{attempt}"))
    }

    /// Everything that a rank printed in an attempt.
    pub fn rank_log(&self, attempt: u64, rank: usize) -> PathBuf {
        self.attempt_logs(attempt).join(format!("rank-{rank:04}.log"))
    }

    /// The error that a rank left behind in an attempt.
    pub fn rank_error(&self, attempt: u64, rank: usize) -> PathBuf {
        self.attempt_logs(attempt).join(format!("error-{rank:04}.json"))
    }

    /// The highest attempt that has logs here; 0 where there is none.
    ///
    /// # Errors
    /// The folder of the logs cannot be read.
    pub fn last_attempt(&self) -> Result<u64, FileError> {
        let logs = self.logs();
        let entries = match fs::read_dir(&logs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(io_error("read", &logs))?,
        };
        let mut last = 0;
        for entry in entries {
            let entry = entry.map_err(io_error("read", &logs))?;
            last = last.max(attempt_number(&entry.file_name().to_string_lossy()).unwrap_or(0));
        }
        Ok(last)
    }
}

fn attempt_number(folder: &str) -> Option<u64> {
    folder.strip_prefix("attempt-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let dir = RunDir::new("runs/demo");
        let log = dir.rank_log(2, 13);
        assert_eq!(log, Path::new("runs/demo/logs/attempt-2/rank-0013.log"));
        let error = dir.rank_error(2, 13);
        assert_eq!(error, Path::new("runs/demo/logs/attempt-2/error-0013.json"));
    }

    #[test]
    fn the_last_attempt_is_counted_as_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        assert_eq!(dir.last_attempt().unwrap(), 0);
        for name in ["attempt-9", "attempt-10", "other"] {
            fs::create_dir_all(dir.logs().join(name)).unwrap();
        }
        assert_eq!(dir.last_attempt().unwrap(), 10);
    }
}
