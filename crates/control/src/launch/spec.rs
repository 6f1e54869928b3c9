//! What is launched, what is told meanwhile, and how it ends.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use strand_store::StoreError;

use super::cause::FirstCause;
use crate::{Event, ExitCode, FileError, Layout, RunDir, SyncError};

/// What to launch.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The program of a rank.
    pub worker: PathBuf,
    /// Its arguments, the same for all ranks.
    pub worker_args: Vec<OsString>,
    /// Variables beyond those of [`RankEnv`](crate::RankEnv), the same for all ranks.
    pub env: Vec<(String, String)>,
    /// Where the run's files go.
    pub run_dir: RunDir,
    /// The recipe's name.
    pub name: String,
    /// The resolved recipe, written to recipe.yaml once the run directory is locked.
    pub recipe: String,
    /// Its hash.
    pub recipe_hash: String,
    /// How many ranks, all on this machine.
    pub layout: Layout,
    /// What the run goes on from.
    pub resume: Resume,
    /// How often a failed run is started again from its last checkpoint.
    pub max_restarts: u32,
    /// How long to wait for what.
    pub timing: Timing,
}

/// What a run goes on from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// The last checkpoint of the run directory, if there is one.
    #[default]
    Auto,
    /// Nothing: start over. What the run directory holds is set aside under `previous/`.
    Never,
    /// This checkpoint, a folder or URL: one of the run's own, where newer ones are set aside, or another run's, where
    /// the run directory's whole state is.
    From(String),
}

/// How long the launcher waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After the first failure, for other ranks to fail by themselves and say why.
    pub settle: Duration,
    /// After SIGTERM because of a failure, before SIGKILL.
    pub grace: Duration,
    /// After SIGTERM because of a request to stop, for the checkpoint, before SIGKILL.
    pub drain: Duration,
    /// Before the first restart; it doubles with each one, up to a minute.
    pub restart_delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            settle: Duration::from_millis(300),
            grace: Duration::from_secs(5),
            drain: Duration::from_secs(120),
            restart_delay: Duration::from_secs(1),
        }
    }
}

/// What the launcher tells while the ranks run. Its `Display` is a line for people.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// All ranks of an attempt were started.
    Started {
        /// The attempt, from 1.
        attempt: u64,
        /// Ranks.
        world_size: usize,
        /// Folder of their logs.
        logs: PathBuf,
    },
    /// A rank reported.
    Event {
        /// The rank.
        rank: usize,
        /// What it reported.
        event: Event,
    },
    /// A rank printed a line, which is in its log as well.
    Line {
        /// The rank.
        rank: usize,
        /// The line.
        text: String,
    },
    /// The ranks are asked to stop.
    Stopping {
        /// Why.
        reason: String,
    },
    /// The run failed and is started again.
    Restarting {
        /// What had failed.
        cause: Box<FirstCause>,
        /// This restart, from 1.
        restart: u32,
        /// Restarts allowed.
        max_restarts: u32,
        /// How long until it starts.
        delay: Duration,
    },
    /// Something is wrong that does not stop the run.
    Warning {
        /// What.
        text: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Started { attempt, world_size, logs } => write!(
                f,
                "attempt {attempt}: {world_size} ranks started, logs in {}",
                logs.display()
            ),
            Notice::Event { rank, event } => write!(f, "[rank {rank}] {event:?}"),
            Notice::Line { rank, text } => write!(f, "[rank {rank}] {text}"),
            Notice::Stopping { reason } => write!(f, "stopping: {reason}"),
            Notice::Restarting { cause, restart, max_restarts, delay } => write!(
                f,
                "{}; restart {restart} of {max_restarts} in {} s",
                cause.summary(),
                delay.as_secs_f64().ceil()
            ),
            Notice::Warning { text } => write!(f, "warning: {text}"),
        }
    }
}

/// How a launch ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All ranks did all planned steps.
    Done,
    /// All ranks stopped with a committed checkpoint.
    Stopped,
    /// A request to stop ended the ranks before they had a checkpoint.
    Interrupted {
        /// The signal that asked.
        signal: u8,
    },
    /// The run failed and no restart was left or sensible. error.json says the same.
    Failed(Box<FirstCause>),
}

impl Outcome {
    /// What `strand` exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Outcome::Done => ExitCode::Done,
            Outcome::Stopped => ExitCode::Stopped,
            Outcome::Interrupted { signal } => ExitCode::Signal(*signal),
            Outcome::Failed(cause) => cause.exit_code(),
        }
    }
}

/// A launch that did not come to start its ranks, or lost its run directory.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A launch without ranks.
    #[error("world size 0: nothing to launch")]
    NoRanks,
    /// Another launcher writes this run.
    #[error("{}: in use by {holder}", run_dir.display())]
    Locked {
        /// The run directory.
        run_dir: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// The program of a rank is not there.
    #[error("{}: not found", worker.display())]
    NoWorker {
        /// Where it was looked for.
        worker: PathBuf,
    },
    /// A rank cannot be started.
    #[error("rank {rank}: cannot start {}", worker.display())]
    Spawn {
        /// The rank.
        rank: usize,
        /// Its program.
        worker: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The launcher's own environment fails it.
    #[error("launcher: cannot {action}")]
    Environment {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the run directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run directory in storage and its working copy do not come together.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

impl LaunchError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            LaunchError::NoRanks => Some("give --nproc-per-node at least 1".into()),
            LaunchError::Locked { .. } => {
                Some("wait for it, stop it, or choose another --run-dir".into())
            }
            LaunchError::NoWorker { .. } => {
                Some("build it beside strand: `cargo build --release`".into())
            }
            LaunchError::Spawn { source, .. } => (source.raw_os_error()
                == Some(rustix::io::Errno::AGAIN.raw_os_error()))
            .then(|| "raise the limit of processes (`ulimit -u`)".into()),
            LaunchError::Environment { .. } => None,
            LaunchError::File(error) => error.hint(),
            LaunchError::Store(error) => error.hint(),
            LaunchError::Sync(error) => error.hint(),
        }
    }

    /// What `strand` exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            LaunchError::NoRanks | LaunchError::Locked { .. } => ExitCode::Usage,
            LaunchError::File(error) => error.exit_code(),
            LaunchError::Store(_) | LaunchError::Sync(_) => ExitCode::Storage,
            _ => ExitCode::Environment,
        }
    }
}

/// Puts the action in front of an I/O error of the launcher's environment.
pub(super) fn environment(action: &'static str) -> impl FnOnce(std::io::Error) -> LaunchError {
    move |source| LaunchError::Environment { action, source }
}
