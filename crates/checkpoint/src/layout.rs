//! Boxes of values and where they lie in memory, last axis fastest.

/// A box of a tensor: first index and size on each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region<'a> {
    pub offset: &'a [u64],
    pub extent: &'a [u64],
}

impl Region<'_> {
    /// The number of values, or nothing where it does not fit 64 bits.
    pub fn count(&self) -> Option<u64> {
        count(self.extent)
    }

    /// Whether the box lies in a tensor of this shape.
    pub fn fits(&self, shape: &[u64]) -> bool {
        let axes = shape.len();
        self.offset.len() == axes
            && self.extent.len() == axes
            && (0..axes).all(|axis| {
                let end = self.offset[axis].checked_add(self.extent[axis]);
                end.is_some_and(|end| end <= shape[axis])
            })
    }

    /// What two boxes share, or nothing. Boxes of a scalar share it.
    pub fn meet(&self, other: &Region) -> Option<OwnedRegion> {
        let mut shared = OwnedRegion::default();
        for axis in 0..self.offset.len() {
            let start = self.offset[axis].max(other.offset[axis]);
            let end = (self.end(axis)).min(other.end(axis));
            if start >= end {
                return None;
            }
            shared.offset.push(start);
            shared.extent.push(end - start);
        }
        Some(shared)
    }

    pub fn end(&self, axis: usize) -> u64 {
        self.offset[axis] + self.extent[axis]
    }
}

/// A [`Region`] that owns its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRegion {
    pub offset: Vec<u64>,
    pub extent: Vec<u64>,
}

impl OwnedRegion {
    pub fn as_region(&self) -> Region<'_> {
        Region { offset: &self.offset, extent: &self.extent }
    }
}

/// The number of values of a shape, or nothing where it does not fit 64 bits.
pub fn count(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))
}

/// Bytes to copy from one buffer to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub from: u64,
    pub to: u64,
    pub bytes: u64,
}

/// The runs that copy the box `shared` from the buffer of the box `from` to that of the box `to`, both of which
/// contain it. All runs have one length; `from` and `to` both ascend.
pub fn runs(shared: &Region, from: &Region, to: &Region, value_bytes: u64) -> Vec<Run> {
    let inner = contiguous_axes(shared, from, to);
    let outer = shared.extent.len() - inner;
    let bytes = shared.extent[outer..].iter().product::<u64>() * value_bytes;
    let num_runs: u64 = shared.extent[..outer].iter().product();
    let mut index = shared.offset.to_vec();
    let mut runs = Vec::with_capacity(num_runs as usize);
    for _ in 0..num_runs {
        runs.push(Run {
            from: position(&index, from) * value_bytes,
            to: position(&index, to) * value_bytes,
            bytes,
        });
        advance(&mut index[..outer], shared);
    }
    runs
}

/// How many of the last axes one run spans: all that both buffers hold only this box of, and one more.
fn contiguous_axes(shared: &Region, from: &Region, to: &Region) -> usize {
    let axes = shared.extent.len();
    let whole = (0..axes)
        .rev()
        .take_while(|&axis| {
            shared.extent[axis] == from.extent[axis] && shared.extent[axis] == to.extent[axis]
        })
        .count();
    (whole + 1).min(axes)
}

/// Where a global index lies in the buffer of a box, in values.
fn position(index: &[u64], region: &Region) -> u64 {
    (0..index.len()).fold(0, |position, axis| {
        position * region.extent[axis] + (index[axis] - region.offset[axis])
    })
}

/// The next index of a box, last axis fastest.
fn advance(index: &mut [u64], region: &Region) {
    for axis in (0..index.len()).rev() {
        index[axis] += 1;
        if index[axis] < region.end(axis) {
            return;
        }
        index[axis] = region.offset[axis];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region<'a>(offset: &'a [u64], extent: &'a [u64]) -> Region<'a> {
        Region { offset, extent }
    }

    #[test]
    fn whole_rows_are_one_run() {
        let tensor = region(&[0, 0], &[4, 3]);
        let rows = region(&[1, 0], &[2, 3]);
        let one = Run { from: 12, to: 0, bytes: 24 };
        assert_eq!(runs(&rows, &tensor, &rows, 4), [one]);
    }

    #[test]
    fn columns_are_one_run_a_row() {
        let tensor = region(&[0, 0], &[2, 4]);
        let columns = region(&[0, 2], &[2, 2]);
        let found: Vec<_> = runs(&columns, &tensor, &columns, 2)
            .iter()
            .map(|run| (run.from, run.to, run.bytes))
            .collect();
        assert_eq!(found, [(4, 0, 4), (12, 4, 4)]);
    }

    #[test]
    fn a_scalar_is_one_run() {
        let scalar = region(&[], &[]);
        let one = Run { from: 0, to: 0, bytes: 4 };
        assert_eq!(runs(&scalar, &scalar, &scalar, 4), [one]);
        assert_eq!(scalar.count(), Some(1));
    }

    #[test]
    fn counts_do_not_wrap() {
        assert_eq!(count(&[1 << 40, 1 << 40]), None);
        assert_eq!(count(&[1 << 40, 1 << 40, 0]), Some(0));
        assert!(!region(&[u64::MAX], &[2]).fits(&[4]));
    }

    #[test]
    fn boxes_meet_where_both_are() {
        let shared = region(&[0, 2], &[3, 3]).meet(&region(&[2, 0], &[4, 3]));
        assert_eq!(shared, Some(OwnedRegion { offset: vec![2, 2], extent: vec![1, 1] }));
        assert_eq!(region(&[0], &[2]).meet(&region(&[2], &[2])), None);
    }
}
