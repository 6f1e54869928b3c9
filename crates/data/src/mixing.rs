//! Which set has a position of a run.
//!
//! By size each sample comes once an epoch; by weights each set goes round by itself. Either way set `s` has had
//! `floor(position × share)` of the samples (or, where every step is one set's, of the steps) before a position, to
//! one.

/// Where a position lies, before the order within its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The set.
    pub set: usize,
    /// How often all of the set came before.
    pub epoch: u64,
    /// Samples of the set before it in that epoch.
    pub index: u64,
}

/// The rule by which sets take turns.
#[derive(Clone, Debug)]
pub(crate) struct Mixing {
    /// Samples of each set in one epoch of all.
    rows: Vec<u64>,
    weights: Option<Vec<u64>>,
    /// Samples of a step, where every step's samples come from one set.
    one_set: Option<u64>,
    /// Then by size: the steps of each set in an epoch. The last one of each may be short.
    steps: Vec<u64>,
}

impl Mixing {
    /// `one_set` is the number of samples of a step; it is above 0.
    pub fn new(rows: Vec<u64>, weights: Option<Vec<u64>>, one_set: Option<u64>) -> Mixing {
        let steps = one_set.iter().flat_map(|&batch| rows.iter().map(move |n| n.div_ceil(batch)));
        Mixing { steps: steps.collect(), rows, weights, one_set }
    }

    pub fn weights(&self) -> Option<&Vec<u64>> {
        self.weights.as_ref()
    }

    pub fn one_set(&self) -> Option<u64> {
        self.one_set
    }

    /// Samples of one epoch: the rows of all sets together.
    pub fn epoch_len(&self) -> u64 {
        self.rows.iter().sum()
    }

    /// Whose a position is; positions go on through all epochs.
    pub fn at(&self, position: u64) -> Turn {
        match (&self.weights, self.one_set) {
            (Some(weights), batch) => {
                let batch = batch.unwrap_or(1);
                let (set, turns) = split(position / batch, weights);
                let count = turns * batch + position % batch;
                Turn { set, epoch: count / self.rows[set], index: count % self.rows[set] }
            }
            (None, None) => {
                let (set, index) = split(position % self.epoch_len(), &self.rows);
                Turn { set, epoch: position / self.epoch_len(), index }
            }
            (None, Some(batch)) => {
                let (epoch, position) = (position / self.epoch_len(), position % self.epoch_len());
                let step = self.step_of(position, batch);
                let (set, turns) = split(step, &self.steps);
                let offset = position - self.rows_before(step, batch);
                Turn { set, epoch, index: turns * batch + offset }
            }
        }
    }

    /// The end of the step of `batch` samples that begins at a position.
    pub fn step_end(&self, first: u64, batch: u64) -> u64 {
        match (&self.weights, self.one_set) {
            (None, Some(batch)) => {
                let epochs = first / self.epoch_len() * self.epoch_len();
                epochs + self.rows_before(self.step_of(first - epochs, batch) + 1, batch)
            }
            _ => first.saturating_add(batch),
        }
    }

    /// The position at which a step, counted from 0, begins.
    pub fn step_start(&self, step: u64, batch: u64) -> u64 {
        match (&self.weights, self.one_set) {
            (None, Some(batch)) => {
                let an_epoch: u64 = self.steps.iter().sum();
                let epochs = (step / an_epoch).saturating_mul(self.epoch_len());
                epochs.saturating_add(self.rows_before(step % an_epoch, batch))
            }
            _ => step.saturating_mul(batch),
        }
    }

    /// Steps that begin before a position.
    pub fn steps_before(&self, position: u64, batch: u64) -> u64 {
        match (&self.weights, self.one_set) {
            (None, Some(batch)) => {
                let an_epoch: u64 = self.steps.iter().sum();
                let rest = position % self.epoch_len();
                let begun = if rest == 0 { 0 } else { self.step_of(rest - 1, batch) + 1 };
                position / self.epoch_len() * an_epoch + begun
            }
            _ => position.div_ceil(batch),
        }
    }

    /// By size, each step one set's: samples before a step of an epoch.
    fn rows_before(&self, step: u64, batch: u64) -> u64 {
        let turns = turns(step, &self.steps);
        turns.zip(&self.rows).map(|(turns, &rows)| (turns * batch).min(rows)).sum()
    }

