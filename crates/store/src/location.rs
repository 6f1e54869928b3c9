//! From a URL to a store and a prefix.

use std::fmt;
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use crate::StoreError;
use crate::ranges::{PATIENCE, Ranges, Source};
use crate::remote::Remote;

/// The client's limit for a whole request. [`Ranges`] ends a request by the time in which nothing came.
const LONGEST_REQUEST: &str = "3600 seconds";

/// A folder in local or object storage. Cheap to clone.
#[derive(Clone)]
pub struct Location {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Reads ranges, in ways of its own.
    pub(crate) ranges: Arc<Ranges>,
    /// `s3://bucket`, or empty for local folders.
    root: Arc<str>,
    /// Names between the root and this folder, without `/` at either end.
    prefix: String,
}

impl Location {
    /// Opens a local path (relative ones allowed), a `file://` URL or an `s3://bucket/prefix` URL. Nothing is read
    /// yet and the folder need not exist.
    ///
    /// S3 settings come from the environment: AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_REGION and the others that AWS's own tools know.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`] for another scheme, a missing bucket name or settings that cannot be used.
    pub fn open(url: &str) -> Result<Location, StoreError> {
        match url.split_once("://") {
            None => local(FsPath::new(url)),
            Some(("file", _)) => local(&file_url(url)?),
            Some(("s3", rest)) => s3(url, rest),
            Some((scheme, _)) => Err(bad(url, format!("unknown kind of storage `{scheme}`"))),
        }
    }

    /// The same folder, where range reads are given up once none has succeeded for `patience` (60 s otherwise).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Location {
        self.ranges = Arc::new(self.ranges.with_patience(patience));
        self
    }

    /// The folder as a person would write it: an absolute path or an `s3://` URL.
    pub fn url(&self) -> String {
        if self.prefix.is_empty() && !self.root.is_empty() {
            return self.root.to_string();
        }
        format!("{}/{}", self.root, self.prefix)
    }

    /// The folder's path where it is local.
    pub fn local_path(&self) -> Option<PathBuf> {
        self.root.is_empty().then(|| PathBuf::from(self.url()))
    }

    /// The folder `relative` below this one. A path that is not allowed shows as an error at its first use.
    pub fn join(&self, relative: &str) -> Location {
        let relative = relative.trim_matches('/');
        let mut joined = self.clone();
        if !joined.prefix.is_empty() && !relative.is_empty() {
            joined.prefix.push('/');
        }
        joined.prefix.push_str(relative);
        joined
    }

    /// The URL of an object in this folder, for messages.
    pub fn url_of(&self, path: &str) -> String {
        self.join(path).url()
    }

    /// The store's own name for an object of this folder.
    pub(crate) fn key(&self, path: &str) -> Result<Path, StoreError> {
        if path.trim_matches('/').is_empty() {
            return Err(bad(&self.url(), "the name of an object is empty".to_owned()));
        }
        self.folder_key(path)
    }

    /// As [`Self::key`], where an empty path means the folder itself.
    pub(crate) fn folder_key(&self, path: &str) -> Result<Path, StoreError> {
        let full = self.join(path);
        Path::parse(&full.prefix).map_err(|error| bad(&full.url(), error.to_string()))
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.url())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

fn bad(url: &str, reason: String) -> StoreError {
    StoreError::BadUrl { url: url.to_owned(), reason }
}

fn file_url(url: &str) -> Result<PathBuf, StoreError> {
    let parsed = url::Url::parse(url).map_err(|error| bad(url, error.to_string()))?;
    parsed.to_file_path().map_err(|()| bad(url, "not a local path".to_owned()))
}

fn local(path: &FsPath) -> Result<Location, StoreError> {
    let shown = path.display().to_string();
    let absolute = absolute(path).map_err(|error| bad(&shown, error.to_string()))?;
    let text = absolute.to_str().ok_or_else(|| bad(&shown, "the path is not UTF-8".to_owned()))?;
    let source = Source::Folder(Arc::new(LocalFileSystem::new()));
    Ok(Location {
        store: Arc::new(LocalFileSystem::new().with_fsync(true)),
        ranges: Arc::new(Ranges::new(source, PATIENCE)),
        root: Arc::from(""),
        prefix: text.trim_matches('/').to_owned(),
    })
}

/// An absolute path without `.` and `..`; a `..` behind a symbolic link means the parent of what the link names.
fn absolute(path: &FsPath) -> std::io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        if component == Component::ParentDir {
            clean = clean.canonicalize().unwrap_or(clean);
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    Ok(clean)
}

fn s3(url: &str, rest: &str) -> Result<Location, StoreError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(bad(url, "the bucket's name is missing".to_owned()));
    }
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(10), ..BackoffConfig::default() },
        max_retries: 10,
        retry_timeout: Duration::from_secs(120),
    };
    let unusable = |error: object_store::Error| bad(url, error.to_string());
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    let store = builder.build().map_err(unusable)?;
    let name = bucket.to_owned();
    let remote = Remote::new(Box::new(move || ranges_client(&name))).map_err(unusable)?;
    Ok(Location {
        store: Arc::new(store),
        ranges: Arc::new(Ranges::new(Source::Remote(Arc::new(remote)), PATIENCE)),
        root: Arc::from(format!("s3://{bucket}")),
        prefix: prefix.trim_matches('/').to_owned(),
    })
}

/// A client for [`Ranges`], which retries, and ends what takes too long, by itself.
fn ranges_client(bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    let never = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(never);
    Ok(Arc::new(builder.with_config(timeout, LONGEST_REQUEST).build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_urls_are_absolute_paths() {
        let here = std::env::current_dir().expect("a current folder");
        let location = Location::open("a b/./c%/../d").expect("opens");
        assert_eq!(location.local_path(), Some(here.join("a b/d")));
        assert_eq!(Location::open("file:///tmp/x%20y").expect("opens").url(), "/tmp/x y");
        assert_eq!(
            location.join("e/f/").url_of("/g"),
            here.join("a b/d/e/f/g").display().to_string()
        );
    }

    #[test]
    fn s3_urls_name_bucket_and_prefix() {
        let location = Location::open("s3://bucket/some/prefix/").expect("opens");
        assert_eq!(location.url_of("x"), "s3://bucket/some/prefix/x");
        assert_eq!(location.local_path(), None);
        assert_eq!(Location::open("s3://bucket").expect("opens").url(), "s3://bucket");
    }

    #[test]
    fn what_cannot_be_opened_says_so() {
        for url in ["gs://bucket/x", "s3:///x", "file://host/x"] {
            let error = Location::open(url).expect_err("refused");
            assert!(matches!(error, StoreError::BadUrl { .. }), "{error}");
            assert!(error.to_string().contains(url), "{error}");
        }
    }

    #[test]
    fn paths_do_not_leave_the_folder() {
        let location = Location::open("/tmp/x").expect("opens");
        assert!(location.key("../y").is_err());
        assert!(location.key("a//b").is_err());
        assert!(location.key("").is_err());
    }
}
