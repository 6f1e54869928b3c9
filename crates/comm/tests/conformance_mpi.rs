//! The suite over MPI: `cargo xtask test --mpi` runs this program under `mpirun -n 4`. It has a main of its own because
//! all ranks have to run the same checks in the same order, and because MPI can be initialised only once.

#![allow(clippy::unwrap_used, reason = "a test")]

mod suite;

use std::panic;
use std::time::Duration;

use strand_comm::{MpiWorld, ReduceOp};
use suite::{CHECKS, Check, Rank};
use tch::{Device, Kind, Tensor};

/// Ranks that the largest check needs.
const RANKS: usize = 4;

/// Checks of short tensors, which are also cut into pieces of two elements, as MPI needs it for those of more than 2³¹.
const CUT: [&str; 4] = [
    "all_reduce_knows_its_operations_and_types",
    "parts_keep_rank_order",
    "memory_that_is_there_is_used",
    "broadcast_comes_from_each_root",
];

fn main() {
    let world = MpiWorld::init().unwrap();
    if world.size() != RANKS {
        let (size, hint) = (world.size(), "run `cargo xtask test --mpi`");
        return println!("NOT RUN: {RANKS} ranks are needed, there are {size}: {hint}");
    }
    end_all_on_panic();
    let everyone = world.mesh(RANKS, 1, Duration::from_secs(60)).unwrap().world;
    let in_pieces = CHECKS.iter().filter(|check| CUT.contains(&check.name));
    let plan = in_pieces.map(|check| (check, world.in_pieces(2), "in_pieces::"));
    let plan = plan.chain(CHECKS.iter().map(|check| (check, world.clone(), "")));
    let mut passed = 0;
    for (check, world, how) in plan {
        run(check, &world);
        everyone.barrier().unwrap();
        passed += 1;
        say(&world, &format!("test mpi::{how}{} ... ok", check.name));
    }
    rounds_like_torch(&everyone);
    passed += 1;
    say(&world, "test mpi::rounds_like_torch ... ok");
    say(&world, &format!("test result: ok. {passed} passed; 0 failed; 0 ignored"));
}

/// As many meshes side by side as there are ranks for; what is left over looks on.
fn run(check: &Check, world: &MpiWorld) {
    let part = world.neighbours(check.dp * check.tp).unwrap();
    if part.size() == check.dp * check.tp {
        let mesh = part.mesh(check.dp, check.tp, check.timeout).unwrap();
        (check.run)(&Rank { mesh, device: Device::Cpu });
    }
}

/// Sums in half precision are our own: each step rounds as libtorch does.
fn rounds_like_torch(everyone: &strand_comm::Group) {
    for kind in [Kind::BFloat16, Kind::Half] {
        let of = |rank: i64| (Tensor::arange(4096, (Kind::Float, Device::Cpu)) * (rank + 3)).cos();
        let mine = of(everyone.rank() as i64 % 2).to_kind(kind);
        let pair = everyone.all_gather(&mine.unsqueeze(0)).unwrap();
        let expected = pair.get(0) + pair.get(1);
        let part = if everyone.rank() < 2 { mine } else { mine.zeros_like() };
        everyone.all_reduce(&part, ReduceOp::Sum).unwrap().wait().unwrap();
        assert!(part.equal(&expected), "{kind:?}");
    }
}

/// A rank that fails ends at once, so that mpirun ends the others: they would wait for it.
fn end_all_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        print(what);
        std::process::exit(101);
    }));
}

fn say(world: &MpiWorld, line: &str) {
    if world.rank() == 0 {
        println!("{line}");
    }
}