    /// By size, each step one set's: the step of an epoch that has a position of it.
    fn step_of(&self, position: u64, batch: u64) -> u64 {
        let (mut low, mut high) = (0, self.steps.iter().sum::<u64>());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.rows_before(middle, batch) <= position { low = middle } else { high = middle }
        }
        low
    }
}

/// The set that has a position and how many positions before it that set had. Set by set: it or the rest?
fn split(position: u64, shares: &[u64]) -> (usize, u64) {
    let next = turns(position + 1, shares);
    let found = turns(position, shares).zip(next).position(|(now, next)| next > now);
    // The shares of all sets add up to all positions, so one of them has this one.
    let set = found.unwrap_or(shares.len() - 1);
    (set, turns(position, shares).nth(set).unwrap_or_default())
}

/// How many of the first `position` positions each set has.
fn turns(position: u64, shares: &[u64]) -> impl Iterator<Item = u64> {
    let mut left = position;
    let mut total: u64 = shares.iter().sum();
    shares.iter().map(move |&share| {
        let own = (u128::from(left) * u128::from(share) / u128::from(total)) as u64;
        left -= own;
        total -= share;
        own
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sets_have_their_share_of_every_batch(a in 1_u64..50, b in 1_u64..50, c in 1_u64..50, batch in 1_u64..40) {
            let shares = [a, b, c];
            let total = a + b + c;
            let mut before = [0; 3];
            for end in (1..20).map(|step| step * batch) {
                let mut counts = [0; 3];
                (0..end).for_each(|position| counts[split(position, &shares).0] += 1);
                prop_assert_eq!(turns(end, &shares).collect::<Vec<_>>(), counts);
                for set in 0..3 {
                    let exact = (batch * shares[set]) as f64 / total as f64;
                    let got = (counts[set] - before[set]) as f64;
                    prop_assert!((got - exact).abs() < 2.0);
                    prop_assert!((batch * shares[set]) % total != 0 || set > 0 || got == exact);
                }
                before = counts;
            }
        }

        #[test]
        fn steps_of_one_set_cover_an_epoch(rows in proptest::collection::vec(1_u64..60, 1..5), batch in 1_u64..20) {
            let mixing = Mixing::new(rows.clone(), None, Some(batch));
            let mut seen: Vec<Vec<u64>> = vec![Vec::new(); rows.len()];
            let (mut first, mut step, all) = (0, 0, 2 * mixing.epoch_len());
            while first < all {
                let end = mixing.step_end(first, batch);
                prop_assert!(end > first && end <= first + batch);
                prop_assert_eq!(mixing.step_start(step, batch), first);
                let turns: Vec<Turn> = (first..end).map(|position| mixing.at(position)).collect();
                prop_assert!(turns.iter().all(|turn| turn.set == turns[0].set && turn.epoch == turns[0].epoch));
                let set = turns[0].set;
                // Short only where the set ends.
                prop_assert!(end - first == batch || turns.last().is_some_and(|turn| turn.index + 1 == rows[set]));
                seen[set].extend(turns.iter().map(|turn| turn.epoch * rows[set] + turn.index));
                (first, step) = (end, step + 1);
                prop_assert_eq!(mixing.steps_before(first, batch), step);
            }
            for (seen, rows) in seen.into_iter().zip(rows) {
                prop_assert_eq!(seen, (0..2 * rows).collect::<Vec<_>>());
            }
        }

        #[test]
        fn weighted_steps_are_of_one_set(weights in proptest::collection::vec(1_u64..9, 1..4), batch in 1_u64..20) {
            let mixing = Mixing::new(vec![7; weights.len()], Some(weights.clone()), Some(batch));
            let round: u64 = weights.iter().sum();
            let sets: Vec<usize> = (0..round).map(|step| mixing.at(step * batch).set).collect();
            for (set, &weight) in weights.iter().enumerate() {
                prop_assert_eq!(sets.iter().filter(|&&found| found == set).count() as u64, weight);
            }
            let mut counts = vec![0; weights.len()];
            for position in 0..3 * round * batch {
                let turn = mixing.at(position);
                prop_assert_eq!(turn.set, sets[(position / batch % round) as usize]);
                prop_assert_eq!(turn.epoch * 7 + turn.index, counts[turn.set]);
                counts[turn.set] += 1;
            }
        }
    }
}
