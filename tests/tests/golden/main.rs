//! The method, against the oracle: every case, its gradients and the trajectories, on every layout.

mod case;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use case::Case;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use strand_comm::{Mesh, local};
use strand_model::{Parameter, Pass, Sample, VideoLm};
use strand_train::{AdamW, AdamWConfig, Objective, gradient_norm, gradients, trained, update};
use tch::{Device, Kind, Tensor};

const LOSS_TOLERANCE: f64 = 2e-5;
const WEIGHT_TOLERANCE: f64 = 2e-5;
const OBJECTIVE: Objective =
    Objective { mvm_weight: 1.0, per_micro_batch: false, exact_sums: false };

/// dp, tp and micro-batches a rank.
#[derive(Debug, Clone, Copy)]
struct Layout {
    dp: usize,
    tp: usize,
    accumulation: usize,
}

fn layouts(case: &Case) -> Result<Vec<Layout>> {
    let config = case.config()?;
    let mut layouts = Vec::new();
    for (dp, tp) in [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4)] {
        match config.check(tp as i64) {
            Err(error) => println!("{}: not at tp {tp}: {error}", case.name),
            Ok(()) => {
                layouts.extend([1, 2].map(|accumulation| Layout { dp, tp, accumulation }));
            }
        }
    }
    Ok(layouts)
}

/// Runs `check` for each case that `wanted` picks, on each layout, with one thread a rank.
fn on_each_layout(
    wanted: fn(&Case) -> bool,
    check: fn(&Case, &Mesh, Layout) -> Result<f64>,
) -> Result<()> {
    let cases = case::all()?.into_iter().filter(wanted);
    for case in cases {
        let layouts = layouts(&case)?;
        for layout in layouts {
            let worst = on_threads(&case, layout, check)
                .with_context(|| format!("{} at {layout:?}", case.name))?;
            println!("{:34} {layout:?}: greatest deviation {worst:.1e}", case.name);
        }
    }
    Ok(())
}

