//! Small models for tests.

use std::path::Path;

use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::config::{Config, Family, QFormerConfig, VisionConfig};
use crate::random;

/// Tensors of fp32: name, shape, values.
pub type Values = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Writes a safetensors file.
pub fn write_file(path: &Path, tensors: &Values) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A tiny model.
pub fn config(question_conditioned: bool) -> Config {
    Config {
        family: if question_conditioned { Family::InstructBlip } else { Family::Blip2 },
        vision: VisionConfig {
            hidden_size: 48,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            image_size: 28,
            ..VisionConfig::default()
        },
        qformer: QFormerConfig {
            vocab_size: 200,
            hidden_size: 32,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            intermediate_size: 64,
            max_position_embeddings: 40,
            ..QFormerConfig::default()
        },
        num_query_tokens: 6,
    }
}

/// A folder of that model with random weights.
pub fn random_folder(question_conditioned: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    random::write_folder(folder.path(), &config(question_conditioned)).unwrap();
    folder
}
