//! What an encoder refuses.

use std::path::PathBuf;

use strand_checkpoint::weights::WeightsError;

/// An encoder cannot be opened, or an input cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// A file of the folder cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the folder is not what it should be.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder's tensors cannot be read, or are not those of the model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A model that has no EVA ViT and Q-Former.
    #[error("{path}: model type `{found}` is not known")]
    ModelType {
        /// The `config.json`.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Sizes that do not fit one another.
    #[error("{path}: {key}: {reason}")]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// The key, with dots.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A question-conditioned encoder without its tokenizer.
    #[error("{folder}: neither qformer_tokenizer/tokenizer.json nor tokenizer.json is here")]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// Text that cannot become ids.
    #[error("question `{text}`: {reason}")]
    Question {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// Frames or questions that this encoder does not take.
    #[error("{0}")]
    Input(String),
    /// A device that this machine does not have.
    #[error("device `{0}` is not here")]
    Device(String),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl VisionError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Weights(error) => return error.hint(),
            Self::ModelType { .. } => {
                "known are instructblip, instructblipvideo, blip-2 and minigpt4, by `model_type` or `architectures`"
            }
            Self::NoTokenizer { .. } => {
                "the Q-Former of InstructBLIP reads the question: its tokenizer is part of the model's folder"
            }
            Self::Device(_) => "use --device cpu or auto; `strand doctor` shows the devices",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of a command that ends with this error: 3 for the machine, 4 for files and inputs.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Device(_) | Self::Torch(_) => 3,
            _ => 4,
        }
    }
}
