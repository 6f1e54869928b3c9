//! `config.json`: which model it is, and its sizes, under Hugging Face's names.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::VisionError;
use crate::folder::read_small;

/// Which model a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// The Q-Former reads the question.
    #[serde(rename = "instructblip")]
    InstructBlip,
    /// The Q-Former reads the frame alone: BLIP-2 and MiniGPT-4.
    #[serde(rename = "blip2")]
    Blip2,
}

impl Family {
    /// The word in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::InstructBlip => "instructblip",
            Family::Blip2 => "blip2",
        }
    }

    /// Whether features depend on the question.
    pub fn is_question_conditioned(self) -> bool {
        self == Family::InstructBlip
    }

    /// Knows `blip-2`, `Blip2ForConditionalGeneration`, `InstructBlipVideo…`, `mini_gpt4` and the like.
    fn parse(name: &str) -> Option<Family> {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let plain = plain.to_ascii_lowercase();
        match plain.as_str() {
            name if name.starts_with("instructblip") => Some(Family::InstructBlip),
            name if name.starts_with("blip2") || name.starts_with("minigpt4") => {
                Some(Family::Blip2)
            }
            _ => None,
        }
    }
}

/// The non-linearity of a feed-forward layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x·Φ(x), exactly.
    #[default]
    Gelu,
    /// Its approximation by tanh.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluNew,
    /// x·sigmoid(1.702·x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// x·sigmoid(x).
    #[serde(alias = "swish")]
    Silu,
}

/// Sizes of the vision transformer; the defaults are those of EVA ViT-g, which Hugging Face leaves out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Height and width of a frame in pixels.
    pub image_size: i64,
    /// Height and width of a patch in pixels.
    pub patch_size: i64,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Non-linearity.
    pub hidden_act: Activation,
    /// Whether queries and values have a bias.
    pub qkv_bias: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            hidden_size: 1408,
            intermediate_size: 6144,
            num_hidden_layers: 39,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            layer_norm_eps: 1e-6,
            hidden_act: Activation::Gelu,
            qkv_bias: true,
        }
    }
}

impl VisionConfig {
    /// Tokens of a frame: its patches and the class token.
    pub fn num_positions(&self) -> i64 {
        (self.image_size / self.patch_size).pow(2) + 1
    }
}

/// Sizes of the Q-Former; the defaults are those that Hugging Face leaves out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QFormerConfig {
    /// Rows of the word embedding.
    pub vocab_size: i64,
    /// Width of the hidden states: F, the values of a visual token.
    pub hidden_size: i64,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Longest text.
    pub max_position_embeddings: i64,
    /// Every so many layers, from the first on, look at the frame.
    pub cross_attention_frequency: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Non-linearity.
    pub hidden_act: Activation,
}

impl Default for QFormerConfig {
    fn default() -> Self {
        QFormerConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            cross_attention_frequency: 2,
            layer_norm_eps: 1e-12,
            hidden_act: Activation::Gelu,
        }
    }
}

/// What of a model's `config.json` an encoder needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Which model it is.
    pub family: Family,
    /// The vision transformer.
    pub vision: VisionConfig,
    /// The Q-Former.
    pub qformer: QFormerConfig,
    /// K, the tokens of a frame.
    pub num_query_tokens: i64,
}

/// The keys of `config.json` that are looked at.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    vision_config: VisionConfig,
    #[serde(default)]
    qformer_config: QFormerConfig,
    #[serde(default = "usual_queries")]
    num_query_tokens: i64,
}

fn usual_queries() -> i64 {
    32
}

