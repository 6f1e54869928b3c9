//! The recipe's words as the model's and the loader's.

use strand_data::{FrameRule, OrderRules, PromptStyle};
use strand_model::{Config, Lora, Pass, Recompute, RopeScaling, VideoInput};
use strand_recipe::{
    ActivationCheckpointing, FrameSampling, Llama3Scaling, Normalization, PerStep, Precision,
    Recipe, SampleOrder, Stage, Video,
};

use tch::Kind;

use crate::sharded::{Sharding, Zero};
use crate::step::Objective;

/// The model of a recipe: it has whatever one of the stages needs.
pub fn model_config(recipe: &Recipe) -> Config {
    let llama = &recipe.model.llama;
    Config {
        vocab_size: llama.vocab_size as i64,
        hidden_size: llama.hidden_size as i64,
        intermediate_size: llama.intermediate_size as i64,
        num_hidden_layers: llama.num_hidden_layers,
        num_attention_heads: llama.num_attention_heads as i64,
        num_key_value_heads: llama.key_value_heads() as i64,
        rms_norm_eps: llama.rms_norm_eps,
        rope_theta: llama.rope_theta,
        rope_scaling: llama.rope_scaling.map(rope_scaling),
        max_position_embeddings: llama.max_position_embeddings,
        feature_size: recipe.model.feature_size as i64,
        adapter_size: recipe.model.adapter_size.map(|size| size as i64),
        mvm_decoder: recipe.stages.iter().any(|stage| stage.mvm.is_some_and(|mvm| mvm.decoder)),
        pad_vocab: recipe.parallel.pad_vocab,
        exact_tp: recipe.parallel.exact_tp.map(|slices| slices as i64),
        sequence_parallel: recipe.parallel.sequence_parallel,
        lora: recipe.model.lora.as_ref().map(|lora| Lora {
            rank: lora.rank as i64,
            alpha: lora.alpha,
            targets: lora.targets.clone(),
            dropout: lora.dropout,
        }),
    }
}

fn rope_scaling(scaling: strand_recipe::RopeScaling) -> RopeScaling {
    match scaling {
        strand_recipe::RopeScaling::Linear { factor } => RopeScaling::Linear { factor },
        strand_recipe::RopeScaling::Llama3(Llama3Scaling {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        },
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

/// How the samples of a stage go through the model.
pub fn pass(recipe: &Recipe, stage: &Stage, training: bool) -> Pass {
    let mvm = stage.mvm.filter(|_| training).map(|mvm| mvm.decoder);
    let recompute = match recipe.memory.activation_checkpointing {
        _ if !training => Recompute::Nothing,
        ActivationCheckpointing::None => Recompute::Nothing,
        ActivationCheckpointing::Selective => Recompute::Gates,
        ActivationCheckpointing::Full => Recompute::Layers,
    };
    Pass { input: video_input(&stage.video), mvm, kind: compute_kind(recipe), recompute }
}

/// The type of the matrices that the model computes with.
pub fn compute_kind(recipe: &Recipe) -> Kind {
    match recipe.precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp64 => Kind::Double,
    }
}

/// How a stage keeps what it trains, whose steps are divided among `dp` ranks.
pub fn sharding(recipe: &Recipe, stage: &Stage, dp: usize) -> Sharding {
    let zero = match recipe.memory.zero {
        0 => Zero::Zero0,
        1 => Zero::Zero1,
        2 => Zero::Zero2,
        _ => Zero::Zero3,
    };
    let batch = stage.batch.unwrap_or(recipe.batch);
    let share = batch.global.div_ceil(dp);
    let has_parts = batch.micro.is_some_and(|micro| micro < share);
    Sharding {
        zero,
        kind: compute_kind(recipe),
        offload: recipe.memory.offload_optimizer,
        accumulates: has_parts || recipe.parallel.exact_tp.is_some(),
    }
}

/// How the losses of a stage are weighted.
pub fn objective(recipe: &Recipe, stage: &Stage) -> Objective {
    Objective {
        mvm_weight: stage.mvm.map_or(0.0, |mvm| mvm.weight),
        per_micro_batch: recipe.loss.normalization == Normalization::PerMicroBatch,
        exact_sums: recipe.parallel.exact_tp.is_some(),
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
