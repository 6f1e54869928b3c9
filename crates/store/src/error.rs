//! What can go wrong with a location, told apart by what a person does about it.

use std::error::Error;
use std::io;
use std::ops::Range;

/// A failure of storage. Every variant names the URL.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing under this URL.
    #[error("{url}: not found")]
    NotFound {
        /// The object.
        url: String,
    },
    /// [`crate::Location::put_new`] found an object in its place.
    #[error("{url}: already exists")]
    AlreadyExists {
        /// The object.
        url: String,
    },
    /// The disk is full or a quota is spent.
    #[error("{url}: no space left on the device")]
    NoSpace {
        /// The object that was being written.
        url: String,
        /// What the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The object is larger than the reader allows.
    #[error("{url}: {bytes} bytes, at most {limit} are allowed here")]
    TooLarge {
        /// The object.
        url: String,
        /// Its size.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The object ends before the range that was asked for.
    #[error("{url}: holds {bytes} bytes, but bytes {}..{} are needed", wanted.start, wanted.end)]
    Truncated {
        /// The object.
        url: String,
        /// The range asked for.
        wanted: Range<u64>,
        /// How many bytes there are.
        bytes: u64,
    },
    /// The URL or a path in it cannot name an object.
    #[error("{url}: {reason}")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials are missing, wrong or not sufficient.
    #[error("{url}: access denied")]
    Denied {
        /// The object.
        url: String,
        /// What the server said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Anything else, after retries.
    #[error("{url}: cannot {action}")]
    Failed {
        /// The object.
        url: String,
        /// The operation in words, e.g. `read`.
        action: &'static str,
        /// What the store said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoSpace { .. } => {
                "free some space or choose another folder, then run the same command again"
            }
            Self::BadUrl { .. } => "use a local path, file:///path or s3://bucket/prefix",
            Self::Denied { url, .. } if url.starts_with("s3://") => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_SESSION_TOKEN where they are needed)"
            }
            Self::Denied { .. } => {
                "check the owner and the permissions of the file and its folders"
            }
            Self::Failed { url, .. } if url.starts_with("s3://") => {
                "check AWS_ENDPOINT_URL, AWS_REGION and the credentials; a plain http endpoint also needs AWS_ALLOW_HTTP=true"
            }
            Self::Truncated { .. } => "the object was cut short: copy or write it again",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        5
    }

    /// True where the object is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(crate) fn new(url: String, action: &'static str, source: object_store::Error) -> Self {
        use object_store::Error as E;
        match source {
            E::NotFound { .. } => Self::NotFound { url },
            E::AlreadyExists { .. } => Self::AlreadyExists { url },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::Denied { url, source: source.into() }
            }
            _ => Self::io_like(url, action, source.into()),
        }
    }

    pub(crate) fn io_like(
        url: String,
        action: &'static str,
        source: Box<dyn Error + Send + Sync>,
    ) -> Self {
        match io_kind(source.as_ref()) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Self::NoSpace { url, source }
            }
            Some(io::ErrorKind::PermissionDenied) => Self::Denied { url, source },
            Some(io::ErrorKind::NotFound) => Self::NotFound { url },
            _ => Self::Failed { url, action, source },
        }
    }
}

/// The kind of the innermost I/O error in a chain of causes.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            found = Some(io.kind());
        }
        next = error.source();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_its_own_error() {
        let cause = io::Error::from_raw_os_error(28);
        let source =
            object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(cause) };
        let error = StoreError::new("/data/x".into(), "write", source);
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("space")));
        assert_eq!(error.exit_code(), 5);
    }

    #[test]
    fn other_trouble_keeps_its_cause() {
        let source =
            object_store::Error::Generic { store: "S3", source: "connection reset".into() };
        let error = StoreError::new("s3://b/x".into(), "read", source);
        assert_eq!(error.to_string(), "s3://b/x: cannot read");
        assert!(error.source().is_some_and(|cause| cause.to_string().contains("connection reset")));
    }
}
