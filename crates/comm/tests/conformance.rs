//! The suite on local threads, on Gloo and, where there are GPUs, on NCCL. Ranks are threads here; each has its own
//! connections. `conformance_mpi.rs` runs it under mpirun.

#![allow(clippy::unwrap_used, reason = "a test")]

mod suite;

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::thread;
use std::time::Duration;

use strand_comm::{
    CommError, Endpoint, Mesh, ReduceOp, join_gloo, local, nccl_alone, num_gpus, with_nccl,
};
use suite::{CHECKS, Check, Rank, first_error};
use tch::{Device, Kind, Tensor};

const TIMEOUT: Duration = Duration::from_secs(20);

fn on_local(check: &Check) {
    let meshes = local::meshes(check.dp, check.tp, check.timeout).unwrap();
    thread::scope(|scope| {
        for mesh in meshes {
            scope.spawn(move || (check.run)(&Rank { mesh, device: Device::Cpu }));
        }
    });
}

/// Each rank is what `place` makes of its mesh.
fn on_gloo(check: &Check, place: fn(Mesh) -> Rank) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let fd = listener.into_raw_fd();
    let &Check { dp, tp, timeout, run, .. } = check;
    thread::scope(|scope| {
        for rank in 0..dp * tp {
            scope.spawn(move || {
                let listen_fd = (rank == 0).then_some(fd);
                let endpoint = Endpoint { host: "127.0.0.1".into(), port, listen_fd };
                run(&place(join_gloo(&endpoint, rank, dp * tp, dp, tp, timeout).unwrap()));
            });
        }
    });
}

fn on_cpu(mesh: Mesh) -> Rank {
    Rank { mesh, device: Device::Cpu }
}

fn on_gpu(mesh: Mesh) -> Rank {
    let gpu = mesh.world.rank();
    Rank { mesh: with_nccl(&mesh, gpu).unwrap(), device: Device::Cuda(gpu) }
}

/// A mesh that also carries tensors of GPUs carries those of the CPU as before.
fn on_cpu_beside_gpu(mesh: Mesh) -> Rank {
    Rank { device: Device::Cpu, ..on_gpu(mesh) }
}

#[test]
fn local_threads_conform() {
    for check in CHECKS {
        on_local(check);
        println!("local: {}: ok", check.name);
    }
}

#[test]
fn gloo_conforms() {
    for check in CHECKS {
        on_gloo(check, on_cpu);
        println!("gloo: {}: ok", check.name);
    }
}

#[test]
fn nccl_conforms() {
    let gpus = match num_gpus() {
        Ok(gpus) => gpus,
        Err(error) => return println!("nccl: NOT RUN: {error}"),
    };
    for check in CHECKS {
        let ranks = check.dp * check.tp;
        if ranks > gpus {
            println!("nccl: {}: NOT RUN: it needs {ranks} GPUs, there are {gpus}", check.name);
            continue;
        }
        on_gloo(check, on_gpu);
        on_gloo(check, on_cpu_beside_gpu);
        println!("nccl: {}: ok", check.name);
    }
}

/// One rank needs no collective; over NCCL each goes all the way to its GPU: communicator, stream, events, watch.
#[test]
fn nccl_carries_one_rank() {
    match num_gpus() {
        Ok(1..) => {}
        none => return println!("nccl: one_rank: NOT RUN: {none:?}"),
    }
    let group = nccl_alone(0, TIMEOUT).unwrap();
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double, Kind::Int64] {
        let tensor = Tensor::arange(1 << 20, (kind, Device::Cuda(0)));
        let expected = tensor.copy();
        let handles: Vec<_> =
            (0..8).map(|_| group.all_reduce(&tensor, ReduceOp::Sum).unwrap()).collect();
        handles.into_iter().for_each(|handle| handle.wait().unwrap());
        drop(group.broadcast(&tensor, 0).unwrap());
        group.barrier().unwrap();
        assert!(tensor.equal(&expected), "{kind:?}");
    }
    println!("nccl: one_rank: ok");
}

/// Rank 1 goes away after the first collective, and takes its connections along.
fn leave(rank: &Rank) {
    let world = &rank.mesh.world;
    world.barrier().unwrap();
    if world.rank() == 1 {
        return;
    }
    let tensor = Tensor::ones([5], (Kind::Float, rank.device));
    let error = first_error(world, &tensor);
    let CommError::Collective { call, missing, .. } = &error else { panic!("{error}") };
    assert_eq!((call.sequence, call.bytes), (1, 20));
    assert_eq!(missing, &[1]);
}

#[test]
fn a_rank_that_leaves_is_named() {
    let timeout = Duration::from_secs(2);
    let check = Check { name: "leave", dp: 3, tp: 1, timeout, run: leave };
    on_local(&check);
    on_gloo(&check, on_cpu);
}

/// Local threads alone see each other's calls before they do anything.
#[test]
fn ranks_that_call_different_collectives_hear_of_it() {
    let differ = |rank: &Rank| {
        let world = &rank.mesh.world;
        let tensor = Tensor::ones([5], (Kind::Float, rank.device));
        let result = match world.rank() {
            0 => world.barrier(),
            _ => world.all_reduce(&tensor, ReduceOp::Sum).and_then(strand_comm::Handle::wait),
        };
        let error = result.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("disagree"), "{cause}");
    };
    on_local(&Check { name: "differ", dp: 2, tp: 1, timeout: TIMEOUT, run: differ });
}

#[test]
fn a_mesh_that_does_not_fill_the_world_is_refused() {
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: 0, listen_fd: None };
    let error = join_gloo(&endpoint, 0, 1, 2, 2, TIMEOUT).err().unwrap();
    assert!(error.to_string().starts_with("a mesh of dp 2 × tp 2 has 4 ranks"), "{error}");
}

/// All ranks say the same, and none waits for one that cannot.
#[test]
fn without_gpus_all_ranks_say_what_is_missing() {
    if num_gpus().is_ok_and(|gpus| gpus > 1) {
        return println!("not checked: this machine has GPUs");
    }
    let refused = |rank: &Rank| {
        let error = with_nccl(&rank.mesh, 1).err().unwrap();
        assert!(matches!(error, CommError::Join { .. }), "{error}");
        println!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(error.hint().unwrap().contains("CUDA"), "{error}");
    };
    on_local(&Check { name: "refused", dp: 2, tp: 1, timeout: TIMEOUT, run: refused });
}
