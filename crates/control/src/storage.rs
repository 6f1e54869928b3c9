//! A run directory in object storage, and its working copy on this machine.
//!
//! When a launch begins, what storage holds is the truth, and the copy follows it. While the ranks run, rank 0 uploads
//! the metrics before each commit of a checkpoint, so that no checkpoint is ahead of them; launcher and ranks write to
//! the copy. The launcher uploads the rest when an attempt begins and when it ends.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use strand_store::{Location, StoreError};

use crate::files::{io_error, write_atomic};
use crate::{FileError, RunDir};

/// Working copy and storage do not come together.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The working copy cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl SyncError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            SyncError::Store(error) => error.hint(),
            SyncError::File(error) => error.hint(),
        }
    }
}

impl RunDir {
    /// Files of the run directory that are copied whole.
    fn files(&self) -> [PathBuf; 8] {
        [
            self.recipe(),
            self.record(),
            self.metrics(),
            self.evaluations(),
            self.skipped(),
            self.bad_steps(),
            self.error(),
            self.report(),
        ]
    }

    /// Makes the working copy equal to what storage holds: metrics, record and recipe, without logs and checkpoints.
    /// Nothing to do for a local run directory.
    ///
    /// # Errors
    /// Storage cannot be read, or the copy not written.
    pub async fn pull(&self) -> Result<(), SyncError> {
        let Some(remote) = &self.remote else {
            return Ok(());
        };
        for path in self.files() {
            match remote.get_if_exists(&self.name(&path)).await? {
                Some(bytes) => write_atomic(&path, &bytes)?,
                None => remove(&path)?,
            }
        }
        Ok(())
    }

    /// Uploads recipe and record: what others need to know of an attempt that begins.
    pub(crate) async fn announce(&self) -> Result<(), SyncError> {
        match &self.remote {
            Some(remote) => self.upload(remote, &[self.recipe(), self.record()]).await,
            None => Ok(()),
        }
    }

    /// Uploads everything but checkpoints and the logs of earlier attempts. Only while no rank runs: rank 0 uploads
    /// the metrics itself. Nothing to do for a local run directory.
    ///
    /// # Errors
    /// The copy cannot be read, or storage not written.
    pub async fn push(&self) -> Result<(), SyncError> {
        let Some(remote) = &self.remote else {
            return Ok(());
        };
        self.upload(remote, &self.files()).await?;
        let logs = self.attempt_logs(self.last_attempt()?);
        self.upload(remote, &files_in(&logs)?).await
    }

    async fn upload(&self, remote: &Location, paths: &[PathBuf]) -> Result<(), SyncError> {
        for path in paths {
            match fs::read(path) {
                Ok(bytes) => remote.put(&self.name(path), Bytes::from(bytes)).await?,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    remote.delete(&self.name(path)).await?;
                }
                Err(error) => return Err(io_error("read", path)(error).into()),
            }
        }
        Ok(())
    }

    /// A path of the copy, relative to the run directory.
    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(self.root()).unwrap_or(path);
        below.to_string_lossy().into_owned()
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", folder))?,
    };
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(io_error("list", folder))
}
