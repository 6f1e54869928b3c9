//! Whether parts hold each value of a tensor exactly once.

use crate::layout::{Region, count};

/// Why parts do not make up a tensor.
#[derive(Debug, PartialEq, Eq)]
pub enum Gap {
    /// The parts with these two numbers hold the value at `at`.
    Overlap { first: usize, second: usize, at: Vec<u64> },
    /// No part holds the value at `at`.
    Hole { held: u64, at: Vec<u64> },
}

/// Checks that boxes, which lie in a tensor of this shape, neither overlap nor leave a hole.
pub fn check(shape: &[u64], regions: &[Region]) -> Result<(), Gap> {
    if let Some(overlap) = overlap(regions) {
        return Err(overlap);
    }
    let held = regions.iter().filter_map(Region::count).sum();
    if Some(held) == count(shape) {
        return Ok(());
    }
    let all: Vec<&Region> = regions.iter().collect();
    let at = first_hole(shape, 0, &all).unwrap_or_default();
    Err(Gap::Hole { held, at })
}

/// Sorting by the first axis leaves few pairs to compare.
fn overlap(regions: &[Region]) -> Option<Gap> {
    let mut order: Vec<usize> = (0..regions.len()).collect();
    order.sort_by_key(|&part| regions[part].offset.first().copied());
    for (rank, &left) in order.iter().enumerate() {
        let near = order[rank + 1..]
            .iter()
            .take_while(|&&right| starts_within(&regions[right], &regions[left]));
        for &right in near {
            if let Some(shared) = regions[left].meet(&regions[right]) {
                return Some(Gap::Overlap {
                    first: left.min(right),
                    second: left.max(right),
                    at: shared.offset,
                });
            }
        }
    }
    None
}

fn starts_within(later: &Region, earlier: &Region) -> bool {
    later.offset.is_empty() || later.offset[0] < earlier.end(0)
}

/// The first index that no box holds: between two ends of boxes on an axis the same boxes count everywhere.
fn first_hole(shape: &[u64], axis: usize, regions: &[&Region]) -> Option<Vec<u64>> {
    if axis == shape.len() {
        return regions.is_empty().then(Vec::new);
    }
    let mut starts: Vec<u64> = regions
        .iter()
        .flat_map(|region| [region.offset[axis], region.end(axis)])
        .chain([0])
        .filter(|&start| start < shape[axis])
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts.into_iter().find_map(|start| {
        let here: Vec<&Region> = regions
            .iter()
            .filter(|region| (region.offset[axis]..region.end(axis)).contains(&start))
            .copied()
            .collect();
        let mut rest = first_hole(shape, axis + 1, &here)?;
        rest.insert(0, start);
        Some(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_boxes(shape: &[u64], boxes: &[(&[u64], &[u64])]) -> Result<(), Gap> {
        let regions: Vec<Region> =
            boxes.iter().map(|&(offset, extent)| Region { offset, extent }).collect();
        check(shape, &regions)
    }

    #[test]
    fn exact_tilings_pass() {
        let quarters: &[(&[u64], &[u64])] =
            &[(&[2, 2], &[2, 1]), (&[0, 0], &[2, 2]), (&[0, 2], &[2, 1]), (&[2, 0], &[2, 2])];
        assert_eq!(check_boxes(&[4, 3], quarters), Ok(()));
        assert_eq!(check_boxes(&[], &[(&[], &[])]), Ok(()));
        assert_eq!(check_boxes(&[0, 3], &[(&[0, 0], &[0, 3])]), Ok(()));
    }

    #[test]
    fn overlaps_name_both_parts_and_the_place() {
        let found = check_boxes(&[4], &[(&[2], &[2]), (&[0], &[3])]);
        assert_eq!(found, Err(Gap::Overlap { first: 0, second: 1, at: vec![2] }));
        let twice = check_boxes(&[], &[(&[], &[]), (&[], &[])]);
        assert!(matches!(twice, Err(Gap::Overlap { .. })));
    }

    #[test]
    fn holes_name_the_first_missing_index() {
        let found = check_boxes(&[4, 4], &[(&[0, 0], &[2, 4]), (&[2, 0], &[2, 3])]);
        assert_eq!(found, Err(Gap::Hole { held: 14, at: vec![2, 3] }));
        let none = check_boxes(&[], &[]);
        assert_eq!(none, Err(Gap::Hole { held: 0, at: vec![] }));
    }
}
