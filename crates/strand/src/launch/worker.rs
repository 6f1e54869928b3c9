//! The program of a rank.

use std::path::PathBuf;

use strand_control::{LaunchError, worker_path};
use strand_telemetry::logging::FILTER_VARIABLE;

/// Names a worker elsewhere than beside strand.
const WORKER_VARIABLE: &str = "STRAND_WORKER";

/// The worker that STRAND_WORKER names, else the one beside strand.
pub fn find() -> Result<PathBuf, LaunchError> {
    let Some(named) = std::env::var_os(WORKER_VARIABLE).filter(|value| !value.is_empty()) else {
        return worker_path();
    };
    let worker = PathBuf::from(named);
    match worker.is_file() {
        true => Ok(worker),
        false => Err(LaunchError::NoWorker { worker }),
    }
}

/// What ranks are told beyond their place: how much to log.
pub fn env(verbosity: i8) -> Vec<(String, String)> {
    let level = match verbosity {
        ..=0 => return Vec::new(),
        1 => "debug",
        2.. => "trace",
    };
    match std::env::var_os(FILTER_VARIABLE) {
        Some(_) => Vec::new(),
        None => vec![(FILTER_VARIABLE.to_owned(), level.to_owned())],
    }
}
