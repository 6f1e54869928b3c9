//! Reading boxes of tensors whose bytes have no checksums of their own.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{Weights, WeightsError};
use crate::layout::{Region, Run, runs};
use crate::read::{IN_FLIGHT, REQUEST_BYTES, copy_runs};

/// What lies between two rows of a box is read with them up to this length: a request more costs more than that.
const MOST_BETWEEN: u64 = 256 << 10;

pub(super) async fn slice(
    weights: &Weights,
    name: &str,
    offset: &[u64],
    extent: &[u64],
) -> Result<Bytes, WeightsError> {
    let stored = weights.tensor(name)?;
    let (url, tensor) = (weights.url_of(stored), name.to_owned());
    let Some(dtype) = stored.dtype else {
        return Err(WeightsError::Type { url, tensor, found: stored.type_name.clone() });
    };
    let slice = Region { offset, extent };
    if !slice.fits(&stored.shape) {
        let (shape, offset, extent) = (stored.shape.clone(), offset.to_vec(), extent.to_vec());
        return Err(WeightsError::Slice { url, tensor, shape, offset, extent });
    }
    let mut out = vec![0; (slice.count().unwrap_or(0) * dtype.bytes()) as usize];
    if out.is_empty() {
        return Ok(out.into());
    }
    let origin = vec![0; stored.shape.len()];
    let whole = Region { offset: &origin, extent: &stored.shape };
    let runs = runs(&slice, &whole, &slice, dtype.bytes());
    let first = stored.range.start;
    let mut fetched = stream::iter(requests(&runs))
        .map(|range| async move {
            let bytes =
                weights.folder.get_range(&stored.file, first + range.start..first + range.end);
            Ok::<_, WeightsError>((range.start, bytes.await?))
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some((start, bytes)) = fetched.try_next().await? {
        copy_runs(&runs, start, &bytes, &mut out);
    }
    Ok(out.into())
}

/// The ranges that hold the runs, which ascend: near ones joined, long ones cut.
fn requests(runs: &[Run]) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for run in runs {
        let end = run.from + run.bytes;
        match joined.last_mut() {
            Some(last) if run.from - last.end <= MOST_BETWEEN => last.end = end,
            _ => joined.push(run.from..end),
        }
    }
    let cut = |range: Range<u64>| {
        let starts = range.clone().step_by(REQUEST_BYTES as usize);
        starts.map(move |start| start..range.end.min(start + REQUEST_BYTES))
    };
    joined.into_iter().flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::testing::{Folder, values};

    #[test]
    fn near_rows_are_read_together_and_long_ranges_in_parts() {
        let run = |from, bytes| Run { from, to: 0, bytes };
        let near = requests(&[run(8, 4), run(20, 4)]);
        assert_eq!(
            near.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
            [[8, 24]]
        );
        let far = 24 + MOST_BETWEEN + 1;
        assert_eq!(requests(&[run(20, 4), run(far, 4)]), [20..24, far..far + 4]);
        let long = REQUEST_BYTES + 1;
        assert_eq!(requests(&[run(0, long)]), [0..REQUEST_BYTES, REQUEST_BYTES..long]);
    }

    #[tokio::test]
    async fn boxes_are_read_whatever_the_axis() {
        let folder = Folder::new();
        let all: Vec<f32> = (0..12_u8).map(f32::from).collect();
        folder.write("model.safetensors", &[("first", &[1], &[7.0]), ("w", &[3, 4], &all)]);
        let weights = Weights::open(&folder.url(), |_| true).await.unwrap();
        let read = async |offset: [u64; 2], extent: [u64; 2]| {
            values(&weights.read_slice("w", &offset, &extent).await.unwrap())
        };
        assert_eq!(read([1, 0], [2, 4]).await, all[4..]);
        assert_eq!(read([0, 1], [3, 2]).await, [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
        assert_eq!(read([2, 3], [1, 1]).await, [11.0]);
        assert!(read([3, 0], [0, 4]).await.is_empty());
        let outside = weights.read_slice("w", &[0, 3], &[3, 2]).await.expect_err("outside");
        assert!(matches!(outside, WeightsError::Slice { .. }));
    }

    #[tokio::test]
    async fn integers_are_no_weights() {
        let folder = Folder::new();
        folder.write("model.safetensors", &[("w", &[2], &[1.0; 2])]);
        let path = folder.path("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, String::from_utf8_lossy(&bytes).replace("F32", "I32")).unwrap();
        let weights = Weights::open(&folder.url(), |_| true).await.unwrap();
        let error = weights.read_tensor("w").await.expect_err("integers");
        assert!(error.to_string().contains("type I32"), "{error}");
    }
}