impl Config {
    /// Reads a model's `config.json`.
    ///
    /// # Errors
    /// [`VisionError::Read`] and [`VisionError::File`] for a file that cannot be read, [`VisionError::ModelType`] for
    /// another model, [`VisionError::Config`] for sizes that do not fit one another.
    pub fn load(path: &Path) -> Result<Config, VisionError> {
        let bad = |error: serde_json::Error| VisionError::File {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let bytes = read_small(path)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(bad)?;
        let family = family(&value)
            .map_err(|found| VisionError::ModelType { path: path.to_owned(), found })?;
        // From the text and not from the value: errors then tell line and column.
        let document: Document = serde_json::from_slice(&bytes).map_err(bad)?;
        let config = Config {
            family,
            vision: document.vision_config,
            qformer: document.qformer_config,
            num_query_tokens: document.num_query_tokens,
        };
        let unfit = |(key, reason)| VisionError::Config { path: path.to_owned(), key, reason };
        check_positions(&value).map_err(unfit)?;
        config.check().map_err(unfit)?;
        Ok(config)
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let (vision, qformer) = (&self.vision, &self.qformer);
        format!(
            "ViT {} × {}, patch {}; Q-Former {} × {}, {} queries",
            vision.num_hidden_layers,
            vision.hidden_size,
            vision.patch_size,
            qformer.num_hidden_layers,
            qformer.hidden_size,
            self.num_query_tokens
        )
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let (vision, qformer) = (&self.vision, &self.qformer);
        for (key, value, most) in [
            ("vision_config.hidden_size", vision.hidden_size, 1 << 16),
            ("vision_config.intermediate_size", vision.intermediate_size, 1 << 18),
            ("vision_config.num_hidden_layers", vision.num_hidden_layers as i64, 1 << 10),
            ("vision_config.num_attention_heads", vision.num_attention_heads, 1 << 10),
            ("vision_config.image_size", vision.image_size, 1 << 12),
            ("vision_config.patch_size", vision.patch_size, 1 << 12),
            ("qformer_config.vocab_size", qformer.vocab_size, 1 << 24),
            ("qformer_config.hidden_size", qformer.hidden_size, 1 << 16),
            ("qformer_config.intermediate_size", qformer.intermediate_size, 1 << 18),
            ("qformer_config.num_hidden_layers", qformer.num_hidden_layers as i64, 1 << 10),
            ("qformer_config.num_attention_heads", qformer.num_attention_heads, 1 << 10),
            ("qformer_config.max_position_embeddings", qformer.max_position_embeddings, 1 << 20),
            (
                "qformer_config.cross_attention_frequency",
                qformer.cross_attention_frequency as i64,
                1 << 10,
            ),
            ("num_query_tokens", self.num_query_tokens, 1 << 16),
        ] {
            if !(1..=most).contains(&value) {
                return Err((key, format!("{value} is not between 1 and {most}")));
            }
        }
        self.check_fit()
    }

    fn check_fit(&self) -> Result<(), (&'static str, String)> {
        let (vision, qformer) = (&self.vision, &self.qformer);
        if vision.image_size < vision.patch_size {
            let reason = format!("{} is less than a patch", vision.image_size);
            return Err(("vision_config.image_size", reason));
        }
        for (key, size, heads) in [
            ("vision_config.num_attention_heads", vision.hidden_size, vision.num_attention_heads),
            (
                "qformer_config.num_attention_heads",
                qformer.hidden_size,
                qformer.num_attention_heads,
            ),
        ] {
            if size % heads != 0 {
                return Err((key, format!("{heads} heads do not divide the width {size}")));
            }
        }
        Ok(())
    }
}

/// Older models may have other positions than these; their tensors look the same.
fn check_positions(config: &Value) -> Result<(), (&'static str, String)> {
    match config["qformer_config"]["position_embedding_type"].as_str() {
        None | Some("absolute") => Ok(()),
        Some(other) => {
            let reason = format!("`{other}` is not supported: `absolute` is");
            Err(("qformer_config.position_embedding_type", reason))
        }
    }
}

/// The family by `model_type`, else by the first of `architectures`; `Err` is what is written there.
fn family(config: &Value) -> Result<Family, String> {
    let names = [&config["model_type"], &config["architectures"][0]];
    let names: Vec<&str> = names.into_iter().filter_map(Value::as_str).collect();
    names.iter().find_map(|name| Family::parse(name)).ok_or_else(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<Config, VisionError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        Config::load(&path)
    }

    #[test]
    fn families_are_known_by_type_or_architecture() {
        for (json, family) in [
            (r#"{"model_type": "instructblip"}"#, Family::InstructBlip),
            (r#"{"model_type": "instructblipvideo"}"#, Family::InstructBlip),
            (r#"{"model_type": "blip-2"}"#, Family::Blip2),
            (r#"{"architectures": ["Blip2ForConditionalGeneration"]}"#, Family::Blip2),
            (r#"{"model_type": "mini_gpt4"}"#, Family::Blip2),
        ] {
            assert_eq!(load(json).unwrap().family, family, "{json}");
        }
    }

    #[test]
    fn what_hugging_face_leaves_out_is_eva_vit_g() {
        let config = load(r#"{"model_type": "blip-2", "text_config": {"x": 1}}"#).unwrap();
        assert_eq!((config.vision.num_hidden_layers, config.vision.num_positions()), (39, 257));
        assert_eq!((config.qformer.hidden_size, config.num_query_tokens), (768, 32));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (json, named) in [
            (r#"{"model_type": "llama"}"#, "model type `llama`"),
            ("{}", "model type ``"),
            ("{", "line 1 column"),
            (r#"{"model_type": "blip-2", "vision_config": {"hidden_act": "x"}}"#, "line 1 column"),
            (
                r#"{"model_type": "blip-2", "qformer_config": {"num_attention_heads": 7}}"#,
                "qformer_config.num_attention_heads: 7 heads do not divide",
            ),
            (
                r#"{"model_type": "blip-2", "qformer_config": {"cross_attention_frequency": 0}}"#,
                "qformer_config.cross_attention_frequency: 0 is not",
            ),
            (
                r#"{"model_type": "blip-2", "vision_config": {"image_size": 8}}"#,
                "less than a patch",
            ),
            (
                r#"{"model_type": "blip-2", "qformer_config": {"position_embedding_type": "rope"}}"#,
                "`rope` is not supported",
            ),
        ] {
            let error = load(json).expect_err(named);
            assert!(error.to_string().contains(named), "{error}");
            assert_eq!(error.exit_code(), 4);
        }
    }
}
