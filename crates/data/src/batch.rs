//! A rank's share of a step, its features in one piece of memory.

use std::sync::Arc;

use bytes::Bytes;
use strand_store::{ALIGNMENT, Pool};

use crate::parallel::side_by_side;
use crate::sample::{Sample, Visit};
use crate::stored::StoredFeatures;
use crate::{DataError, Row, SampleRef, Skipped};

/// A rank's share of a step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Position of the step's first sample in the order.
    pub first: u64,
    /// Samples of the step over all ranks, skipped ones included.
    pub global: usize,
    /// The rank's contiguous cut `[r·B/dp, (r+1)·B/dp)` without what was skipped; may be empty in a short batch.
    pub samples: Vec<Sample>,
    /// Damaged samples of the cut that were left out.
    pub skipped: Vec<Skipped>,
    /// The features of all samples, one behind the other, each at a multiple of [`ALIGNMENT`] bytes. Those of a
    /// sample are a slice of this. The memory is used again once all of them are dropped.
    pub features: Bytes,
}

impl PartialEq for Batch {
    /// Compares the samples, with their features, and their place in the order.
    fn eq(&self, other: &Batch) -> bool {
        (self.first, self.global, &self.samples) == (other.first, other.global, &other.samples)
    }
}

/// The rows of a row group.
#[derive(Debug)]
pub(crate) struct RowGroup {
    pub rows: Vec<Row>,
    /// Where their features are, if not in the rows.
    pub stored: Option<StoredFeatures>,
}

/// A row of a batch, held until it is copied.
pub(crate) struct Held {
    pub group: Arc<RowGroup>,
    /// Its place in the group.
    pub row: usize,
    pub at: SampleRef,
}

/// Why a batch cannot be made.
#[derive(Debug)]
pub(crate) struct Unmade {
    pub error: DataError,
    /// Which of its rows cannot be read, where it is one's fault.
    pub row: Option<usize>,
}

impl From<DataError> for Unmade {
    fn from(error: DataError) -> Unmade {
        Unmade { error, row: None }
    }
}

/// Makes the samples of a batch: one copy of each chosen frame, into memory of the pool, on some threads.
pub(crate) fn assemble(
    first: u64,
    global: u64,
    held: &[Held],
    visit: Visit,
    pool: &Arc<Pool>,
    threads: usize,
) -> Result<Batch, Unmade> {
    let rows = || held.iter().map(|held| (&held.group.rows[held.row], held.at));
    let frames: Vec<_> = rows().map(|(row, at)| visit.frames(row, at.epoch)).collect();
    let sizes = rows().zip(&frames).map(|((row, _), frames)| visit.frame_bytes(row) * frames.len());
    let starts = sizes.scan(0, |end: &mut usize, size| {
        let start = *end;
        *end = (start + size).next_multiple_of(ALIGNMENT);
        Some(start..start + size)
    });
    let places: Vec<_> = starts.collect();
    let bytes = places.last().map_or(0, |last| last.end);
    let mut buffer = pool.take(bytes).map_err(|source| DataError::Memory { bytes, source })?;
    let mut rest = buffer.as_mut();
    let mut copies = Vec::with_capacity(held.len());
    for (((index, held), frames), place) in held.iter().enumerate().zip(&frames).zip(&places) {
        let aligned = place.len().next_multiple_of(ALIGNMENT).min(rest.len());
        let (to, behind) = rest.split_at_mut(aligned);
        rest = behind;
        copies.push((index, held, frames, &mut to[..place.len()]));
    }
    let parts = copies.chunks_mut(held.len().div_ceil(threads).max(1));
    let copied = side_by_side(parts, |part| {
        part.iter_mut().try_for_each(|(index, held, frames, to)| {
            let size = visit.frame_bytes(&held.group.rows[held.row]);
            let copied = copy_features(&held.group, held.row, frames, size, to, pool);
            copied.map_err(|error| Unmade { error, row: Some(*index) })
        })
    });
    copied.into_iter().collect::<Result<(), _>>()?;
    let features = buffer.freeze();
    let samples = rows()
        .zip(places)
        .map(|((row, at), place)| visit.sample(row, at.set, at.epoch, features.slice(place)));
    let samples = samples.collect::<Result<_, DataError>>()?;
    let (global, skipped) = (global as usize, Vec::new());
    Ok(Batch { first, global, samples, skipped, features })
}

