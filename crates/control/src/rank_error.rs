//! What a failing rank leaves behind.

use std::backtrace::Backtrace;
use std::error::Error;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_json};
use crate::{ExitCode, FileError, RankEnv, RunDir, host, timestamp};

const WHAT: &str = "rank error";

/// Whether a rank failed by itself or because another one was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The rank's own failure.
    Primary,
    /// A collective failed or timed out: another rank is the cause.
    PeerLost,
}

/// Why a rank failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankError {
    /// Where it ran.
    pub host: String,
    /// The rank.
    pub rank: usize,
    /// The step it was in, where it had come to one.
    pub step: Option<u64>,
    /// Its own failure, or another's.
    pub kind: FailureKind,
    /// What the rank exited with.
    pub exit_code: ExitCode,
    /// The error and what caused it, the outermost first.
    pub cause: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the program it happened.
    pub backtrace: Option<String>,
    /// When it happened (RFC 3339, UTC).
    pub time: String,
}

impl RankError {
    /// Reads what a rank left behind in an attempt; `None` where it left nothing.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn load(
        run_dir: &RunDir,
        attempt: u64,
        rank: usize,
    ) -> Result<Option<RankError>, FileError> {
        read_json(&run_dir.rank_error(attempt, rank), WHAT)
    }

    /// Writes it into the attempt's folder, for the launcher.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, run_dir: &RunDir, attempt: u64) -> Result<(), FileError> {
        write_json(&run_dir.rank_error(attempt, self.rank), WHAT, self)
    }
}

/// The messages of an error and its sources, the outermost first.
pub(crate) fn chain(error: &dyn Error) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect()
}

/// Writes the errors of one rank. Clones share the step.
#[derive(Debug, Clone)]
pub struct Reporter {
    run_dir: PathBuf,
    attempt: u64,
    rank: usize,
    /// Step + 1; 0 before the first.
    step: Arc<AtomicU64>,
}

impl Reporter {
    /// For the rank of `env`.
    pub fn new(env: &RankEnv) -> Reporter {
        Reporter {
            run_dir: env.run_dir.clone(),
            attempt: env.attempt,
            rank: env.rank,
            step: Arc::default(),
        }
    }

    /// Notes the step that the rank is in, for an error to name.
    pub fn set_step(&self, step: u64) {
        self.step.store(step.saturating_add(1), Ordering::Relaxed);
    }

    /// Leaves `error` behind for the launcher, and returns it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn report(
        &self,
        error: &dyn Error,
        kind: FailureKind,
        exit_code: ExitCode,
        hint: Option<String>,
    ) -> Result<RankError, FileError> {
        let backtrace = Backtrace::capture();
        let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
        let report = RankError {
            kind,
            exit_code,
            hint,
            backtrace: captured.then(|| backtrace.to_string()),
            ..self.blank(chain(error))
        };
        report.save(&RunDir::new(&self.run_dir), self.attempt)?;
        Ok(report)
    }

    /// Has a panic of any thread end the process with 1 after leaving its message, place and
    /// backtrace behind: a rank with a dead thread would only stall the others.
    pub fn catch_panics(&self) {
        let reporter = self.clone();
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            earlier(info);
            if let Err(error) = reporter.report_panic(info) {
                eprintln!("{error}");
            }
            std::process::exit(ExitCode::Failed.code().into());
        }));
    }

    fn report_panic(&self, info: &PanicHookInfo<'_>) -> Result<(), FileError> {
        let message = panic_message(info);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let report = RankError {
            hint: Some("this is a bug in strand: please report it with this file".into()),
            backtrace: Some(Backtrace::force_capture().to_string()),
            ..self.blank(vec![format!("panic at {place}: {message}")])
        };
        report.save(&RunDir::new(&self.run_dir), self.attempt)
    }

    fn blank(&self, cause: Vec<String>) -> RankError {
        RankError {
            host: host(),
            rank: self.rank,
            step: self.step.load(Ordering::Relaxed).checked_sub(1),
            kind: FailureKind::Primary,
            exit_code: ExitCode::Failed,
            cause,
            hint: None,
            backtrace: None,
            time: timestamp(),
        }
    }
}

fn panic_message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let formatted = payload.downcast_ref::<String>().map(String::as_str);
    formatted.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter(run_dir: PathBuf) -> Reporter {
        Reporter { run_dir, attempt: 1, rank: 2, step: Arc::default() }
    }

    #[test]
    fn an_error_keeps_its_chain_and_step() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        let reporter = reporter(folder.path().into());
        reporter.set_step(120);
        let error = FileError::Io {
            action: "write",
            path: "part".into(),
            source: std::io::Error::other("disk on fire"),
        };
        let written =
            reporter.report(&error, FailureKind::Primary, ExitCode::Storage, None).unwrap();
        assert_eq!(written.cause, ["part: cannot write", "disk on fire"]);
        assert_eq!(written.step, Some(120));
        assert_eq!(RankError::load(&dir, 1, 2).unwrap(), Some(written));
        assert_eq!(RankError::load(&dir, 1, 3).unwrap(), None);
    }

    #[test]
    fn a_rank_before_its_first_step_names_none() {
        let report = reporter(PathBuf::new()).blank(vec![]);
        assert_eq!(report.step, None);
    }
}
