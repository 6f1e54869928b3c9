//! The control plane: what the launcher and its ranks agree on, and the supervision of the ranks.
//!
//! Nothing here links libtorch: `strand` starts in milliseconds on a machine without it. The worker
//! uses the same types: it reads its [`RankEnv`], dies with its launcher ([`die_with_parent`]),
//! emits [`Event`]s on stdout, and leaves a [`RankError`] behind when it fails ([`Reporter`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod env;
mod event;
mod exit;
mod files;
mod gpus;
mod launch;
mod parent;
mod rank_error;
mod record;
mod run_dir;
mod starter;
mod stop;
mod storage;

pub use env::{EnvError, Master, RankEnv};
pub use event::Event;
pub use exit::ExitCode;
pub use files::FileError;
pub use gpus::visible_gpus;
pub use launch::{
    FirstCause, LaunchError, LaunchSpec, Notice, Outcome, Resume, RunLock, Timing, launch,
    worker_path,
};
pub use parent::{ParentError, die_with_parent};
pub use rank_error::{FailureKind, RankError, Reporter};
pub use record::{Attempt, Layout, RunRecord, Status};
pub use run_dir::RunDir;
pub use stop::StopFlag;
pub use storage::SyncError;

/// The present moment as RFC 3339 in UTC with microseconds; such strings sort by time.
pub fn timestamp() -> String {
    humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string()
}

/// This machine's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
