//! What can go wrong with a checkpoint.

use strand_store::StoreError;

use crate::Kind;

/// A failure to write, commit or read a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder has no manifest.
    #[error("{url}: not a checkpoint: it has no manifest.json")]
    NotACheckpoint {
        /// The folder.
        url: String,
    },
    /// Bytes are not what was written.
    #[error("{url}: damaged: {reason}")]
    Damaged {
        /// The file.
        url: String,
        /// Where and how.
        reason: String,
    },
    /// The manifest was written by another version.
    #[error("{url}: format {found}, this version reads {supported}")]
    Format {
        /// The manifest.
        url: String,
        /// Its format and version.
        found: String,
        /// Ours.
        supported: String,
    },
    /// A rank handed over a piece that cannot be.
    #[error("rank {rank}: tensor `{name}` ({kind}): {reason}")]
    Piece {
        /// The rank.
        rank: usize,
        /// The tensor's name.
        name: String,
        /// What its values are.
        kind: Kind,
        /// What is wrong.
        reason: String,
    },
    /// The parts of the ranks do not belong together.
    #[error("step {step}: {reason}")]
    Parts {
        /// The step.
        step: u64,
        /// What is wrong, with the rank.
        reason: String,
    },
    /// Two parts hold the same values.
    #[error("tensor `{name}` ({kind}): the parts in {first} and {second} overlap at index {at:?}")]
    Overlap {
        /// The tensor's name.
        name: String,
        /// What its values are.
        kind: Kind,
        /// The file of one part.
        first: String,
        /// The file of the other.
        second: String,
        /// The first index that both hold.
        at: Vec<u64>,
    },
    /// No part holds some values.
    #[error(
        "tensor `{name}` ({kind}): the parts hold {held} of {needed} values, index {at:?} is missing"
    )]
    Hole {
        /// The tensor's name.
        name: String,
        /// What its values are.
        kind: Kind,
        /// Values held.
        held: u64,
        /// Values of the tensor.
        needed: u64,
        /// The first index that no part holds.
        at: Vec<u64>,
    },
    /// A later attempt has committed this step.
    #[error("{url}: attempt {theirs} has committed this step, this is attempt {ours}")]
    Fenced {
        /// The manifest.
        url: String,
        /// The writer epoch there.
        theirs: u64,
        /// The writer epoch here.
        ours: u64,
    },
    /// The checkpoint does not hold this tensor.
    #[error("{url}: no tensor `{name}` ({kind})")]
    NoTensor {
        /// The checkpoint.
        url: String,
        /// The name asked for.
        name: String,
        /// The kind asked for.
        kind: Kind,
    },
    /// The slice is not a box of the tensor.
    #[error(
        "{url}: tensor `{name}` ({kind}) of shape {shape:?} has no slice at {offset:?} of size {extent:?}"
    )]
    Slice {
        /// The checkpoint.
        url: String,
        /// The tensor's name.
        name: String,
        /// What its values are.
        kind: Kind,
        /// The tensor's shape.
        shape: Vec<u64>,
        /// The offset asked for.
        offset: Vec<u64>,
        /// The extent asked for.
        extent: Vec<u64>,
    },
    /// A committed checkpoint was to be discarded as if it were not one.
    #[error("{url}: is a committed checkpoint, only an unfinished one can be discarded")]
    Committed {
        /// The folder.
        url: String,
    },
    /// The safetensors header could not be made.
    #[error("{url}: cannot lay out the file: {reason}")]
    Layout {
        /// The file.
        url: String,
        /// What the library said.
        reason: String,
    },
}

impl CheckpointError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::NotACheckpoint { .. } => Some(
                "a folder without manifest.json was never finished: choose one that `strand checkpoint list` shows"
                    .to_owned(),
            ),
            Self::Damaged { .. } => Some(
                "`strand checkpoint verify` lists all damage; remove the folder to continue from the checkpoint before it"
                    .to_owned(),
            ),
            Self::Format { .. } => Some("read it with the version that wrote it".to_owned()),
            Self::Fenced { .. } => {
                Some("another launcher continues this run: stop one of them".to_owned())
            }
            Self::NoTensor { .. } | Self::Slice { .. } => Some(
                "the model of the recipe differs from the one that wrote the checkpoint".to_owned(),
            ),
            _ => None,
        }
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        5
    }

    /// True where the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Store(StoreError::NoSpace { .. }))
    }

    pub(crate) fn damaged(url: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged { url: url.into(), reason: reason.into() }
    }
}
