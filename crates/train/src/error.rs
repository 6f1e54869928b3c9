//! Why a run stopped.

use strand_checkpoint::CheckpointError;
use strand_checkpoint::weights::WeightsError;
use strand_comm::CommError;
use strand_data::DataError;
use strand_model::ModelError;
use strand_recipe::RecipeError;
use strand_store::StoreError;
use strand_telemetry::TelemetryError;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A collective failed.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The model refused a sample or its own sizes.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model refused a micro-batch.
    #[error("step {step}, samples {ids:?}")]
    Batch {
        /// The step.
        step: u64,
        /// This rank's samples of the step.
        ids: Vec<String>,
        /// The reason.
        #[source]
        source: Box<TrainError>,
    },
    /// A backward pass failed.
    #[error("backward pass")]
    Backward {
        /// A collective of this rank had failed: it comes out as libtorch's exception.
        in_collective: bool,
        /// libtorch's words.
        #[source]
        source: tch::TchError,
    },
    /// A kernel refused its tensors.
    #[error(transparent)]
    Torch(#[from] strand_torch::Error),
    /// A tensor could not be read or written.
    #[error("tensor")]
    Tensor(#[from] tch::TchError),
    /// A data set cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Features that do not have the shape that their row says.
    #[error("sample {id}: features")]
    Features {
        /// The sample.
        id: String,
        /// What is wrong with them.
        #[source]
        source: strand_torch::Error,
    },
    /// A stage names a data set that the recipe does not have.
    #[error("the recipe has no data set {set}")]
    UnknownSet {
        /// Its name.
        set: String,
    },
    /// A stage that the recipe does not have was asked for.
    #[error("the recipe has no stage `{stage}`: it has {}", stages.join(", "))]
    UnknownStage {
        /// What was asked for.
        stage: String,
        /// What there is.
        stages: Vec<String>,
    },
    /// A data set of another feature size.
    #[error("data set {set}: features of {dim} values, but model.feature_size is {feature_size}")]
    FeatureSize {
        /// Its name.
        set: String,
        /// Its feature size.
        dim: usize,
        /// The model's.
        feature_size: usize,
    },
    /// A tokenizer with more ids than the model.
    #[error("tokenizer {path}: ids up to {}, but model.llama.vocab_size is {vocab}", ids - 1)]
    Vocabulary {
        /// The tokenizer.
        path: String,
        /// One more than its greatest id.
        ids: usize,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A held-out question whose answer is not among its options.
    #[error("held-out row {id}: the answer {answer:?} is not among its options")]
    NoRightOption {
        /// The row.
        id: String,
        /// The answer.
        answer: String,
    },
    /// More damaged samples than the recipe lets a run leave out.
    #[error("step {step}: {skipped} damaged samples, but runtime.skip_budget is {budget}: {last}")]
    SkipBudget {
        /// The step.
        step: u64,
        /// Damaged samples of the run so far.
        skipped: u64,
        /// How many it may leave out.
        budget: u64,
        /// What is wrong with the last one.
        last: String,
    },
    /// A step of which every sample is damaged.
    #[error("step {step}: all {samples} samples are damaged")]
    NothingLeft {
        /// The step.
        step: u64,
        /// Its samples.
        samples: usize,
    },
    /// Ranks of a tensor-parallel group, which share their samples, left out different ones.
    #[error(
        "step {step}: ranks that share their samples read different bytes of the same row group"
    )]
    OtherSamples {
        /// The step.
        step: u64,
    },
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor of a checkpoint has another shape than the model's.
    #[error("checkpoint: {name} has shape {stored:?}, the model's is {shape:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the checkpoint.
        stored: Vec<u64>,
        /// Its shape in the model.
        shape: Vec<u64>,
    },
    /// A checkpoint of another recipe.
    #[error("checkpoint at step {step} was written by another recipe")]
    OtherRecipe {
        /// Its step.
        step: u64,
    },
    /// A checkpoint of a stage that the recipe does not have, or with steps that it does not reach.
    #[error("checkpoint at step {step}: stage {stage} has no step {stage_step} in this recipe")]
    OtherStage {
        /// Its step.
        step: u64,
        /// Its stage.
        stage: String,
        /// Its step in the stage.
        stage_step: u64,
    },
    /// The end of an earlier stage, which a stage starts from, is not among the checkpoints.
    #[error("stage {stage} starts from the end of {from}, of which there is no checkpoint")]
    NoStart {
        /// The stage.
        stage: String,
        /// The stage it starts from.
        from: String,
    },
    /// The patterns of a stage name no parameter that it uses.
    #[error("stage {stage}: `train` names no parameter that the stage uses")]
    NothingTrained {
        /// The stage.
        stage: String,
    },
    /// A step's loss or gradient is of no use, and the run may not leave it out.
    #[error("step {step}: {reason}; samples of this rank {ids:?}")]
    BadStep {
        /// The step.
        step: u64,
        /// What is wrong.
        reason: String,
        /// This rank's samples.
        ids: Vec<String>,
    },
    /// Metrics cannot be written.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Other tools' weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Storage of the run directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The recipe does not fit the world.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Messages between ranks.
    #[error("message between ranks")]
    Message(#[from] serde_json::Error),
    /// The progress channel to the launcher is closed.
    #[error("telling the launcher about progress")]
    Progress(#[source] std::io::Error),
}

impl TrainError {
    /// The process's exit code, as in the list of exit codes.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrainError::Batch { source, .. } => source.exit_code(),
            TrainError::Model(ModelError::Config(_) | ModelError::Indivisible { .. }) => 2,
            TrainError::Model(ModelError::Comm(_) | ModelError::Torch(_)) => 1,
            TrainError::Model(_) => 4,
            TrainError::Data(error) => error.exit_code(),
            TrainError::Features { .. } | TrainError::NoRightOption { .. } => 4,
            TrainError::FeatureSize { .. } => 4,
            TrainError::SkipBudget { .. } | TrainError::NothingLeft { .. } => 4,
            TrainError::OtherSamples { .. } => 5,
            TrainError::UnknownSet { .. }
            | TrainError::UnknownStage { .. }
            | TrainError::Vocabulary { .. } => 2,
            TrainError::Recipe(_) | TrainError::NothingTrained { .. } => 2,
            TrainError::Checkpoint(_) | TrainError::Shape { .. } | TrainError::NoStart { .. } => 5,
            TrainError::OtherRecipe { .. } | TrainError::OtherStage { .. } => 2,
            TrainError::Store(error) => error.exit_code(),
            TrainError::Weights(error) => error.exit_code(),
            TrainError::BadStep { .. } => 6,
            TrainError::Telemetry(error) => error.exit_code(),
            _ => 1,
        }
    }

    /// Whether another rank's failure is the likely cause.
    pub fn is_peer_lost(&self) -> bool {
        match self {
            TrainError::Batch { source, .. } => source.is_peer_lost(),
            TrainError::Comm(_) | TrainError::Model(ModelError::Comm(_)) => true,
            TrainError::Backward { in_collective, .. } => *in_collective,
            _ => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            TrainError::Comm(error) => error.hint(),
            TrainError::Model(error) => error.hint(),
            TrainError::Batch { source, .. } => source.hint(),
            TrainError::Data(error) => error.hint(),
            TrainError::Checkpoint(error) => error.hint(),
            TrainError::Store(error) => error.hint(),
            TrainError::Weights(error) => error.hint(),
            TrainError::Telemetry(error) => error.hint(),
            TrainError::FeatureSize { dim, .. } => {
                Some(format!("set model.feature_size: {dim}, or extract the set with the model's encoder"))
            }
            TrainError::Vocabulary { ids, .. } => {
                Some(format!("set model.llama.vocab_size to {ids} or more, or use the model's tokenizer"))
            }
            TrainError::OtherRecipe { .. } => Some(
                "compare with `strand recipe diff`; --resume never starts over, another --run-dir starts beside it".into(),
            ),
            TrainError::OtherStage { .. } | TrainError::NoStart { .. } => {
                Some("restore the recipe that wrote it, or start over with --resume never".into())
            }
            TrainError::NothingTrained { .. } => {
                Some("patterns match whole names, as in train: [\"proj.*\", \"*.self_attn.*\"]".into())
            }
            TrainError::BadStep { .. } => Some(
                "lower the learning rate, set optimizer.clip_grad_norm, look at the samples in bad-steps.jsonl, or let the run leave such steps out with runtime.bad_steps.budget".into(),
            ),
            TrainError::Recipe(error) => error.hint(),
            TrainError::SkipBudget { .. } | TrainError::NothingLeft { .. } => Some(
                "skipped.jsonl in the run directory lists them, `strand data verify` all damage: copy the shards again".into(),
            ),
            TrainError::OtherSamples { .. } => {
                Some("the storage or a cache on one node gives other bytes: check it, then start the same command again".into())
            }
            TrainError::UnknownStage { .. } => Some("give --stage one of these".into()),
            TrainError::UnknownSet { set } => {
                Some(format!("add `{set}` to the recipe's data, or take it out of the stage"))
            }
            TrainError::Features { .. } => {
                Some("check the set with `strand data verify`, then extract it again".into())
            }
            TrainError::NoRightOption { .. } => Some(
                "mend the row's options and write the set again, or give the stage another held-out set".into(),
            ),
            TrainError::Shape { .. } => Some(
                "the checkpoint is of another model: compare recipes with `strand recipe diff`".into(),
            ),
            TrainError::Tensor(_) | TrainError::Torch(_) | TrainError::Backward { .. } => {
                Some("the rank's log has libtorch's own words; lower batch.micro if memory ran out".into())
            }
            TrainError::Message(_) => {
                Some("all ranks must run the same build of strand-worker".into())
            }
            TrainError::Progress(_) => Some("the launcher is gone: start the same command again".into()),
        }
    }
}
