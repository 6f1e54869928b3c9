//! The golden cases on every layout over MPI: `cargo xtask test --mpi` runs this program under `mpirun -n 4`. It has a main
//! of its own because all ranks have to go through the same layouts in the same order.

mod case;
mod checks;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use checks::{LOSSES_AND_GRADIENTS, MESHES, TRAJECTORIES};
use strand_comm::{Mesh, MpiWorld};

/// Ranks of the largest layout.
const RANKS: usize = 4;

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error:?}");
        // At once, so that mpirun ends the ranks that wait for this one.
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let world = MpiWorld::init()?;
    if world.size() != RANKS {
        let (size, hint) = (world.size(), "run `cargo xtask test --mpi`");
        println!("NOT RUN: {RANKS} ranks are needed, there are {size}: {hint}");
        return Ok(());
    }
    tch::set_num_threads(1);
    let meshes: BTreeMap<_, _> =
        MESHES.iter().map(|&size| mesh(&world, size)).collect::<Result<_>>()?;
    let speaks = world.rank() == 0;
    for check in [LOSSES_AND_GRADIENTS, TRAJECTORIES] {
        check.on_each_layout(speaks, |case, layout| {
            let mesh = meshes.get(&(layout.dp, layout.tp)).context("a mesh for the layout")?;
            (check.run)(case, mesh, layout)
        })?;
        say(&world, &format!("test mpi::{} ... ok", check.name));
    }
    say(&world, "test result: ok. 2 passed; 0 failed; 0 ignored");
    Ok(())
}

/// This rank's mesh of a size. Smaller ones stand side by side, and all do the same.
fn mesh(world: &MpiWorld, (dp, tp): (usize, usize)) -> Result<((usize, usize), Mesh)> {
    let mesh = world.neighbours(dp * tp)?.mesh(dp, tp, Duration::from_secs(60))?;
    Ok(((dp, tp), mesh))
}

fn say(world: &MpiWorld, line: &str) {
    if world.rank() == 0 {
        println!("{line}");
    }
}
