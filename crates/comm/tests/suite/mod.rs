//! What every backend does alike: checks that each rank of a mesh runs, on whatever carries the mesh.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::thread;
use std::time::{Duration, Instant};

use strand_comm::{CommError, Group, Handle, Mesh, Op, ReduceOp};
use tch::{Device, Kind, Tensor};

/// One rank of a check.
pub struct Rank {
    pub mesh: Mesh,
    /// Where its tensors lie.
    pub device: Device,
}

/// What all ranks of a dp × tp mesh do together.
pub struct Check {
    pub name: &'static str,
    pub dp: usize,
    pub tp: usize,
    pub timeout: Duration,
    pub run: fn(&Rank),
}

macro_rules! checks {
    ($($name:ident: $dp:literal x $tp:literal within $seconds:literal s,)*) => {
        /// All of them. After the last a group is of no more use.
        pub const CHECKS: &[Check] = &[$(Check {
            name: stringify!($name),
            dp: $dp,
            tp: $tp,
            timeout: Duration::from_secs($seconds),
            run: $name,
        }),*];
    };
}

checks! {
    the_mesh_puts_tp_ranks_side_by_side: 2 x 2 within 20 s,
    all_reduce_knows_its_operations_and_types: 3 x 1 within 20 s,
    all_ranks_end_with_the_same_bits: 4 x 1 within 20 s,
    parts_keep_rank_order: 4 x 1 within 20 s,
    memory_that_is_there_is_used: 2 x 1 within 20 s,
    a_part_may_lie_in_its_whole: 2 x 1 within 20 s,
    broadcast_comes_from_each_root: 3 x 1 within 20 s,
    bytes_may_differ_in_length: 3 x 1 within 20 s,
    several_collectives_may_be_under_way: 2 x 1 within 20 s,
    two_groups_take_turns: 2 x 2 within 20 s,
    any_thread_may_call: 2 x 1 within 20 s,
    a_handle_that_is_dropped_harms_nobody: 2 x 1 within 20 s,
    nothing_may_be_sent: 2 x 1 within 20 s,
    strided_tensors_are_gathered_or_refused: 2 x 1 within 20 s,
    tensors_that_do_not_fit_are_refused: 2 x 1 within 20 s,
    a_group_of_one_does_nothing: 1 x 1 within 20 s,
    a_stall_names_the_missing_rank: 3 x 1 within 1 s,
}

const KINDS: [Kind; 6] =
    [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half, Kind::Int64, Kind::Int];

impl Rank {
    fn filled(&self, value: f64, kind: Kind) -> Tensor {
        Tensor::full([5], value, (kind, self.device))
    }

    fn number(&self) -> f64 {
        self.mesh.world.rank() as f64
    }

    fn count(&self, len: i64, kind: Kind) -> Tensor {
        Tensor::arange(len, (kind, self.device))
    }
}

fn sum(group: &Group, tensor: &Tensor) {
    group.all_reduce(tensor, ReduceOp::Sum).and_then(Handle::wait).unwrap();
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_device(Device::Cpu).to_kind(Kind::Double).view(-1)).unwrap()
}

fn the_mesh_puts_tp_ranks_side_by_side(rank: &Rank) {
    let Mesh { world, dp, tp, gather, .. } = &rank.mesh;
    assert_eq!(world.rank(), dp.rank() * 2 + tp.rank());
    let mine = rank.filled(rank.number(), Kind::Float);
    sum(tp, &mine);
    assert_eq!(values(&mine), [if dp.rank() == 0 { 1.0 } else { 5.0 }; 5]);
    for group in [dp, gather] {
        let mine = rank.filled(rank.number(), Kind::Float);
        sum(group, &mine);
        assert_eq!(values(&mine), [if tp.rank() == 0 { 2.0 } else { 4.0 }; 5]);
    }
}

fn all_reduce_knows_its_operations_and_types(rank: &Rank) {
    for kind in KINDS {
        for (op, expected) in [(ReduceOp::Sum, 6.0), (ReduceOp::Max, 3.0), (ReduceOp::Min, 1.0)] {
            let tensor = rank.filled(rank.number() + 1.0, kind);
            rank.mesh.world.all_reduce(&tensor, op).unwrap().wait().unwrap();
            assert_eq!(values(&tensor), [expected; 5], "{kind:?} {op:?}");
        }
    }
}

/// Sums of numbers that are rounded depend on the order; all ranks take the same.
fn all_ranks_end_with_the_same_bits(rank: &Rank) {
    for len in [1, 7, 1 << 10, 300_001] {
        let phase = (rank.count(len, Kind::Float) + rank.number() * 0.37).sin() / 3.0;
        sum(&rank.mesh.world, &phase);
        let bits = phase.to_device(Device::Cpu).view_dtype(Kind::Int);
        let all = rank.mesh.world.all_gather(&bits).unwrap().view([4, -1]);
        for other in 1..4 {
            assert!(all.get(other).equal(&all.get(0)), "{len} numbers");
        }
    }
}

