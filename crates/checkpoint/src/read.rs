//! Reading slices, for any layout.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use strand_store::{Location, StoreError};

use crate::layout::{Region, Run, runs};
use crate::manifest::{Manifest, Tensor, TensorPart};
use crate::{CheckpointError, Kind, Sum};

/// One request asks for at most about this much.
pub(crate) const REQUEST_BYTES: u64 = 16 << 20;
/// Requests in flight; with the above it bounds the memory of a read beside its result.
pub(crate) const IN_FLIGHT: usize = 8;

/// An open checkpoint.
#[derive(Clone, Debug)]
pub struct Reader {
    folder: Location,
    manifest: Manifest,
}

impl Reader {
    /// Opens a checkpoint's folder.
    ///
    /// # Errors
    /// Those of [`Manifest::open`].
    pub async fn open(folder: &Location) -> Result<Reader, CheckpointError> {
        Ok(Reader { folder: folder.clone(), manifest: Manifest::open(folder).await? })
    }

    /// What the checkpoint holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The box at `offset` of size `extent` of a tensor: its values, last axis fastest, little-endian. Only the blocks
    /// that hold some of it are fetched, from whichever parts have them, and each block is checked.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`] and [`CheckpointError::Slice`] for what the checkpoint does not hold,
    /// [`CheckpointError::Damaged`] for a wrong checksum or a short file, storage errors.
    pub async fn read_slice(
        &self,
        name: &str,
        kind: Kind,
        offset: &[u64],
        extent: &[u64],
    ) -> Result<Bytes, CheckpointError> {
        let tensor = self.tensor(name, kind)?;
        let slice = Region { offset, extent };
        if !slice.fits(&tensor.shape) {
            return Err(self.no_slice(tensor, slice));
        }
        let value_bytes = tensor.dtype.bytes();
        let values = slice.count().unwrap_or(0);
        let mut out = vec![0; (values * value_bytes) as usize];
        let copies = copies(tensor, &slice);
        let block = self.manifest.block_bytes;
        let requests: Vec<_> = copies
            .iter()
            .flat_map(|copy| {
                let blocks = blocks_of(&copy.runs, block);
                requests(&blocks, block).into_iter().map(move |blocks| (copy, blocks))
            })
            .collect();
        let mut fetched = stream::iter(requests)
            .map(|(copy, blocks)| self.fetch(copy, blocks))
            .buffer_unordered(IN_FLIGHT);
        while let Some((copy, start, bytes)) = fetched.try_next().await? {
            copy_runs(&copy.runs, start, &bytes, &mut out);
        }
        Ok(out.into())
    }

    /// A whole tensor.
    ///
    /// # Errors
    /// Those of [`Reader::read_slice`].
    pub async fn read_tensor(&self, name: &str, kind: Kind) -> Result<Bytes, CheckpointError> {
        let shape = &self.tensor(name, kind)?.shape;
        self.read_slice(name, kind, &vec![0; shape.len()], shape).await
    }

    fn tensor(&self, name: &str, kind: Kind) -> Result<&Tensor, CheckpointError> {
        self.manifest.tensor(name, kind).ok_or_else(|| CheckpointError::NoTensor {
            url: self.folder.url(),
            name: name.to_owned(),
            kind,
        })
    }

    fn no_slice(&self, tensor: &Tensor, slice: Region) -> CheckpointError {
        CheckpointError::Slice {
            url: self.folder.url(),
            name: tensor.name.clone(),
            kind: tensor.kind,
            shape: tensor.shape.clone(),
            offset: slice.offset.to_vec(),
            extent: slice.extent.to_vec(),
        }
    }

    async fn fetch<'a>(
        &self,
        copy: &'a Copy<'a>,
        blocks: Range<u64>,
    ) -> Result<(&'a Copy<'a>, u64, Bytes), CheckpointError> {
        let start = blocks.start * self.manifest.block_bytes;
        let bytes = read_blocks(&self.folder, copy.part, self.manifest.block_bytes, blocks).await?;
        Ok((copy, start, bytes))
    }
}

/// What one part gives to a slice.
struct Copy<'a> {
    part: &'a TensorPart,
    /// From the part's bytes to the slice's.
    runs: Vec<Run>,
}

fn copies<'a>(tensor: &'a Tensor, slice: &Region) -> Vec<Copy<'a>> {
    let value_bytes = tensor.dtype.bytes();
    tensor
        .parts
        .iter()
        .filter_map(|part| {
            let shared = part.region().meet(slice)?;
            let runs = runs(&shared.as_region(), &part.region(), slice, value_bytes);
            Some(Copy { part, runs })
        })
        .collect()
}

