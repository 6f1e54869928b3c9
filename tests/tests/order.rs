//! The order of samples: the same for any number of ranks, after any resume, each sample once an epoch.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use serde_json::Value;
use strand_data::{Cursor, Dtype, Group, Manifest, Order, OrderRules, SampleRef, Shard, Xxh3, cut};
use strand_tests::encoder::patch;
use strand_tests::harness::Workspace;

/// A manifest of shards of row groups, each of (rows, frames).
fn manifest(shards: impl Iterator<Item = Vec<(u64, u64)>>) -> Manifest {
    let shard = |(index, rows): (usize, Vec<(u64, u64)>)| {
        let mut offset = 4;
        let groups = rows.into_iter().enumerate().map(|(number, (rows, frames))| {
            let bytes = rows * frames * 49_152 + 2_000;
            offset += bytes;
            let xxh3 = Xxh3((index * 1000 + number) as u64);
            Group { rows, offset: offset - bytes, bytes, xxh3, frames: [frames; 2], text: [20, 90] }
        });
        let groups: Vec<Group> = groups.collect();
        Shard {
            path: format!("shard-{index:06}.parquet"),
            bytes: offset + 40_000 + 8,
            rows: groups.iter().map(|group| group.rows).sum(),
            blake3: "ab".repeat(32),
            footer_bytes: 40_000,
            footer_xxh3: Xxh3(index as u64),
            groups,
        }
    };
    Manifest::new(patch(), 32, 768, Dtype::F16, shards.enumerate().map(shard).collect())
}

/// Data sets, their weights, and how they are put in order.
#[derive(Debug, Clone)]
struct Mixture {
    sets: Vec<(Manifest, Option<f64>)>,
    rules: OrderRules,
    seed: u64,
    batch: u64,
}

impl Mixture {
    /// As a rank makes it when it starts.
    fn order(&self) -> Order {
        let sets: Vec<_> = self.sets.iter().map(|(set, weight)| (set, *weight)).collect();
        Order::with_rules(&sets, self.seed, self.rules).expect("an order")
    }

    /// The samples of `steps` steps on `size` ranks from a cursor on, and the cursor behind them.
    fn run(&self, size: usize, from: &Cursor, steps: u64) -> (Vec<SampleRef>, Cursor) {
        let json = serde_json::to_string(from).expect("JSON");
        let cursor: Cursor = serde_json::from_str(&json).expect("a cursor");
        let ranks: Vec<Order> = (0..size).map(|_| self.order()).collect();
        let mut position = ranks[0].resume(&cursor).expect("its own");
        let mut samples = Vec::new();
        for _ in 0..steps {
            let end = ranks[0].step_end(position, self.batch);
            for (rank, order) in ranks.iter().enumerate() {
                assert_eq!(order.step_end(position, self.batch), end);
                samples.extend(
                    cut(end - position, rank, size).map(|offset| order.at(position + offset)),
                );
            }
            position = end;
        }
        (samples, ranks[0].cursor(position))
    }
}