fn parts_keep_rank_order(rank: &Rank) {
    let number = rank.number();
    for kind in KINDS {
        let mine = rank.filled(number, kind).view([5, 1]);
        let all = rank.mesh.world.all_gather(&mine).unwrap();
        assert_eq!(all.size(), [20, 1]);
        let expected: Vec<f64> = (0..20).map(|i| f64::from(i / 5)).collect();
        assert_eq!(values(&all), expected, "{kind:?}");
        let input = rank.count(8, kind) * (number as i64 + 1);
        let part = rank.mesh.world.reduce_scatter(&input, ReduceOp::Sum).unwrap();
        assert_eq!(values(&part), [number * 20.0, number * 20.0 + 10.0], "{kind:?}");
    }
    let input = rank.count(4, Kind::Float) + number;
    let greatest = rank.mesh.world.reduce_scatter(&input, ReduceOp::Max).unwrap();
    assert_eq!(values(&greatest), [number + 3.0]);
}

fn memory_that_is_there_is_used(rank: &Rank) {
    let world = &rank.mesh.world;
    let whole = rank.count(6, Kind::Float) * (rank.number() + 1.0);
    let (all, part) = (whole.zeros_like(), rank.filled(0.0, Kind::Float).narrow(0, 0, 3));
    let reduced = world.reduce_scatter_into(&part, &whole, ReduceOp::Sum).unwrap();
    reduced.wait().unwrap();
    let gathered = world.all_gather_into(&all, &part).unwrap();
    gathered.wait().unwrap();
    assert_eq!(values(&all), [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]);
}

fn a_part_may_lie_in_its_whole(rank: &Rank) {
    let whole = rank.filled(-1.0, Kind::Float).narrow(0, 0, 4);
    let part = whole.narrow(0, rank.mesh.world.rank() as i64 * 2, 2);
    let _ = part.shallow_clone().fill_(rank.number());
    rank.mesh.world.all_gather_into(&whole, &part).unwrap().wait().unwrap();
    assert_eq!(values(&whole), [0.0, 0.0, 1.0, 1.0]);
}

fn broadcast_comes_from_each_root(rank: &Rank) {
    for kind in KINDS {
        for root in 0..3 {
            let tensor = rank.filled(rank.number(), kind);
            rank.mesh.world.broadcast(&tensor, root).unwrap().wait().unwrap();
            assert_eq!(values(&tensor), [root as f64; 5], "{kind:?}");
        }
    }
}

fn bytes_may_differ_in_length(rank: &Rank) {
    let world = &rank.mesh.world;
    let all = world.all_gather_bytes("x".repeat(world.rank()).as_bytes()).unwrap();
    assert_eq!(all, [b"".to_vec(), b"x".to_vec(), b"xx".to_vec()]);
    assert_eq!(world.all_gather_bytes(b"").unwrap(), vec![Vec::<u8>::new(); 3]);
    world.barrier().unwrap();
}

fn several_collectives_may_be_under_way(rank: &Rank) {
    let tensors: Vec<Tensor> = (0..8).map(|i| rank.filled(f64::from(i), Kind::Float)).collect();
    let start = |tensor| rank.mesh.world.all_reduce(tensor, ReduceOp::Sum).unwrap();
    let handles: Vec<_> = tensors.iter().map(start).collect();
    handles.into_iter().rev().for_each(|handle| handle.wait().unwrap());
    for (i, tensor) in tensors.iter().enumerate() {
        assert_eq!(values(tensor), [2.0 * i as f64; 5]);
    }
}

/// Collectives of two groups are under way at once, and each sees what the one before it made.
fn two_groups_take_turns(rank: &Rank) {
    let Mesh { dp, tp, .. } = &rank.mesh;
    let (a, b) = (rank.filled(1.0, Kind::Float), rank.filled(2.0, Kind::Float));
    for turn in 1..=4 {
        let over_dp = dp.all_reduce(&a, ReduceOp::Sum).unwrap();
        let over_tp = tp.all_reduce(&b, ReduceOp::Sum).unwrap();
        over_dp.wait().unwrap();
        sum(tp, &a);
        over_tp.wait().unwrap();
        sum(dp, &b);
        assert_eq!(values(&a), [4_f64.powi(turn); 5]);
        assert_eq!(values(&b), [2.0 * 4_f64.powi(turn); 5]);
    }
}

/// As in a backward pass: one thread starts, another waits.
fn any_thread_may_call(rank: &Rank) {
    let tensor = rank.filled(1.0, Kind::Float);
    let world = &rank.mesh.world;
    let started = tensor.shallow_clone();
    let handle = thread::scope(|scope| {
        let start = move || world.all_reduce(&started, ReduceOp::Sum).unwrap();
        scope.spawn(start).join().unwrap()
    });
    handle.wait().unwrap();
    assert_eq!(values(&tensor), [2.0; 5]);
}

