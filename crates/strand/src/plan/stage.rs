//! The plan of one stage.

use serde::Serialize;
use strand_recipe::{Gpu, Length, Recipe, Stage};

use super::case::{Case, World};
use super::memory::Memory;
use super::shapes::SampleShape;
use super::state::{Counts, State};
use super::time::{Flops, Time, work};

/// Share of the memory that a plan may fill: the rest is for what an allocator cannot use.
pub const FILLED: f64 = 0.9;

/// Everything about a stage that follows from its recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: String,
    /// A sample.
    pub sample: SampleShape,
    /// How the samples of a step come.
    pub batch: BatchPlan,
    /// Parameters over all ranks.
    pub parameters: Counts,
    /// Memory of a rank.
    pub memory: Memory,
    /// Whether it fits, with headroom.
    pub fits: bool,
    /// FLOPs of a step.
    pub flops: Flops,
    /// Tokens of a step.
    pub tokens: Tokens,
    /// Seconds of a step: an estimate.
    pub time: Time,
    /// Steps, where the recipe or local data says how many.
    pub steps: Option<u64>,
    /// Features.
    pub features: Features,
    /// Checkpoints.
    pub checkpoint: CheckpointPlan,
}

/// How the samples of a step come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchPlan {
    /// Samples of a step over all ranks.
    pub global: usize,
    /// Samples of the rank that has most.
    pub rank: usize,
    /// Samples that go through the model at once.
    pub micro: usize,
    /// Passes of a step.
    pub passes: usize,
}

/// Tokens of a step over all ranks, at the mask's mean rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Of the student's sequences.
    pub student: i64,
    /// Of the teacher's.
    pub teacher: i64,
    /// With a label.
    pub labels: i64,
}

/// Features that a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Features {
    /// Bytes of a sample, in half floats.
    pub bytes_per_sample: u64,
    /// Bytes a second that a node has to read. Its ranks share what they read.
    pub node_bytes_per_s: f64,
}

/// Checkpoints of the stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CheckpointPlan {
    /// Bytes of one, over all ranks.
    pub bytes: u64,
    /// Seconds to write one.
    pub seconds: f64,
    /// Share of the time that goes there.
    pub share: f64,
}

/// What a plan takes as given beside the recipe.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    pub world: World,
    /// Ranks that a node has room for.
    pub ranks_per_node: usize,
    pub gpu: &'a Gpu,
    /// Bytes a second that a node writes to storage.
    pub storage: f64,
}

impl StagePlan {
    /// The plan of a stage with samples of that shape.
    pub fn of(recipe: &Recipe, stage: &Stage, sample: SampleShape, given: Given) -> StagePlan {
        let Given { world, gpu, storage, .. } = given;
        let case = Case { recipe, stage, sample, world, gpu };
        let (state, parameters) = State::of(case);
        let bytes = State::checkpoint(case, parameters);
        let memory = Memory::of(case, &state, bytes);
        let flops = Flops::of(case, &state);
        let time = Time::of(case, &state, flops);
        let seconds = bytes as f64 / world.nodes as f64 / storage;
        let between = recipe.checkpoint.every_steps as f64 * time.step_s;
        StagePlan {
            stage: stage.name.clone(),
            sample,
            batch: BatchPlan {
                global: case.batch().global,
                rank: case.share(),
                micro: case.micro_batch(),
                passes: case.micro_batches(),
            },
            parameters,
            fits: memory.needed as f64 <= FILLED * gpu.memory as f64,
            memory,
            flops,
            tokens: tokens(case),
            time,
            steps: steps(case),
            features: features(case, time.step_s),
            checkpoint: CheckpointPlan { bytes, seconds, share: seconds / (seconds + between) },
        }
    }
}

fn tokens(case: Case) -> Tokens {
    let work = work(case);
    Tokens { student: work.student_tokens, teacher: work.teacher_tokens, labels: work.labels }
}

fn steps(case: Case) -> Option<u64> {
    match case.stage.length {
        Length::Steps(steps) => Some(steps),
        Length::Epochs(epochs) => {
            Some((epochs * case.sample.epoch?).div_ceil(case.batch().global as u64))
        }
    }
}

fn features(case: Case, step_s: f64) -> Features {
    let values = case.sample.frames * case.sample.tokens_per_frame * case.recipe.model.feature_size;
    let bytes_per_sample = 2 * values as u64;
    // A node that has fewer ranks than tp still reads whole samples.
    let ranks = case.world.ranks_per_node.div_ceil(case.world.tp);
    let samples = (ranks * case.share()).min(case.batch().global);
    let node_bytes_per_s = (samples as u64 * bytes_per_sample) as f64 / step_s;
    Features { bytes_per_sample, node_bytes_per_s }
}
