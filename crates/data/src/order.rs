//! The order of all samples of a run: a function of (data sets, seed, rules, position) and of nothing else.
//!
//! [`crate::mixing`] says which set has a position, [`crate::epoch`] which of its samples.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use strand_store::xxh3;

use crate::epoch::{EpochOrder, Sizes, runs};
use crate::mixing::{Mixing, Turn};
use crate::parallel::in_parts;
use crate::permute::mix;
use crate::pool;
use crate::{DataError, Group, Manifest, Shard};

/// Version of the order; a cursor of another one cannot be continued.
const VERSION: u32 = 1;
/// Weights are kept to this part of 1, so that shares are exact fractions.
const WEIGHT_UNIT: f64 = 1e6;

/// Where a sample lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleRef {
    /// The data set, as numbered in [`Order::new`].
    pub set: usize,
    /// How often all of its set came before.
    pub epoch: u64,
    /// The shard of the set.
    pub shard: usize,
    /// The row group of the shard.
    pub group: usize,
    /// The row of the row group.
    pub row: usize,
}

/// How sets are mixed and their samples put in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderRules {
    /// Every step's samples come from one set, as the reference does it: the samples of a step. By size the last step
    /// of each set in an epoch may be short.
    pub one_set: Option<u64>,
    /// Row groups of similar length are read together, so that batches need less padding.
    pub by_length: bool,
}

/// The data position of a run: the whole state of all loaders of all ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Version of the order.
    pub version: u32,
    /// Ids of the manifests.
    pub sets: Vec<String>,
    /// Weights in millionths, where sets are mixed by weights.
    pub weights: Option<Vec<u64>>,
    /// Seed of the order.
    pub seed: u64,
    /// Samples of a step, where every step's samples come from one set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_set: Option<u64>,
    /// Whether windows are made by length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_length: bool,
    /// Samples that were consumed by all ranks together, skipped ones included.
    pub consumed: u64,
    /// Damaged samples of the whole run that were left out so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The order of a run.
#[derive(Debug)]
pub struct Order {
    sets: Vec<SetOrder>,
    mixing: Mixing,
    rules: OrderRules,
    ids: Vec<String>,
    seed: u64,
}

#[derive(Debug)]
struct SetOrder {
    sizes: Sizes,
    /// Row groups before each shard.
    shards: Vec<u64>,
    /// The length of each row group, where it counts.
    lengths: Option<Arc<[u32]>>,
    key: u64,
    /// The epoch asked for last. Only a shortcut: the order does not depend on it.
    last: Mutex<Option<(u64, Arc<EpochOrder>)>>,
}

impl Order {
    /// The order over these data sets, mixed sample by sample.
    ///
    /// # Errors
    /// As [`Order::with_rules`].
    pub fn new(sets: &[(&Manifest, Option<f64>)], seed: u64) -> Result<Order, DataError> {
        Order::with_rules(sets, seed, OrderRules::default())
    }

    /// The order over these data sets. Weights are all given or all absent; without them, each set has its share by
    /// size.
    ///
    /// # Errors
    /// [`DataError::Settings`] where there is no row, a weight is missing or not positive, or a step is empty.
    pub fn with_rules(
        sets: &[(&Manifest, Option<f64>)],
        seed: u64,
        rules: OrderRules,
    ) -> Result<Order, DataError> {
        let bad = |reason: &str| Err(DataError::Settings(reason.to_owned()));
        if sets.is_empty() || sets.iter().any(|(manifest, _)| manifest.num_rows() == 0) {
            return bad("a data set without rows cannot be trained on");
        }
        if rules.one_set == Some(0) {
            return bad("a step must have a sample");
        }
        let weights = weights(sets)?;
        let ids: Vec<String> = sets.iter().map(|(manifest, _)| manifest.id.clone()).collect();
        let by_length = rules.by_length;
        let sets: Vec<_> =
            sets.iter().map(|(manifest, _)| SetOrder::new(manifest, seed, by_length)).collect();
        let rows = sets.iter().map(|set| set.sizes.rows()).collect();
        let mixing = Mixing::new(rows, weights, rules.one_set);
        Ok(Order { sets, mixing, rules, ids, seed })
    }

    /// Samples of one epoch: the rows of all sets together.
    pub fn epoch_len(&self) -> u64 {
        self.mixing.epoch_len()
    }

    /// The sample at a position; positions go on through all epochs.
    pub fn at(&self, position: u64) -> SampleRef {
        let Turn { set, epoch, index } = self.mixing.at(position);
        self.sets[set].at(set, epoch, index)
    }

    /// The end of the step of `batch` samples that begins at a position.
    pub fn step_end(&self, first: u64, batch: u64) -> u64 {
        self.mixing.step_end(first, batch)
    }

    /// The position at which a step of `batch` samples, counted from 0, begins.
    pub fn step_start(&self, step: u64, batch: u64) -> u64 {
        self.mixing.step_start(step, batch)
    }

    /// Steps of `batch` samples that begin before a position.
    pub fn steps_before(&self, position: u64, batch: u64) -> u64 {
        self.mixing.steps_before(position, batch)
    }

