//! What is compared with the oracle: the losses and gradients of each case, and its trajectory.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use strand_comm::Mesh;
use strand_model::{Config, Lora, Pass, Recompute, Sample, VideoLm};
use strand_train::{AdamWConfig, Objective, Sharded, Sharding, Zero, gradients};
use tch::{Device, Kind, Tensor};

use crate::case::{self, Case};

/// How far a result may be from the oracle's: a loss; a value of a tensor by `absolute + relative · |expected| + share ·
/// the tensor's greatest`.
#[derive(Debug, Clone, Copy)]
struct Tolerance {
    loss: f64,
    absolute: f64,
    relative: f64,
    share: f64,
}

const FP32: Tolerance = Tolerance { loss: 2e-5, absolute: 2e-5, relative: 1e-4, share: 0.0 };
/// A number has 8 bits.
const BF16: Tolerance = Tolerance { loss: 1e-2, absolute: 1e-4, relative: 0.02, share: 0.04 };

const OBJECTIVE: Objective =
    Objective { mvm_weight: 1.0, per_micro_batch: false, exact_sums: false };

/// All dp × tp.
pub const MESHES: [(usize, usize); 6] = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4)];

/// dp, tp, micro-batches a rank, and what is divided or computed again.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub dp: usize,
    pub tp: usize,
    pub accumulation: usize,
    pub zero: Zero,
    pub recompute: Recompute,
    pub sequence_parallel: bool,
    pub kind: Kind,
}

impl Layout {
    fn tolerance(&self) -> Tolerance {
        if self.kind == Kind::BFloat16 { BF16 } else { FP32 }
    }
}

fn layouts(case: &Case) -> Result<Vec<Layout>> {
    let config = case.config()?;
    let mut layouts = Vec::new();
    for (dp, tp) in MESHES {
        match config.check(tp as i64) {
            Err(error) => println!("{}: not at tp {tp}: {error}", case.name),
            Ok(()) => {
                layouts.extend(variants(dp, tp));
            }
        }
    }
    Ok(layouts)
}

/// All ways to run on a mesh. One or two micro-batches by turns, so that each choice meets both.
fn variants(dp: usize, tp: usize) -> Vec<Layout> {
    let mut layouts = Vec::new();
    for (index, zero) in
        [Zero::Zero0, Zero::Zero1, Zero::Zero2, Zero::Zero3].into_iter().enumerate()
    {
        for (again, recompute) in
            [Recompute::Nothing, Recompute::Gates, Recompute::Layers].into_iter().enumerate()
        {
            // Alone, a rank has nobody to divide sequences with.
            for sequence_parallel in [false, true].into_iter().take(tp.min(2)) {
                let turn = index + again + usize::from(sequence_parallel);
                let accumulation = 1 + turn % 2;
                layouts.push(Layout {
                    dp,
                    tp,
                    accumulation,
                    zero,
                    recompute,
                    sequence_parallel,
                    kind: Kind::Float,
                });
            }
        }
    }
    layouts
}

fn model(case: &Case, mesh: &Mesh, layout: Layout) -> Result<VideoLm> {
    let draws = |_: &str| ChaCha8Rng::seed_from_u64(0);
    // Factors of no width are none.
    let lora = Lora { rank: 0, alpha: 1.0, targets: vec!["q_proj".into()], dropout: 0.0 };
    let lora = (layout.accumulation > 1).then_some(lora);
    let config = Config { sequence_parallel: layout.sequence_parallel, lora, ..case.config()? };
    let model = VideoLm::fresh(config, 0.02, &mesh.tp, (Kind::Float, mesh.device), draws)?;
    for parameter in model.parameters().iter() {
        let whole = case.tensor(&format!("weight.{}", parameter.name))?;
        let (slice, part) = (&parameter.slice, parameter.unpadded(&parameter.tensor.detach()));
        tch::no_grad(|| part.shallow_clone().copy_(&cut(whole, &slice.offset, &slice.extent)));
    }
    Ok(model)
}

