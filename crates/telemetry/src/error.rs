//! What can go wrong with the files of a run.

use std::path::{Path, PathBuf};

/// A file of the run cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The operating system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not the record that it should be.
    #[error("{}:{line}: not a valid record", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record cannot be written as JSON.
    #[error("{}: cannot encode a record", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is nothing to report on.
    #[error("{}: no metrics and no evaluations yet", path.display())]
    Empty {
        /// The run directory.
        path: PathBuf,
    },
    /// A chart cannot be drawn.
    #[error("chart {chart}: {reason}")]
    Chart {
        /// Its title.
        chart: String,
        /// Why.
        reason: String,
    },
}

impl TelemetryError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            TelemetryError::Io { path, source, .. } => (source.kind()
                == std::io::ErrorKind::StorageFull)
                .then(|| format!("free some space on the disk of {}", path.display())),
            TelemetryError::Line { path, line, .. } => {
                Some(format!("repair or delete line {line} of {}", path.display()))
            }
            TelemetryError::Empty { .. } => Some("run at least one step first".into()),
            TelemetryError::Encode { .. } | TelemetryError::Chart { .. } => None,
        }
    }

    /// 5 where a file is the trouble, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            TelemetryError::Io { .. } | TelemetryError::Line { .. } => 5,
            _ => 1,
        }
    }
}

/// Puts the action and the path in front of an I/O error.
pub(crate) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> TelemetryError + 'a {
    move |source| TelemetryError::Io { action, path: path.to_path_buf(), source }
}
