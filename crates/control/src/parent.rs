//! Ranks do not outlive their launcher, however it dies.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::ExitCode;

/// A rank that cannot be bound to its launcher.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The launcher died before the rank was bound to it.
    #[error("launcher process {expected}: gone before this rank had started")]
    Gone {
        /// Process id of the launcher.
        expected: u32,
    },
    /// The kernel refused the parent-death signal.
    #[error("launcher process {expected}: cannot ask for a signal at its death")]
    Refused {
        /// Process id of the launcher.
        expected: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ParentError {
    /// Always [`ExitCode::Environment`].
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::Environment
    }
}

/// Has the kernel kill this process (SIGKILL) when the launcher dies. Call it first thing in `main`,
/// on the main thread: the setting ends with the thread that made it.
///
/// # Errors
/// The launcher `expected_parent` is no longer this process's parent, or the kernel refuses.
pub fn die_with_parent(expected_parent: u32) -> Result<(), ParentError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| ParentError::Refused {
        expected: expected_parent,
        source: error.into(),
    })?;
    // The launcher may have died before the request: the kernel would never tell.
    let parent = getppid().map(Pid::as_raw_nonzero);
    if parent.is_some_and(|pid| pid.get().unsigned_abs() == expected_parent) {
        return Ok(());
    }
    Err(ParentError::Gone { expected: expected_parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_not_the_parent() {
        let error = die_with_parent(u32::MAX).unwrap_err();
        assert!(matches!(error, ParentError::Gone { expected: u32::MAX }));
    }
}
