//! Files of local folders, read where they lie.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use crate::ranges::Ranges;
use crate::{Location, StoreError};

/// Bytes that are looked at in one piece: they stay in a core's cache.
const PIECE: u64 = 256 << 10;

/// A file of a local folder, open for reading. Its methods wait for the disk: not to be called from a task.
pub struct LocalFile {
    file: File,
    url: String,
    ranges: Arc<Ranges>,
}

impl Location {
    /// Opens a file of a local folder; of object storage, nothing is such a file.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and all that the file system can do.
    pub fn open_file(&self, path: &str) -> Result<LocalFile, StoreError> {
        let url = self.url_of(path);
        let opened = self.ranges.path(&self.key(path)?).and_then(File::open);
        let file =
            opened.map_err(|error| StoreError::io_like(url.clone(), "open", error.into()))?;
        Ok(LocalFile { file, url, ranges: self.ranges.clone() })
    }

    /// Waits until a core is free for work on a file. The slot is given back when it is dropped.
    pub async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.ranges.slot().await
    }
}

impl LocalFile {
    /// Fills a buffer with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`StoreError::Truncated`] where the file ends earlier, and all that the file system can do.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let wanted = offset..offset + buffer.len() as u64;
        match self.file.read_exact_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let bytes = self.file.metadata().map_or(0, |found| found.len());
                Err(StoreError::Truncated { url: self.url.clone(), wanted, bytes })
            }
            read => {
                read.map_err(|error| StoreError::io_like(self.url.clone(), "read", error.into()))
            }
        }
    }

    /// Calls `visit` with one piece of a range after the other and its offset. All pieces pass through one buffer.
    ///
    /// # Errors
    /// As [`Self::read_exact_at`].
    pub fn scan(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, &[u8]),
    ) -> Result<(), StoreError> {
        let failed = |error: io::Error| StoreError::io_like(self.url.clone(), "read", error.into());
        let mut buffer = self.ranges.pool().take(PIECE as usize).map_err(failed)?;
        for start in range.clone().step_by(PIECE as usize) {
            let piece = &mut buffer.as_mut()[..(range.end - start).min(PIECE) as usize];
            self.read_exact_at(piece, start)?;
            visit(start, piece);
        }
        self.ranges.count(range.end - range.start);
        Ok(())
    }
}

impl std::fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalFile({})", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scan_sees_every_byte_of_its_range_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::open(folder.path().to_str().expect("UTF-8")).expect("opens");
        let bytes: Vec<u8> = (0..2 * PIECE + 77).map(|at| (at % 251) as u8).collect();
        location.put("a/b %", bytes.clone().into()).await.expect("written");
        let file = location.open_file("a/b %").expect("opens");
        for range in [0..bytes.len(), 3..3, 5..6, 9..PIECE as usize + 9, 70..bytes.len() - 1] {
            let mut seen = Vec::new();
            let wanted = range.start as u64..range.end as u64;
            file.scan(wanted, |offset, piece| {
                assert_eq!(offset, (range.start + seen.len()) as u64);
                seen.extend_from_slice(piece);
            })
            .expect("read");
            assert_eq!(seen, bytes[range]);
        }
        let beyond = file.scan(0..bytes.len() as u64 + 1, |_, _| ()).expect_err("too short");
        let size = bytes.len() as u64;
        assert!(
            matches!(beyond, StoreError::Truncated { bytes, .. } if bytes == size),
            "{beyond:?}"
        );
        assert!(location.open_file("a/none").expect_err("missing").is_not_found());
    }
}
