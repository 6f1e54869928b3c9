//! What a model refuses.

use strand_comm::CommError;

/// A model cannot be built or a sample cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A dimension that tensor parallelism cannot divide.
    #[error("model.llama.{key}: {value} cannot be divided among tp = {tp} ranks")]
    Indivisible {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        value: i64,
        /// Tensor-parallel size.
        tp: i64,
    },
    /// Two sizes that do not fit each other.
    #[error("model: {0}")]
    Config(String),
    /// A token id that the embedding does not hold.
    #[error("sample {sample}: token id {id} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The sample's index in the micro-batch.
        sample: usize,
        /// The id.
        id: i64,
        /// Rows of the embedding.
        vocab: i64,
    },
    /// Features that are not of the model's size.
    #[error(
        "sample {sample}: features of shape {shape:?}, but the model takes [frames, tokens, {feature_size}]"
    )]
    Features {
        /// The sample's index in the micro-batch.
        sample: usize,
        /// The features' shape.
        shape: Vec<i64>,
        /// The model's feature size.
        feature_size: i64,
    },
    /// A sequence that is longer than the model's positions.
    #[error("sample {sample}: {length} tokens, but model.llama.max_position_embeddings is {limit}")]
    TooLong {
        /// The sample's index in the micro-batch.
        sample: usize,
        /// Its tokens.
        length: usize,
        /// The model's limit.
        limit: usize,
    },
    /// A sample that has no key of dropout beside others that have one.
    #[error("sample {sample}: no key of dropout, but other samples of the micro-batch have one")]
    DropoutKey {
        /// The sample's index in the micro-batch.
        sample: usize,
    },
    /// A collective failed.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// A backward pass failed.
    #[error(transparent)]
    Torch(#[from] strand_torch::Error),
}

impl ModelError {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            ModelError::Indivisible { key: "vocab_size", .. } => {
                Some("set parallel.pad_vocab: true".into())
            }
            ModelError::Indivisible { .. } => Some("choose a parallel.tp that divides it".into()),
            ModelError::Config(_) | ModelError::DropoutKey { .. } => None,
            ModelError::TokenId { .. } => {
                Some("the tokenizer and model.llama.vocab_size belong together: check both".into())
            }
            ModelError::Features { .. } => {
                Some("set model.feature_size to the data set's dim".into())
            }
            ModelError::TooLong { .. } => {
                Some("take fewer frames, mask more tokens, or raise max_position_embeddings".into())
            }
            ModelError::Comm(error) => error.hint(),
            ModelError::Torch(_) => None,
        }
    }
}
