//! What a row group holds beside the values of its features, and a checksum of just that.
//!
//! Together with the rows' own checksums it vouches for every byte of a row, so that a row can be read without the
//! others of its row group. The footer keeps one for each row group; the manifest has the footer's checksum.

use std::ops::Range;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use strand_store::Xxh3Hasher;

use crate::decompress::FileParts;
use crate::footer::column_range;
use crate::pages::{HEADER_BYTES, head};
use crate::schema::FEATURES;

/// The footer's key for these checksums: 16 hexadecimal digits for each row group, with blanks between them.
const KEY: &str = "strand.rest_xxh3";
/// Bytes in front of each value of a plain column.
const LENGTH_BYTES: u64 = 4;

/// What a row group holds beside the values of its features.
pub(crate) struct Rest {
    /// XXH3-64 of the bytes in front of the features, of the features' page headers and lengths, and of the bytes
    /// behind them.
    pub xxh3: u64,
    /// The bytes in front of the features and behind them.
    pub parts: FileParts,
    /// Where in the file the values of the features are.
    pub values: Vec<Range<u64>>,
}

impl Rest {
    /// Reads it of a row group at `group`, whose features are at `features`; `read` fills a buffer with the file's
    /// bytes from an offset on. `None` where it cannot, or where the features are not stored as shards store them.
    pub fn read(
        mut read: impl FnMut(&mut [u8], u64) -> Option<()>,
        group: Range<u64>,
        features: Range<u64>,
    ) -> Option<Rest> {
        let mut part = |range: Range<u64>| {
            let mut bytes = vec![0; usize::try_from(range.end.checked_sub(range.start)?).ok()?];
            read(&mut bytes, range.start)?;
            Some((range.start, Bytes::from(bytes)))
        };
        let (front, behind) = (part(group.start..features.start)?, part(features.end..group.end)?);
        let mut hasher = Xxh3Hasher::default();
        hasher.update(&front.1);
        let values = values(read, features, |bytes| hasher.update(bytes))?;
        hasher.update(&behind.1);
        let parts = FileParts(vec![front, behind]);
        Some(Rest { xxh3: hasher.digest(), parts, values })
    }
}

/// Where the values of a plain chunk are; `visit` is called with the bytes between them.
fn values(
    mut read: impl FnMut(&mut [u8], u64) -> Option<()>,
    chunk: Range<u64>,
    mut visit: impl FnMut(&[u8]),
) -> Option<Vec<Range<u64>>> {
    let mut values = Vec::new();
    let mut start = chunk.start;
    while start < chunk.end {
        let mut bytes = [0; HEADER_BYTES];
        let bytes = &mut bytes[..(chunk.end - start).min(HEADER_BYTES as u64) as usize];
        read(bytes, start)?;
        let (page, header_bytes) = head(bytes)?;
        visit(&bytes[..header_bytes]);
        let mut at = start + header_bytes as u64;
        let end = at.checked_add(page.compressed)?;
        if page.dictionary
            || page.encoding != Encoding::PLAIN
            || page.compressed != page.uncompressed
        {
            return None;
        }
        for _ in 0..page.values {
            let mut length = [0; LENGTH_BYTES as usize];
            read(&mut length, at)?;
            visit(&length);
            let value =
                at + LENGTH_BYTES..at + LENGTH_BYTES + u64::from(u32::from_le_bytes(length));
            if value.end > end {
                return None;
            }
            at = value.end;
            values.push(value);
        }
        if at != end {
            return None;
        }
        start = end;
    }
    (start == chunk.end).then_some(values)
}

/// As [`Rest::read`], of a row group whose bytes are all there, the first of them at `offset` of the file.
pub(crate) fn rest_of(bytes: &[u8], offset: u64, features: Range<u64>) -> Option<Rest> {
    let read = |to: &mut [u8], at: u64| {
        let start = usize::try_from(at.checked_sub(offset)?).ok()?;
        to.copy_from_slice(bytes.get(start..start.checked_add(to.len())?)?);
        Some(())
    };
    Rest::read(read, offset..offset + bytes.len() as u64, features)
}

/// What the footer says of a row group's rest; `None` where it says nothing, as in files of other writers.
pub(crate) fn expected(footer: &ParquetMetaData, group: usize) -> Option<u64> {
    let pairs = footer.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == KEY)?.value.as_ref()?;
    u64::from_str_radix(text.split(' ').nth(group)?, 16).ok()
}

/// Whether the bytes of a row group have the rest that the footer expects; `None` where it expects none.
pub(crate) fn is_intact(
    footer: &ParquetMetaData,
    group: usize,
    bytes: &[u8],
    offset: u64,
) -> Option<bool> {
    let expected = expected(footer, group)?;
    let features = column_range(footer.row_groups().get(group)?.column(FEATURES))?;
    Some(rest_of(bytes, offset, features).is_some_and(|rest| rest.xxh3 == expected))
}

/// The footer's entry for row groups in their order.
pub(crate) fn entry(checksums: &[u64]) -> KeyValue {
    let words: Vec<String> = checksums.iter().map(|xxh3| format!("{xxh3:016x}")).collect();
    KeyValue::new(KEY.to_owned(), words.join(" "))
}
