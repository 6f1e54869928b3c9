//! The method, against the oracle: every case, its gradients and the trajectories, on every layout. Ranks are threads;
//! `mpi.rs` does the same under mpirun.

mod case;
mod checks;
mod devices;

use std::time::Duration;

use anyhow::Result;
use case::Case;
use checks::{Check, LOSSES_AND_GRADIENTS, Layout, TRAJECTORIES};
use strand_comm::local;

fn on_threads(check: &Check, case: &Case, layout: Layout) -> Result<f64> {
    let meshes = local::meshes(layout.dp, layout.tp, Duration::from_secs(60))?;
    // Tensors are not shared between threads: each rank has handles of its own.
    let cases: Vec<Case> = meshes.iter().map(|_| case.clone()).collect();
    let run = check.run;
    let results: Vec<Result<f64>> = std::thread::scope(|scope| {
        let start = |(mesh, case)| scope.spawn(move || run(&case, &mesh, layout));
        let threads: Vec<_> = meshes.into_iter().zip(cases).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    results.into_iter().try_fold(0.0, |worst: f64, result| Ok(worst.max(result?)))
}

#[test]
fn losses_and_gradients_agree_with_the_oracle() -> Result<()> {
    let check = LOSSES_AND_GRADIENTS;
    check.on_each_layout(true, |case, layout| on_threads(&check, case, layout))
}

#[test]
fn trajectories_agree_with_the_oracle() -> Result<()> {
    let check = TRAJECTORIES;
    check.on_each_layout(true, |case, layout| on_threads(&check, case, layout))
}
