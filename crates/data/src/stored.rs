//! Row groups of local files, read row by row where they lie.
//!
//! Memory that a process touches for the first time costs more than to read a file into it. So the features of a row
//! are read when they are copied into a batch, straight into it, and held against the row's own checksum. Of a row
//! group only its texts are kept, which have a checksum of their own.

use std::ops::Range;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use strand_store::{LocalFile, Location, StoreError, Xxh3Hasher};

use crate::error::Place;
use crate::footer::{check_chunk, column_range};
use crate::manifest::Group;
use crate::pages::plain_values;
use crate::rest_checksum::{self, Rest};
use crate::row::RowShape;
use crate::schema::{CHECKSUMS, FEATURES};
use crate::texts::decode;
use crate::{DataError, Row};

/// Bytes that are hashed while a core's cache still holds them.
const PIECE: usize = 128 << 10;
/// Times that features are read until they have their checksum: what a mounted server spoilt on the way may come right.
const TRIES: usize = 2;

/// A local shard, as its data set names it.
#[derive(Clone, Debug)]
pub(crate) struct LocalShard {
    pub location: Location,
    pub path: String,
    /// Its size, as the manifest gives it.
    pub bytes: u64,
}

impl LocalShard {
    fn open(&self) -> Result<LocalFile, StoreError> {
        self.location.open_file(&self.path)
    }
}

/// The features of a row group, in its file.
#[derive(Debug)]
pub(crate) struct StoredFeatures {
    shard: LocalShard,
    place: Place,
    rows: Vec<StoredValue>,
}

#[derive(Debug)]
struct StoredValue {
    range: Range<u64>,
    xxh3: u64,
}

impl StoredFeatures {
    /// Reads the features of a row into memory of their size.
    ///
    /// # Errors
    /// [`DataError::Checksum`] where they are no longer what was checked, [`DataError::Truncated`] and
    /// [`DataError::MissingShard`]: all name the row. What else storage does.
    pub fn read(&self, row: usize, to: &mut [u8]) -> Result<(), DataError> {
        let damaged =
            || DataError::Checksum { place: self.place.row(row), what: "the features".to_owned() };
        let value = self.rows.get(row).ok_or_else(damaged)?;
        if to.len() as u64 != value.range.end - value.range.start {
            return Err(damaged());
        }
        let failed = |error| DataError::of_shard(self.place.row(row), self.shard.bytes, error);
        for _ in 0..TRIES {
            if self.read_value(value, to).map_err(failed)? {
                return Ok(());
            }
        }
        Err(damaged())
    }

    /// Whether what was read is what the checksum says.
    fn read_value(&self, value: &StoredValue, to: &mut [u8]) -> Result<bool, StoreError> {
        let (file, mut hasher) = (self.shard.open()?, Xxh3Hasher::default());
        for (piece, start) in to.chunks_mut(PIECE).zip(value.range.clone().step_by(PIECE)) {
            file.read_exact_at(piece, start)?;
            hasher.update(piece);
        }
        file.count(to.len() as u64);
        Ok(hasher.digest() == value.xxh3)
    }
}

