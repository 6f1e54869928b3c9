//! What a recipe file says, as types. Every field has its default here and nowhere else.
//!
//! Variants are written as a map with exactly one key (`length: {steps: 1200}`) or as a plain word
//! (`mask: none`): tagged enums would lose the position of an error.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::llama::Llama;
use crate::lora::Lora;
use crate::memory::Memory;
use crate::process_types::{Checkpoint, Runtime, Trace};

/// A run: one model taken through a list of stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run, used for its default run directory.
    pub name: String,
    /// Seed of every draw of the run: weights, order, masks, questions.
    #[serde(default)]
    pub seed: u64,
    /// The language model and what feeds it.
    pub model: Model,
    /// Path or URL of a Hugging Face `tokenizer.json`.
    pub tokenizer: String,
    /// Data sets by name; stages refer to them.
    pub data: BTreeMap<String, DataSet>,
    /// How the ranks divide the work.
    #[serde(default)]
    pub parallel: Parallel,
    /// Type of the forward and backward pass. Weights, moments, losses and norms are fp32 in both.
    #[serde(default)]
    pub precision: Precision,
    /// What is kept in memory and what is computed again.
    #[serde(default)]
    pub memory: Memory,
    /// Samples per step; a stage may override it.
    pub batch: Batch,
    /// How losses are averaged.
    #[serde(default)]
    pub loss: Loss,
    /// The stages, in the order they run.
    pub stages: Vec<Stage>,
    /// When checkpoints are written and how many stay.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// What metrics.jsonl records beyond the usual.
    #[serde(default)]
    pub trace: Trace,
    /// Settings of the processes that leave the result as it is.
    #[serde(default)]
    pub runtime: Runtime,
}

/// The model of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The LLaMA, under the names of a Hugging Face `config.json`.
    pub llama: Llama,
    /// Values of one visual token as the encoder made it (768 for a Q-Former).
    pub feature_size: usize,
    /// Width of the global-local adapter (1024 in the paper); needed by `input: global_local`.
    #[serde(default)]
    pub adapter_size: Option<usize>,
    /// How the prompt is built around the video.
    #[serde(default)]
    pub prompt: PromptStyle,
    /// Low-rank adaptation of the language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Standard deviation of freshly drawn weights.
    #[serde(default = "defaults::init_std")]
    pub init_std: f64,
}

/// Prompt template around the video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// Video first, then the question; `</s>` begins and ends.
    #[default]
    Instructblip,
    /// `###Human: <Video>` before the video; answers end with `###`.
    Minigpt4,
}

/// A data set of feature shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// Folder or URL (`s3://bucket/prefix`) that holds `manifest.json`.
    pub url: String,
}

/// Mesh of ranks: world size = dp × tp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// Data-parallel size; world size ÷ tp where unset.
    pub dp: Option<usize>,
    /// Tensor-parallel size; 1 where unset.
    pub tp: usize,
    /// Pad the vocabulary to a multiple of tp. Where false, a vocabulary that tp does not divide is an error.
    pub pad_vocab: bool,
    /// Same bits on every layout whose tp divides this power of two: sums are taken in the order of so many
    /// tensor-parallel ranks, gradients are added in 64 bits, and a rank computes on one thread. Needs `batch.micro`, the
    /// same on all layouts, and costs some speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_tp: Option<usize>,
    /// Divide the sequences among the tensor-parallel ranks where each would do the same (sequence parallelism,
    /// arXiv 2205.05198): less memory for activations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sequence_parallel: bool,
}

impl Default for Parallel {
    fn default() -> Self {
        Parallel { dp: None, tp: 1, pad_vocab: true, exact_tp: None, sequence_parallel: false }
    }
}

/// Type of the forward and backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// bfloat16 compute over fp32 weights.
    Bf16,
    /// 64-bit floats, weights and moments too: for comparing layouts or changes of the code, where rounding would hide
    /// what differs.
    Fp64,
}

/// Samples per optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Samples of one optimizer step over all ranks.
    pub global: usize,
    /// Samples that one rank puts through the model at once; its whole share where unset.
    #[serde(default)]
    pub micro: Option<usize>,
}

/// How losses are averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// The divisor of the loss.
    #[serde(default)]
    pub normalization: Normalization,
}

/// The divisor of the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Sum over the step's tokens ÷ their count over all ranks: the same on every layout.
    #[default]
    Global,
    /// Mean of the micro-batches' means, as the reference does it.
    PerMicroBatch,
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name, unique in the recipe.
    pub name: String,
    /// The weights it starts from. Optimizer and schedule start afresh.
    #[serde(default)]
    pub start: Start,
    /// What it trains on.
    pub data: Vec<Source>,
    /// How the data sets are mixed and their samples put in order.
    #[serde(default)]
    pub order: Option<SampleOrder>,
    /// How frames become visual tokens.
    pub video: Video,
    /// Which visual tokens are dropped.
    #[serde(default)]
    pub mask: Mask,
    /// Masked video modelling.
    #[serde(default)]
    pub mvm: Option<Mvm>,
    /// Patterns (`*` matches anything) of the parameter names that are trained; the others stay as they are.
    #[serde(default = "defaults::everything")]
    pub train: Vec<String>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Learning rate over the stage's steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// How long it runs.
    pub length: Length,
    /// Overrides the recipe's batch.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// Held-out sets answered after the stage.
    #[serde(default)]
    pub evaluate: Vec<Evaluate>,
}

