//! Windows of row groups that are alike in length.
//!
//! The permuted row groups are cut into pools of [`POOL`] consecutive ones. The groups of a pool are sorted by length,
//! cut into windows, and the windows permuted. So neighbours in the order have similar lengths, whatever the size of
//! a batch, and no more row groups are needed at a time than without. What is known of a row group without reading it
//! is in the manifest: its least and greatest frames and text.

use crate::epoch::{EpochOrder, WINDOW};
use crate::manifest::Group;
use crate::permute::{Permutation, mix};

/// Row groups of a pool: 64 windows. Part of the order: another number gives other runs.
pub(crate) const POOL: u64 = 64 * WINDOW;
/// Characters of text that count as much as one visual token.
const CHARS_PER_TOKEN: u64 = 4;

/// About how many tokens the middle row of a row group has.
pub(crate) fn length(group: &Group, tokens: usize) -> u32 {
    let middle = |[least, greatest]: [u64; 2]| least / 2 + greatest / 2;
    let visual = middle(group.frames).saturating_mul(tokens as u64);
    u32::try_from(visual.saturating_add(middle(group.text) / CHARS_PER_TOKEN)).unwrap_or(u32::MAX)
}

/// The windows of one pool, in the order they are read.
#[derive(Debug)]
pub(crate) struct Pool {
    pub number: u64,
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    /// Its first position in the epoch.
    start: u64,
    rows: u64,
    /// Its groups and their rows.
    groups: Vec<(u64, u64)>,
}

impl Pool {
    /// The pool of this number in an epoch.
    pub fn new(order: &EpochOrder, number: u64, lengths: &[u32]) -> Pool {
        let slots = number * POOL..((number + 1) * POOL).min(order.groups);
        let mut groups: Vec<_> =
            slots.clone().map(|slot| (order.group(slot), order.rows_of(slot))).collect();
        // Stable: equal ones stay in their permuted order.
        groups.sort_by_key(|&(group, _)| lengths.get(group as usize).copied());
        let chunks: Vec<&[(u64, u64)]> = groups.chunks(WINDOW as usize).collect();
        let permuted = Permutation::new(chunks.len() as u64, mix(mix(order.key, u64::MAX), number));
        let mut start = order.rows_before(slots.start);
        let windows = (0..chunks.len() as u64).map(|place| {
            let groups = chunks[permuted.apply(place) as usize].to_vec();
            let rows = groups.iter().map(|(_, rows)| rows).sum();
            start += rows;
            Window { start: start - rows, rows, groups }
        });
        Pool { number, windows: windows.collect() }
    }

    /// The group and the row at a position of the epoch that lies in this pool.
    pub fn at(&self, key: u64, position: u64) -> (u64, u64) {
        let place = self.windows.partition_point(|window| window.start <= position) - 1;
        let window = &self.windows[place];
        let number = self.number * (POOL / WINDOW) + place as u64;
        let samples = Permutation::new(window.rows, mix(key, number + 1));
        let mut row = samples.apply(position - window.start);
        let mut groups = window.groups.iter().copied();
        loop {
            match groups.next() {
                Some((_, rows)) if row >= rows => row -= rows,
                Some((group, _)) => return (group, row),
                // The permutation stays below the rows of the window's groups.
                None => return (0, 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Sizes;
    use crate::manifest::Xxh3;

    /// Groups of 8 rows whose lengths are anywhere between 0 and 999.
    fn order(by_length: bool) -> (EpochOrder, Vec<u32>) {
        let lengths: Vec<u32> = (0..3000_u64).map(|group| (mix(3, group) % 1000) as u32).collect();
        let sizes = Sizes::new(std::iter::once((8, lengths.len() as u64)));
        (EpochOrder::new(&sizes, 5, by_length.then(|| lengths.clone().into())), lengths)
    }

    /// The mean over batches of 32 of the greatest length ÷ the mean length.
    fn padding(order: &EpochOrder, lengths: &[u32]) -> f64 {
        let all: Vec<f64> =
            (0..24_000).map(|at| f64::from(lengths[order.at(at).0 as usize])).collect();
        let batches = all.chunks(32).map(|batch| {
            batch.iter().copied().fold(1.0, f64::max) / (batch.iter().sum::<f64>() / 32.0).max(1.0)
        });
        batches.sum::<f64>() / (all.len() / 32) as f64
    }

    #[test]
    fn batches_are_of_similar_length() {
        let ((mixed, lengths), (alike, _)) = (order(false), order(true));
        let (mixed, alike) = (padding(&mixed, &lengths), padding(&alike, &lengths));
        assert!(mixed > 1.6 && alike < 1.2, "padded to {mixed:.2} and {alike:.2} of the mean");
    }

    #[test]
    fn as_few_groups_are_needed_at_a_time_as_without() {
        let (order, _) = order(true);
        let mut groups: Vec<u64> = (0..8 * WINDOW).map(|at| order.at(at).0).collect();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len() as u64, WINDOW);
    }

    #[test]
    fn short_and_long_windows_come_in_any_order() {
        let (order, lengths) = order(true);
        let of = |window: u64| lengths[order.at(window * 8 * WINDOW).0 as usize];
        let rises = (0..63).filter(|&window| of(window) < of(window + 1)).count();
        assert!((15..48).contains(&rises), "{rises}");
    }

    #[test]
    fn a_length_counts_visual_tokens_and_text() {
        let group =
            Group { rows: 1, offset: 4, bytes: 9, xxh3: Xxh3(0), frames: [4, 8], text: [20, 60] };
        assert_eq!(length(&group, 32), 6 * 32 + 10);
    }
}
