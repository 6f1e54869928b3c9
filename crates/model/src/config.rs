//! Sizes of a model.

use serde::Deserialize;

use crate::error::ModelError;

/// Sizes of the language model and of what feeds it; the first ones named as in Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Width of the feed-forward layer.
    pub intermediate_size: i64,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary position embedding.
    pub rope_theta: f64,
    /// A change of its frequencies that reaches further positions.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// Longest sequence.
    #[serde(default = "unlimited")]
    pub max_position_embeddings: usize,
    /// Values of one visual token before the projector.
    pub feature_size: i64,
    /// Width of the global-local adapter, where there is one.
    #[serde(default)]
    pub adapter_size: Option<i64>,
    /// Whether there is an MVM decoder.
    #[serde(default)]
    pub mvm_decoder: bool,
    /// Pad the vocabulary to a multiple of the tensor-parallel size.
    #[serde(default = "yes")]
    pub pad_vocab: bool,
    /// Slices along which sums over tensor-parallel ranks are taken, so that layouts of up to so many ranks agree to the
    /// bit; none where they need not.
    #[serde(default)]
    pub exact_tp: Option<i64>,
    /// Whether tensor-parallel ranks divide the sequences, too, where each would do the same.
    #[serde(default)]
    pub sequence_parallel: bool,
    /// Low-rank adaptation of some weights.
    #[serde(default)]
    pub lora: Option<Lora>,
}

/// Low-rank adaptation (LoRA, arXiv 2106.09685): narrow factors beside weights of the layers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Lora {
    /// Width of the factors; with 0 there are none.
    pub rank: i64,
    /// What they add counts alpha ÷ rank.
    pub alpha: f64,
    /// The products that are adapted, as `q_proj`.
    pub targets: Vec<String>,
    /// Share of the values in front of the factors that samples with a key drop.
    #[serde(default)]
    pub dropout: f64,
}

impl Lora {
    /// What the product of the factors is multiplied with.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// A change of the rotary frequencies that reaches further positions.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// All are divided (arXiv 2306.15595).
    Linear {
        /// By this.
        factor: f64,
    },
    /// Llama 3.1's: slow ones are divided, fast ones stay, those in between are blended.
    Llama3 {
        /// What slow ones are divided by.
        factor: f64,
        /// Slow are those with fewer turns than this within the original positions.
        low_freq_factor: f64,
        /// Fast are those with more turns.
        high_freq_factor: f64,
        /// Positions of the original training.
        original_max_position_embeddings: usize,
    },
}

fn unlimited() -> usize {
    usize::MAX
}

fn yes() -> bool {
    true
}

/// How frames become visual tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoInput {
    /// All tokens of all frames.
    All,
    /// Mean over the frames.
    Mean,
    /// Local frames plus the adapted mean of all frames.
    GlobalLocal {
        /// Number of local frames, R.
        local_frames: i64,
    },
}

impl Config {
    /// Width of one head.
    pub fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    /// The adaptation of a product, by its name: `model.layers.0.self_attn.q_proj`.
    pub fn lora_of(&self, name: &str) -> Option<&Lora> {
        let target = name.rsplit('.').next().unwrap_or(name);
        self.lora
            .as_ref()
            .filter(|lora| lora.rank > 0 && lora.targets.iter().any(|it| it == target))
    }

    /// Rows of the embedding with padding, over `tp` ranks.
    pub fn padded_vocab(&self, tp: i64) -> i64 {
        let parts = self.exact_tp.unwrap_or(tp);
        if self.pad_vocab { (self.vocab_size + parts - 1) / parts * parts } else { self.vocab_size }
    }

    /// Whether key and value heads are fewer than the ranks, so that several ranks share one.
    pub fn replicates_kv(&self, tp: i64) -> bool {
        self.num_key_value_heads < tp
    }

    /// Checks that the sizes fit each other and `tp` ranks.
    ///
    /// # Errors
    /// The first size that does not.
    pub fn check(&self, tp: i64) -> Result<(), ModelError> {
        let Some(slices) = self.exact_tp else { return self.check_split(tp) };
        if slices < 1 || slices.count_ones() != 1 || slices % tp != 0 || self.replicates_kv(slices)
        {
            let text = format!(
                "exact_tp {slices} is no power of two that tp {tp} divides and that {} key-value heads fill",
                self.num_key_value_heads
            );
            return Err(ModelError::Config(text));
        }
        self.check_split(slices)
    }

    fn check_split(&self, tp: i64) -> Result<(), ModelError> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads < 1 || self.hidden_size % heads != 0 || self.head_dim() % 2 != 0 {
            let text = format!(
                "hidden_size {} does not make {heads} heads of even width",
                self.hidden_size
            );
            return Err(ModelError::Config(text));
        }
        if kv_heads < 1 || heads % kv_heads != 0 {
            let text = format!("{kv_heads} key-value heads do not divide {heads} attention heads");
            return Err(ModelError::Config(text));
        }
        let divides = |key, value, fits: bool| {
            if fits { Ok(()) } else { Err(ModelError::Indivisible { key, value, tp }) }
        };
        divides("num_attention_heads", heads, heads % tp == 0)?;
        let shared = if self.replicates_kv(tp) { tp % kv_heads } else { kv_heads % tp };
        divides("num_key_value_heads", kv_heads, shared == 0)?;
        divides("intermediate_size", self.intermediate_size, self.intermediate_size % tp == 0)?;
        divides("vocab_size", self.vocab_size, self.padded_vocab(tp) % tp == 0)
    }
}