    /// The cursor after so many samples.
    pub fn cursor(&self, consumed: u64) -> Cursor {
        let (sets, weights, seed) = (self.ids.clone(), self.mixing.weights().cloned(), self.seed);
        let (one_set, by_length) = (self.mixing.one_set(), self.rules.by_length);
        Cursor { version: VERSION, sets, weights, seed, one_set, by_length, consumed, skipped: 0 }
    }

    /// The position that a cursor of this very order stands for.
    ///
    /// # Errors
    /// [`DataError::Cursor`] where it was made with other data, weights, rules or another seed.
    pub fn resume(&self, cursor: &Cursor) -> Result<u64, DataError> {
        match self.difference(cursor, &self.cursor(cursor.consumed)) {
            Some(difference) => Err(DataError::Cursor(difference)),
            None => Ok(cursor.consumed),
        }
    }

    fn difference(&self, cursor: &Cursor, own: &Cursor) -> Option<String> {
        let (was, is) = (cursor, own);
        if was.version != is.version {
            return Some(format!(
                "it has order version {}, this program {}",
                was.version, is.version
            ));
        }
        if was.sets != is.sets {
            return Some(format!("it was over data sets {:?}, these are {:?}", was.sets, is.sets));
        }
        if was.weights != is.weights {
            return Some(format!("it mixed by weights {:?}, now {:?}", was.weights, is.weights));
        }
        if (was.one_set, was.by_length) != (is.one_set, is.by_length) {
            return Some(format!(
                "its steps were of one set: {:?}, by length: {}; now {:?}, {}",
                was.one_set, was.by_length, is.one_set, is.by_length
            ));
        }
        (was.seed != is.seed).then(|| format!("its seed was {}, now {}", was.seed, is.seed))
    }
}

impl SetOrder {
    fn new(manifest: &Manifest, seed: u64, by_length: bool) -> SetOrder {
        let shards = manifest.shards.iter().scan(0, |before, shard| {
            let first = *before;
            *before += shard.groups.len() as u64;
            Some(first)
        });
        // The groups of a large manifest fill no cache.
        let rows = in_parts(&manifest.shards, |shards| runs(groups(shards).map(|it| (it.rows, 1))));
        let length = |group: &Group| pool::length(group, manifest.tokens);
        SetOrder {
            sizes: Sizes::new(rows.into_iter()),
            shards: shards.collect(),
            lengths: by_length.then(|| groups(&manifest.shards).map(length).collect()),
            key: mix(xxh3(manifest.id.as_bytes()), seed),
            last: Mutex::new(None),
        }
    }

    fn at(&self, set: usize, epoch: u64, index: u64) -> SampleRef {
        let (group, row) = self.epoch(epoch).at(index);
        let shard = self.shards.partition_point(|&first| first <= group) - 1;
        SampleRef {
            set,
            epoch,
            shard,
            group: (group - self.shards[shard]) as usize,
            row: row as usize,
        }
    }

    fn epoch(&self, epoch: u64) -> Arc<EpochOrder> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((number, order)) if *number == epoch => order.clone(),
            _ => {
                let key = mix(self.key, epoch);
                let order = Arc::new(EpochOrder::new(&self.sizes, key, self.lengths.clone()));
                *last = Some((epoch, order.clone()));
                order
            }
        }
    }
}

fn groups(shards: &[Shard]) -> impl Iterator<Item = &Group> {
    shards.iter().flat_map(|shard| &shard.groups)
}

fn weights(sets: &[(&Manifest, Option<f64>)]) -> Result<Option<Vec<u64>>, DataError> {
    if sets.iter().all(|(_, weight)| weight.is_none()) {
        return Ok(None);
    }
    let units = sets.iter().map(|(_, weight)| match weight {
        None => {
            Err(DataError::Settings("either all data sets have a weight or none has".to_owned()))
        }
        Some(weight) if (1.0 / WEIGHT_UNIT..=1e9).contains(weight) => {
            Ok((weight * WEIGHT_UNIT).round() as u64)
        }
        Some(weight) => {
            Err(DataError::Settings(format!("weight {weight} is not between 0.000001 and 1e9")))
        }
    });
    units.collect::<Result<_, _>>().map(Some)
}