/// Checks all of a row group but its features, which are checked as they are read. The rows come without them. `None`
/// where the shard says too little for that or anything is not as it should be: what it is shows when the row group is
/// read whole.
pub(crate) fn check(
    place: &Place,
    footer: ArrowReaderMetadata,
    group: &Group,
    shape: RowShape,
    shard: LocalShard,
    ahead: bool,
) -> Option<(Vec<Row>, StoredFeatures)> {
    let index = place.group?;
    let expected = rest_checksum::expected(footer.metadata(), index)?;
    let found = footer.metadata().row_groups().get(index)?.clone();
    let file = shard.open().ok()?;
    if ahead {
        file.will_read(group.range());
    }
    let read = |to: &mut [u8], at: u64| file.read_exact_at(to, at).ok();
    let rest = Rest::read(read, group.range(), column_range(found.column(FEATURES))?)?;
    if rest.xxh3 != expected {
        return None;
    }
    let features: u64 = rest.values.iter().map(|value| value.end - value.start).sum();
    file.count(group.bytes.checked_sub(features)?);
    let checksums = found.column(CHECKSUMS);
    let range = column_range(checksums)?;
    let chunk = rest.parts.get(range)?;
    check_chunk(checksums, &chunk, false).ok()?;
    let checksums = plain_values(&chunk, Some(size_of::<u64>()))?;
    let texts = decode(place, &footer, group, &rest.parts).ok()?;
    let is_whole = [texts.len(), checksums.len(), rest.values.len()] == [group.rows as usize; 3];
    let mut rows = Vec::with_capacity(texts.len());
    for (text, range) in texts.into_iter().zip(&rest.values) {
        let row = text.with_features(Bytes::new());
        if shape.refuse_sized(&row, (range.end - range.start) as usize).is_some() {
            return None;
        }
        rows.push(row);
    }
    let value = |(range, xxh3): (Range<u64>, &[u8])| {
        Some(StoredValue { range, xxh3: u64::from_le_bytes(xxh3.try_into().ok()?) })
    };
    let values = rest.values.into_iter().zip(checksums).map(value).collect::<Option<_>>()?;
    is_whole.then_some((rows, StoredFeatures { shard, place: place.clone(), rows: values }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use strand_store::Pool;

    use super::*;
    use crate::batch::{Held, RowGroup, Unmade, assemble};
    use crate::fetch::Fetcher;
    use crate::sample::Visit;
    use crate::testing::{DIM, Folder, options, row};
    use crate::{Batch, Dataset, Dtype, FrameRule, SampleRef};

    const SHARD: &str = "shard-00000.parquet";

    async fn folder() -> Folder {
        Folder::write((0..10).map(|i| row(i, 1 + i % 4)).collect(), options(4, 1 << 20)).await
    }

    async fn group(set: &Dataset, group: usize) -> RowGroup {
        set.load_group(&Fetcher::default(), 0, group, true).await.expect("rows")
    }

    /// A batch of all rows of a group.
    fn batch(group: RowGroup, frames: Option<usize>) -> Result<Batch, Unmade> {
        let group = Arc::new(group);
        let at = |row| SampleRef { set: 0, epoch: 0, shard: 0, group: 0, row };
        let rows = 0..group.rows.len();
        let held: Vec<Held> =
            rows.map(|row| Held { group: group.clone(), row, at: at(row) }).collect();
        let sampling = FrameRule::Middle;
        let visit = Visit { seed: 1, frames, sampling, dim: DIM, dtype: Dtype::F16 };
        assemble(0, held.len() as u64, &held, visit, &Pool::shared(), 1)
    }

    #[tokio::test]
    async fn batches_are_those_of_rows_that_are_kept() {
        let folder = folder().await;
        let set = folder.open().await;
        for index in 0..3 {
            for frames in [None, Some(2)] {
                let stored = group(&set, index).await;
                assert!(stored.stored.is_some(), "row group {index} was read whole");
                let rows = set.read_group(0, index).await.expect("rows");
                let kept = RowGroup { rows, stored: None };
                assert_eq!(
                    batch(stored, frames).expect("read"),
                    batch(kept, frames).expect("kept")
                );
            }
        }
    }

    #[tokio::test]
    async fn features_that_change_behind_the_check_are_found() {
        let folder = folder().await;
        let set = folder.open().await;
        for frames in [None, Some(2)] {
            let stored = group(&set, 1).await;
            let features = row(7, 4).features;
            let flip = |file: &mut Vec<u8>| {
                let at = file.windows(features.len()).position(|window| window == features);
                file[at.expect("stored as is") + 5] ^= 1;
            };
            let intact = std::fs::read(folder.guard.path().join(SHARD)).expect("read");
            folder.edit(SHARD, flip);
            let error = batch(stored, frames).expect_err("changed").error.to_string();
            assert!(
                error.contains("row group 1, row 3: checksum mismatch in the features"),
                "{error}"
            );
            folder.edit(SHARD, |file| *file = intact);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_cut_behind_the_check_is_an_error() {
        let folder = folder().await;
        let stored = group(&folder.open().await, 2).await;
        folder.edit(SHARD, |file| file.truncate(100));
        let error = batch(stored, None).expect_err("cut").error.to_string();
        assert!(error.contains("row group 2, row 0: the shard is truncated"), "{error}");
    }

    #[tokio::test]
    async fn every_flipped_bit_is_found() {
        let folder = folder().await;
        let set = folder.open().await;
        let whole = &folder.manifest.shards[0].groups[0];
        let mut in_features = 0;
        for at in whole.range().step_by(7) {
            let flip = |file: &mut Vec<u8>| file[at as usize] ^= 0x10;
            folder.edit(SHARD, flip);
            let opened = set.open_group(&Fetcher::default(), 0, 0, false).await.expect("no panic");
            if let Some(opened) = opened {
                let unmade = batch(opened, None).expect_err("a flipped bit");
                let DataError::Checksum { place, .. } = unmade.error else { panic!("{unmade:?}") };
                assert_eq!(place.row, unmade.row, "byte {at}");
                in_features += 1;
            }
            folder.edit(SHARD, flip);
        }
        assert!(in_features > 0);
    }
}
