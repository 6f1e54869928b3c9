//! Small folders for tests.

use std::path::PathBuf;

use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::folder::INDEX;

/// Name, shape and values of a tensor of fp32.
pub type Values<'a> = (&'a str, &'a [usize], &'a [f32]);

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn url(&self) -> String {
        self.0.path().display().to_string()
    }

    pub fn write(&self, file: &str, tensors: &[Values]) {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        std::fs::write(self.path(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Writes an index: tensors and their files.
    pub fn index(&self, places: &[(&str, &str)]) {
        let map: serde_json::Map<String, serde_json::Value> =
            places.iter().map(|&(name, file)| (name.to_owned(), file.into())).collect();
        let index = serde_json::json!({"metadata": {}, "weight_map": map});
        std::fs::write(self.path(INDEX), index.to_string()).unwrap();
    }
}

/// Bytes of fp32 as numbers.
pub fn values(bytes: &[u8]) -> Vec<f32> {
    super::to_f32(bytes, crate::Dtype::F32)
}