fn on_threads(
    case: &Case,
    layout: Layout,
    check: fn(&Case, &Mesh, Layout) -> Result<f64>,
) -> Result<f64> {
    let meshes = local::meshes(layout.dp, layout.tp, Duration::from_secs(60))?;
    // Tensors are not shared between threads: each rank has handles of its own.
    let cases: Vec<Case> = meshes.iter().map(|_| case.clone()).collect();
    let results: Vec<Result<f64>> = std::thread::scope(|scope| {
        let start = |(mesh, case)| scope.spawn(move || check(&case, &mesh, layout));
        let threads: Vec<_> = meshes.into_iter().zip(cases).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    results.into_iter().try_fold(0.0, |worst: f64, result| Ok(worst.max(result?)))
}

fn model(case: &Case, mesh: &Mesh) -> Result<VideoLm> {
    let draws = |_: &str| ChaCha8Rng::seed_from_u64(0);
    let model = VideoLm::fresh(case.config()?, 0.02, &mesh.tp, (Kind::Float, Device::Cpu), draws)?;
    for parameter in model.parameters().iter() {
        let whole = case.tensor(&format!("weight.{}", parameter.name))?;
        let part = parameter.unpadded(&parameter.tensor.detach());
        tch::no_grad(|| part.shallow_clone().copy_(&cut(whole, parameter)));
    }
    Ok(model)
}

/// The part of a whole tensor that this rank holds.
fn cut(whole: &Tensor, parameter: &Parameter) -> Tensor {
    let dims = parameter.slice.offset.iter().zip(&parameter.slice.extent).enumerate();
    dims.fold(whole.shallow_clone(), |part, (dim, (&offset, &extent))| {
        part.narrow(dim as i64, offset, extent)
    })
}

/// This data-parallel rank's samples as micro-batches.
fn share(samples: Vec<Sample>, mesh: &Mesh, layout: Layout) -> Vec<Vec<Sample>> {
    let (count, dp) = (samples.len(), layout.dp);
    let (first, last) = (mesh.dp.rank() * count / dp, (mesh.dp.rank() + 1) * count / dp);
    let mut mine: Vec<Sample> = samples.into_iter().skip(first).take(last - first).collect();
    let size = mine.len().div_ceil(layout.accumulation).max(1);
    let mut micro_batches = Vec::new();
    while !mine.is_empty() {
        let rest = mine.split_off(size.min(mine.len()));
        micro_batches.push(std::mem::replace(&mut mine, rest));
    }
    micro_batches
}

fn pass(case: &Case) -> Result<Pass> {
    Ok(Pass { input: case.input()?, mvm: case.mvm(), kind: Kind::Float })
}

fn close(what: &str, actual: f64, expected: f64, tolerance: f64) -> Result<f64> {
    let deviation = (actual - expected).abs();
    ensure!(deviation <= tolerance, "{what}: {actual}, expected {expected}");
    Ok(deviation)
}

fn close_mvm(actual: Option<f64>, expected: Option<f64>) -> Result<f64> {
    match (actual, expected) {
        (None, None) => Ok(0.0),
        (Some(actual), Some(expected)) => close("mvm_loss", actual, expected, LOSS_TOLERANCE),
        _ => anyhow::bail!("mvm_loss: {actual:?}, expected {expected:?}"),
    }
}

/// Greatest deviation; an error where one exceeds `absolute + relative·|expected|`.
fn close_tensor(
    what: &str,
    actual: &Tensor,
    expected: &Tensor,
    absolute: f64,
    relative: f64,
) -> Result<f64> {
    if expected.numel() == 0 {
        return Ok(0.0);
    }
    let deviation = (actual - expected).abs();
    let excess = (&deviation - expected.abs() * relative - absolute).max().double_value(&[]);
    let worst = deviation.max().double_value(&[]);
    ensure!(excess <= 0.0, "{what}: deviates by {worst:e}");
    Ok(worst)
}

fn check_losses_and_gradients(case: &Case, mesh: &Mesh, layout: Layout) -> Result<f64> {
    let expected = case.expected.as_ref().context("no expected losses")?;
    let model = model(case, mesh)?;
    let micro_batches = share(case.batch(&case.samples, "")?, mesh, layout);
    let losses = gradients(&model, mesh, &micro_batches, pass(case)?, OBJECTIVE)?;
    let mut worst = close("lm_loss", losses.lm, expected.lm_loss, LOSS_TOLERANCE)?;
    worst = worst.max(close_mvm(losses.mvm, expected.mvm_loss)?);
    worst = worst.max(close("loss", losses.total, expected.loss, 2.0 * LOSS_TOLERANCE)?);
    for parameter in trained(&model) {
        let name = format!("grad.{}", parameter.name);
        let actual = parameter.unpadded(&parameter.tensor.grad());
        let expected = match case.tensors.get(&name) {
            Some(expected) => cut(expected, parameter),
            // A parameter that the case does not use.
            None => actual.zeros_like(),
        };
        worst = worst.max(close_tensor(&name, &actual, &expected, 2e-5, 1e-4)?);
    }
    Ok(worst)
}

fn check_trajectory(case: &Case, mesh: &Mesh, layout: Layout) -> Result<f64> {
    let constants = case.optimizer.as_ref().context("no optimizer")?;
    let model = model(case, mesh)?;
    let config = AdamWConfig {
        betas: constants.betas,
        eps: constants.eps,
        weight_decay: constants.weight_decay,
    };
    let mut optimizer = AdamW::new(config, trained(&model).into_iter());
    let mut worst: f64 = 0.0;
    for (index, step) in case.steps.iter().enumerate() {
        let at = |e: anyhow::Error| e.context(format!("step {index}"));
        let batch = case.batch(&step.samples, &format!(".{index}"))?;
        let losses = gradients(&model, mesh, &share(batch, mesh, layout), pass(case)?, OBJECTIVE)?;
        let norm = gradient_norm(&model)?;
        let lm = close("lm_loss", losses.lm, step.lm_loss, LOSS_TOLERANCE).map_err(at)?;
        let mvm = close_mvm(losses.mvm, step.mvm_loss).map_err(at)?;
        let relative = 1e-4 * step.grad_norm;
        close("grad_norm", norm, step.grad_norm, 2e-5 + relative).map_err(at)?;
        worst = worst.max(lm).max(mvm);
        update(&model, &mut optimizer, step.lr, norm, constants.clip_grad_norm);
    }
    for parameter in trained(&model) {
        let name = format!("final.{}", parameter.name);
        let expected = cut(case.tensor(&name)?, parameter);
        let actual = parameter.unpadded(&parameter.tensor.detach());
        worst = worst.max(close_tensor(&name, &actual, &expected, WEIGHT_TOLERANCE, 0.0)?);
    }
    Ok(worst)
}

#[test]
fn losses_and_gradients_agree_with_the_oracle() -> Result<()> {
    on_each_layout(|case| case.expected.is_some(), check_losses_and_gradients)
}

#[test]
fn trajectories_agree_with_the_oracle() -> Result<()> {
    on_each_layout(|case| case.optimizer.is_some(), check_trajectory)
}
