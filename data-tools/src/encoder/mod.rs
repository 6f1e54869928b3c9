//! What turns the frames of a clip into features: [`PatchEncoder`](crate::patch::PatchEncoder) in this process, or a
//! real model in processes of its own ([`Processes`]), since nothing here links libtorch.

mod process;
mod processes;

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use strand_data::{Dtype, Encoder};

use crate::ToolsError;
use crate::image::Frame;
use crate::patch::{PatchConfig, PatchEncoder};

pub use processes::Processes;

/// What an encoder makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What the manifest tells; `sampling` is left to whoever chooses frames.
    pub encoder: Encoder,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Type of a value.
    pub dtype: Dtype,
    /// How it computes: features of the same encoder computed otherwise differ in their last bits.
    pub computed: String,
}

/// An encoder of clips.
pub trait ClipEncoder: std::fmt::Debug + Send + Sync {
    /// What it makes.
    fn output(&self) -> Output;

    /// What is kept of a frame until its clip is complete.
    fn prepare(&self, frame: &Frame) -> Vec<u8>;

    /// Features `[frames, tokens, dim]` of a clip's prepared frames: one for each question where they depend on it,
    /// else one, and no question is looked at. `clip` is named in errors.
    fn encode<'a>(
        &'a self,
        clip: &'a str,
        frames: &'a [Vec<u8>],
        questions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Vec<u8>>, ToolsError>>;
}

/// Which encoder is wanted.
#[derive(Clone, Debug)]
pub enum EncoderChoice {
    /// Average-pooled patches.
    Patch(PatchConfig),
    /// A model's folder.
    Model(ModelOptions),
}

/// How a model is run.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// `strand-worker`.
    pub program: PathBuf,
    /// The folder, in Hugging Face's layout.
    pub folder: PathBuf,
    /// Type of the computation: `fp32`, `bf16` or `fp16`.
    pub dtype: String,
    /// `auto`, `cpu` or `cuda`.
    pub device: String,
    /// Frames that are computed together.
    pub batch: usize,
    /// Processes; where unset one a GPU, or one with all cores.
    pub workers: Option<usize>,
}

impl EncoderChoice {
    /// Makes it ready; a model's processes read their weights.
    ///
    /// # Errors
    /// [`ToolsError::Options`] for sizes that do not fit, [`ToolsError::EncoderProcess`] and [`ToolsError::Encoder`].
    pub async fn open(&self) -> Result<Arc<dyn ClipEncoder>, ToolsError> {
        Ok(match self {
            EncoderChoice::Patch(config) => Arc::new(PatchEncoder::new(*config)?),
            EncoderChoice::Model(options) => Arc::new(Processes::start(options).await?),
        })
    }
}
