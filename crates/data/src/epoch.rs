//! The order of one set in one epoch.
//!
//! Row groups are permuted, then cut into windows of [`WINDOW`] consecutive ones; the samples of a window are
//! permuted among themselves. Most row groups have the same number of rows, so a position is found by arithmetic;
//! only the others (the last of each shard) stand in a table.

use crate::permute::{Permutation, mix};

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
    /// Takes the rows of each row group, in order.
    pub fn new(groups: impl Iterator<Item = u64> + Clone) -> Sizes {
        let usual = most_frequent(groups.clone());
        let mut sizes = Sizes { groups: 0, rows: 0, usual, odd: Vec::new() };
        for rows in groups {
            if rows != usual {
                sizes.odd.push((sizes.groups, rows));
            }
            sizes.groups += 1;
            sizes.rows += rows;
        }
        sizes
    }

    /// Rows of all groups.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// The most frequent number, the greatest of several.
fn most_frequent(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut counts = std::collections::BTreeMap::new();
    let mut run = (0, 0_u64);
    for number in numbers {
        if number != run.0 {
            *counts.entry(run.0).or_insert(0) += run.1;
            run = (number, 0);
        }
        run.1 += 1;
    }
    *counts.entry(run.0).or_insert(0) += run.1;
    let best = counts.into_iter().max_by_key(|&(number, count)| (count, number));
    best.map_or(0, |(number, _)| number)
}

/// The order of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct EpochOrder {
    groups: u64,
    usual: u64,
    key: u64,
    slots: Permutation,
    /// Slots of groups of another size, in order: slot, rows, and how many rows more (or fewer) than usual all slots
    /// before it hold.
    odd: Vec<(u64, u64, i64)>,
}

impl EpochOrder {
    /// The order under a key that stands for data set, seed and epoch.
    pub fn new(sizes: &Sizes, key: u64) -> EpochOrder {
        let slots = Permutation::new(sizes.groups, mix(key, 0));
        let mut odd: Vec<_> =
            sizes.odd.iter().map(|&(group, rows)| (slots.apply(group), rows, 0)).collect();
        odd.sort_unstable();
        let mut surplus = 0;
        for (_, rows, before) in &mut odd {
            *before = surplus;
            surplus += *rows as i64 - sizes.usual as i64;
        }
        EpochOrder { groups: sizes.groups, usual: sizes.usual, key, slots, odd }
    }

    /// The group and the row of the sample at a position below the number of rows.
    pub fn at(&self, position: u64) -> (u64, u64) {
        let window = self.window_of(position);
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
        (self.slots.invert(slot), row)
    }

    /// The last window that starts at or before a position.
    fn window_of(&self, position: u64) -> u64 {
        let (mut low, mut high) = (0, self.groups.div_ceil(WINDOW));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.rows_before(middle * WINDOW) <= position { low = middle } else { high = middle }
        }
        low
    }

    fn rows_before(&self, slot: u64) -> u64 {
        let usual = slot * self.usual;
        match self.odd[..self.odd.partition_point(|odd| odd.0 < slot)].last() {
            Some(&(_, rows, before)) => {
                usual.wrapping_add_signed(before + rows as i64 - self.usual as i64)
            }
            None => usual,
        }
    }

    fn rows_of(&self, slot: u64) -> u64 {
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
        fn every_row_once(sizes in proptest::collection::vec(1_u64..6, 1..120), key: u64) {
            let order = EpochOrder::new(&Sizes::new(sizes.iter().copied()), key);
            let mut seen: Vec<Vec<bool>> = sizes.iter().map(|&rows| vec![false; rows as usize]).collect();
            for position in 0..sizes.iter().sum() {
                let (group, row) = order.at(position);
                prop_assert!(!std::mem::replace(&mut seen[group as usize][row as usize], true));
            }
        }
    }

    #[test]
    fn a_window_touches_few_groups() {
        let order = EpochOrder::new(&Sizes::new(std::iter::repeat_n(8, 1000)), 5);
        let window: std::collections::BTreeSet<u64> =
            (0..8 * WINDOW).map(|position| order.at(position).0).collect();
        assert_eq!(window.len() as u64, WINDOW);
        assert!(
            window.last().is_some_and(|last| *last > 500),
            "groups come from everywhere: {window:?}"
        );
    }

    #[test]
    fn fifty_million_samples_start_at_once() {
        // A short group ends each shard of 50 groups.
        let groups = (0..6_400_000_u64).map(|group| if group % 50 == 49 { 5 } else { 8 });
        let start = std::time::Instant::now();
        let sizes = Sizes::new(groups);
        let order = EpochOrder::new(&sizes, 1);
        let (group, row) = order.at(sizes.rows() / 2);
        let elapsed = start.elapsed();
        assert!(sizes.rows() > 50_000_000 && group < 6_400_000 && row < 8);
        assert!(elapsed.as_secs_f64() < 0.5, "{elapsed:?}");
        assert!(
            (sizes.odd.len() * 16 + order.odd.len() * 24) < 10 << 20,
            "a table of the short groups only"
        );
    }
}
