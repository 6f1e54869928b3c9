//! One launcher a run directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};

use super::spec::LaunchError;
use crate::files::{io_error, make_folder};
use crate::{RunDir, host, timestamp};

/// Held while a launcher writes a run; the kernel lets go of it however the launcher dies.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of a run directory, which is made where it is missing.
    ///
    /// # Errors
    /// Another process holds it ([`LaunchError::Locked`] names it), or the file cannot be written.
    pub fn acquire(run_dir: &RunDir) -> Result<RunLock, LaunchError> {
        make_folder(run_dir.root())?;
        let path = run_dir.lock();
        // Not truncated: the content names the holder until the lock is ours.
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(run_dir, &mut file)),
            Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error))?,
        }
        sign(&mut file).map_err(io_error("write", &path))?;
        Ok(RunLock { _file: file })
    }
}

fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let (pid, host, time) = (std::process::id(), host(), timestamp());
    writeln!(file, "process {pid} on {host} since {time}")
}

fn locked(run_dir: &RunDir, file: &mut File) -> LaunchError {
    let mut holder = String::new();
    let named = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
    LaunchError::Locked {
        run_dir: run_dir.root().to_path_buf(),
        holder: match named {
            true => holder.trim().to_owned(),
            false => "another launcher".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_launcher_is_told_who_holds_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path().join("run"));
        let held = RunLock::acquire(&dir).unwrap();
        let error = RunLock::acquire(&dir).unwrap_err().to_string();
        let expected = format!("in use by process {} on ", std::process::id());
        assert!(error.contains(&expected), "{error}");
        drop(held);
        RunLock::acquire(&dir).unwrap();
    }
}