/// A box of a whole tensor.
fn cut(whole: &Tensor, offset: &[i64], extent: &[i64]) -> Tensor {
    let dims = offset.iter().zip(extent).enumerate();
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

fn pass(case: &Case, layout: Layout) -> Result<Pass> {
    let recompute = layout.recompute;
    Ok(Pass { input: case.input()?, mvm: case.mvm(), kind: layout.kind, recompute })
}

fn sharded(
    model: &mut VideoLm,
    mesh: &Mesh,
    layout: Layout,
    optimizer: AdamWConfig,
) -> Result<Sharded> {
    let Layout { zero, kind, accumulation, .. } = layout;
    let sharding = Sharding { zero, kind, offload: false, accumulates: accumulation > 1 };
    Ok(Sharded::new(model, mesh, sharding, optimizer)?)
}

fn close(what: &str, actual: f64, expected: f64, tolerance: f64) -> Result<f64> {
    let deviation = (actual - expected).abs();
    ensure!(deviation <= tolerance, "{what}: {actual}, expected {expected}");
    Ok(deviation)
}

fn close_mvm(actual: Option<f64>, expected: Option<f64>, tolerance: f64) -> Result<f64> {
    match (actual, expected) {
        (None, None) => Ok(0.0),
        (Some(actual), Some(expected)) => close("mvm_loss", actual, expected, tolerance),
        _ => anyhow::bail!("mvm_loss: {actual:?}, expected {expected:?}"),
    }
}

/// Greatest deviation; an error where one exceeds the tolerance.
fn close_tensor(
    what: &str,
    actual: &Tensor,
    expected: &Tensor,
    tolerance: Tolerance,
) -> Result<f64> {
    if expected.numel() == 0 {
        return Ok(0.0);
    }
    let Tolerance { absolute, relative, share, .. } = tolerance;
    let deviation = (actual.to_device(Device::Cpu) - expected).abs();
    let most = absolute + share * expected.abs().max().double_value(&[]);
    let excess = (&deviation - expected.abs() * relative - most).max().double_value(&[]);
    let worst = deviation.max().double_value(&[]);
    ensure!(excess <= 0.0, "{what}: deviates by {worst:e}");
    Ok(worst)
}

fn check_losses_and_gradients(case: &Case, mesh: &Mesh, layout: Layout) -> Result<f64> {
    let expected = case.expected.as_ref().context("no expected losses")?;
    let mut model = model(case, mesh, layout)?;
    let unused =
        AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, groups: Vec::new() };
    let mut sharded = sharded(&mut model, mesh, layout, unused)?;
    let micro_batches = share(case.batch(&case.samples, "")?, mesh, layout);
    let pass = pass(case, layout)?;
    let losses = gradients(&model, &mut sharded, mesh, &micro_batches, pass, OBJECTIVE)?;
    let tolerance = layout.tolerance();
    let mut worst = close("lm_loss", losses.lm, expected.lm_loss, tolerance.loss)?;
    worst = worst.max(close_mvm(losses.mvm, expected.mvm_loss, tolerance.loss)?);
    worst = worst.max(close("loss", losses.total, expected.loss, 2.0 * tolerance.loss)?);
    for held in sharded.held(model.parameters()) {
        let name = format!("grad.{}", held.parameter.name);
        let actual = held.gradient().context("no gradient")?;
        let expected = match case.tensors.get(&name) {
            Some(expected) => cut(expected, &held.offset, &held.extent),
            // A parameter that the case does not use.
            None => actual.zeros_like().to_device(Device::Cpu),
        };
        worst = worst.max(close_tensor(&name, &actual, &expected, tolerance)?);
    }
    Ok(worst)
}

