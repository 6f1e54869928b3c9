//! Tests: what a loader gives is the order, for any number of ranks, after any resume, or an error.

use std::collections::BTreeMap;

use tokio::runtime::{Builder, Runtime};

use crate::testing::{Folder, options, row};
use crate::{Batch, Cursor, DataError, Dataset, FrameRule, Loader, LoaderOptions};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn reading(rank: usize, size: usize) -> LoaderOptions {
    LoaderOptions {
        seed: 9,
        dp_rank: rank,
        dp_size: size,
        frames: Some(3),
        sampling: FrameRule::Rand,
        prefetch_bytes: 4_000,
        epochs: Some(2),
        ..LoaderOptions::epoch(6)
    }
}

/// Rows `from..to` in row groups of three and several shards.
fn folder(runtime: &Runtime, from: usize, to: usize) -> Folder {
    let rows = (from..to).map(|i| row(i, if i % 5 == 0 { 1 } else { 2 + i % 4 })).collect();
    runtime.block_on(Folder::write(rows, options(3, 6_000)))
}

struct World {
    runtime: Runtime,
    folders: Vec<(Folder, Option<f64>)>,
}

impl World {
    fn new(sizes: &[(usize, Option<f64>)]) -> World {
        let runtime = runtime();
        let mut from = 0;
        let folders = sizes.iter().map(|&(size, weight)| {
            from += size;
            (folder(&runtime, from - size, from), weight)
        });
        let folders = folders.collect();
        World { runtime, folders }
    }

    fn sets(&self) -> Vec<(Dataset, Option<f64>)> {
        self.folders
            .iter()
            .map(|(folder, weight)| (self.runtime.block_on(folder.open()), *weight))
            .collect()
    }

    fn loader(&self, options: LoaderOptions, cursor: Option<Cursor>) -> Loader {
        Loader::open(self.runtime.handle().clone(), self.sets(), options, cursor).expect("a loader")
    }

    /// The next steps of `size` ranks, put together, and the cursor behind them.
    fn steps(&self, size: usize, cursor: Option<Cursor>, steps: usize) -> (Vec<Batch>, Cursor) {
        let mut loaders: Vec<Loader> =
            (0..size).map(|rank| self.loader(reading(rank, size), cursor.clone())).collect();
        let mut whole = Vec::new();
        for _ in 0..steps {
            let cuts: Vec<_> =
                loaders.iter_mut().filter_map(|loader| loader.next().expect("a batch")).collect();
            let Some(first) = cuts.first().cloned() else { break };
            assert_eq!(cuts.len(), size, "all ranks end together");
            assert!(cuts.iter().all(|cut| (cut.first, cut.global) == (first.first, first.global)));
            let samples: Vec<_> = cuts.into_iter().flat_map(|cut| cut.samples).collect();
            assert_eq!(samples.len(), first.global);
            whole.push(Batch { samples, ..first });
        }
        let cursors: Vec<Cursor> = loaders.iter().map(Loader::cursor).collect();
        assert!(cursors.iter().all(|cursor| *cursor == cursors[0]), "one cursor for all ranks");
        (whole, cursors[0].clone())
    }
}

#[test]
fn the_order_does_not_depend_on_the_number_of_ranks() {
    let world = World::new(&[(40, None), (11, None)]);
    let (alone, cursor) = world.steps(1, None, usize::MAX);
    assert_eq!(cursor.consumed, 102);
    assert_eq!((alone.len(), alone[16].global), (17, 6));
    for size in [2, 3, 4, 5, 8] {
        assert_eq!(world.steps(size, None, usize::MAX).0, alone, "{size} ranks");
    }
    let mut times: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for sample in alone.iter().flat_map(|batch| &batch.samples) {
        *times.entry((sample.epoch, &sample.id)).or_default() += 1;
    }
    assert_eq!(times.len(), 102);
    assert!(times.values().all(|&times| times == 1), "each sample once an epoch");
}

#[test]
fn a_run_continues_where_it_stopped_on_any_layout() {
    let world = World::new(&[(40, Some(3.0)), (11, Some(1.0))]);
    let (whole, _) = world.steps(1, None, usize::MAX);
    for (before, between) in [(1, 1), (5, 4), (9, 2)] {
        let (mut parts, cursor) = world.steps(4, None, before);
        let (middle, cursor) = world.steps(2, Some(cursor), between);
        parts.extend(middle);
        parts.extend(world.steps(3, Some(cursor), usize::MAX).0);
        assert_eq!(parts, whole);
    }
}

