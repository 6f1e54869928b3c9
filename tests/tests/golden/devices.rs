//! The same on one rank in bf16, and on a GPU where `STRAND_TEST_DEVICE=cuda` asks for it.

use anyhow::{Context, Result};
use strand_comm::{Mesh, with_nccl};
use strand_model::Recompute;
use strand_train::Zero;
use tch::Kind;

use crate::case;
use crate::checks::{Check, LOSSES_AND_GRADIENTS, Layout, TRAJECTORIES};

/// Names the device of the tests below; they do not run where it is unset.
const DEVICE: &str = "STRAND_TEST_DEVICE";

/// In one and in two micro-batches: where gradients are added up bf16 ones are kept wide.
fn on_one_rank(check: &Check, kind: Kind, mesh: &Mesh) -> Result<()> {
    let (zero, recompute) = (Zero::Zero0, Recompute::Nothing);
    for case in case::all()?.into_iter().filter(check.wanted) {
        for accumulation in [1, 2] {
            let (dp, tp, sequence_parallel) = (1, 1, false);
            let layout = Layout { dp, tp, accumulation, zero, recompute, sequence_parallel, kind };
            let at = || format!("{}: {} in {kind:?}, {accumulation}", check.name, case.name);
            let worst = (check.run)(&case, mesh, layout).with_context(at)?;
            println!(
                "{:34} {kind:?}, micro-batches {accumulation}: greatest deviation {worst:.1e}",
                case.name
            );
        }
    }
    Ok(())
}

fn on_cpu(check: &Check, kind: Kind) -> Result<()> {
    on_one_rank(check, kind, &Mesh::single())
}

fn on_gpu(check: &Check, kind: Kind) -> Result<()> {
    match std::env::var(DEVICE).as_deref() {
        Ok("cuda") => {}
        other => {
            println!("NOT RUN: {DEVICE} is not `cuda` ({other:?})");
            return Ok(());
        }
    }
    let mesh = with_nccl(&Mesh::single(), 0)?;
    on_one_rank(check, kind, &mesh)
}

#[test]
fn bf16_losses_and_gradients() -> Result<()> {
    on_cpu(&LOSSES_AND_GRADIENTS, Kind::BFloat16)
}

#[test]
fn bf16_trajectories() -> Result<()> {
    on_cpu(&TRAJECTORIES, Kind::BFloat16)
}

#[test]
fn gpu_losses_and_gradients_in_fp32() -> Result<()> {
    on_gpu(&LOSSES_AND_GRADIENTS, Kind::Float)
}

#[test]
fn gpu_losses_and_gradients_in_bf16() -> Result<()> {
    on_gpu(&LOSSES_AND_GRADIENTS, Kind::BFloat16)
}

#[test]
fn gpu_trajectories_in_fp32() -> Result<()> {
    on_gpu(&TRAJECTORIES, Kind::Float)
}

#[test]
fn gpu_trajectories_in_bf16() -> Result<()> {
    on_gpu(&TRAJECTORIES, Kind::BFloat16)
}
