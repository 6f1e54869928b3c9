//! Files of local folders, read where they lie.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};
use tokio::sync::SemaphorePermit;

use crate::ranges::Ranges;
use crate::{Location, StoreError};

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

    /// Tells the system that a range will be read soon, so that a disk reads it meanwhile. A system that does not take
    /// advice reads it when it is asked for.
    pub fn will_read(&self, range: Range<u64>) {
        if let Some(length) = NonZeroU64::new(range.end - range.start) {
            let _ = fadvise(&self.file, range.start, Some(length), Advice::WillNeed);
        }
    }

    /// Counts what was read of it as one request.
    pub fn count(&self, bytes: u64) {
        self.ranges.count(bytes);
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
    async fn a_read_gives_its_range_or_says_where_the_file_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::open(folder.path().to_str().expect("UTF-8")).expect("opens");
        location.put("a/b %", (0..100).collect::<Vec<u8>>().into()).await.expect("written");
        let file = location.open_file("a/b %").expect("opens");
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 96).expect("read");
        assert_eq!(bytes, [96, 97, 98, 99]);
        file.count(4);
        let traffic = location.traffic();
        assert_eq!((traffic.requests, traffic.bytes), (1, 4));
        let beyond = file.read_exact_at(&mut bytes, 97).expect_err("too short");
        assert!(matches!(beyond, StoreError::Truncated { bytes: 100, .. }), "{beyond:?}");
        assert!(location.open_file("a/none").expect_err("missing").is_not_found());
    }
}