fn mixtures() -> impl Strategy<Value = Mixture> {
    let group = (1_u64..9, 1_u64..20);
    let shards = proptest::collection::vec(proptest::collection::vec(group, 1..30), 1..4);
    let sets = proptest::collection::vec((shards, 1_u32..20), 1..4);
    let rules = (any::<bool>(), any::<bool>(), any::<bool>());
    (sets, rules, any::<u64>(), 1_u64..33).prop_map(|(sets, rules, seed, batch)| {
        let (one_set, by_length, weighted) = rules;
        let set = |(shards, weight): (Vec<_>, u32)| {
            (manifest(shards.into_iter()), weighted.then_some(f64::from(weight) / 4.0))
        };
        Mixture {
            sets: sets.into_iter().map(set).collect(),
            rules: OrderRules { one_set: one_set.then_some(batch), by_length },
            seed,
            batch,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn any_number_of_ranks_takes_the_same_samples(mixture in mixtures()) {
        let start = mixture.order().cursor(0);
        let steps = mixture.order().steps_before(mixture.order().epoch_len() * 2, mixture.batch);
        let (alone, end) = mixture.run(1, &start, steps);
        for size in [2, 3, 4, 8] {
            prop_assert_eq!(&mixture.run(size, &start, steps), &(alone.clone(), end.clone()));
        }
    }

    #[test]
    fn each_sample_comes_once_an_epoch(mixture in mixtures()) {
        let order = mixture.order();
        let is_weighted = mixture.sets[0].1.is_some();
        let mut seen: BTreeMap<SampleRef, u64> = BTreeMap::new();
        let epochs = if is_weighted { 3 } else { 2 };
        let end = epochs * order.epoch_len();
        (0..end).for_each(|at| *seen.entry(order.at(at)).or_default() += 1);
        prop_assert!(seen.values().all(|&times| times == 1), "twice in an epoch of its set");
        for at in seen.keys() {
            prop_assert!((at.row as u64) < mixture.sets[at.set].0.shards[at.shard].groups[at.group].rows);
        }
        let rows: u64 = mixture.sets.iter().map(|(set, _)| set.num_rows()).sum();
        prop_assert_eq!(order.epoch_len(), rows);
        let first = (0..rows).map(|at| order.at(at));
        prop_assert!(is_weighted || first.into_iter().all(|at| at.epoch == 0));
    }

    #[test]
    fn resumed_on_other_ranks_the_samples_go_on(mixture in mixtures(), parts in proptest::array::uniform2(0.0..1.0_f64)) {
        let start = mixture.order().cursor(0);
        let steps = mixture.order().steps_before(mixture.order().epoch_len() * 2, mixture.batch);
        let (whole, end) = mixture.run(1, &start, steps);
        let first = (parts[0] * steps as f64) as u64;
        let second = (parts[1] * (steps - first) as f64) as u64;
        let (mut samples, cursor) = mixture.run(4, &start, first);
        let (middle, cursor) = mixture.run(2, &cursor, second);
        samples.extend(middle);
        let (last, cursor) = mixture.run(3, &cursor, steps - first - second);
        samples.extend(last);
        prop_assert_eq!(samples, whole);
        prop_assert_eq!(cursor, end);
    }

    #[test]
    fn a_step_of_one_set_is_of_one_set(mixture in mixtures()) {
        let order = mixture.order();
        let (mut position, end) = (0, 2 * order.epoch_len());
        while mixture.rules.one_set.is_some() && position < end {
            let next = order.step_end(position, mixture.batch);
            let set = order.at(position).set;
            prop_assert!((position..next).all(|at| order.at(at).set == set));
            position = next;
        }
    }
}

/// Other rules are another order, and a cursor of one does not go on in the other.
#[test]
fn rules_are_part_of_the_position() {
    let shards = || std::iter::repeat_n(vec![(8, 16), (8, 4), (5, 1)], 40);
    let mut mixture = Mixture {
        sets: vec![(manifest(shards()), None), (manifest(shards().take(9)), None)],
        rules: OrderRules::default(),
        seed: 3,
        batch: 8,
    };
    let plain = mixture.order();
    let json = serde_json::to_string(&plain.cursor(16)).expect("JSON");
    assert!(!json.contains("one_set") && !json.contains("by_length"), "as before: {json}");
    for rules in [
        OrderRules { one_set: Some(8), by_length: false },
        OrderRules { one_set: None, by_length: true },
    ] {
        mixture.rules = rules;
        let other = mixture.order();
        assert!((0..200).any(|at| plain.at(at) != other.at(at)));
        assert!(
            other.resume(&plain.cursor(16)).is_err() && plain.resume(&other.cursor(16)).is_err()
        );
    }
}

/// Sample ids of all steps, in order.
fn ids(steps: &[Value]) -> Result<Vec<String>> {
    let of_step = |step: &Value| {
        let ids = step["sample_ids"].as_array().context("sample ids")?.iter();
        ids.map(|id| Ok(id.as_str().context("an id")?.to_owned())).collect::<Result<Vec<_>>>()
    };
    Ok(steps.iter().map(of_step).collect::<Result<Vec<_>>>()?.concat())
}

/// A real run on 4, then 2, then 3 ranks takes the samples of one that ran through on one rank. The steps at which it
/// changes lie in the middle of an epoch; the third part crosses its end.
#[test]
fn a_run_on_four_then_two_then_three_ranks_takes_the_same_samples() -> Result<()> {
    for rules in ["{}", "{per_step: one_set, by_length: true}"] {
        let workspace = Workspace::new()?;
        let order = format!("stages.base.order={rules}");
        let changes = [
            order.as_str(),
            "stages.base.data=[{set: train}, {set: held_out}]",
            "stages.base.length.steps=12",
            "stages.all.length.steps=1",
            "stages.all.evaluate=[]",
            "batch.global=7",
            "checkpoint.keep=100",
        ];
        let shared: Vec<&str> = changes.into_iter().flat_map(|change| ["--set", change]).collect();
        workspace.train("whole", (1, 1), &shared)?;
        let expected = ids(&workspace.metrics("whole")?)?;
        workspace.train("four", (4, 1), &shared)?;
        let mut parts = ids(&workspace.metrics("four")?[..4])?;
        for (from, step, run, dp, steps) in [("four", 4, "two", 2, 4), ("two", 8, "three", 3, 5)] {
            let checkpoint = workspace.path(&format!("{from}/checkpoints/step-{step:08}"));
            let checkpoint = checkpoint.display().to_string();
            let arguments = [&shared[..], &["--resume", &checkpoint]].concat();
            workspace.train(run, (dp, 1), &arguments)?;
            parts.extend(ids(&workspace.metrics(run)?[..steps])?);
        }
        ensure!(parts == expected, "order {rules}: {parts:?}, not {expected:?}");
        let epoch: std::collections::BTreeSet<&String> = expected[..60].iter().collect();
        ensure!(epoch.len() == 60, "order {rules}: a sample twice in an epoch");
        println!("order {rules}: {} samples, the same on 1 and on 4, 2 and 3 ranks", parts.len());
    }
    Ok(())
}

/// What the order of 50 million samples costs, beside the manifest that describes them: `cargo xtask bench order`.
#[test]
#[ignore = "a measurement of 3 GB and half a minute: `cargo xtask bench order`"]
fn fifty_million_samples() -> Result<()> {
    // Shards of 268 MB: 42 row groups of 8 clips of 16 frames, and a short one.
    let shards = std::iter::repeat_n([vec![(8, 16); 42], vec![(3, 16)]].concat(), 147_500);
    let started = Instant::now();
    let made = manifest(shards);
    println!("made a manifest of {} samples in {:.2?}", made.num_rows(), started.elapsed());
    ensure!(made.num_rows() > 50_000_000);
    let json = made.to_json();
    drop(made);
    let cpu = cpu_ms()?;
    let started = Instant::now();
    let manifest = Manifest::parse("a manifest", json.as_bytes())?;
    let parse = started.elapsed();
    let groups: usize = manifest.shards.iter().map(|shard| shard.groups.len()).sum();
    println!(
        "manifest: {} MB of JSON, parsed and checked in {parse:.2?} ({:.0} ms on a CPU); {} MB in memory for {groups} row groups",
        json.len() / 1_000_000,
        cpu_ms()? - cpu,
        groups * size_of::<Group>() / 1_000_000
    );
    drop(json);
    for by_length in [false, true] {
        let rules = OrderRules { by_length, ..OrderRules::default() };
        let (before, cpu) = (resident()?, cpu_ms()?);
        let started = Instant::now();
        let order = Order::with_rules(&[(&manifest, None)], 1, rules)?;
        let made = started.elapsed();
        let first = order.at(0);
        let (start, cpu) = (started.elapsed(), cpu_ms()? - cpu);
        let started = Instant::now();
        let middle = order.at(25_000_000);
        let resumed = started.elapsed();
        let held = (resident()?.saturating_sub(before)) as f64 / 1e6;
        println!(
            "order, by_length {by_length}: made in {made:.2?}, first sample after {start:.2?} ({cpu:.0} ms of it on this thread), one in the middle in {resumed:.2?}, {held:.1} MB resident ({first:?}, {middle:?})"
        );
        ensure!(held < 50.0, "{held} MB for the order of 50 million samples");
    }
    Ok(())
}

/// Resident memory of this process, in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Milliseconds that this thread has been on a CPU: what a clock shows depends on what else runs.
fn cpu_ms() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(stat.split(' ').next().context("schedstat")?.parse::<f64>()? / 1e6)
}
