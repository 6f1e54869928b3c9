//! Writing and deleting.

use std::path::Path as FsPath;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, PutPayload, WriteMultipart};
use tokio::io::AsyncReadExt;

use crate::{Location, StoreError};

/// Larger objects go up in parts.
const MULTIPART_ABOVE: usize = 32 << 20;
/// S3 allows 10,000 parts: this serves objects up to 160 GiB.
const PART: usize = 16 << 20;
/// Parts in flight; bounds the memory of a streamed upload.
const PARTS_IN_FLIGHT: usize = 4;

impl Location {
    /// Writes an object, in place of one that is there. Locally the bytes go to a temporary file, which is synced
    /// and renamed; remotely, objects above 32 MiB go up in parts.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] on a full disk and all that storage can do.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.len() > MULTIPART_ABOVE && self.local_path().is_none() {
            return self.put_parts(path, bytes).await;
        }
        let result = self.store.put(&self.key(path)?, bytes.into()).await;
        result.map(drop).map_err(|error| self.failed(path, "write", error))
    }

    /// Writes an object only if there is none: of several writers one wins.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`], [`StoreError::NoSpace`] and all that storage can do.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let key = self.key(path)?;
        let result =
            self.store.put_opts(&key, PutPayload::from(bytes), PutMode::Create.into()).await;
        result.map(drop).map_err(|error| self.failed(path, "write", error))
    }

    /// Copies a local file to an object, a few parts in memory at a time.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where the local file is missing, [`StoreError::NoSpace`] and all that storage can do.
    pub async fn put_file(&self, path: &str, local: &FsPath) -> Result<(), StoreError> {
        let unreadable = |error: std::io::Error| {
            StoreError::io_like(local.display().to_string(), "read", error.into())
        };
        let mut file = tokio::fs::File::open(local).await.map_err(unreadable)?;
        let mut upload = self.start_upload(path).await?;
        loop {
            let part = match read_part(&mut file).await {
                Ok(part) => part,
                Err(error) => return Err(self.abandon(upload, unreadable(error)).await),
            };
            if part.is_empty() {
                return self.finish_upload(path, upload).await;
            }
            if let Err(error) = upload.wait_for_capacity(PARTS_IN_FLIGHT).await {
                let error = self.failed(path, "write", error);
                return Err(self.abandon(upload, error).await);
            }
            upload.put(part);
        }
    }

    async fn put_parts(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let mut upload = self.start_upload(path).await?;
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Err(error) = upload.wait_for_capacity(PARTS_IN_FLIGHT).await {
                let error = self.failed(path, "write", error);
                return Err(self.abandon(upload, error).await);
            }
            upload.put(rest.split_to(rest.len().min(PART)));
        }
        self.finish_upload(path, upload).await
    }

    async fn start_upload(&self, path: &str) -> Result<WriteMultipart, StoreError> {
        let upload = self.store.put_multipart(&self.key(path)?).await;
        let upload = upload.map_err(|error| self.failed(path, "write", error))?;
        Ok(WriteMultipart::new_with_chunk_size(upload, PART))
    }

    async fn finish_upload(&self, path: &str, upload: WriteMultipart) -> Result<(), StoreError> {
        upload.finish().await.map(drop).map_err(|error| self.failed(path, "write", error))
    }

    /// Gives an upload up. The error that led here says more than one of the clean-up would.
    async fn abandon(&self, upload: WriteMultipart, error: StoreError) -> StoreError {
        drop(upload.abort().await);
        error
    }

    /// Copies an object within this folder, in place of one that is there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NoSpace`] and all that storage can do.
    pub async fn copy(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let copied = self.store.copy(&self.key(from)?, &self.key(to)?).await;
        copied.map_err(|error| self.failed(from, "copy", error))
    }

    /// Moves the object or the folder `from` to `to`; false where there is none. Locally this is one rename. Object
    /// storage has none: all is copied, then removed, a `manifest.json` before everything else, so that nothing that
    /// was committed is ever seen with a part missing.
    ///
    /// # Errors
    /// All that storage can do; a folder may then lie in both places.
    pub async fn rename(&self, from: &str, to: &str) -> Result<bool, StoreError> {
        match (self.join(from).local_path(), self.join(to).local_path()) {
            (Some(source), Some(target)) => rename_local(&source, &target)
                .await
                .map_err(|error| StoreError::io_like(self.url_of(from), "move", error.into())),
            _ => self.rename_objects(from, to).await,
        }
    }

    async fn rename_objects(&self, from: &str, to: &str) -> Result<bool, StoreError> {
        let mut moved: Vec<String> =
            self.list(from).await?.into_iter().map(|entry| entry.path).collect();
        if moved.is_empty() {
            if !self.exists(from).await? {
                return Ok(false);
            }
            moved.push(from.to_owned());
        }
        for path in &moved {
            let rest = path.strip_prefix(from).unwrap_or(path);
            self.copy(path, &format!("{to}{rest}")).await?;
        }
        moved.sort_by_key(|path| !path.ends_with("manifest.json"));
        for path in &moved {
            self.delete(path).await?;
        }
        Ok(true)
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// All that storage can do but [`StoreError::NotFound`].
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.store.delete(&self.key(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(path, "delete", error)),
        }
    }

    /// Removes the folder `prefix` (never empty) and all below it.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`] for an empty prefix, and all that storage can do.
    pub async fn delete_folder(&self, prefix: &str) -> Result<(), StoreError> {
        let folder = self.key(prefix)?;
        if let Some(path) = self.join(prefix).local_path() {
            return match tokio::fs::remove_dir_all(path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(StoreError::io_like(self.url_of(prefix), "delete", error.into()))
                }
                _ => Ok(()),
            };
        }
        let objects = self.store.list(Some(&folder));
        let locations = Box::pin(objects.map_ok(|meta| meta.location));
        let deleted = self.store.delete_stream(locations).try_collect::<Vec<_>>().await;
        deleted.map(drop).map_err(|error| self.failed(prefix, "delete", error))
    }
}

