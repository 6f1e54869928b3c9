//! Exit codes, which schedulers and scripts depend on.

use serde::{Deserialize, Serialize};

/// What the exit status of `strand` and of a rank means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum ExitCode {
    /// 0: the planned steps are all done.
    Done,
    /// 1: the run failed and its restarts are spent.
    Failed,
    /// 2: wrong usage or a wrong recipe.
    Usage,
    /// 3: the environment cannot run it (preflight).
    Environment,
    /// 4: the data is missing, damaged or of another shape.
    Data,
    /// 5: storage or a checkpoint.
    Storage,
    /// 6: a loss or gradient is not finite, or training diverged.
    NonFinite,
    /// 75: stopped with a committed checkpoint; safe to requeue.
    Stopped,
    /// 128+n: ended by signal n.
    Signal(u8),
}

impl ExitCode {
    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            ExitCode::Done => 0,
            ExitCode::Failed => 1,
            ExitCode::Usage => 2,
            ExitCode::Environment => 3,
            ExitCode::Data => 4,
            ExitCode::Storage => 5,
            ExitCode::NonFinite => 6,
            ExitCode::Stopped => 75,
            ExitCode::Signal(signal) => 128u8.saturating_add(signal),
        }
    }

    /// Whether another attempt from the last checkpoint could end otherwise.
    pub fn is_restartable(self) -> bool {
        matches!(self, ExitCode::Failed | ExitCode::Storage | ExitCode::Signal(_))
    }
}

impl From<u8> for ExitCode {
    /// Codes without a meaning of their own count as [`ExitCode::Failed`].
    fn from(code: u8) -> Self {
        match code {
            0 => ExitCode::Done,
            2 => ExitCode::Usage,
            3 => ExitCode::Environment,
            4 => ExitCode::Data,
            5 => ExitCode::Storage,
            6 => ExitCode::NonFinite,
            75 => ExitCode::Stopped,
            129..=255 => ExitCode::Signal(code - 128),
            _ => ExitCode::Failed,
        }
    }
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> u8 {
        code.code()
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_way_through_a_number() {
        for code in [0, 1, 2, 3, 4, 5, 6, 75, 130, 137, 143] {
            assert_eq!(ExitCode::from(code).code(), code);
        }
        assert_eq!(ExitCode::from(99), ExitCode::Failed);
    }

    #[test]
    fn only_passing_troubles_are_restarted() {
        let restartable: Vec<u8> = [0, 1, 2, 3, 4, 5, 6, 75, 137]
            .into_iter()
            .filter(|&code| ExitCode::from(code).is_restartable())
            .collect();
        assert_eq!(restartable, [1, 5, 137]);
    }
}
