//! The header of a safetensors file: which tensors it holds, and where.

use std::ops::Range;
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use strand_store::Location;

use super::WeightsError;
use crate::{Dtype, layout};

/// Longer headers are refused by the reference implementation too.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Bytes in front of a header: its length.
const LENGTH_BYTES: u64 = 8;

/// Where one tensor lies.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its type, as safetensors names it.
    pub type_name: String,
    /// Its type, where it is one of ours.
    pub dtype: Option<Dtype>,
    /// The file, by its name in the folder.
    pub(super) file: Arc<str>,
    /// Its bytes in the file.
    pub(super) range: Range<u64>,
}

/// The tensors of a file by name. Nothing but the header is read.
pub(super) async fn read_header(
    folder: &Location,
    file: &str,
) -> Result<Vec<(String, Stored)>, WeightsError> {
    let url = folder.url_of(file);
    let bad = |reason: String| {
        let reason = format!("not safetensors: {reason}");
        WeightsError::File { url: url.clone(), reason }
    };
    let size = folder.size(file).await?;
    let length = folder.get_range(file, 0..LENGTH_BYTES).await?;
    let length = <[u8; LENGTH_BYTES as usize]>::try_from(&length[..]);
    let header = u64::from_le_bytes(length.map_err(|error| bad(error.to_string()))?);
    if header > MOST_HEADER_BYTES || header > size.saturating_sub(LENGTH_BYTES) {
        return Err(bad(format!("a header of {header} bytes in a file of {size}")));
    }
    let data = LENGTH_BYTES + header;
    let json = folder.get_range(file, LENGTH_BYTES..data).await?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
    let file: Arc<str> = file.into();
    let stored = |(name, info): (String, &TensorInfo)| match stored(&file, data..size, info) {
        Some(stored) => Ok((name, stored)),
        None => Err(bad(format!("tensor `{name}` lies outside the file"))),
    };
    metadata.tensors().into_iter().map(stored).collect()
}

/// `None` where a tensor's bytes are not in the file's `data` or not as many as its shape asks for.
fn stored(file: &Arc<str>, data: Range<u64>, info: &TensorInfo) -> Option<Stored> {
    let (first, last) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
    let range = data.start.checked_add(first)?..data.start.checked_add(last)?;
    let bytes = range.end.checked_sub(range.start)?;
    let shape: Vec<u64> = info.shape.iter().map(|&size| size as u64).collect();
    let bits = layout::count(&shape)?.checked_mul(info.dtype.bitsize() as u64)?;
    (range.end <= data.end && bits == bytes.checked_mul(8)?).then(|| Stored {
        shape,
        type_name: format!("{:?}", info.dtype),
        dtype: Dtype::from_safetensors(info.dtype),
        file: file.clone(),
        range,
    })
}