/// The part of `count` samples that is rank `rank`'s of `size`: contiguous, and the parts differ by one at most.
pub fn cut(count: u64, rank: usize, size: usize) -> std::ops::Range<u64> {
    let edge = |rank: usize| (u128::from(count) * rank as u128 / size as u128) as u64;
    edge(rank)..edge(rank + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::manifest::{Group, Shard, Xxh3};
    use crate::testing::encoder;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A data set of shards with row groups of these rows.
    fn set(shards: &[Vec<u64>]) -> Manifest {
        let group = |&rows: &u64| Group {
            rows,
            offset: 4,
            bytes: 1,
            xxh3: Xxh3(0),
            frames: [1, 1],
            text: [0, 0],
        };
        let shard = |(index, groups): (usize, &Vec<u64>)| Shard {
            path: format!("shard-{index}.parquet"),
            bytes: 0,
            rows: groups.iter().sum(),
            blake3: String::new(),
            footer_bytes: 0,
            footer_xxh3: Xxh3(0),
            groups: groups.iter().map(group).collect(),
        };
        Manifest::new(encoder(), 1, 1, Dtype::F16, shards.iter().enumerate().map(shard).collect())
    }

    fn sets() -> impl Strategy<Value = Vec<Vec<Vec<u64>>>> {
        let shards = proptest::collection::vec(proptest::collection::vec(1_u64..9, 1..20), 1..5);
        proptest::collection::vec(shards, 1..4)
    }

    proptest! {
        #[test]
        fn each_sample_once_an_epoch(sets in sets(), seed: u64) {
            let manifests: Vec<Manifest> = sets.iter().map(|shards| set(shards)).collect();
            let sets: Vec<_> = manifests.iter().map(|manifest| (manifest, None)).collect();
            let order = Order::new(&sets, seed).expect("an order");
            let length = order.epoch_len();
            prop_assert_eq!(length, manifests.iter().map(Manifest::num_rows).sum::<u64>());
            for epoch in 0..2 {
                let refs: BTreeSet<SampleRef> = (0..length).map(|at| order.at(epoch * length + at)).collect();
                prop_assert_eq!(refs.len() as u64, length);
                for at in refs {
                    let rows = manifests[at.set].shards[at.shard].groups[at.group].rows;
                    prop_assert!(at.epoch == epoch && (at.row as u64) < rows);
                }
            }
        }

        #[test]
        fn ranks_cut_a_batch_without_gaps(count in 0_u64..100, size in 1_usize..9) {
            let cuts: Vec<_> = (0..size).map(|rank| cut(count, rank, size)).collect();
            let joined: Vec<u64> = cuts.iter().cloned().flatten().collect();
            prop_assert_eq!(joined, (0..count).collect::<Vec<_>>());
            let lengths: Vec<u64> = cuts.iter().map(|cut| cut.end - cut.start).collect();
            prop_assert!(lengths.iter().max().zip(lengths.iter().min()).is_some_and(|(a, b)| a - b <= 1));
        }
    }

    #[test]
    fn exact_weights_give_exact_batches() {
        let manifests = [set(&[vec![3; 4]]), set(&[vec![5; 40]]), set(&[vec![7, 7, 2]])];
        let weights = [0.7, 0.2, 0.1];
        let sets: Vec<_> =
            manifests.iter().zip(weights).map(|(set, weight)| (set, Some(weight))).collect();
        let order = Order::new(&sets, 1).expect("an order");
        for batch in 0..20 {
            let mut counts = [0; 3];
            (batch * 10..batch * 10 + 10).for_each(|position| counts[order.at(position).set] += 1);
            assert_eq!(counts, [7, 2, 1]);
        }
        // 12 rows at 7 of 10 samples: the set is seen once by position 17.142…, and then again.
        let first: BTreeSet<_> =
            (0..18).map(|at| order.at(at)).filter(|at| at.set == 0 && at.epoch == 0).collect();
        assert_eq!(first.len(), 12);
    }

    #[test]
    fn the_order_never_changes() {
        let manifest = set(&[vec![4, 4, 4, 2], vec![4, 4, 1]]);
        let order = Order::new(&[(&manifest, None)], 42).expect("an order");
        let found: Vec<_> =
            (0..6).map(|at| order.at(at)).map(|at| (at.shard, at.group, at.row)).collect();
        assert_eq!(found, [(0, 0, 2), (1, 0, 0), (0, 1, 2), (1, 2, 0), (0, 2, 0), (1, 1, 1)]);
        let other = Order::new(&[(&manifest, None)], 43).expect("an order");
        assert!((0..23).any(|at| order.at(at) != other.at(at)), "the seed counts");
        assert!((0..23).any(|at| order.at(at).row != order.at(at + 23).row), "the epoch counts");
    }

    #[test]
    fn a_cursor_continues_only_its_own_order() {
        let (one, two) = (set(&[vec![4; 5]]), set(&[vec![4; 6]]));
        let order = Order::new(&[(&one, None)], 7).expect("an order");
        let cursor = order.cursor(11);
        let json = serde_json::to_string(&cursor).expect("JSON");
        assert!(json.len() < 160, "{json}");
        let cursor = serde_json::from_str(&json).expect("a cursor");
        assert_eq!(order.resume(&cursor).expect("its own"), 11);
        for (set, weight, seed) in [(&two, None, 7), (&one, Some(1.0), 7), (&one, None, 8)] {
            let other = Order::new(&[(set, weight)], seed).expect("an order");
            assert!(matches!(other.resume(&cursor), Err(DataError::Cursor(_))));
        }
    }

    #[test]
    fn impossible_mixtures_are_refused() {
        let manifest = set(&[vec![4]]);
        for (one, two) in [(Some(1.0), None), (Some(0.0), Some(1.0)), (Some(f64::NAN), Some(1.0))] {
            assert!(Order::new(&[(&manifest, one), (&manifest, two)], 0).is_err());
        }
        assert!(Order::new(&[(&set(&[]), None)], 0).is_err() && Order::new(&[], 0).is_err());
    }
}
