//! Checking a shard: every byte, every row, in one pass.

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::dataset::guarded;
use crate::decode::{Checksums, decode_group};
use crate::error::Place;
use crate::manifest::Shard;
use crate::walk::pieces;
use crate::{DataError, Dataset};

/// Pieces that are read ahead of the one that is being checked.
const READ_AHEAD: usize = 2;

/// What [`Dataset::check_shard`] found.
#[derive(Debug, Default)]
pub struct ShardCheck {
    /// Rows that are as they were written.
    pub rows: u64,
    /// All damage, in file order: one entry for each damaged row group, and for the footer and the file.
    pub problems: Vec<DataError>,
}

impl Dataset {
    /// Reads all of a shard and checks every byte: its BLAKE3, its footer, every row. Returns its rows.
    ///
    /// # Errors
    /// The first damage, as [`Self::read_group`] tells it.
    pub async fn verify_shard(&self, shard: usize) -> Result<u64, DataError> {
        let mut check = self.check_shard(shard, |_| {}).await?;
        match check.problems.is_empty() {
            true => Ok(check.rows),
            false => Err(check.problems.remove(0)),
        }
    }

    /// As [`Self::verify_shard`], but damage does not end it. `progress` is called with the rows of each row group
    /// that was read.
    ///
    /// # Errors
    /// Only where storage fails.
    pub async fn check_shard(
        &self,
        shard: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<ShardCheck, DataError> {
        let description = self.shard(shard)?;
        let mut check = ShardCheck::default();
        let read = self.check_pieces(shard, description, &mut check, &mut progress).await;
        check.record(read)?;
        Ok(check)
    }

    async fn check_pieces(
        &self,
        index: usize,
        shard: &Shard,
        check: &mut ShardCheck,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), DataError> {
        let place = Place::shard(self.location().url_of(&shard.path));
        let (mut rows, mut hasher) = (0, blake3::Hasher::new());
        let reads = stream::iter(pieces(shard.bytes, &shard.groups));
        let read = |(range, group)| async move { (group, self.read(shard, range).await) };
        let mut reads = reads.map(read).buffered(READ_AHEAD);
        while let Some((group, bytes)) = reads.next().await {
            let bytes = bytes?;
            hasher = hashed(&place, hasher, bytes.clone()).await?;
            let Some(group) = group else { continue };
            rows += check.record(self.check_group(index, group, bytes).await)?.unwrap_or(0);
            progress(shard.groups[group].rows);
        }
        check.rows = rows;
        let size = self.location().size(&shard.path).await?;
        let same = size == shard.bytes && hasher.finalize().to_hex().as_str() == shard.blake3;
        // Damage that was found already says more.
        match same || !check.problems.is_empty() {
            true => Ok(()),
            false => Err(DataError::Checksum { place, what: "the shard".to_owned() }),
        }
    }

    async fn check_group(
        &self,
        shard: usize,
        group: usize,
        bytes: Bytes,
    ) -> Result<u64, DataError> {
        let description = self.shard(shard)?;
        let place = Place::group(self.location().url_of(&description.path), group);
        let footer = self.footer(shard, description).await?;
        let (expected, shape) = (description.groups[group].clone(), self.manifest().row_shape());
        let task = place.clone();
        let decode =
            move || decode_group(&task, &footer, &expected, shape, bytes, Checksums::GroupAndRows);
        Ok(guarded(&place, decode).await?.len() as u64)
    }
}

impl ShardCheck {
    /// Takes damage down and lets trouble with storage through.
    fn record<T>(&mut self, result: Result<T, DataError>) -> Result<Option<T>, DataError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.exit_code() == 4 => {
                // A damaged footer spoils every row group.
                let told =
                    self.problems.last().is_some_and(|last| last.to_string() == error.to_string());
                if !told {
                    self.problems.push(error);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

async fn hashed(
    place: &Place,
    mut hasher: blake3::Hasher,
    bytes: Bytes,
) -> Result<blake3::Hasher, DataError> {
    let hash = move || {
        hasher.update(&bytes);
        Ok(hasher)
    };
    guarded(place, hash).await
}
