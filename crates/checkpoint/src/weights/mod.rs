//! Weights in other tools' files: folders of safetensors as Hugging Face's libraries write and read them.
//!
//! [`Weights`] knows the tensors of a folder by name and reads boxes of them, [`LlamaWeights`] finds a language model, a
//! projector and the factors of an adapter among them, [`FileWriter`] writes such files.

mod adapter;
mod error;
mod folder;
mod header;
mod llama;
mod read;
#[cfg(test)]
mod testing;
mod values;
mod write;

pub use adapter::{ADAPTER, ADAPTER_CONFIG, ADAPTER_PREFIX, EXTRA, read_adapter_config};
pub use error::WeightsError;
pub use folder::{INDEX, Weights};
pub use header::Stored;
pub use llama::{CONFIG, Expected, LlamaWeights, read_config};
pub use values::{Overflow, from_f32, to_f32};
pub use write::{FileWriter, Head};
