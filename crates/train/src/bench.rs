//! Steps on made-up features: how fast the shapes of a recipe go, without data.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use strand_comm::{Mesh, ReduceOp};
use strand_data::{cut, draw};
use strand_model::{Sample, VideoLm};
use strand_recipe::{Recipe, Stage, learning_rate};
use strand_telemetry::{Metrics, TokenCounts, peak_memory};
use strand_torch::synchronize;
use tch::{Device, Kind, Tensor};

use crate::config::{model_config, objective, pass, sharding, video_input};
use crate::error::TrainError;
use crate::masking::Masks;
use crate::metrics::{Speed, StepRecord, agree};
use crate::run::fresh_model;
use crate::sharded::Sharded;
use crate::step::{freeze, gradients};

/// How much is measured, and what a recipe leaves to its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchOptions {
    /// The stage; the last one where not given.
    pub stage: Option<String>,
    /// Steps that are measured.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// Frames of a video where the stage takes all.
    pub frames: usize,
    /// Tokens of a frame.
    pub tokens: usize,
    /// Text tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer, its end symbol counted.
    pub answer: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The stage.
    pub stage: String,
    /// Samples of a step over all ranks ÷ its median time.
    pub samples_per_s: f64,
    /// Median time of a step in seconds.
    pub step_s: f64,
    /// All times.
    pub steps_s: Vec<f64>,
    /// Of each step, until this rank has its losses and gradients.
    pub gradients_s: Vec<f64>,
    /// Tokens of the last step, over all ranks.
    pub tokens: TokenCounts,
    /// Teraflops a second over all ranks, the teacher counted.
    pub tflops: Option<f64>,
    /// Share of the devices' peak; none where it is not known.
    pub mfu: Option<f64>,
    /// Peak memory of the rank that used most, in MiB: of its GPU, else its resident memory.
    pub peak_mib: Option<u64>,
    /// Peak resident memory of this rank before there was a model: the program, libtorch, and what both have read.
    pub baseline_mib: Option<u64>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Loss of the last step: that of fresh weights.
    pub loss: f64,
    /// Data-parallel ranks.
    pub dp: usize,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Compute threads of a rank.
    pub threads: i32,
    /// Where the ranks compute: `cpu` or `cuda`.
    pub device: String,
}

/// In seconds.
#[derive(Default)]
struct Times {
    steps: Vec<f64>,
    gradients: Vec<f64>,
}

/// Trains fresh weights on made-up samples. `peak_flops` is what a rank's device reaches, where that is known.
///
/// # Errors
/// There is no such stage, a sample does not fit the model, or a collective failed.
pub fn bench(
    recipe: &Recipe,
    mesh: &Mesh,
    options: &BenchOptions,
    peak_flops: Option<f64>,
) -> Result<BenchReport, TrainError> {
    let stage = stage(recipe, options.stage.as_deref())?;
    let speed = Speed::new(recipe, stage, mesh.world.size(), peak_flops);
    let baseline = peak_memory();
    let mut model = fresh_model(model_config(recipe), recipe, mesh)?;
    freeze(&model, stage);
    let optimizer = (&stage.optimizer).into();
    let sharding = sharding(recipe, stage, mesh.dp.size());
    let mut sharded = Sharded::new(&mut model, mesh, sharding, optimizer)?;
    let mut times = Times::default();
    let mut last = None;
    for step in 1..=options.warmup + options.steps {
        let (record, gradients) =
            one(recipe, mesh, options, stage, (&model, &mut sharded), step as u64)?;
        let memory = agree(mesh, false)?.memory_bytes;
        let metrics = record.metrics(&speed, memory);
        if step > options.warmup {
            times.steps.push(metrics.step_s);
            times.gradients.push(gradients.as_secs_f64());
        }
        last = Some(metrics);
    }
    let last = last.ok_or_else(|| TrainError::NothingTrained { stage: stage.name.clone() })?;
    Ok(report(mesh, &model, times, last, baseline))
}

fn stage<'r>(recipe: &'r Recipe, name: Option<&str>) -> Result<&'r Stage, TrainError> {
    let found = match name {
        Some(name) => recipe.stages.iter().find(|stage| stage.name == name),
        None => recipe.stages.last(),
    };
    found.ok_or_else(|| TrainError::UnknownStage {
        stage: name.unwrap_or_default().to_owned(),
        stages: recipe.stages.iter().map(|stage| stage.name.clone()).collect(),
    })
}