async fn rename_local(from: &FsPath, to: &FsPath) -> std::io::Result<bool> {
    if !tokio::fs::try_exists(from).await? {
        return Ok(false);
    }
    if let Some(parent) = to.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    tokio::fs::rename(from, to).await.map(|()| true)
}

/// The next part of a file: full but at its end, empty behind it.
async fn read_part(file: &mut tokio::fs::File) -> std::io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(PART);
    while part.len() < PART && file.read_buf(&mut part).await? > 0 {}
    Ok(part.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Location) {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::open(folder.path().to_str().expect("UTF-8")).expect("opens");
        (folder, location)
    }

    #[tokio::test]
    async fn put_replaces_and_put_new_does_not() {
        let (_guard, location) = folder();
        location.put("x", Bytes::from_static(b"1")).await.expect("written");
        location.put("x", Bytes::from_static(b"2")).await.expect("replaced");
        let error = location.put_new("x", Bytes::from_static(b"3")).await.expect_err("exists");
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error:?}");
        assert_eq!(&location.get("x").await.expect("read")[..], b"2");
        location.put_new("y", Bytes::from_static(b"4")).await.expect("new");
    }

    #[tokio::test]
    async fn files_are_streamed_whole() {
        let (guard, location) = folder();
        let content: Vec<u8> = (0..PART * 2 + 12345).map(|i| (i % 251) as u8).collect();
        let file = guard.path().join("source");
        std::fs::write(&file, &content).expect("written");
        location.put_file("copies/whole", &file).await.expect("copied");
        assert!(location.get("copies/whole").await.expect("read") == content);
        std::fs::write(&file, b"").expect("written");
        location.put_file("copies/empty", &file).await.expect("copied");
        assert_eq!(location.size("copies/empty").await.expect("known"), 0);
        let error = location.put_file("z", &guard.path().join("none")).await.expect_err("missing");
        assert!(error.is_not_found());
        assert_eq!(location.list("copies").await.expect("lists").len(), 2);
    }

    #[tokio::test]
    async fn deleting_twice_is_no_error() {
        let (_guard, location) = folder();
        location.put("a/b/x", Bytes::from_static(b"1")).await.expect("written");
        location.put("a/y", Bytes::from_static(b"1")).await.expect("written");
        for _ in 0..2 {
            location.delete("a/y").await.expect("deleted");
            location.delete_folder("a").await.expect("deleted");
        }
        assert!(location.list("").await.expect("lists").is_empty());
        assert!(location.delete_folder("").await.is_err());
    }
}
