//! The parquet footer of a shard, believed only as far as it agrees with the manifest.

use std::ops::Range;
use std::sync::Arc;

use arrow_schema::DataType;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};

use crate::manifest::{Group, Shard, TAIL_BYTES};
use crate::pages::pages;
use crate::schema::{FEATURES, schema};

/// Most uncompressed bytes of the small columns of a row group.
const MAX_TEXT_BYTES: i64 = 1 << 28;
/// Most values of a nested column for each row of its row group.
const MAX_VALUES_A_ROW: u64 = 1 << 16;

/// Parses the end of a file: the footer and the 8 bytes behind it.
pub(crate) fn parse(tail: &[u8]) -> Result<ParquetMetaData, String> {
    let footer = tail.len().checked_sub(TAIL_BYTES as usize).ok_or("the file is too short")?;
    let (footer, end) = tail.split_at(footer);
    if &end[4..] != b"PAR1" {
        return Err("it does not end as a parquet file".to_owned());
    }
    if footer_length(tail) != Some(footer.len() as u64) {
        return Err("the footer has another length than the manifest says".to_owned());
    }
    ParquetMetaDataReader::decode_metadata(footer).map_err(|error| error.to_string())
}

/// The length of the footer that the last bytes of a file give.
pub(crate) fn footer_length(file: &[u8]) -> Option<u64> {
    let length = file.last_chunk::<8>()?.first_chunk::<4>()?;
    Some(u64::from(u32::from_le_bytes(*length)))
}

/// The footer of `shard`, ready to read rows with; `tail` is the footer and the 8 bytes behind it.
pub(crate) fn check(shard: &Shard, tail: &[u8]) -> Result<ArrowReaderMetadata, String> {
    let metadata = parse(tail)?;
    if metadata.num_row_groups() != shard.groups.len() {
        let (found, expected) = (metadata.num_row_groups(), shard.groups.len());
        return Err(format!("it has {found} row groups, the manifest says {expected}"));
    }
    // The schema embedded by Arrow is not read: the columns are what the format says or the shard is refused.
    let options = ArrowReaderOptions::new()
        .with_skip_arrow_metadata(true)
        .with_schema(schema(DataType::BinaryView));
    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options)
        .map_err(|error| error.to_string())?;
    for (index, (found, expected)) in
        metadata.metadata().row_groups().iter().zip(&shard.groups).enumerate()
    {
        check_group(found, expected).map_err(|reason| format!("row group {index}: {reason}"))?;
    }
    Ok(metadata)
}

fn check_group(found: &RowGroupMetaData, expected: &Group) -> Result<(), String> {
    if u64::try_from(found.num_rows()) != Ok(expected.rows) {
        return Err(format!(
            "it has {} rows, the manifest says {}",
            found.num_rows(),
            expected.rows
        ));
    }
    let mut text_bytes = 0_i64;
    for (index, column) in found.columns().iter().enumerate() {
        let path = column.column_path().string();
        check_column(column, expected).map_err(|reason| format!("column `{path}`: {reason}"))?;
        if index == FEATURES && column.compression() != Compression::UNCOMPRESSED {
            return Err("the features are compressed".to_owned());
        }
        if index != FEATURES {
            text_bytes = text_bytes.saturating_add(column.uncompressed_size());
        }
    }
    if text_bytes > MAX_TEXT_BYTES {
        return Err(format!(
            "{text_bytes} bytes beside the features, at most {MAX_TEXT_BYTES} are allowed"
        ));
    }
    Ok(())
}

fn check_column(column: &ColumnChunkMetaData, group: &Group) -> Result<(), String> {
    let range = column_range(column).ok_or("a negative size")?;
    if range.start < group.offset || range.end > group.offset + group.bytes {
        return Err("its bytes lie outside of the row group".to_owned());
    }
    if column.file_path().is_some() {
        return Err("it lies in another file".to_owned());
    }
    if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::ZSTD(_)) {
        return Err(format!("compression {} is not used in shards", column.compression()));
    }
    let nested = column.column_descr().max_rep_level() > 0;
    let most = if nested { group.rows * MAX_VALUES_A_ROW } else { group.rows };
    let values = u64::try_from(column.num_values()).unwrap_or(u64::MAX);
    if values < group.rows || values > most || column.uncompressed_size() < 0 {
        return Err(format!("{} values in {} rows", column.num_values(), group.rows));
    }
    Ok(())
}

/// The bytes of a column chunk in the file; `None` for sizes that no file has.
pub(crate) fn column_range(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let data = u64::try_from(column.data_page_offset()).ok()?;
    let start = match column.dictionary_page_offset() {
        Some(offset) => u64::try_from(offset).ok()?,
        None => data,
    };
    let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
    (start..=end).contains(&data).then_some(start..end)
}

/// Walks the pages of a fetched row group, so that the parquet library only meets pages that shards have.
pub(crate) fn check_pages(
    found: &RowGroupMetaData,
    group: &Group,
    bytes: &[u8],
) -> Result<(), String> {
    for (index, column) in found.columns().iter().enumerate() {
        let path = column.column_path().string();
        let chunk = chunk(column, group, bytes).ok_or("a column lies outside of the row group")?;
        check_chunk(column, chunk, index == FEATURES)
            .map_err(|reason| format!("column `{path}`: {reason}"))?;
    }
    Ok(())
}

/// The bytes of a column chunk within those of its row group.
pub(crate) fn chunk<'a>(
    column: &ColumnChunkMetaData,
    group: &Group,
    bytes: &'a [u8],
) -> Option<&'a [u8]> {
    let range = column_range(column)?;
    let start = usize::try_from(range.start.checked_sub(group.offset)?).ok()?;
    bytes.get(start..usize::try_from(range.end.checked_sub(group.offset)?).ok()?)
}

/// Walks the pages of one column chunk.
pub(crate) fn check_chunk(
    column: &ColumnChunkMetaData,
    chunk: &[u8],
    features: bool,
) -> Result<(), String> {
    let pages = pages(chunk)?;
    let data = pages.iter().filter(|page| !page.head.dictionary);
    if data.map(|page| page.head.values).sum::<u64>() != column.num_values() as u64 {
        return Err("its pages have another number of values".to_owned());
    }
    let uncompressed: u64 = pages.iter().map(|page| page.head.uncompressed).sum();
    if uncompressed > column.uncompressed_size() as u64 {
        return Err("its pages claim more bytes than the column".to_owned());
    }
    let stored = column.compression() == Compression::UNCOMPRESSED;
    if stored && pages.iter().any(|page| page.head.compressed != page.head.uncompressed) {
        return Err("a page has another size than it says".to_owned());
    }
    if features
        && pages.iter().any(|page| page.head.dictionary || page.head.encoding != Encoding::PLAIN)
    {
        return Err("the features are not stored plain".to_owned());
    }
    Ok(())
}

/// The bytes of a row group in the file.
pub(crate) fn group_range(group: &RowGroupMetaData) -> Option<Range<u64>> {
    let ranges: Option<Vec<Range<u64>>> = group.columns().iter().map(column_range).collect();
    let ranges = ranges?;
    let start = ranges.iter().map(|range| range.start).min()?;
    let end = ranges.iter().map(|range| range.end).max()?;
    Some(start..end)
}