/// One step, all ranks side by side. Making the samples up does not count.
fn one<'s>(
    recipe: &Recipe,
    mesh: &Mesh,
    options: &BenchOptions,
    stage: &'s Stage,
    (model, sharded): (&VideoLm, &mut Sharded),
    step: u64,
) -> Result<(StepRecord<'s>, Duration), TrainError> {
    let micro_batches = made_up(recipe, mesh, options, stage, step);
    mesh.world.barrier()?;
    let started = Instant::now();
    let (pass, objective) = (pass(recipe, stage, true), objective(recipe, stage));
    let losses = gradients(model, sharded, mesh, &micro_batches, pass, objective)?;
    let of_gradients = started.elapsed();
    let norm = sharded.norm(model)?;
    // As in the first step after warm-up: the rate does not matter for the time.
    let lr = learning_rate(&stage.optimizer, &stage.schedule, 0, 1);
    sharded.update(lr, norm, stage.optimizer.clip_grad_norm)?;
    // In a run the next step's host work goes on beside the update.
    synchronize(mesh.device);
    let elapsed = slowest(mesh, started.elapsed())?;
    let (stage, data_wait) = (&stage.name, Duration::ZERO);
    let left_out = false;
    let record = StepRecord { step, stage, losses, norm, lr, elapsed, data_wait, left_out };
    Ok((record, of_gradients))
}

/// The time of the rank that took longest.
fn slowest(mesh: &Mesh, elapsed: Duration) -> Result<Duration, TrainError> {
    let seconds = Tensor::from_slice(&[elapsed.as_secs_f64()]);
    mesh.world.all_reduce(&seconds, ReduceOp::Max)?.wait()?;
    Ok(Duration::from_secs_f64(seconds.double_value(&[0])))
}

/// This rank's samples of a step: drawn features and ids, masks as the stage has them.
fn made_up(
    recipe: &Recipe,
    mesh: &Mesh,
    options: &BenchOptions,
    stage: &Stage,
    step: u64,
) -> Vec<Vec<Sample>> {
    let batch = stage.batch.unwrap_or(recipe.batch);
    let (rank, size) = (mesh.dp.rank(), mesh.dp.size());
    let own = cut(batch.global as u64, rank, size);
    let masks = Masks::new(recipe.seed, stage.mask);
    let ids: Vec<String> = own.map(|sample| format!("made-up-{sample}")).collect();
    let micro = batch.micro.unwrap_or(ids.len()).max(1);
    let micro_batch = |(index, ids): (usize, &[String])| {
        let rate = masks.rate(step, index);
        let sample = |id: &String| {
            let mut sample = one_sample(recipe, options, stage, id, step);
            let num_visual = sample.num_visual(video_input(&stage.video));
            sample.dropout_key = Some(masks.dropout_key(step, id));
            sample.kept = rate.map(|rate| masks.kept(step, id, rate, num_visual));
            sample
        };
        ids.iter().map(sample).collect()
    };
    ids.chunks(micro).enumerate().map(micro_batch).collect()
}

fn one_sample(
    recipe: &Recipe,
    options: &BenchOptions,
    stage: &Stage,
    id: &str,
    step: u64,
) -> Sample {
    let frames = stage.video.frames.unwrap_or(options.frames);
    let shape = [frames, options.tokens, recipe.model.feature_size].map(|size| size as i64);
    let vocab = recipe.model.llama.vocab_size as u64;
    let ids = |purpose: &str, count: usize| {
        let mut rng = draw(recipe.seed, step, id, purpose);
        (0..count).map(|_| strand_data::below(&mut rng, vocab) as i64).collect()
    };
    // A prompt stands before and behind the video.
    let before = options.prompt / 2;
    Sample {
        before: ids("before", before),
        features: Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(Kind::Half),
        kept: None,
        after: ids("after", options.prompt - before),
        answer: ids("answer", options.answer.max(1)),
        dropout_key: None,
    }
}

fn report(
    mesh: &Mesh,
    model: &VideoLm,
    times: Times,
    last: Metrics,
    baseline: Option<u64>,
) -> BenchReport {
    let mut sorted = times.steps.clone();
    sorted.sort_by(f64::total_cmp);
    let step_s = sorted.get(sorted.len() / 2).copied().unwrap_or(last.step_s);
    let size = |shape: &[i64]| shape.iter().product::<i64>() as u64;
    BenchReport {
        stage: last.stage,
        samples_per_s: last.samples as f64 / step_s,
        step_s,
        steps_s: times.steps,
        gradients_s: times.gradients,
        tokens: last.tokens,
        tflops: last.tflops.map(|tflops| tflops * last.step_s / step_s),
        mfu: last.mfu.map(|mfu| mfu * last.step_s / step_s),
        peak_mib: last.memory_bytes.map(|bytes| bytes >> 20),
        baseline_mib: baseline.map(|bytes| bytes >> 20),
        parameters: model.parameters().iter().map(|parameter| size(&parameter.shape)).sum(),
        loss: last.loss,
        dp: mesh.dp.size(),
        tp: mesh.tp.size(),
        threads: tch::get_num_threads(),
        device: if mesh.device.is_cuda() { "cuda" } else { "cpu" }.to_owned(),
    }
}
