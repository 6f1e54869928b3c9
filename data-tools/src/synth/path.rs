//! Ways around a ring of cells that visit the cells equally often, whatever their direction and number of turns.
//!
//! This is what keeps the mean over frames silent. A path is a straight one from a uniformly drawn start, or one with
//! turns whose visits to the cells are, up to a rotation of the ring, those of a straight one: then a set of visits
//! is as likely with either direction and with any number of turns.

use rand::Rng;
use strand_data::below;

/// Most turns of a path.
pub const MAX_TURNS: usize = 2;

/// Most steps for which the paths are enumerated.
pub const MAX_STEPS: usize = 256;

/// All paths of some length around a ring.
#[derive(Clone, Debug)]
pub struct Paths {
    ring: usize,
    /// For each number of turns, paths from cell 0 that begin forwards.
    by_turns: [Vec<Vec<usize>>; MAX_TURNS + 1],
}

impl Paths {
    /// Enumerates the paths of `steps` positions around `ring` cells.
    pub fn new(steps: usize, ring: usize) -> Paths {
        let straight = path(steps, ring, &[]);
        let fair = |turns: &[usize]| {
            let path = path(steps, ring, turns);
            same_visits(&visits(&path, ring), &visits(&straight, ring)).then_some(path)
        };
        let inner = 1..steps.saturating_sub(1);
        let once = inner.clone().filter_map(|turn| fair(&[turn])).collect();
        let pairs = inner
            .clone()
            .flat_map(|first| (first + 1..inner.end).map(move |second| [first, second]));
        let twice = pairs.filter_map(|turns| fair(&turns)).collect();
        Paths { ring, by_turns: [vec![straight.clone()], once, twice] }
    }

    /// Whether there are paths with that many turns.
    pub fn has(&self, turns: usize) -> bool {
        self.by_turns.get(turns).is_some_and(|paths| !paths.is_empty())
    }

    /// Draws a path from a uniform start; it begins forwards (towards higher cells) or backwards. Empty where
    /// [`Self::has`] is false.
    pub fn draw(&self, turns: usize, forwards: bool, rng: &mut impl Rng) -> Vec<usize> {
        let paths = self.by_turns.get(turns).map_or(&[][..], Vec::as_slice);
        let path = paths.get(below(rng, paths.len() as u64) as usize);
        let start = below(rng, self.ring as u64) as usize;
        let turned = |&cell: &usize| {
            let cell = if forwards { cell } else { self.ring - cell };
            (start + cell) % self.ring
        };
        path.map_or_else(Vec::new, |path| path.iter().map(turned).collect())
    }
}

/// Positions from cell 0, forwards, turning back at the steps `turns`.
fn path(steps: usize, ring: usize, turns: &[usize]) -> Vec<usize> {
    let (mut cell, mut stride) = (0, 1);
    let step = |step| {
        let here = cell;
        if turns.contains(&step) {
            stride = ring - stride;
        }
        cell = (cell + stride) % ring;
        here
    };
    (0..steps).map(step).collect()
}

fn visits(path: &[usize], ring: usize) -> Vec<usize> {
    let mut visits = vec![0; ring];
    path.iter().for_each(|&cell| visits[cell] += 1);
    visits
}

/// Whether two counts are the same up to a rotation.
fn same_visits(a: &[usize], b: &[usize]) -> bool {
    (0..a.len())
        .any(|shift| a[shift..] == b[..a.len() - shift] && a[..shift] == b[a.len() - shift..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use strand_data::draw;

    #[test]
    fn paths_turn_as_often_as_they_say() {
        for (steps, ring) in [(6, 4), (12, 4), (8, 6), (16, 5)] {
            let paths = Paths::new(steps, ring);
            for turns in 0..=MAX_TURNS {
                assert!(paths.has(turns), "{steps} steps, {ring} cells, {turns} turns");
                for path in &paths.by_turns[turns] {
                    let moves: Vec<_> =
                        path.windows(2).map(|pair| (pair[1] + ring - pair[0]) % ring).collect();
                    assert!(moves.iter().all(|&step| step == 1 || step == ring - 1));
                    let found = moves.windows(2).filter(|pair| pair[0] != pair[1]).count();
                    assert_eq!(found, turns, "{path:?}");
                }
            }
        }
    }

    #[test]
    fn visits_are_as_likely_with_any_direction_and_number_of_turns() {
        let paths = Paths::new(6, 4);
        let mut rng = draw(0, 0, "", "paths");
        let count = 40_000;
        let mut histograms = Vec::new();
        for turns in 0..=MAX_TURNS {
            for forwards in [true, false] {
                let mut seen: HashMap<Vec<usize>, usize> = HashMap::new();
                for _ in 0..count {
                    let path = paths.draw(turns, forwards, &mut rng);
                    *seen.entry(visits(&path, 4)).or_default() += 1;
                }
                histograms.push(seen);
            }
        }
        for seen in histograms {
            assert_eq!(seen.len(), 4);
            let even = |times: &usize| (count / 4 - 600..count / 4 + 600).contains(times);
            assert!(seen.values().all(even), "{seen:?}");
        }
    }

    #[test]
    fn short_clips_have_no_turns() {
        let paths = Paths::new(2, 4);
        assert!(paths.has(0) && !paths.has(1) && !paths.has(2) && !paths.has(3));
        assert!(paths.draw(1, true, &mut draw(0, 0, "", "")).is_empty());
        let whole_ring = Paths::new(8, 8);
        assert!(whole_ring.has(0) && !whole_ring.has(1));
    }
}
