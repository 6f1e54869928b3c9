//! Small files that are there completely or not at all.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ExitCode;

/// A file of the run directory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file does not hold what it should.
    #[error("{}: not a valid {what}", path.display())]
    Format {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl FileError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            FileError::Io { source, path, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Some(format!("free some space on the disk of {}", path.display()))
            }
            FileError::Io { .. } => None,
            FileError::Format { path, .. } => {
                Some(format!("restore {} or start over in another run directory", path.display()))
            }
        }
    }

    /// Always [`ExitCode::Storage`].
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::Storage
    }
}

/// Puts the action and the path in front of an I/O error.
pub(crate) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> FileError + 'a {
    move |source| FileError::Io { action, path: path.to_path_buf(), source }
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(io_error("make this folder", path))
}

/// Writes through a temporary file and a rename, so that a reader sees the old file or the new one.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|source| {
        // The first error is the one to report; a left-over temporary file does no harm.
        let _ = fs::remove_file(&temporary);
        io_error("write", path)(source)
    })
}

/// Writes `value` as indented JSON, atomically.
pub(crate) fn write_json<T: Serialize>(
    path: &Path,
    what: &'static str,
    value: &T,
) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(format_error(what, path))?;
    bytes.push(b'\n');
    write_atomic(path, &bytes)
}

/// Reads JSON; `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<Option<T>, FileError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("read", path))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(format_error(what, path))
}

fn format_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(serde_json::Error) -> FileError + 'a {
    move |source| FileError::Format { what, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/file.json");
        write_json(&path, "list", &[1, 2]).unwrap();
        write_json(&path, "list", &[3]).unwrap();
        let read: Option<Vec<u8>> = read_json(&path, "list").unwrap();
        assert_eq!(read, Some(vec![3]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        fs::write(&path, "{").unwrap();
        let error = read_json::<Vec<u8>>(&path, "run record").unwrap_err();
        assert!(error.to_string().ends_with("run.json: not a valid run record"));
        assert!(error.hint().unwrap().contains("run.json"));
    }
}
