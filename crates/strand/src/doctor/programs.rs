//! The programs that strand starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::{Finding, State};
use crate::launch::worker;

/// Names an ffmpeg elsewhere than on PATH.
const FFMPEG_VARIABLE: &str = "STRAND_FFMPEG";

pub fn strand() -> Finding {
    let path = std::env::current_exe().map_or(String::new(), |path| path.display().to_string());
    Finding::ok("strand", format!("{} at {path}", env!("CARGO_PKG_VERSION")))
}

/// The worker starts only where libtorch is found, so this checks both.
pub fn worker() -> Finding {
    let path = match worker::find() {
        Ok(path) => path,
        Err(error) => {
            let hint = "run `cargo build --release`, or set STRAND_WORKER";
            return Finding::bad("worker", State::Missing, error.to_string(), hint);
        }
    };
    match version(&path) {
        Ok(version) => Finding::ok("worker", format!("{version} at {}", path.display())),
        Err(reason) => {
            let hint = "libtorch is found through the LIBTORCH of the build: `cargo xtask setup`, then build again";
            Finding::bad("worker", State::Missing, reason, hint)
        }
    }
}

fn version(worker: &Path) -> Result<String, String> {
    let output = Command::new(worker).arg("--version-json").output();
    let output = output.map_err(|error| format!("{}: {error}", worker.display()))?;
    if !output.status.success() {
        return Err(format!("{}: {}", worker.display(), last_line(&output)));
    }
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{} --version-json: {error}", worker.display()))?;
    Ok(pairs(&document))
}

/// `libtorch 2.11.0, worker 0.1.0`, whatever the worker tells.
fn pairs(document: &Value) -> String {
    let shown = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let Some(map) = document.as_object() else {
        return shown(document);
    };
    let pairs: Vec<String> =
        map.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
    pairs.join(", ")
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.map_or_else(|| output.status.to_string(), str::to_owned)
}

pub fn ffmpeg() -> Finding {
    let hint = "only `strand data extract` needs it: install ffmpeg, or run `cargo xtask setup`";
    let named = std::env::var_os(FFMPEG_VARIABLE).filter(|value| !value.is_empty());
    let found = named.map(PathBuf::from).or_else(|| on_path("ffmpeg")).or_else(linked_ffmpeg);
    let Some(path) = found else {
        return Finding::bad("ffmpeg", State::Warning, "not on PATH, not set up", hint);
    };
    let output = Command::new(&path).arg("-version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text.ok().and_then(|text| text.lines().next().map(str::to_owned)) {
        Some(line) => Finding::ok("ffmpeg", format!("{line} at {}", path.display())),
        None => {
            let detail = format!("{} does not run", path.display());
            Finding::bad("ffmpeg", State::Warning, detail, hint)
        }
    }
}

/// The one that `cargo xtask setup` linked into the user's cache folder.
fn linked_ffmpeg() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    Some(cache.join("strand/bin/ffmpeg")).filter(|program| program.exists())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_pairs() {
        let document = serde_json::json!({"worker": "0.1.0", "devices": ["cpu"]});
        assert_eq!(pairs(&document), r#"worker 0.1.0, devices ["cpu"]"#);
    }

    #[test]
    fn a_worker_that_fails_tells_its_last_words() {
        let error = version(Path::new("/bin/false")).unwrap_err();
        assert!(error.contains("exit status: 1"), "{error}");
        assert!(version(Path::new("/nowhere")).unwrap_err().contains("/nowhere"));
    }
}