/// Copies the chosen frames of a row, of `size` bytes each.
fn copy_features(
    group: &RowGroup,
    row: usize,
    frames: &[usize],
    size: usize,
    to: &mut [u8],
    pool: &Arc<Pool>,
) -> Result<(), DataError> {
    let Row { frames: all, ref features, .. } = group.rows[row];
    match &group.stored {
        None => copy(features, frames, size, to),
        Some(stored) if frames.iter().copied().eq(0..all) => return stored.read(row, to),
        // The checksum is that of all frames.
        Some(stored) => {
            let bytes = all * size;
            let memory = |source| DataError::Memory { bytes, source };
            let mut whole = pool.take(bytes).map_err(memory)?;
            stored.read(row, whole.as_mut())?;
            copy(whole.as_mut(), frames, size, to);
        }
    }
    Ok(())
}

/// Copies frames, neighbours at once.
fn copy(features: &[u8], frames: &[usize], size: usize, mut to: &mut [u8]) {
    for run in frames.chunk_by(|one, next| one + 1 == *next) {
        let Some((place, rest)) = to.split_at_mut_checked(run.len() * size) else { return };
        place.copy_from_slice(&features[run[0] * size..(run[0] + run.len()) * size]);
        to = rest;
    }
}

#[cfg(test)]
mod tests {
    use strand_store::Ordinary;

    use super::*;
    use crate::testing::{DIM, row};
    use crate::{Dtype, FrameRule};

    #[test]
    fn a_batch_is_one_aligned_piece_that_is_used_again() {
        let pool = Pool::new(Ordinary, 1 << 20);
        let rows = vec![row(0, 1), row(1, 5), row(2, 300)];
        let group = Arc::new(RowGroup { rows, stored: None });
        let visit = Visit {
            seed: 1,
            frames: None,
            sampling: FrameRule::Middle,
            dim: DIM,
            dtype: Dtype::F16,
        };
        let at = |row| SampleRef { set: 0, epoch: 0, shard: 0, group: 0, row };
        let held: Vec<_> =
            [2, 0, 1].map(|row| Held { group: group.clone(), row, at: at(row) }).into();
        let make = || assemble(6, 9, &held, visit, &pool, 2).expect("a batch");
        let batch = make();
        let start = batch.features.as_ptr() as usize;
        for (sample, at) in batch.samples.iter().zip([2, 0, 1]) {
            assert_eq!(sample.features, group.rows[at].features);
            assert_eq!(sample.features.as_ptr() as usize % ALIGNMENT, 0);
            assert!(batch.features.as_ptr_range().contains(&sample.features.as_ptr()));
        }
        assert_eq!((batch.first, batch.global), (6, 9));
        assert_ne!(make().features.as_ptr() as usize, start, "the first one is still in use");
        drop(batch);
        let again = make();
        assert_eq!(again, make());
        assert!(assemble(0, 3, &[], visit, &pool, 2).expect("empty").samples.is_empty());
    }

    #[test]
    fn frames_are_copied_in_runs() {
        let row = row(1, 6);
        let size = row.features.len() / 6;
        let frame = |frame: usize| &row.features[frame * size..(frame + 1) * size];
        let mut to = vec![0; size * 5];
        copy(&row.features, &[0, 1, 3, 5, 5], size, &mut to);
        assert_eq!(to, [frame(0), frame(1), frame(3), frame(5), frame(5)].concat());
    }
}