#[test]
fn an_end_is_known_beforehand() {
    let world = World::new(&[(20, None)]);
    let count = |change: fn(&mut LoaderOptions)| {
        let mut options = reading(1, 2);
        change(&mut options);
        let mut loader = world.loader(options, None);
        let mut globals = Vec::new();
        while let Some(batch) = loader.next().expect("a batch") {
            globals.push(batch.global);
        }
        assert_eq!(loader.steps_total(), Some(globals.len() as u64));
        assert!(loader.next().expect("still the end").is_none());
        globals
    };
    assert_eq!(count(|options| options.epochs = Some(1)), [6, 6, 6, 2]);
    assert_eq!(count(|options| options.drop_last = true), [6; 6]);
    assert_eq!(count(|options| (options.epochs, options.steps) = (None, Some(9))), [6; 9]);
    assert_eq!(count(|options| options.global_batch = 100), [40]);
    let endless = world.loader(LoaderOptions { epochs: None, ..reading(0, 1) }, None);
    assert_eq!((endless.steps_total(), endless.epoch_len()), (None, 20));
}

#[test]
fn a_window_is_fetched_once() {
    let world = World::new(&[(240, None)]);
    let mut loader =
        world.loader(LoaderOptions { epochs: Some(1), prefetch_bytes: 0, ..reading(0, 1) }, None);
    while loader.next().expect("a batch").is_some() {}
    let shards = &world.folders[0].0.manifest.shards;
    let groups = shards.iter().flat_map(|shard| &shard.groups);
    assert_eq!(loader.fetched(), (80, groups.map(|group| group.bytes).sum()));
}

#[test]
fn an_error_takes_the_place_of_its_own_batch() {
    let world = World::new(&[(40, None)]);
    let (whole, _) = world.steps(1, None, usize::MAX);
    let (folder, _) = &world.folders[0];
    let features = row(17, 2 + 17 % 4).features;
    let shard = folder.manifest.shards.iter().map(|shard| &shard.path).find(|path| {
        let file = std::fs::read(folder.guard.path().join(path)).expect("read");
        file.windows(features.len()).any(|window| window == features)
    });
    folder.edit(shard.expect("a shard has it"), |file| {
        let at = file.windows(features.len()).position(|window| window == features).expect("there");
        file[at] ^= 1;
    });
    // Nothing is given in the place of the damaged row.
    let spoiled = |batch: &Batch| batch.samples.iter().any(|sample| &*sample.id == "clip-17");
    let good = whole.iter().position(spoiled).expect("there");
    let mut loader = world.loader(reading(0, 1), None);
    for batch in &whole[..good] {
        assert_eq!(loader.next().expect("before the damage").as_ref(), Some(batch));
    }
    let error = loader.next().expect_err("damaged");
    assert!(matches!(error, DataError::Checksum { .. }), "{error:?}");
    assert!(error.to_string().contains("row 2: checksum mismatch"), "{error}");
    assert!(matches!(loader.next(), Err(DataError::Stopped)));
    assert_eq!(loader.cursor().consumed, good as u64 * 6);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let world = World::new(&[(6, None)]);
    let refuse = |change: fn(&mut LoaderOptions)| {
        let mut options = reading(0, 1);
        change(&mut options);
        Loader::open(world.runtime.handle().clone(), world.sets(), options, None)
            .err()
            .expect("refused")
    };
    refuse(|options| options.dp_rank = 1);
    refuse(|options| options.global_batch = 0);
    refuse(|options| options.frames = Some(0));
    world
        .runtime
        .block_on(world.folders[0].0.forge(|manifest| manifest.encoder.hash = "other".into()));
    let mut sets = world.sets();
    let other = World::new(&[(6, None)]);
    sets.extend(other.sets());
    let error = Loader::open(world.runtime.handle().clone(), sets, reading(0, 1), None)
        .err()
        .expect("refused");
    assert!(error.to_string().contains("different encoders"), "{error}");
}