fn a_handle_that_is_dropped_harms_nobody(rank: &Rank) {
    let world = &rank.mesh.world;
    for _ in 0..20 {
        let input = rank.count(1 << 16, Kind::Float);
        drop(world.all_reduce(&input, ReduceOp::Sum).unwrap());
        drop(input);
        let next = rank.filled(1.0, Kind::Float);
        sum(world, &next);
        assert_eq!(values(&next), [2.0; 5]);
    }
    world.barrier().unwrap();
}

fn nothing_may_be_sent(rank: &Rank) {
    let world = &rank.mesh.world;
    let nothing = Tensor::zeros([0, 3], (Kind::Float, rank.device));
    sum(world, &nothing);
    world.broadcast(&nothing, 1).unwrap().wait().unwrap();
    assert_eq!(world.all_gather(&nothing).unwrap().size(), [0, 3]);
    assert_eq!(world.reduce_scatter(&nothing, ReduceOp::Sum).unwrap().size(), [0, 3]);
    let something = rank.filled(1.0, Kind::Float);
    sum(world, &something);
    assert_eq!(values(&something), [2.0; 5]);
}

fn strided_tensors_are_gathered_or_refused(rank: &Rank) {
    let world = &rank.mesh.world;
    let columns = (rank.count(6, Kind::Float) + rank.number() * 6.0).view([2, 3]).tr();
    let all = world.all_gather(&columns).unwrap();
    assert_eq!(all.size(), [6, 2]);
    assert_eq!(values(&all.get(5)), [8.0, 11.0]);
    let part = world.reduce_scatter(&columns.tr().tr().narrow(0, 0, 2), ReduceOp::Sum).unwrap();
    assert_eq!(values(&part), if rank.number() == 0.0 { [6.0, 12.0] } else { [8.0, 14.0] });
    let error = world.all_reduce(&columns, ReduceOp::Sum).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("AllReduce in group world at "), "{text}");
    assert!(text.contains("suite/mod.rs") && text.contains("not contiguous"), "{text}");
    world.barrier().unwrap();
}

fn tensors_that_do_not_fit_are_refused(rank: &Rank) {
    let world = &rank.mesh.world;
    let refused = |result: Result<Handle, CommError>, word: &str| {
        let error = result.err().unwrap();
        assert!(matches!(error, CommError::Argument { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    let (five, doubles) = (rank.filled(1.0, Kind::Float), rank.filled(1.0, Kind::Double));
    refused(world.all_gather_into(&five, &five), "has 5 elements");
    refused(world.all_gather_into(&five, &doubles), "Double");
    refused(world.reduce_scatter_into(&five, &five, ReduceOp::Sum), "has 5 elements");
    refused(world.broadcast(&five, 2), "rank 2");
    assert!(world.reduce_scatter(&five, ReduceOp::Sum).is_err());
    assert!(world.all_gather(&five.get(0)).is_err(), "a number has no rows");
    assert!(!world.has_failed());
    world.barrier().unwrap();
}

fn a_group_of_one_does_nothing(rank: &Rank) {
    let Mesh { world, dp, tp, gather, .. } = &rank.mesh;
    for group in [world, dp, tp, gather] {
        let tensor = rank.filled(3.0, Kind::Float);
        sum(group, &tensor);
        group.broadcast(&tensor, 0).unwrap().wait().unwrap();
        let gathered = rank.filled(0.0, Kind::Float);
        group.all_gather_into(&gathered, &tensor).unwrap().wait().unwrap();
        assert_eq!(values(&gathered), [3.0; 5]);
        assert_eq!(values(&group.reduce_scatter(&tensor, ReduceOp::Sum).unwrap()), [3.0; 5]);
        assert_eq!(group.all_gather_bytes(b"word").unwrap(), [b"word"]);
        group.barrier().unwrap();
    }
}

/// Rank 1 comes late to the second collective; the others name it, the call and its place.
fn a_stall_names_the_missing_rank(rank: &Rank) {
    let world = &rank.mesh.world;
    world.barrier().unwrap();
    let tensor = rank.filled(1.0, Kind::Float);
    if world.rank() == 1 {
        thread::sleep(Duration::from_secs(8));
        // The others have given up. Whatever comes of it, it comes.
        let _ = world.all_reduce(&tensor, ReduceOp::Sum).and_then(Handle::wait);
        return;
    }
    let error = first_error(world, &tensor);
    let CommError::Collective { call, missing, .. } = &error else { panic!("{error}") };
    assert_eq!((call.op, call.bytes), (Op::AllReduce, 20));
    assert_eq!(missing, &[1]);
    assert!(error.to_string().contains("suite/mod.rs"), "{error}");
    assert!(error.hint().unwrap().contains("[1]"));
    assert!(world.has_failed() && rank.mesh.has_failed());
}

/// Calls until one fails: a GPU's collective fails behind the caller's back.
pub fn first_error(group: &Group, tensor: &Tensor) -> CommError {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if let Err(error) = group.all_reduce(tensor, ReduceOp::Sum).and_then(Handle::wait) {
            return error;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("nothing has failed");
}
