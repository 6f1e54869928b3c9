//! One writer at a time in the shared cache.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::Context;

use crate::talk::say;

/// Held while the cache is changed; the system frees it when the process ends, however it ends.
pub struct CacheLock {
    _file: File,
}

impl CacheLock {
    /// Waits for the lock, and says so when another setup holds it.
    pub fn take(cache: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("{} cannot be made", cache.display()))?;
        let path = cache.join("setup.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                say("setup", format!("waiting for another setup ({})", path.display()));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.lock().with_context(|| format!("{} cannot be locked", path.display()))?;
        Ok(Self { _file: file })
    }
}
