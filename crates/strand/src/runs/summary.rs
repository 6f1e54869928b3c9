//! A run in a few values.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};
use strand_control::{ExitCode, FileError, RunDir, RunRecord};
use strand_telemetry::Metrics;

use super::alive;
use crate::failure::Failure;

/// The last line of metrics.jsonl lies within so many bytes of its end.
const TAIL_BYTES: u64 = 1 << 20;

/// A run in a few values.
pub struct Summary {
    pub dir: RunDir,
    pub record: RunRecord,
    pub status: &'static str,
    /// The last step that has metrics.
    pub last: Option<Metrics>,
}

impl Summary {
    /// Reads a run directory; `None` where it is none.
    pub fn load(dir: &RunDir) -> anyhow::Result<Option<Summary>> {
        let Some(record) = read_record(dir)? else {
            return Ok(None);
        };
        let last = last_metrics(&dir.metrics())?;
        let status = alive::status(dir, &record);
        Ok(Some(Summary { dir: dir.clone(), record, status, last }))
    }

    pub fn step(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.step)
    }

    pub fn document(&self) -> Value {
        json!({
            "run_dir": self.dir.url(),
            "id": self.record.id,
            "name": self.record.name,
            "status": self.status,
            "step": self.step(),
            "stage": self.last.as_ref().map(|last| &last.stage),
            "loss": self.last.as_ref().map(|last| last.loss),
            "layout": self.record.layout,
            "attempts": self.record.attempts.len(),
            "created": self.record.created,
            "updated": self.record.updated,
        })
    }
}

fn read_record(dir: &RunDir) -> Result<Option<RunRecord>, FileError> {
    match dir.root().is_dir() {
        true => RunRecord::load(dir),
        false => Ok(None),
    }
}

/// The last complete line: one that is being written has no end yet.
fn last_metrics(path: &Path) -> anyhow::Result<Option<Metrics>> {
    let text = tail(path).map_err(|error| {
        let message = format!("{}: cannot read", path.display());
        Failure::new(ExitCode::Storage, message).because(error)
    })?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(complete.rsplit('\n').next().and_then(|line| serde_json::from_str(line).ok()))
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"step":7,"stage":"base","lm_loss":1.5,"mvm_loss":null,"loss":1.5,"grad_norm":0.1,"lr":0.1,"mask_rate":0.0,"samples":8,"tokens":{"visual_kept":1,"visual_all":1,"text":1},"step_s":0.1,"data_wait_s":0.0,"samples_per_s":80.0,"tflops":null,"mfu":null,"memory_bytes":1}"#;

    #[test]
    fn the_last_complete_step_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert!(last_metrics(&path).unwrap().is_none());
        std::fs::write(&path, format!("{LINE}\n{}", &LINE[..30])).unwrap();
        assert_eq!(last_metrics(&path).unwrap().map(|last| last.step), Some(7));
    }

    #[test]
    fn a_folder_without_a_record_is_no_run() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Summary::load(&RunDir::new(folder.path())).unwrap().is_none());
        assert!(Summary::load(&RunDir::new(folder.path().join("none"))).unwrap().is_none());
    }
}
