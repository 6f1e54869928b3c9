//! Where a cache lies, and how large it may be, where nobody says.

use std::path::{Path, PathBuf};

use crate::DataError;

/// Largest cache that is made without being asked for, in bytes.
const MOST: u64 = 20 << 30;
/// Share of the free disk that it may take at most.
const SHARE: u64 = 10;

/// `strand` in the user's cache folder, by the XDG rule: a relative path is ignored. `None` where HOME is not set
/// either.
pub fn user_cache_folder() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("strand"))
}

/// 20 GiB or a tenth of the free disk, whichever is smaller.
///
/// # Errors
/// [`DataError::Cache`] where the folder cannot be made or its disk not asked.
pub fn default_cache_limit(folder: &Path) -> Result<u64, DataError> {
    let refuse = |error: std::io::Error| DataError::Cache {
        folder: folder.display().to_string(),
        reason: error.to_string(),
    };
    std::fs::create_dir_all(folder).map_err(refuse)?;
    let disk = rustix::fs::statvfs(folder).map_err(|error| refuse(error.into()))?;
    Ok(MOST.min(disk.f_bavail.saturating_mul(disk.f_frsize) / SHARE))
}
