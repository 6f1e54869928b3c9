//! What can go wrong with the data tools, told apart by what a person does about it.

use std::path::PathBuf;
use std::time::Duration;

use strand_data::DataError;
use strand_store::StoreError;

/// A failure of a data tool.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// Options that cannot work.
    #[error("{0}")]
    Options(String),
    /// There is no ffmpeg.
    #[error("no ffmpeg was found")]
    NoFfmpeg,
    /// An ffmpeg was found or named, but does not run.
    #[error("{program}: cannot be run")]
    Ffmpeg {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The annotations cannot be read.
    #[error("{path}: {reason}")]
    Annotations {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is not a video, or cannot be decoded as the annotations ask.
    #[error("{path}: {reason}")]
    Video {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Decoding took too long.
    #[error("{path}: not decoded within {} s", limit.as_secs())]
    TimeOut {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: Duration,
    },
    /// Features that cannot be used.
    #[error("{path}: {reason}")]
    Features {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Annotations without features, more than are to be passed over.
    #[error("{count} of {total} records have no features, first record {record} (`{name}`)")]
    MissingFeatures {
        /// How many have none.
        count: usize,
        /// Records in all.
        total: usize,
        /// Number of the first, from 0.
        record: usize,
        /// Its video, or the key of its features.
        name: String,
    },
    /// No record has features.
    #[error("none of the {count} records has features")]
    NoFeatures {
        /// How many records there were.
        count: usize,
    },
    /// An encoder process cannot be started.
    #[error("{program}: cannot be started as an encoder")]
    EncoderProcess {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An encoder process refused, failed or died.
    #[error("{}: {message}", doing.as_deref().unwrap_or("the encoder"))]
    Encoder {
        /// The clip that it was at; none where it was starting.
        doing: Option<String>,
        /// What it said.
        message: String,
        /// What it said to do next.
        hint: Option<String>,
        /// What it said to exit with.
        exit_code: u8,
    },
    /// All videos were skipped.
    #[error("none of the {count} videos could be read")]
    NothingLeft {
        /// How many there were.
        count: usize,
    },
    /// What is to be left for a later run cannot be written down.
    #[error("{url}: cannot be written")]
    Part {
        /// The object.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// A tokenizer cannot be made.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A part of the work ended without a result.
    #[error("a worker thread gave up")]
    Worker(#[from] tokio::task::JoinError),
    /// The data plane failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ToolsError {
    /// A file or folder of features and what is wrong with it.
    pub(crate) fn features(path: &std::path::Path, reason: impl ToString) -> ToolsError {
        ToolsError::Features { path: path.to_owned(), reason: reason.to_string() }
    }

    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoFfmpeg => {
                "install ffmpeg, or run `cargo xtask setup`, or name a program in STRAND_FFMPEG"
            }
            Self::Ffmpeg { .. } => "name an ffmpeg that runs in STRAND_FFMPEG, or unset it",
            Self::Video { .. } => {
                "mend or remove the file, or pass over such files with --skip-bad"
            }
            Self::TimeOut { .. } => "allow more time, or pass over such files with --skip-bad",
            Self::NothingLeft { .. } => {
                "check the folder of the videos; without --skip-bad the first bad file is named"
            }
            Self::MissingFeatures { count, .. } => {
                return Some(format!(
                    "features are found by the video's name with .npy or .safetensors instead of its extension, or behind it; pass over such records with --skip-missing {count}"
                ));
            }
            Self::NoFeatures { .. } => {
                "check the folder: features are found by the video's name, as `strand data pack --help` tells"
            }
            Self::EncoderProcess { .. } => {
                "strand-worker has to lie beside strand, or STRAND_WORKER name it; `strand doctor` checks it"
            }
            Self::Encoder { hint, .. } => return hint.clone(),
            Self::Data(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) => 2,
            Self::NoFfmpeg | Self::Ffmpeg { .. } | Self::EncoderProcess { .. } => 3,
            Self::Encoder { exit_code, .. } => *exit_code,
            Self::Worker(_) => 1,
            Self::Data(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            _ => 4,
        }
    }
}
