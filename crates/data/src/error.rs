//! What can be wrong with data, told apart by what a person does about it.

use strand_store::StoreError;

/// Where in a data set something is: shard file, row group and row, both counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// URL of the shard.
    pub shard: String,
    /// The row group, where one is meant.
    pub group: Option<usize>,
    /// The row of the group, where one is meant.
    pub row: Option<usize>,
}

impl Place {
    pub(crate) fn shard(url: String) -> Place {
        Place { shard: url, group: None, row: None }
    }

    pub(crate) fn group(url: String, group: usize) -> Place {
        Place { shard: url, group: Some(group), row: None }
    }

    pub(crate) fn row(&self, row: usize) -> Place {
        Place { row: Some(row), ..self.clone() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shard)?;
        if let Some(group) = self.group {
            write!(f, ", row group {group}")?;
        }
        if let Some(row) = self.row {
            write!(f, ", row {row}")?;
        }
        Ok(())
    }
}

/// A failure of the data plane.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder holds no `manifest.json`, so it is not a data set.
    #[error("{url}: no manifest.json, so this is not a data set")]
    MissingManifest {
        /// The folder.
        url: String,
    },
    /// The manifest cannot be believed.
    #[error("{url}: bad manifest: {reason}")]
    Manifest {
        /// The manifest's URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The manifest names a shard that is not there.
    #[error("{place}: the shard is missing")]
    MissingShard {
        /// The shard.
        place: Place,
    },
    /// A shard ends too early.
    #[error(
        "{place}: the shard is truncated: it holds {bytes} bytes, the manifest says {expected}"
    )]
    Truncated {
        /// The shard.
        place: Place,
        /// Its size in bytes.
        bytes: u64,
        /// The size that the manifest gives.
        expected: u64,
    },
    /// Bytes changed since they were written.
    #[error("{place}: checksum mismatch in {what}")]
    Checksum {
        /// The shard, row group and, where it can be told, row.
        place: Place,
        /// Which bytes: the features of which sample, the row group, the footer, the shard.
        what: String,
    },
    /// A shard is not what its manifest says, or not a shard at all.
    #[error("{place}: bad shard: {reason}")]
    Shard {
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// A row that cannot be written.
    #[error("sample `{id}`: {reason}")]
    Row {
        /// The sample.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings of a writer or loader that cannot work.
    #[error("{0}")]
    Settings(String),
    /// A cache that cannot be used.
    #[error("cache {folder}: {reason}")]
    Cache {
        /// Its folder.
        folder: String,
        /// What is wrong.
        reason: String,
    },
    /// A cursor that belongs to other data or another order.
    #[error("cannot continue from the saved data position: {0}")]
    Cursor(String),
    /// The tokenizer cannot be read or lacks what the prompt needs.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// There is no memory for a batch.
    #[error("no memory for a batch of {bytes} bytes")]
    Memory {
        /// What its features need.
        bytes: usize,
        /// What the allocator said.
        source: std::io::Error,
    },
    /// The loader already gave its error and has ended.
    #[error("the loader has stopped after an error")]
    Stopped,
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DataError {
    /// What storage says of a shard that should have `expected` bytes.
    pub(crate) fn of_shard(place: Place, expected: u64, error: StoreError) -> DataError {
        match error {
            StoreError::NotFound { .. } => DataError::MissingShard { place },
            StoreError::Truncated { bytes, .. } => DataError::Truncated { place, bytes, expected },
            error => error.into(),
        }
    }

    /// Whether bytes of the data set are damaged, so that their rows may be skipped.
    pub fn is_damage(&self) -> bool {
        self.damage().is_some()
    }

    /// A copy of an error that is damage: it stands for all rows of a row group.
    pub(crate) fn damage(&self) -> Option<DataError> {
        match self {
            Self::Truncated { place, bytes, expected } => {
                let (bytes, expected) = (*bytes, *expected);
                Some(Self::Truncated { place: place.clone(), bytes, expected })
            }
            Self::Checksum { place, what } => {
                Some(Self::Checksum { place: place.clone(), what: what.clone() })
            }
            Self::Shard { place, reason } => {
                Some(Self::Shard { place: place.clone(), reason: reason.clone() })
            }
            _ => None,
        }
    }

    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::MissingManifest { .. } => {
                "check the URL; the manifest is written last, so a folder without one may be an unfinished write"
            }
            Self::MissingShard { .. } | Self::Truncated { .. } => {
                "copy the data set again, or write it again"
            }
            Self::Checksum { .. } | Self::Shard { .. } => {
                "the file changed after it was written: copy it again from its source; `strand data verify` checks all of it"
            }
            Self::Manifest { .. } => "a manifest is never edited by hand: write the data set again",
            Self::Cursor(_) => {
                "start over with `--resume never`, or restore the recipe and the data of the checkpoint"
            }
            Self::Cache { .. } => {
                "give it an empty folder on a local disk and a larger limit, or do without: `mode: off`"
            }
            Self::Memory { .. } => "take smaller batches, fewer frames or fewer ranks on a node",
            Self::Store(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of a command that ends with this error: 4 for data, 5 where storage itself failed, 3 where
    /// memory did, 2 for settings of a cache.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Cache { .. } => 2,
            Self::Store(error) if !error.is_not_found() => error.exit_code(),
            Self::Memory { .. } => 3,
            _ => 4,
        }
    }
}