fn check_trajectory(case: &Case, mesh: &Mesh, layout: Layout) -> Result<f64> {
    let constants = case.optimizer.as_ref().context("no optimizer")?;
    let mut model = model(case, mesh, layout)?;
    let config = AdamWConfig {
        betas: constants.betas,
        eps: constants.eps,
        weight_decay: constants.weight_decay,
        groups: Vec::new(),
    };
    let mut sharded = sharded(&mut model, mesh, layout, config)?;
    let pass = pass(case, layout)?;
    let (tolerance, mut worst) = (layout.tolerance(), 0.0_f64);
    for (index, step) in case.steps.iter().enumerate() {
        let at = |e: anyhow::Error| e.context(format!("step {index}"));
        let batch = share(case.batch(&step.samples, &format!(".{index}"))?, mesh, layout);
        let losses = gradients(&model, &mut sharded, mesh, &batch, pass, OBJECTIVE)?;
        let norm = sharded.norm(&model)?;
        let lm = close("lm_loss", losses.lm, step.lm_loss, tolerance.loss).map_err(at)?;
        let mvm = close_mvm(losses.mvm, step.mvm_loss, tolerance.loss).map_err(at)?;
        let most = tolerance.absolute + tolerance.relative * step.grad_norm;
        close("grad_norm", norm, step.grad_norm, most).map_err(at)?;
        worst = worst.max(lm).max(mvm);
        sharded.update(step.lr, norm, constants.clip_grad_norm)?;
    }
    sharded.settle()?;
    for held in sharded.held(model.parameters()) {
        let name = format!("final.{}", held.parameter.name);
        let expected = cut(case.tensor(&name)?, &held.offset, &held.extent);
        let actual = held.values(strand_checkpoint::Kind::Parameter)?.context("no weights")?;
        worst = worst.max(close_tensor(&name, &actual, &expected, of_weights(tolerance))?);
    }
    Ok(worst)
}

/// What training has made of weights: Adam's steps do not grow with the gradient, so their errors do not either.
fn of_weights(tolerance: Tolerance) -> Tolerance {
    match tolerance.share > 0.0 {
        true => tolerance,
        false => Tolerance { relative: 0.0, ..tolerance },
    }
}

/// A comparison: the cases it is for, and what each rank does on a layout. It returns the greatest deviation.
pub struct Check {
    pub name: &'static str,
    pub wanted: fn(&Case) -> bool,
    pub run: fn(&Case, &Mesh, Layout) -> Result<f64>,
}

pub const LOSSES_AND_GRADIENTS: Check = Check {
    name: "losses_and_gradients_agree_with_the_oracle",
    wanted: |case| case.expected.is_some(),
    run: check_losses_and_gradients,
};

pub const TRAJECTORIES: Check = Check {
    name: "trajectories_agree_with_the_oracle",
    wanted: |case| case.optimizer.is_some(),
    run: check_trajectory,
};

/// Deviations on all meshes, and how many layouts each stands for.
fn table_row(name: &str, row: &BTreeMap<(usize, usize), (usize, f64)>) -> String {
    let cell = |mesh| match row.get(mesh) {
        Some((count, worst)) => format!("{worst:.1e} ({count})"),
        None => "–".to_owned(),
    };
    let cells: Vec<String> = MESHES.iter().map(cell).collect();
    format!("| {name} | {} |", cells.join(" | "))
}

impl Check {
    /// Calls `run` for each of its cases on each layout; says what came of it, where it `speaks`.
    pub fn on_each_layout(
        &self,
        speaks: bool,
        run: impl Fn(&Case, Layout) -> Result<f64>,
    ) -> Result<()> {
        if speaks {
            self.begin_table();
        }
        for case in case::all()?.into_iter().filter(self.wanted) {
            let mut row: BTreeMap<(usize, usize), (usize, f64)> = BTreeMap::new();
            for layout in layouts(&case)? {
                let at = || format!("{}: {} at {layout:?}", self.name, case.name);
                let worst = run(&case, layout).with_context(at)?;
                let cell = row.entry((layout.dp, layout.tp)).or_default();
                *cell = (cell.0 + 1, cell.1.max(worst));
            }
            if speaks {
                println!("{}", table_row(&case.name, &row));
            }
        }
        Ok(())
    }

    fn begin_table(&self) {
        let header = MESHES.map(|(dp, tp)| format!("{dp} × {tp}"));
        println!(
            "\n{}: greatest deviation over ZeRO 0 to 3, activation checkpointing none, selective and full, sequence \
             parallelism off and on (tp > 1), one or two micro-batches, LoRA none or of rank 0; by dp × tp\n",
            self.name
        );
        println!("| case | {} |", header.join(" | "));
        println!("| --- |{}", " --- |".repeat(MESHES.len()));
    }
}
