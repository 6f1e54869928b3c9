//! Which rank's failure came first, and how to tell it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_json};
use crate::{ExitCode, FailureKind, FileError, RankError, RunDir, host};

const TAIL_LINES: usize = 30;
const TAIL_BYTES: u64 = 64 * 1024;

/// The content of error.json: the first cause of a failed run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirstCause {
    /// The attempt that failed.
    pub attempt: u64,
    /// What the rank said, or what the launcher saw of it.
    #[serde(flatten)]
    pub error: RankError,
    /// The rank's log.
    pub log: PathBuf,
    /// Its last lines.
    pub log_tail: Vec<String>,
    /// All ranks that failed by themselves, the first cause among them.
    pub failed_ranks: Vec<usize>,
    /// Ranks that did not react to SIGTERM and were killed: where others lost a peer, look here.
    pub unresponsive_ranks: Vec<usize>,
}

impl FirstCause {
    /// Chooses among the failures of an attempt: own failures before those that came of a lost
    /// peer, then the earliest. `None` without any.
    pub(super) fn choose(
        run_dir: &RunDir,
        attempt: u64,
        mut errors: Vec<RankError>,
        unresponsive_ranks: Vec<usize>,
    ) -> Option<FirstCause> {
        errors.sort_by(|a, b| (a.kind, &a.time, a.rank).cmp(&(b.kind, &b.time, b.rank)));
        let failed_ranks = errors.iter().map(|error| error.rank).collect();
        let error = errors.into_iter().next()?;
        let log = run_dir.rank_log(attempt, error.rank);
        Some(FirstCause {
            attempt,
            log_tail: tail(&log),
            error,
            log,
            failed_ranks,
            unresponsive_ranks,
        })
    }

    /// Reads error.json; `None` where there is none.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn load(run_dir: &RunDir) -> Result<Option<FirstCause>, FileError> {
        read_json(&run_dir.error(), "error report")
    }

    pub(super) fn save(&self, run_dir: &RunDir) -> Result<(), FileError> {
        write_json(&run_dir.error(), "error report", self)
    }

    /// What a launch that ends with this exits with. A rank's death by a signal is not the
    /// launcher's, so it counts as a failed run.
    pub fn exit_code(&self) -> ExitCode {
        match self.error.exit_code {
            ExitCode::Signal(_) | ExitCode::Done | ExitCode::Stopped => ExitCode::Failed,
            code => code,
        }
    }

    /// One line: rank, step, the whole chain of causes.
    pub fn summary(&self) -> String {
        let rank = self.error.rank;
        let causes = self.error.cause.join(": ");
        match self.error.step {
            Some(step) => format!("rank {rank} failed in step {step}: {causes}"),
            None => format!("rank {rank} failed before its first step: {causes}"),
        }
    }
}

/// What the launcher itself saw of a rank that ended without a word.
pub(super) fn observed(
    rank: usize,
    status: ExitStatus,
    step: Option<u64>,
    time: String,
) -> RankError {
    let (cause, exit_code) = match (status.code(), status.signal()) {
        (Some(code), _) => {
            let exit_code = u8::try_from(code).map_or(ExitCode::Failed, ExitCode::from);
            (format!("exited with code {code} without saying why"), exit_code)
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let exit_code = u8::try_from(signal).map_or(ExitCode::Failed, ExitCode::Signal);
            (format!("killed by signal {signal}"), exit_code)
        }
    };
    RankError {
        host: host(),
        rank,
        step,
        kind: FailureKind::Primary,
        exit_code,
        cause: vec![cause],
        hint: status.signal().and_then(signal_hint),
        backtrace: None,
        time,
    }
}

fn signal_hint(signal: i32) -> Option<String> {
    let hint = match Signal::from_named_raw(signal)? {
        Signal::KILL => "often the kernel ran out of memory: see `dmesg`",
        Signal::SEGV | Signal::ABORT | Signal::BUS | Signal::ILL => {
            "a crash in native code: the last lines of the log may tell"
        }
        _ => return None,
    };
    Some(hint.into())
}

/// The last lines of a log; none where it cannot be read, which the log's absence tells by itself.
fn tail(log: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|&line| line.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(rank: usize, kind: FailureKind, time: &str) -> RankError {
        let status = ExitStatus::from_raw(1 << 8);
        RankError { kind, ..observed(rank, status, Some(7), time.into()) }
    }

    #[test]
    fn an_own_failure_comes_before_a_lost_peer_then_the_earliest() {
        let dir = RunDir::new("nowhere");
        let errors = vec![
            error(0, FailureKind::PeerLost, "2026-01-01T00:00:00.1Z"),
            error(3, FailureKind::Primary, "2026-01-01T00:00:00.3Z"),
            error(2, FailureKind::Primary, "2026-01-01T00:00:00.2Z"),
        ];
        let cause = FirstCause::choose(&dir, 1, errors, vec![1]).unwrap();
        assert_eq!(cause.error.rank, 2);
        assert_eq!(cause.failed_ranks, [2, 3, 0]);
        assert!(cause.summary().starts_with("rank 2 failed in step 7: exited"));
        assert_eq!(FirstCause::choose(&dir, 1, vec![], vec![]), None);
    }

    #[test]
    fn a_killed_rank_fails_the_run_with_1() {
        let killed = observed(1, ExitStatus::from_raw(9), None, String::new());
        assert_eq!(killed.exit_code, ExitCode::Signal(9));
        assert!(killed.hint.clone().unwrap().contains("memory"));
        let cause = FirstCause::choose(&RunDir::new("nowhere"), 1, vec![killed], vec![]).unwrap();
        assert_eq!(cause.exit_code(), ExitCode::Failed);
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        assert_eq!(tail(&path), lines[70..]);
    }
}
