//! The recipe's words as the model's and the loader's.

use strand_data::{FrameRule, OrderRules, PromptStyle};
use strand_model::{Config, VideoInput};
use strand_recipe::{FrameSampling, PerStep, Recipe, SampleOrder, Stage, Video};

use crate::optimizer::AdamWConfig;

/// The model of a recipe: it has whatever one of the stages needs.
pub fn model_config(recipe: &Recipe) -> Config {
    let llama = &recipe.model.llama;
    Config {
        vocab_size: llama.vocab_size as i64,
        hidden_size: llama.hidden_size as i64,
        intermediate_size: llama.intermediate_size as i64,
        num_hidden_layers: llama.num_hidden_layers,
        num_attention_heads: llama.num_attention_heads as i64,
        num_key_value_heads: llama.num_key_value_heads.unwrap_or(llama.num_attention_heads) as i64,
        rms_norm_eps: llama.rms_norm_eps,
        rope_theta: llama.rope_theta,
        max_position_embeddings: llama.max_position_embeddings,
        feature_size: recipe.model.feature_size as i64,
        adapter_size: recipe.model.adapter_size.map(|size| size as i64),
        mvm_decoder: recipe.stages.iter().any(|stage| stage.mvm.is_some_and(|mvm| mvm.decoder)),
        pad_vocab: recipe.parallel.pad_vocab,
        exact_tp: recipe.parallel.exact_tp.map(|slices| slices as i64),
    }
}

/// The token path of a stage.
pub fn video_input(video: &Video) -> VideoInput {
    match video.input {
        strand_recipe::VideoInput::All => VideoInput::All,
        strand_recipe::VideoInput::Mean => VideoInput::Mean,
        strand_recipe::VideoInput::GlobalLocal => {
            VideoInput::GlobalLocal { local_frames: video.local_frames as i64 }
        }
    }
}

/// The prompt template.
pub fn prompt_style(style: strand_recipe::PromptStyle) -> PromptStyle {
    match style {
        strand_recipe::PromptStyle::Instructblip => PromptStyle::Instructblip,
        strand_recipe::PromptStyle::Minigpt4 => PromptStyle::Minigpt4,
    }
}

/// Which frames of a longer row are used.
pub fn frame_rule(sampling: FrameSampling) -> FrameRule {
    match sampling {
        FrameSampling::Middle => FrameRule::Middle,
        FrameSampling::Rand => FrameRule::Rand,
    }
}

/// How a stage's samples are put in order, in steps of `batch`.
pub fn order_rules(stage: &Stage, batch: u64) -> OrderRules {
    let SampleOrder { per_step, by_length } = stage.order.unwrap_or_default();
    OrderRules { one_set: (per_step == PerStep::OneSet).then_some(batch), by_length }
}

impl From<&strand_recipe::Optimizer> for AdamWConfig {
    fn from(optimizer: &strand_recipe::Optimizer) -> AdamWConfig {
        let strand_recipe::Optimizer { betas, eps, weight_decay, .. } = *optimizer;
        AdamWConfig { betas, eps, weight_decay }
    }
}
