//! One suite that every backend passes. Ranks are threads here; each has its own connections.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::thread;
use std::time::Duration;

use strand_comm::{CommError, Endpoint, Mesh, ReduceOp, join_gloo, local};
use tch::{Device, Kind, Tensor};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `check` on every rank of a dp × tp mesh of local threads, then of Gloo.
fn on_each_backend(dp: usize, tp: usize, check: fn(&Mesh)) {
    on_local(dp, tp, TIMEOUT, check);
    on_gloo(dp, tp, TIMEOUT, check);
}

fn on_local(dp: usize, tp: usize, timeout: Duration, check: fn(&Mesh)) {
    let meshes = local::meshes(dp, tp, timeout).unwrap();
    thread::scope(|scope| {
        for mesh in meshes {
            scope.spawn(move || check(&mesh));
        }
    });
}

fn on_gloo(dp: usize, tp: usize, timeout: Duration, check: fn(&Mesh)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let fd = listener.into_raw_fd();
    thread::scope(|scope| {
        for rank in 0..dp * tp {
            scope.spawn(move || {
                let listen_fd = (rank == 0).then_some(fd);
                let endpoint = Endpoint { host: "127.0.0.1".into(), port, listen_fd };
                check(&join_gloo(&endpoint, rank, dp * tp, dp, tp, timeout).unwrap());
            });
        }
    });
}

fn filled(value: f64, kind: Kind) -> Tensor {
    Tensor::full([5], value, (kind, Device::Cpu))
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

#[test]
fn the_mesh_puts_tp_ranks_side_by_side() {
    on_each_backend(2, 2, |mesh| {
        assert_eq!(mesh.world.rank(), mesh.dp.rank() * 2 + mesh.tp.rank());
        let rank = filled(mesh.world.rank() as f64, Kind::Float);
        mesh.tp.all_reduce(&rank, ReduceOp::Sum).unwrap().wait().unwrap();
        let neighbours = if mesh.dp.rank() == 0 { 1.0 } else { 5.0 };
        assert_eq!(values(&rank), [neighbours; 5]);
    });
}

#[test]
fn all_reduce_knows_its_operations_and_types() {
    on_each_backend(3, 1, |mesh| {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Int64] {
            for (op, expected) in [(ReduceOp::Sum, 6.0), (ReduceOp::Max, 3.0), (ReduceOp::Min, 1.0)]
            {
                let tensor = filled(mesh.world.rank() as f64 + 1.0, kind);
                mesh.world.all_reduce(&tensor, op).unwrap().wait().unwrap();
                assert_eq!(values(&tensor), [expected; 5], "{kind:?} {op:?}");
            }
        }
    });
}

#[test]
fn all_gather_and_reduce_scatter_keep_rank_order() {
    on_each_backend(4, 1, |mesh| {
        let rank = mesh.world.rank() as i64;
        let gathered = mesh.world.all_gather(&Tensor::from_slice(&[rank, rank * 10])).unwrap();
        assert_eq!(values(&gathered), [0.0, 0.0, 1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
        let input = Tensor::arange(8, (Kind::Float, Device::Cpu)) * (rank as f64 + 1.0);
        let part = mesh.world.reduce_scatter(&input, ReduceOp::Sum).unwrap();
        let first = rank as f64 * 20.0;
        assert_eq!(values(&part), [first, first + 10.0]);
    });
}

#[test]
fn broadcast_and_bytes_come_from_each_root() {
    on_each_backend(3, 1, |mesh| {
        for root in 0..3 {
            let tensor = filled(mesh.world.rank() as f64, Kind::Float);
            mesh.world.broadcast(&tensor, root).unwrap().wait().unwrap();
            assert_eq!(values(&tensor), [root as f64; 5]);
        }
        let text = "x".repeat(mesh.world.rank());
        let all = mesh.world.all_gather_bytes(text.as_bytes()).unwrap();
        assert_eq!(all, [b"".to_vec(), b"x".to_vec(), b"xx".to_vec()]);
        mesh.world.barrier().unwrap();
    });
}

#[test]
fn several_collectives_may_be_under_way() {
    on_each_backend(2, 1, |mesh| {
        let tensors: Vec<Tensor> = (0..8).map(|i| filled(f64::from(i), Kind::Float)).collect();
        let start = |tensor| mesh.world.all_reduce(tensor, ReduceOp::Sum).unwrap();
        let handles: Vec<_> = tensors.iter().map(start).collect();
        handles.into_iter().for_each(|handle| handle.wait().unwrap());
        for (i, tensor) in tensors.iter().enumerate() {
            assert_eq!(values(tensor), [2.0 * i as f64; 5]);
        }
    });
}

/// Rank 1 stays away from the second collective; the others name it, the call and its place.
fn stall(mesh: &Mesh) {
    mesh.world.barrier().unwrap();
    if mesh.world.rank() == 1 {
        thread::sleep(Duration::from_secs(8));
        return;
    }
    let tensor = filled(1.0, Kind::Float);
    let error = mesh.world.all_reduce(&tensor, ReduceOp::Sum).unwrap().wait().unwrap_err();
    let CommError::Collective { call, missing, .. } = &error else { panic!("{error}") };
    assert_eq!((call.sequence, call.bytes), (1, 20));
    assert_eq!(missing, &[1]);
    assert!(error.to_string().contains("conformance.rs"), "{error}");
}

#[test]
fn a_stall_names_the_missing_rank() {
    on_local(3, 1, Duration::from_secs(1), stall);
    on_gloo(3, 1, Duration::from_secs(1), stall);
}

#[test]
fn a_mesh_that_does_not_fill_the_world_is_refused() {
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: 0, listen_fd: None };
    let error = join_gloo(&endpoint, 0, 1, 2, 2, TIMEOUT).err().unwrap();
    assert!(error.to_string().starts_with("a mesh of dp 2 × tp 2 has 4 ranks"), "{error}");
}
