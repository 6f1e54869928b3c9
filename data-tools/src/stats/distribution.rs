//! How numbers are distributed, exactly and in little memory: each value is counted.

use std::collections::BTreeMap;

use serde::Serialize;

/// Most bins of a histogram.
const MOST_BINS: u64 = 20;
/// Values above this quantile share the last bin, so that a long tail does not hide the rest.
const TAIL: f64 = 0.99;

/// Counts of values, which are multiples of `unit`.
#[derive(Clone, Debug)]
pub struct Counter {
    unit: f64,
    counts: BTreeMap<u64, u64>,
}

impl Counter {
    /// Counts whole numbers.
    pub fn whole() -> Counter {
        Counter::of(1.0)
    }

    /// Counts multiples of `unit`.
    pub fn of(unit: f64) -> Counter {
        Counter { unit, counts: BTreeMap::new() }
    }

    /// Counts a value; below 0 counts as 0.
    pub fn add(&mut self, value: f64) {
        // Casts saturate.
        *self.counts.entry((value / self.unit).round() as u64).or_default() += 1;
    }

    /// Takes over the counts of another counter of the same unit.
    pub fn merge(&mut self, other: &Counter) {
        for (value, count) in &other.counts {
            *self.counts.entry(*value).or_default() += count;
        }
    }

    /// The distribution; `None` where nothing was counted.
    pub fn distribution(&self) -> Option<Distribution> {
        let (&least, _) = self.counts.first_key_value()?;
        let (&most, _) = self.counts.last_key_value()?;
        let count: u64 = self.counts.values().sum();
        let sum: f64 = self.counts.iter().map(|(value, count)| *value as f64 * *count as f64).sum();
        let value = |value: u64| value as f64 * self.unit;
        Some(Distribution {
            count,
            least: value(least),
            mean: sum / count as f64 * self.unit,
            median: value(self.quantile(0.5, count)),
            p90: value(self.quantile(0.9, count)),
            p99: value(self.quantile(TAIL, count)),
            most: value(most),
            bins: self.bins(least, self.quantile(TAIL, count), most),
        })
    }

    /// The least value that so large a share of all do not exceed.
    fn quantile(&self, share: f64, count: u64) -> u64 {
        let rank = (share * count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        reached.map_or(0, |(value, _)| *value)
    }

    fn bins(&self, least: u64, tail: u64, most: u64) -> Vec<Bin> {
        let width = width(tail - least + 1);
        let start = least / width * width;
        let last = (tail - start) / width;
        let value = |value: u64| value as f64 * self.unit;
        let bin = |index: u64| {
            let from = start + index * width;
            let to = if index == last { most } else { from + width - 1 };
            let count = self.counts.range(from..=to.max(from)).map(|(_, count)| count).sum();
            Bin { from: value(from), to: value(to.max(from)), count }
        };
        (0..=last).map(bin).collect()
    }
}

/// The least of 1, 2, 5, 10, … that covers a range with few bins.
fn width(range: u64) -> u64 {
    let steps = (0..19).flat_map(|power| [1, 2, 5].map(|step| step * 10_u64.pow(power)));
    steps.into_iter().find(|&step| range.div_ceil(step) < MOST_BINS).unwrap_or(u64::MAX)
}

/// How some numbers are distributed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// How many there are.
    pub count: u64,
    /// The least.
    pub least: f64,
    /// The mean.
    pub mean: f64,
    /// Half of them are not above.
    pub median: f64,
    /// 90 % are not above.
    pub p90: f64,
    /// 99 % are not above.
    pub p99: f64,
    /// The greatest.
    pub most: f64,
    /// A histogram; the last bin reaches to the greatest.
    pub bins: Vec<Bin>,
}

/// A bar of a histogram.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Least value that it may hold.
    pub from: f64,
    /// Greatest value that it may hold.
    pub to: f64,
    /// Values in it.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u32>) -> Distribution {
        let mut counter = Counter::whole();
        values.into_iter().for_each(|value| counter.add(f64::from(value)));
        counter.distribution().unwrap()
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let found = of(1..=100);
        assert_eq!((found.least, found.most, found.mean), (1.0, 100.0, 50.5));
        assert_eq!((found.median, found.p90, found.p99), (50.0, 90.0, 99.0));
        let same = of([4, 4, 4]);
        assert_eq!((same.median, same.p99), (4.0, 4.0));
        assert_eq!(same.bins, [Bin { from: 4.0, to: 4.0, count: 3 }]);
        assert_eq!(Counter::whole().distribution(), None);
    }

    #[test]
    fn bins_hold_every_value_and_the_tail_is_one() {
        for values in
            [vec![16], vec![0, 1, 2, 3], (0..1000).collect(), (0..500).chain([90_000]).collect()]
        {
            let found = of(values.clone());
            let counted: u64 = found.bins.iter().map(|bin| bin.count).sum();
            assert_eq!(counted, values.len() as u64, "{:?}", found.bins);
            assert!(found.bins.len() <= MOST_BINS as usize, "{:?}", found.bins);
        }
        let found = of((0..500).chain([90_000]));
        assert_eq!(found.bins.last().map(|bin| bin.to), Some(90_000.0));
    }

    #[test]
    fn parts_can_be_counted_apart() {
        let (mut one, mut two) = (Counter::of(0.5), Counter::of(0.5));
        one.add(1.0);
        two.add(2.26);
        one.merge(&two);
        let found = one.distribution().unwrap();
        assert_eq!((found.count, found.most), (2, 2.5));
    }
}