/// The numbers of the blocks that some runs touch, in order.
fn blocks_of(runs: &[Run], block: u64) -> Vec<u64> {
    let mut blocks: Vec<u64> = runs
        .iter()
        .flat_map(|run| run.from / block..(run.from + run.bytes).div_ceil(block))
        .collect();
    blocks.dedup();
    blocks
}

/// Neighbouring blocks, joined as far as one request may go.
fn requests(blocks: &[u64], block: u64) -> Vec<Range<u64>> {
    let most = (REQUEST_BYTES / block).max(1);
    let mut requests: Vec<Range<u64>> = Vec::new();
    for &number in blocks {
        match requests.last_mut() {
            Some(last) if last.end == number && last.end - last.start < most => last.end += 1,
            _ => requests.push(number..number + 1),
        }
    }
    requests
}

/// Every request of a part.
pub(crate) fn all_requests(part: &TensorPart, block: u64) -> Vec<Range<u64>> {
    let blocks: Vec<u64> = (0..part.xxh3.len() as u64).collect();
    requests(&blocks, block)
}

/// Fetches some blocks of a part and checks each.
pub(crate) async fn read_blocks(
    folder: &Location,
    part: &TensorPart,
    block: u64,
    blocks: Range<u64>,
) -> Result<Bytes, CheckpointError> {
    let begin = part.begin + blocks.start * block;
    let end = part.end.min(part.begin + blocks.end * block);
    let url = || folder.url_of(&part.file);
    let bytes = match folder.get_range(&part.file, begin..end).await {
        Ok(bytes) => bytes,
        Err(error @ (StoreError::Truncated { .. } | StoreError::NotFound { .. })) => {
            return Err(CheckpointError::damaged(url(), shortage(&error)));
        }
        Err(error) => return Err(error.into()),
    };
    let sums = &part.xxh3[blocks.start as usize..blocks.end as usize];
    let found = Sum::of_blocks(&bytes, block);
    if let Some(wrong) = (0..sums.len()).find(|&number| found[number] != sums[number]) {
        let begin = begin + wrong as u64 * block;
        let end = end.min(begin + block);
        let reason = format!("wrong checksum in bytes {begin}..{end}");
        return Err(CheckpointError::damaged(url(), reason));
    }
    Ok(bytes)
}

pub(crate) fn shortage(error: &StoreError) -> String {
    match error {
        StoreError::Truncated { bytes, wanted, .. } => {
            format!("only {bytes} bytes, {} are needed", wanted.end)
        }
        _ => "the file is missing".to_owned(),
    }
}

/// Copies what `bytes`, which begin at `start` of the part, hold of the runs.
pub(crate) fn copy_runs(runs: &[Run], start: u64, bytes: &[u8], out: &mut [u8]) {
    let end = start + bytes.len() as u64;
    let first = runs.partition_point(|run| run.from + run.bytes <= start);
    for run in runs[first..].iter().take_while(|run| run.from < end) {
        let begin = run.from.max(start);
        let length = ((run.from + run.bytes).min(end) - begin) as usize;
        let from = (begin - start) as usize;
        let to = (run.to + begin - run.from) as usize;
        out[to..to + length].copy_from_slice(&bytes[from..from + length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_join_neighbours_up_to_a_limit() {
        let block = REQUEST_BYTES / 4;
        assert_eq!(requests(&[0, 1, 3, 4, 5, 6, 7], block), [0..2, 3..7, 7..8]);
        assert_eq!(requests(&[2, 3], REQUEST_BYTES * 2), [2..3, 3..4]);
    }

    #[test]
    fn blocks_are_those_that_runs_touch() {
        let run = |from, bytes| Run { from, to: 0, bytes };
        assert_eq!(blocks_of(&[run(0, 4), run(6, 4)], 4), [0, 1, 2]);
        assert_eq!(blocks_of(&[run(9, 1), run(10, 1)], 4), [2]);
    }

    #[test]
    fn runs_are_copied_across_blocks() {
        let runs = [Run { from: 2, to: 0, bytes: 5 }, Run { from: 9, to: 5, bytes: 1 }];
        let part: Vec<u8> = (0..12).collect();
        let mut out = vec![0; 6];
        for start in [8, 0, 4] {
            copy_runs(&runs, start as u64, &part[start..start + 4], &mut out);
        }
        assert_eq!(out, [2, 3, 4, 5, 6, 9]);
    }
}
