//! Small files of a model's folder.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::VisionError;

/// Longer configurations, indices and tokenizers are not read.
const MOST_BYTES: u64 = 64 << 20;

/// Reads a file that is small by its nature.
///
/// # Errors
/// [`VisionError::Read`], and [`VisionError::File`] where it is too long to be what it should be.
pub fn read_small(path: &Path) -> Result<Vec<u8>, VisionError> {
    let failed = |source| VisionError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        let reason = format!("longer than {} MiB", MOST_BYTES >> 20);
        return Err(VisionError::File { path: path.to_owned(), reason });
    }
    Ok(bytes)
}