/// The weights that a stage starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Freshly drawn weights.
    #[default]
    Scratch,
    /// The end of an earlier stage of this recipe.
    Stage(String),
    /// A checkpoint folder or URL.
    Checkpoint(String),
    /// Weights of other tools, in Hugging Face's layout.
    HuggingFace(HuggingFace),
}

/// Weights in Hugging Face's layout. What they do not hold stays freshly drawn: the factors of LoRA without an adapter,
/// and the rows of a vocabulary that is larger than theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HuggingFace {
    /// Folder or URL of a LLaMA, or of an InstructBLIP, whose language model and projector are taken.
    pub llama: String,
    /// Folder or URL of an InstructBLIP, or `.safetensors` file with MiniGPT-4's `llama_proj`: the projector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<String>,
    /// Folder or URL of an adapter as PEFT writes it: the factors of `model.lora`, whose rank, alpha and targets it has to
    /// have. What `strand checkpoint export --adapter` wrote beside them is taken too, the projector first of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// A data set of a stage and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Name under the recipe's `data`.
    pub set: String,
    /// Relative share of the samples. Where no source has one, each set's share is its size.
    #[serde(default)]
    pub weight: Option<f64>,
}

/// How samples are put in order. It never depends on the number of ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleOrder {
    /// From how many data sets the samples of a step come.
    pub per_step: PerStep,
    /// Read row groups of similar length together, so that batches need less padding. Lengths are those of row groups
    /// in the manifest: it helps where the rows of a row group are alike.
    pub by_length: bool,
}

/// From how many data sets the samples of a step come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PerStep {
    /// From all, each with its exact share of every step.
    #[default]
    Mixed,
    /// From one, as in the reference; each set has its exact share of the steps.
    OneSet,
}

/// How frames become visual tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// The token path.
    pub input: VideoInput,
    /// Frames taken from a row; all of them where unset.
    #[serde(default)]
    pub frames: Option<usize>,
    /// Which frames, where a row has more than `frames`.
    #[serde(default)]
    pub sampling: FrameSampling,
    /// Local frames of `global_local`.
    #[serde(default = "defaults::local_frames")]
    pub local_frames: usize,
}

/// The three video inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VideoInput {
    /// All tokens of all frames.
    All,
    /// Mean over the frames.
    Mean,
    /// Local frames plus an adapted mean of all frames.
    GlobalLocal,
}

/// Which frames of a longer row are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrameSampling {
    /// The middle of each interval.
    #[default]
    Middle,
    /// One draw in each interval, new in each epoch.
    Rand,
}

/// Which visual tokens are dropped before the language model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mask {
    /// None.
    #[default]
    None,
    /// The same share at every step.
    Constant {
        /// Share of the tokens dropped, in [0, 1).
        rate: f64,
    },
    /// A share drawn anew: clip(Normal(mean, std), min, max).
    Dynamic(DynamicMask),
}

/// Distribution of the dropped share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DynamicMask {
    /// Mean of the normal draw.
    pub mean: f64,
    /// Standard deviation of the normal draw.
    pub std: f64,
    /// Least share (the reference's code has 0.1, the paper 0.3).
    pub min: f64,
    /// Greatest share.
    pub max: f64,
    /// How often a share is drawn.
    pub per: MaskPeriod,
}

impl Default for DynamicMask {
    fn default() -> Self {
        DynamicMask { mean: 0.5, std: 0.1, min: 0.1, max: 0.7, per: MaskPeriod::Step }
    }
}

/// How often the dropped share is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskPeriod {
    /// One for a whole optimizer step on all ranks.
    #[default]
    Step,
    /// One for each micro-batch, the same on all ranks, as the reference.
    MicroBatch,
}

/// Masked video modelling: the masked pass predicts the unmasked pass's hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mvm {
    /// Weight of the loss beside the language-model loss.
    pub weight: f64,
    /// Put a Linear and a LayerNorm on the student's side.
    pub decoder: bool,
}

impl Default for Mvm {
    fn default() -> Self {
        Mvm { weight: 1.0, decoder: true }
    }
}

/// AdamW and clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    #[serde(default = "defaults::betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "defaults::eps")]
    pub eps: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Greatest norm of the whole gradient; no clipping where unset.
    #[serde(default)]
    pub clip_grad_norm: Option<f64>,
    /// Parameters with rates of their own. Each belongs to the first group that names it; the others have the rates
    /// above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParameterGroup>,
}

/// Parameters with rates of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Patterns (`*` matches anything) of their names.
    pub names: Vec<String>,
    /// Their learning rate is so many times the stage's.
    #[serde(default = "defaults::lr_scale")]
    pub lr_scale: f64,
    /// Their weight decay; the stage's where unset.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

/// Learning rate over a stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Linear rise from 0.
    pub warmup: Warmup,
    /// What follows.
    pub decay: Decay,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { warmup: Warmup::Share(0.03), decay: Decay::Cosine }
    }
}

/// Length of the linear rise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// Steps.
    Steps(u64),
    /// Share of the stage's steps, rounded up.
    Share(f64),
}

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine down to 0.
    #[default]
    Cosine,
    /// A line down to 0.
    Linear,
    /// No decay.
    Constant,
}

/// How long a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Optimizer steps.
    Steps(u64),
    /// Passes over the data.
    Epochs(u64),
}

/// A held-out evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// Name under the recipe's `data`.
    pub set: String,
    /// Most rows used, from the start of the set; all where unset.
    #[serde(default)]
    pub limit: Option<usize>,
}
