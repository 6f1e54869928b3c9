//! Files of one JSON object a line.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TelemetryError;
use crate::error::io_error;

/// A record and its line as it stands in the file, with its newline.
pub(crate) struct Line<T> {
    pub(crate) record: T,
    pub(crate) text: String,
}

/// Reads all complete lines; none where there is no file. A last line without a newline is the
/// trace of a process that died in writing it, and is left out.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<Line<T>>, TelemetryError> {
    let content = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("read", path))?,
    };
    let complete = content.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let parse = |(index, line): (usize, &str)| {
        let record = serde_json::from_str(line).map_err(|source| TelemetryError::Line {
            path: path.to_path_buf(),
            line: index + 1,
            source,
        })?;
        let text = line.to_owned();
        Ok(Line { record, text })
    };
    complete.enumerate().map(parse).collect()
}

/// A record as a line with its newline.
pub(crate) fn encode<T: Serialize>(path: &Path, record: &T) -> Result<String, TelemetryError> {
    let mut line = serde_json::to_string(record)
        .map_err(|source| TelemetryError::Encode { path: path.to_path_buf(), source })?;
    line.push('\n');
    Ok(line)
}

/// Replaces a file by way of a temporary one: readers see the old content or the new one.
pub(crate) fn replace(path: &Path, content: &str) -> Result<(), TelemetryError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io_error("make this folder", folder))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(io_error("write", path))
}
