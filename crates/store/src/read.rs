//! Reading and listing.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use crate::remote::Failure;
use crate::{Location, StoreError, Traffic};

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path relative to the location that was listed.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Location {
    /// The whole object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and all that storage can do.
    pub async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        self.get_bounded(path, u64::MAX).await
    }

    /// The whole object, refused before it is read if it is larger than `max_bytes`. A remote one is asked for again
    /// after a failure, and a second time where the answer is slow to begin.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::NotFound`] and all that storage can do.
    pub async fn get_bounded(&self, path: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let key = self.key(path)?;
        if let Some(remote) = self.ranges.remote() {
            let read = self.ranges.read_whole(remote, &key, max_bytes).await;
            return read.map_err(|failure| self.read_failed(path, 0..max_bytes, failure));
        }
        let read = self.store.get(&key).await.map_err(|error| self.failed(path, "read", error))?;
        let (url, bytes) = (self.url_of(path), read.meta.size);
        if bytes > max_bytes {
            return Err(StoreError::TooLarge { url, bytes, limit: max_bytes });
        }
        let body = read.bytes().await.map_err(|error| self.failed(path, "read", error))?;
        if body.len() as u64 != bytes {
            let (wanted, bytes) = (0..bytes, body.len() as u64);
            return Err(StoreError::Truncated { url, wanted, bytes });
        }
        Ok(body)
    }

    /// Exactly the bytes `range` of an object. A remote one is asked for in parts of 16 MiB at most, each tried again
    /// after a failure and sent a second time where it is slow. Their memory goes back to [`crate::Pool::shared`]
    /// when the last slice of them is dropped.
    ///
    /// # Errors
    /// [`StoreError::Truncated`] where the object ends earlier, [`StoreError::NotFound`] and all that storage can do.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let read = self.ranges.read(self.key(path)?, range.clone()).await;
        match read {
            Ok(bytes) => Ok(bytes),
            Err(failure) if failure.is_out_of_range() => {
                let bytes = self.size(path).await?;
                Err(self.read_failed(path, range, Failure::Truncated { bytes }))
            }
            Err(failure) => Err(self.read_failed(path, range, failure)),
        }
    }

    fn read_failed(&self, path: &str, wanted: Range<u64>, failure: Failure) -> StoreError {
        let url = self.url_of(path);
        match failure {
            failure if failure.is_expired() => StoreError::Denied { url, source: failure.into() },
            Failure::Truncated { bytes } => StoreError::Truncated { url, wanted, bytes },
            Failure::TooLarge { bytes } => StoreError::TooLarge { url, bytes, limit: wanted.end },
            Failure::Store(error) => StoreError::new(url, "read", error),
            Failure::Io(error) => StoreError::io_like(url, "read", error.into()),
            failure => StoreError::Failed { url, action: "read", source: failure.into() },
        }
    }

    /// What reads of objects have cost so far, counted over all clones and subfolders of the location that was opened.
    pub fn traffic(&self) -> Traffic {
        self.ranges.traffic()
    }

    /// A whole object, or `None` where there is none.
    ///
    /// # Errors
    /// All that storage can do but [`StoreError::NotFound`].
    pub async fn get_if_exists(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        match self.get(path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of an object in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and all that storage can do.
    pub async fn size(&self, path: &str) -> Result<u64, StoreError> {
        let meta = self.store.head(&self.key(path)?).await;
        Ok(meta.map_err(|error| self.failed(path, "read", error))?.size)
    }

    /// Whether there is an object under this path (folders are not objects).
    ///
    /// # Errors
    /// All that storage can do but [`StoreError::NotFound`].
    pub async fn exists(&self, path: &str) -> Result<bool, StoreError> {
        match self.size(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All objects below the folder `prefix` (empty: this folder), at any depth, sorted by path. A folder that is
    /// not there is empty.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let base = self.folder_key("")?;
        let stream = self.store.list(Some(&self.folder_key(prefix)?));
        let metas: Vec<_> =
            stream.try_collect().await.map_err(|error| self.failed(prefix, "list", error))?;
        let mut entries: Vec<Entry> = metas
            .into_iter()
            .map(|meta| Entry { path: below(&base, &meta.location), bytes: meta.size })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// The names of the folders directly below the folder `prefix` (empty: this folder), sorted.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let folder = self.folder_key(prefix)?;
        let listing = self.store.list_with_delimiter(Some(&folder)).await;
        let listing = listing.map_err(|error| self.failed(prefix, "list", error))?;
        let mut names: Vec<String> =
            listing.common_prefixes.iter().map(|path| below(&folder, path)).collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn failed(
        &self,
        path: &str,
        action: &'static str,
        error: object_store::Error,
    ) -> StoreError {
        StoreError::new(self.url_of(path), action, error)
    }
}

fn below(folder: &object_store::path::Path, path: &object_store::path::Path) -> String {
    let rest = path.as_ref().strip_prefix(folder.as_ref()).unwrap_or(path.as_ref());
    rest.trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn folder() -> (tempfile::TempDir, Location) {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::open(folder.path().to_str().expect("UTF-8")).expect("opens");
        location.put("a/one", Bytes::from_static(b"0123456789")).await.expect("written");
        location.put("a/b/two#%", Bytes::from_static(b"2")).await.expect("written");
        (folder, location)
    }

    #[tokio::test]
    async fn ranges_are_exact_or_an_error() {
        let (_guard, location) = folder().await;
        assert_eq!(&location.get_range("a/one", 2..5).await.expect("read")[..], b"234");
        for range in [8..11, 10..12, 20..30] {
            let error = location.get_range("a/one", range).await.expect_err("too short");
            assert!(matches!(error, StoreError::Truncated { bytes: 10, .. }), "{error:?}");
        }
        assert!(location.get_range("a/none", 0..1).await.expect_err("missing").is_not_found());
    }

    #[tokio::test]
    async fn bounds_hold_before_reading() {
        let (_guard, location) = folder().await;
        assert_eq!(location.get_bounded("a/one", 10).await.expect("fits").len(), 10);
        let error = location.get_bounded("a/one", 9).await.expect_err("too large");
        assert!(matches!(error, StoreError::TooLarge { bytes: 10, limit: 9, .. }));
        let error = location.get("a/none").await.expect_err("missing");
        assert!(
            error.is_not_found() && error.to_string().ends_with("a/none: not found"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn listings_are_relative_and_sorted() {
        let (_guard, location) = folder().await;
        let paths =
            |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>();
        assert_eq!(paths(location.list("").await.expect("lists")), ["a/b/two#%", "a/one"]);
        assert_eq!(paths(location.list("a/b").await.expect("lists")), ["a/b/two#%"]);
        assert_eq!(paths(location.join("a").list("").await.expect("lists")), ["b/two#%", "one"]);
        assert_eq!(location.list_folders("a").await.expect("lists"), ["b"]);
        assert!(location.list("none").await.expect("lists").is_empty());
        assert!(location.list_folders("none").await.expect("lists").is_empty());
        assert!(location.exists("a/one").await.expect("known"));
        assert!(!location.exists("a/none").await.expect("known"));
    }
}
