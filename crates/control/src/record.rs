//! run.json: what became of a run.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_json};
use crate::{ExitCode, FileError, RunDir, host, timestamp};

const WHAT: &str = "run record";

/// The content of run.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Unique among runs, sorts by start.
    pub id: String,
    /// The recipe's name.
    pub name: String,
    /// What the run is doing, or how it ended.
    pub status: Status,
    /// Hash of the resolved recipe.
    pub recipe_hash: String,
    /// How the ranks are laid out at the latest attempt.
    pub layout: Layout,
    /// Versions of the programs, by name.
    pub versions: BTreeMap<String, String>,
    /// When the first attempt started.
    pub created: String,
    /// When this record was last written.
    pub updated: String,
    /// Another run's checkpoint that this run began with.
    #[serde(default)]
    pub resumed_from: Option<String>,
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
}

/// What a run is doing, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// An attempt is running, or was when its launcher died.
    Running,
    /// All planned steps are done.
    Done,
    /// Stopped on request with a committed checkpoint.
    Stopped,
    /// Failed, with error.json.
    Failed,
}

/// How ranks are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Ranks.
    pub world_size: usize,
    /// Data-parallel size.
    pub dp: usize,
    /// Tensor-parallel size.
    pub tp: usize,
}

/// One start of all ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u64,
    /// Where the launcher ran.
    pub host: String,
    /// How the ranks were laid out.
    pub layout: Layout,
    /// When it started.
    pub started: String,
    /// When it ended; `None` while it runs, and where the launcher was killed.
    pub ended: Option<String>,
    /// How it ended.
    pub exit_code: Option<ExitCode>,
    /// The first cause of its failure, in one line.
    pub cause: Option<String>,
}

impl RunRecord {
    /// A record of a run that starts now, without attempts.
    pub fn new(name: &str, recipe_hash: &str, layout: Layout) -> RunRecord {
        let created = timestamp();
        RunRecord {
            id: new_id(name),
            name: name.into(),
            status: Status::Running,
            recipe_hash: recipe_hash.into(),
            layout,
            versions: BTreeMap::from([("strand".into(), env!("CARGO_PKG_VERSION").into())]),
            updated: created.clone(),
            created,
            resumed_from: None,
            attempts: Vec::new(),
        }
    }

    /// Reads run.json; `None` where the directory holds no run yet.
    ///
    /// # Errors
    /// The file cannot be read or is not a run record.
    pub fn load(run_dir: &RunDir) -> Result<Option<RunRecord>, FileError> {
        read_json(&run_dir.record(), WHAT)
    }

    /// Writes run.json, atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&mut self, run_dir: &RunDir) -> Result<(), FileError> {
        self.updated = timestamp();
        write_json(&run_dir.record(), WHAT, self)
    }

    /// Notes that attempt `number` starts.
    pub fn begin(&mut self, number: u64, layout: Layout) {
        self.status = Status::Running;
        self.layout = layout;
        self.attempts.push(Attempt {
            number,
            host: host(),
            layout,
            started: timestamp(),
            ended: None,
            exit_code: None,
            cause: None,
        });
    }

    /// Notes how the latest attempt ended.
    pub fn end(&mut self, exit_code: ExitCode, cause: Option<String>) {
        self.status = match exit_code {
            ExitCode::Done => Status::Done,
            ExitCode::Stopped => Status::Stopped,
            _ => Status::Failed,
        };
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended = Some(timestamp());
            attempt.exit_code = Some(exit_code);
            attempt.cause = cause;
        }
    }
}

/// `<name>-<milliseconds since 1970 in base 36>-<process id in base 36>`.
fn new_id(name: &str) -> String {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64);
    let pid = u64::from(std::process::id());
    format!("{name}-{}-{}", base36(millis), base36(pid))
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_equal() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        assert_eq!(RunRecord::load(&dir).unwrap(), None);
        let layout = Layout { world_size: 4, dp: 2, tp: 2 };
        let mut record = RunRecord::new("demo", "abc", layout);
        record.begin(1, layout);
        record.end(ExitCode::Signal(9), Some("rank 2: killed".into()));
        record.save(&dir).unwrap();
        assert_eq!(RunRecord::load(&dir).unwrap(), Some(record.clone()));
        assert_eq!(record.status, Status::Failed);
        assert_eq!(record.attempts[0].exit_code, Some(ExitCode::Signal(9)));
    }

    #[test]
    fn base36_writes_digits_from_the_left() {
        assert_eq!(base36(0), "0");
        assert_eq!(base36(36 * 36 + 35), "10z");
    }
}
