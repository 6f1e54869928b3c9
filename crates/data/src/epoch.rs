//! The order of one set in one epoch.
//!
//! Row groups are permuted, then cut into windows of [`WINDOW`] consecutive ones; the samples of a window are
//! permuted among themselves. Most row groups have the same number of rows, so a position is found by arithmetic;
//! only the others (the last of each shard) stand in a table. By length, windows are made of similar row groups: see
//! [`crate::pool`].

use std::sync::{Arc, Mutex, PoisonError};

use crate::parallel::in_parts;
use crate::permute::{Permutation, mix};
use crate::pool::{POOL, Pool};

/// Row groups of a window. Part of the order: another number gives other runs.
pub(crate) const WINDOW: u64 = 16;

/// The rows of a set's row groups: the usual number and what differs from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    groups: u64,
    rows: u64,
    usual: u64,
    /// Groups of another size, in order, with their rows.
    odd: Vec<(u64, u64)>,
}

impl Sizes {
    /// Takes the rows of each row group, in order, as (rows, how many groups).
    pub fn new(groups: impl Iterator<Item = (u64, u64)>) -> Sizes {
        let runs = runs(groups);
        let usual = most_frequent(&runs);
        let mut sizes = Sizes { groups: 0, rows: 0, usual, odd: Vec::new() };
        for (rows, count) in runs {
            if rows != usual {
                sizes.odd.extend((sizes.groups..sizes.groups + count).map(|group| (group, rows)));
            }
            sizes.groups += count;
            sizes.rows += rows * count;
        }
        sizes.odd.shrink_to_fit();
        sizes
    }

    /// Rows of all groups.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Equal neighbours put together: (number, how many).
pub(crate) fn runs(numbers: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (number, count) in numbers {
        match runs.last_mut() {
            Some((last, so_far)) if *last == number => *so_far += count,
            _ => runs.push((number, count)),
        }
    }
    runs
}

/// The most frequent number, the greatest of several.
fn most_frequent(runs: &[(u64, u64)]) -> u64 {
    let mut counts = std::collections::BTreeMap::new();
    runs.iter().for_each(|&(number, count)| *counts.entry(number).or_insert(0) += count);
    let best = counts.into_iter().max_by_key(|&(number, count)| (count, number));
    best.map_or(0, |(number, _)| number)
}

/// The order of one epoch.
#[derive(Debug)]
pub(crate) struct EpochOrder {
    pub(crate) groups: u64,
    usual: u64,
    pub(crate) key: u64,
    slots: Permutation,
    /// Slots of groups of another size, in order: slot, rows, and how many rows more (or fewer) than usual all slots
    /// before it hold.
    odd: Vec<(u64, u64, i64)>,
    /// The length of each group, where windows are made by length.
    lengths: Option<Arc<[u32]>>,
    /// The pool asked for last. Only a shortcut: the order does not depend on it.
    last: Mutex<Option<Arc<Pool>>>,
}

impl EpochOrder {
    /// The order under a key that stands for data set, seed and epoch; by length where the groups' lengths are given.
    pub fn new(sizes: &Sizes, key: u64, lengths: Option<Arc<[u32]>>) -> EpochOrder {
        let slots = Permutation::new(sizes.groups, mix(key, 0));
        let mut odd = in_parts(&sizes.odd, |part| {
            part.iter().map(|&(group, rows)| (slots.apply(group), rows, 0)).collect()
        });
        odd.sort_unstable();
        let mut surplus = 0;
        for (_, rows, before) in &mut odd {
            *before = surplus;
            surplus += *rows as i64 - sizes.usual as i64;
        }
        let last = Mutex::new(None);
        EpochOrder { groups: sizes.groups, usual: sizes.usual, key, slots, odd, lengths, last }
    }

    /// The group and the row of the sample at a position below the number of rows.
    pub fn at(&self, position: u64) -> (u64, u64) {
        match &self.lengths {
            Some(lengths) => {
                let number = self.part_of(position, POOL);
                self.pool(number, lengths).at(self.key, position)
            }
            None => self.in_window(position),
        }
    }

    fn in_window(&self, position: u64) -> (u64, u64) {
        let window = self.part_of(position, WINDOW);
        let first = window * WINDOW;
        let end = (first + WINDOW).min(self.groups);
        let start = self.rows_before(first);
        let samples = Permutation::new(self.rows_before(end) - start, mix(self.key, window + 1));
        let mut row = samples.apply(position - start);
        let mut slot = first;
        while row >= self.rows_of(slot) {
            row -= self.rows_of(slot);
            slot += 1;
        }
        (self.group(slot), row)
    }

    fn pool(&self, number: u64, lengths: &[u32]) -> Arc<Pool> {
        // Nothing can panic while the lock is held.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(pool) if pool.number == number => pool.clone(),
            _ => last.insert(Arc::new(Pool::new(self, number, lengths))).clone(),
        }
    }

    /// The group in a slot.
    pub(crate) fn group(&self, slot: u64) -> u64 {
        self.slots.invert(slot)
    }

    /// Of the parts of `size` slots each, the last that starts at or before a position.
    fn part_of(&self, position: u64, size: u64) -> u64 {
        let (mut low, mut high) = (0, self.groups.div_ceil(size));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.rows_before(middle * size) <= position { low = middle } else { high = middle }
        }
        low
    }

    pub(crate) fn rows_before(&self, slot: u64) -> u64 {
        let usual = slot * self.usual;
        match self.odd[..self.odd.partition_point(|odd| odd.0 < slot)].last() {
            Some(&(_, rows, before)) => {
                usual.wrapping_add_signed(before + rows as i64 - self.usual as i64)
            }
            None => usual,
        }
    }

    pub(crate) fn rows_of(&self, slot: u64) -> u64 {
        let odd = self.odd.binary_search_by_key(&slot, |odd| odd.0);
        odd.map_or(self.usual, |index| self.odd[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_once(sizes in proptest::collection::vec((1_u64..6, 0_u32..9), 1..120), by_length: bool, key: u64) {
            let lengths = by_length.then(|| sizes.iter().map(|&(_, length)| length).collect());
            let sizes: Vec<u64> = sizes.into_iter().map(|(rows, _)| rows).collect();
            let order = EpochOrder::new(&Sizes::new(sizes.iter().map(|&rows| (rows, 1))), key, lengths);
            let mut seen: Vec<Vec<bool>> = sizes.iter().map(|&rows| vec![false; rows as usize]).collect();
            for position in 0..sizes.iter().sum() {
                let (group, row) = order.at(position);
                prop_assert!(!std::mem::replace(&mut seen[group as usize][row as usize], true));
            }
        }
    }

    #[test]
    fn a_window_touches_few_groups() {
        let order = EpochOrder::new(&Sizes::new(std::iter::once((8, 1000))), 5, None);
        let window: std::collections::BTreeSet<u64> =
            (0..8 * WINDOW).map(|position| order.at(position).0).collect();
        assert_eq!(window.len() as u64, WINDOW);
        assert!(
            window.last().is_some_and(|last| *last > 500),
            "groups come from everywhere: {window:?}"
        );
    }

    #[test]
    fn fifty_million_samples_need_a_table_of_the_short_groups_only() {
        let shard = [(8, 49), (5, 1)];
        let sizes = Sizes::new(std::iter::repeat_n(shard, 128_000).flatten());
        let order = EpochOrder::new(&sizes, 1, None);
        let (group, row) = order.at(sizes.rows() / 2);
        assert!(sizes.rows() > 50_000_000 && group < 6_400_000 && row < 8);
        assert!((sizes.odd.len() * 16 + order.odd.len() * 24) < 10 << 20);
    }
}
