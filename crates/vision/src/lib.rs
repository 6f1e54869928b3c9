//! Frames to features: EVA ViT-g and the Q-Former of InstructBLIP, BLIP-2 and MiniGPT-4.
//!
//! [`Encoder::open`] reads a Hugging Face folder (`config.json` and safetensors) and [`Encoder::encode`] turns the
//! frames of a clip into the Q-Former's output, `[frames, queries, hidden]`. InstructBLIP's Q-Former reads the
//! question, so its features belong to (video, frames, question); those of the others belong to the video.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod encoder;
mod error;
mod eva;
mod folder;
mod identity;
mod layers;
mod preprocess;
mod qformer;
mod question;
pub mod random;
#[cfg(test)]
mod testing;
mod weights;

pub use config::{Activation, Config, Family, QFormerConfig, VisionConfig};
pub use encoder::{Encoder, Options};
pub use error::VisionError;
pub use eva::EvaVit;
pub use preprocess::Preprocess;
pub use qformer::{QFormer, Text};
pub use question::QuestionTokenizer;
pub use weights::{Reader, Weights, tensor_shapes};
