//! Finding and running ffmpeg.

use std::env;
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStdout, Command};

use crate::ToolsError;

/// Names a program instead of the one on PATH.
const OVERRIDE: &str = "STRAND_FFMPEG";

/// How much of what ffmpeg says is kept for a message.
const MOST_TALK: u64 = 1 << 16;

/// An ffmpeg that runs, and how long it may take for one call.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    limit: Duration,
}

impl Ffmpeg {
    /// Finds ffmpeg: the one that STRAND_FFMPEG names, else that on PATH, else the one that `cargo xtask setup`
    /// linked into the user's cache folder.
    ///
    /// # Errors
    /// [`ToolsError::Ffmpeg`] where the named one does not run, [`ToolsError::NoFfmpeg`] where there is none.
    pub async fn find(limit: Duration) -> Result<Ffmpeg, ToolsError> {
        if let Some(program) = env::var_os(OVERRIDE) {
            let program = PathBuf::from(program);
            let started = version(&program).await;
            return match started {
                Ok(()) => Ok(Ffmpeg { program, limit }),
                Err(source) => Err(ToolsError::Ffmpeg { program, source }),
            };
        }
        let cache = cache(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"));
        let linked = cache.map(|cache| cache.join("strand/bin/ffmpeg"));
        for program in [Some(PathBuf::from("ffmpeg")), linked].into_iter().flatten() {
            if version(&program).await.is_ok() {
                return Ok(Ffmpeg { program, limit });
            }
        }
        Err(ToolsError::NoFfmpeg)
    }

    /// Runs ffmpeg on the first video stream of `file`, with `arguments` for the output, which goes to `read`.
    ///
    /// # Errors
    /// [`ToolsError::Video`] with ffmpeg's own words or what `read` says is wrong, [`ToolsError::TimeOut`], and
    /// [`ToolsError::Ffmpeg`] where it cannot be started.
    pub async fn run<T, F, Reading>(
        &self,
        file: &Path,
        arguments: &[&str],
        read: F,
    ) -> Result<T, ToolsError>
    where
        F: FnOnce(ChildStdout) -> Reading,
        Reading: Future<Output = Result<T, String>>,
    {
        let bad = |reason| ToolsError::Video { path: file.to_owned(), reason };
        let unfit = |source| ToolsError::Ffmpeg { program: self.program.clone(), source };
        let mut child = self.command(file, arguments).spawn().map_err(unfit)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(unfit(std::io::Error::other("its output cannot be read")));
        };
        let work = async {
            let (read, talk) = tokio::join!(read(stdout), talk(stderr));
            (read, talk, child.wait().await)
        };
        let ended = tokio::time::timeout(self.limit, work).await;
        let Ok((read, talk, status)) = ended else {
            return Err(ToolsError::TimeOut { path: file.to_owned(), limit: self.limit });
        };
        let status = status.map_err(unfit)?;
        // What ffmpeg says is the cause; what the reader misses is its consequence.
        if !status.success() {
            return Err(bad(if talk.is_empty() { format!("ffmpeg: {status}") } else { talk }));
        }
        read.map_err(bad)
    }

    fn command(&self, file: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-hide_banner", "-nostdin", "-v", "error", "-threads", "1"])
            // Times as they are in the file, in both passes.
            .args(["-copyts", "-i"])
            .arg(local(file))
            .args(["-map", "0:v:0"])
            .args(arguments)
            .arg("-")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// A name that ffmpeg takes for a file whatever it begins with, and never for another protocol.
fn local(file: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(file);
    name
}

async fn version(program: &Path) -> std::io::Result<()> {
    let mut command = Command::new(program);
    let output = command.arg("-version").stdin(Stdio::null()).output().await?;
    if output.status.success() && output.stdout.starts_with(b"ffmpeg version") {
        return Ok(());
    }
    Err(std::io::Error::other("it is not an ffmpeg"))
}

/// The first thing that ffmpeg says, without the address of the part that says it. The rest is read and dropped, so
/// that ffmpeg never waits.
async fn talk(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    // A pipe that breaks has no more to say.
    let _ = (&mut stderr).take(MOST_TALK).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    let text = String::from_utf8_lossy(&kept).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or_default();
    let said = line.strip_prefix('[').and_then(|line| line.split_once("] "));
    said.map_or(line, |(_, said)| said).trim().to_owned()
}

fn cache(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    // The XDG rule: a relative path is to be ignored.
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    xdg.and_then(absolute).or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str) -> (tempfile::TempDir, Ffmpeg) {
        let folder = tempfile::tempdir().unwrap();
        let (text, program) = (folder.path().join("script"), folder.path().join("ffmpeg"));
        std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Another process writes the program: a descriptor of ours, inherited by a process that another test is
        // starting, would make it "text file busy".
        let mut install = std::process::Command::new("install");
        let installed = install.args(["-m", "755"]).args([&text, &program]).status().unwrap();
        assert!(installed.success());
        let limit = Duration::from_millis(500);
        (folder, Ffmpeg { program, limit })
    }

    async fn run(script: &str) -> Result<String, ToolsError> {
        let (_folder, ffmpeg) = program(script);
        let read = |mut stdout: ChildStdout| async move {
            let mut text = String::new();
            stdout.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
            Ok(text)
        };
        ffmpeg.run(Path::new("clip.mp4"), &[], read).await
    }

    #[tokio::test]
    async fn what_it_prints_is_read() {
        assert_eq!(run("echo $9").await.unwrap(), "file:clip.mp4\n");
    }

    #[tokio::test]
    async fn a_failure_says_what_ffmpeg_said() {
        let error =
            run("echo '[in#0 @ 0x55] moov atom not found' >&2; echo more >&2; exit 183").await;
        let error = error.expect_err("fails");
        assert_eq!(error.to_string(), "clip.mp4: moov atom not found");
        assert_eq!(error.exit_code(), 4);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let started = std::time::Instant::now();
        let error = run("exec sleep 60").await.expect_err("ends");
        assert!(matches!(error, ToolsError::TimeOut { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn the_cache_follows_xdg() {
        let found = |xdg: Option<&str>, home: Option<&str>| {
            cache(xdg.map(Into::into), home.map(Into::into))
        };
        assert_eq!(found(Some("/x"), Some("/h")), Some("/x".into()));
        assert_eq!(found(Some("x"), Some("/h")), Some("/h/.cache".into()));
        assert_eq!(found(None, None), None);
    }
}
