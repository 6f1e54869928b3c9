//! Column chunks as pages whose bodies are decompressed: what Arrow's reader is given in place of a file.
//!
//! The parquet library makes two zstd contexts for each column chunk, one of them for writing. Where a row group has
//! eight rows that costs more than to decompress them, most of all on a virtual machine, whose host answers what the
//! contexts ask of the processor. Here a thread has one.

use std::cell::RefCell;
use std::ops::Range;

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, RowGroups};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use zstd::bulk::Decompressor;

use crate::footer::column_range;
use crate::pages::{self, pages};

thread_local! {
    static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Some bytes of a file that is otherwise not there: their offsets and themselves.
pub(crate) struct FileParts(pub Vec<(u64, Bytes)>);

impl FileParts {
    /// The bytes of a range that lies in one of the parts.
    pub fn get(&self, range: Range<u64>) -> Option<Bytes> {
        self.0.iter().find_map(|(offset, bytes)| {
            let start = usize::try_from(range.start.checked_sub(*offset)?).ok()?;
            let end = usize::try_from(range.end.checked_sub(*offset)?).ok()?;
            (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
        })
    }
}

/// Decodes columns of a row group, `rows` rows at a time. Their chunks were walked before
/// ([`crate::footer::check_chunk`]), so their pages claim no more than the footer allows.
pub(crate) fn record_batches(
    footer: &ArrowReaderMetadata,
    group: usize,
    parts: &FileParts,
    columns: ProjectionMask,
    rows: usize,
) -> ParquetResult<impl Iterator<Item = Result<RecordBatch, ArrowError>>> {
    let (schema, fields) = (footer.parquet_schema(), footer.schema().fields());
    let levels = parquet_to_arrow_field_levels(schema, columns, Some(fields))?;
    let metadata = footer.metadata();
    let chunks = Chunks { metadata, group: metadata.row_group(group), parts };
    ParquetRecordBatchReader::try_new_with_row_groups(&levels, &chunks, rows, None)
}

struct Chunks<'a> {
    metadata: &'a ParquetMetaData,
    group: &'a RowGroupMetaData,
    parts: &'a FileParts,
}

impl RowGroups for Chunks<'_> {
    fn num_rows(&self) -> usize {
        self.group.num_rows() as usize
    }

    fn column_chunks(&self, column: usize) -> ParquetResult<Box<dyn PageIterator>> {
        let column = self.group.column(column);
        let chunk = column_range(column).and_then(|range| self.parts.get(range));
        let chunk = chunk.ok_or_else(|| ParquetError::EOF("a column is not there".to_owned()))?;
        let pages = pages(&chunk).map_err(ParquetError::General)?;
        let stored = column.compression() == Compression::UNCOMPRESSED;
        let pages = pages.into_iter().map(|page| self::page(&chunk, page, stored));
        let pages = pages.collect::<ParquetResult<Vec<_>>>()?;
        Ok(Box::new(Chunk(Some(Pages { rest: pages.into_iter().peekable() }))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.group))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.metadata
    }
}

fn page(chunk: &Bytes, page: pages::Page, stored: bool) -> ParquetResult<Page> {
    let body = chunk.slice(page.body);
    let buf = if stored { body } else { decompressed(&body, page.head.uncompressed as usize)? };
    // It came out of 32 bits.
    let (num_values, encoding) = (page.head.values as u32, page.head.encoding);
    Ok(match page.head.dictionary {
        true => Page::DictionaryPage { buf, num_values, encoding, is_sorted: false },
        false => Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        },
    })
}

/// The body of a page that was stored by zstd, `size` bytes of it.
fn decompressed(body: &[u8], size: usize) -> ParquetResult<Bytes> {
    // As a column without values is stored.
    if size == 0 {
        return Ok(Bytes::new());
    }
    let bytes = CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new()?),
        };
        context.decompress(body, size)
    })?;
    match bytes.len() == size {
        true => Ok(bytes.into()),
        false => Err(ParquetError::General("a page has another size than it says".to_owned())),
    }
}

/// The one chunk of a column.
struct Chunk(Option<Pages>);

impl Iterator for Chunk {
    type Item = ParquetResult<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|pages| Ok(Box::new(pages) as Box<dyn PageReader>))
    }
}

impl PageIterator for Chunk {}

struct Pages {
    rest: std::iter::Peekable<std::vec::IntoIter<Page>>,
}

impl Iterator for Pages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rest.next().map(Ok)
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        Ok(self.rest.next())
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        Ok(self.rest.peek().map(|page| {
            let is_dict = matches!(page, Page::DictionaryPage { .. });
            let num_levels = (!is_dict).then(|| page.num_values() as usize);
            PageMetadata { num_rows: None, num_levels, is_dict }
        }))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.rest.next();
        Ok(())
    }
}
