//! The language model of a recipe: its sizes, and the tensors that follow from them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::defaults;

/// LLaMA configuration, named as in Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Llama {
    /// Rows of the embedding; every token id is below it.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; as many as query heads where unset.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Epsilon of RMSNorm.
    #[serde(default = "defaults::rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary position embedding.
    #[serde(default = "defaults::rope_theta")]
    pub rope_theta: f64,
    /// Longest sequence that a sample may make, in tokens.
    #[serde(default = "defaults::max_position_embeddings")]
    pub max_position_embeddings: usize,
    /// How positions beyond those of the original training are reached; not at all where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
}

/// A change of the rotary frequencies that reaches further positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Positions are divided (arXiv 2306.15595).
    Linear {
        /// By this.
        factor: f64,
    },
    /// Llama 3.1's: slow frequencies are divided, fast ones stay, those in between are blended.
    Llama3(Llama3Scaling),
}

/// Llama 3.1's scaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Llama3Scaling {
    /// What slow frequencies are divided by.
    pub factor: f64,
    /// Slow are those with fewer turns than this within the original positions.
    pub low_freq_factor: f64,
    /// Fast are those with more turns.
    pub high_freq_factor: f64,
    /// Positions of the original training.
    pub original_max_position_embeddings: usize,
}

impl Llama {
    /// Key and value heads.
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Names and shapes of the model's tensors, as in Hugging Face's files: what is in front of the layers, the layers in
    /// their order, what is behind them.
    pub fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (vocab, hidden) = (self.vocab_size as u64, self.hidden_size as u64);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
        for layer in 0..self.num_hidden_layers {
            let named = |(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape);
            tensors.extend(self.layer().into_iter().map(named));
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        tensors
    }

    fn layer(&self) -> [(&'static str, Vec<u64>); 9] {
        let (hidden, wide) = (self.hidden_size as u64, self.intermediate_size as u64);
        let kv = hidden / (self.num_attention_heads as u64).max(1) * self.key_value_heads() as u64;
        [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![wide, hidden]),
            ("mlp.up_proj", vec![wide, hidden]),
            ("mlp.down_proj", vec![hidden, wide]),
        ]
    }
}
