//! Writing a data set: rows into row groups, row groups into shards, the manifest last.

use std::collections::HashSet;

use arrow_schema::DataType;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use strand_store::{Location, StoreError, xxh3};
use twox_hash::XxHash3_128;

use crate::error::Place;
use crate::footer::{column_range, footer_length, group_range, parse};
use crate::manifest::{Group, MANIFEST, MAX_GROUP_ROWS, Manifest, Shard, TAIL_BYTES, Xxh3};
use crate::rest_checksum;
use crate::row::RowShape;
use crate::schema::{FEATURES, encode, schema};
use crate::{DataError, Dtype, Encoder, Row};

/// Default size from which on a row group is full.
const GROUP_BYTES: u64 = 6_000_000;
/// Most rows of a row group where the features are small.
const GROUP_ROWS: usize = 1024;
/// Default size of a shard.
const SHARD_BYTES: u64 = 256 << 20;
/// Largest size of a row group that may be asked for: with the rows that still go in, readers take it.
const MOST_GROUP_BYTES: u64 = 256 << 20;
/// Largest size of a shard that may be asked for: it is made in memory.
const MOST_SHARD_BYTES: u64 = 16 << 30;

/// What a writer needs to know beside the rows.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// What made the features.
    pub encoder: Encoder,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Type of a value.
    pub dtype: Dtype,
    /// Rows of a row group; where not given, `group_bytes` decides.
    pub rows_per_group: Option<usize>,
    /// A row group is full from this size on; a row that would carry it beyond 8/3 of that starts a new one.
    pub group_bytes: u64,
    /// A shard ends with the row group that reaches this size. It is held in memory until then.
    pub shard_bytes: u64,
}

impl WriterOptions {
    /// Options with the usual sizes: row groups of 6 to 16 MB, shards of 256 MiB.
    pub fn new(encoder: Encoder, tokens: usize, dim: usize, dtype: Dtype) -> WriterOptions {
        WriterOptions {
            encoder,
            tokens,
            dim,
            dtype,
            rows_per_group: None,
            group_bytes: GROUP_BYTES,
            shard_bytes: SHARD_BYTES,
        }
    }
}

impl WriterOptions {
    fn check_sizes(&self) -> Result<(), DataError> {
        let WriterOptions { group_bytes, shard_bytes, .. } = *self;
        if !(1..=MOST_GROUP_BYTES).contains(&group_bytes) {
            return Err(DataError::Settings(format!(
                "row groups of {group_bytes} bytes: 1 to {MOST_GROUP_BYTES} are allowed"
            )));
        }
        if !(group_bytes..=MOST_SHARD_BYTES).contains(&shard_bytes) && self.rows_per_group.is_none()
        {
            return Err(DataError::Settings(format!(
                "shards of {shard_bytes} bytes: at least a row group ({group_bytes}) and at most {MOST_SHARD_BYTES} are allowed"
            )));
        }
        Ok(())
    }

    /// Size beyond which no row is added to a row group.
    fn most_group_bytes(&self) -> u64 {
        self.group_bytes / 3 * 8
    }
}

/// Writes a data set. The order of the rows is kept, and the same rows give the same bytes.
pub struct ShardWriter {
    location: Location,
    options: WriterOptions,
    shape: RowShape,
    /// Rows of the row group that is being filled, and the bytes of their features.
    rows: Vec<Row>,
    buffered: u64,
    open: Option<OpenShard>,
    shards: Vec<Shard>,
    /// 128-bit hashes of all ids so far: 16 bytes a row, and no two differ in vain.
    ids: HashSet<u128>,
}

struct OpenShard {
    writer: ArrowWriter<Vec<u8>>,
    groups: Vec<GroupContent>,
}

/// What a row group holds, as far as it is known before its bytes are.
struct GroupContent {
    rows: u64,
    frames: [u64; 2],
    text: [u64; 2],
}

impl ShardWriter {
    /// Starts a data set in a folder that holds none.
    ///
    /// # Errors
    /// [`DataError::Settings`] for sizes of 0, [`DataError::Store`] where the folder has a manifest already or
    /// storage fails.
    pub async fn create(
        location: Location,
        options: WriterOptions,
    ) -> Result<ShardWriter, DataError> {
        ShardWriter::resume(location, options, Vec::new()).await
    }

    /// As [`Self::create`], where a writer that did not come to its end stored the first `shards` already
    /// ([`Self::shards`]). The rows that follow give the bytes that they would have given it; ids are compared
    /// among them only.
    ///
    /// # Errors
    /// Those of [`Self::create`].
    pub async fn resume(
        location: Location,
        options: WriterOptions,
        shards: Vec<Shard>,
    ) -> Result<ShardWriter, DataError> {
        let (tokens, dim) = (options.tokens, options.dim);
        let group_rows = options.rows_per_group.unwrap_or(1);
        if tokens == 0 || dim == 0 || !(1..=MAX_GROUP_ROWS as usize).contains(&group_rows) {
            let reason = format!(
                "{tokens} tokens × {dim} values in row groups of {group_rows} rows cannot be written"
            );
            return Err(DataError::Settings(reason));
        }
        options.check_sizes()?;
        if location.exists(MANIFEST).await? {
            return Err(StoreError::AlreadyExists { url: location.url_of(MANIFEST) }.into());
        }
        let shape =
            RowShape { tokens, dim, question_conditioned: options.encoder.question_conditioned };
        let (rows, ids) = (Vec::new(), HashSet::new());
        Ok(ShardWriter { location, options, shape, rows, buffered: 0, open: None, shards, ids })
    }

    /// The shards that are stored so far.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`DataError::Row`] for a row that does not belong here: features of another size, values that are not
    /// finite, an id that was there before; [`DataError::Store`] where a full shard cannot be stored.
    pub async fn write(&mut self, row: Row) -> Result<(), DataError> {
        row.check(self.shape, self.options.dtype)?;
        if !self.ids.insert(XxHash3_128::oneshot(row.id.as_bytes())) {
            return Err(DataError::Row {
                id: row.id,
                reason: "the id was written before".to_owned(),
            });
        }
        let bytes = row.features.len() as u64;
        let automatic = self.options.rows_per_group.is_none();
        let most = self.options.most_group_bytes();
        if automatic && !self.rows.is_empty() && self.buffered + bytes > most {
            self.end_group().await?;
        }
        self.rows.push(row);
        self.buffered += bytes;
        let full = match self.options.rows_per_group {
            Some(rows) => self.rows.len() >= rows,
            None => self.buffered >= self.options.group_bytes || self.rows.len() >= GROUP_ROWS,
        };
        if full { self.end_group().await } else { Ok(()) }
    }

    /// Stores all that was written so far; the next row begins a new shard.
    ///
    /// # Errors
    /// [`DataError::Store`] where storage fails.
    pub async fn flush(&mut self) -> Result<(), DataError> {
        self.end_group().await?;
        self.end_shard().await
    }

    /// Stores the last shard and then the manifest, which makes the folder a data set.
    ///
    /// # Errors
    /// [`DataError::Settings`] where no row was written, [`DataError::Store`] where storage fails or another writer
    /// finished here first.
    pub async fn finish(mut self) -> Result<Manifest, DataError> {
        self.flush().await?;
        if self.shards.is_empty() {
            return Err(DataError::Settings(format!(
                "{}: a data set without a row cannot be written",
                self.location
            )));
        }
        let WriterOptions { encoder, tokens, dim, dtype, .. } = self.options;
        let manifest = Manifest::new(encoder, tokens, dim, dtype, self.shards);
        self.location.put_new(MANIFEST, Bytes::from(manifest.to_json())).await?;
        Ok(manifest)
    }

    async fn end_group(&mut self) -> Result<(), DataError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.buffered = 0;
        let open = self.open.take().map_or_else(OpenShard::new, Ok);
        let added = open.and_then(|mut open| open.add(&rows).map(|()| open));
        let open = added.map_err(|error| self.unwritable(error))?;
        let full = open.writer.bytes_written() as u64 >= self.options.shard_bytes;
        self.open = Some(open);
        if full { self.end_shard().await } else { Ok(()) }
    }

    async fn end_shard(&mut self) -> Result<(), DataError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let path = self.next_path();
        let (file, groups) = open.finish().map_err(|error| self.unwritable(error))?;
        let described = describe(&path, &file, &groups);
        let shard = described.ok_or_else(|| self.unwritable(not_read_back()))?;
        self.location.put(&path, file.into()).await?;
        self.shards.push(shard);
        Ok(())
    }

    fn next_path(&self) -> String {
        format!("shard-{:05}.parquet", self.shards.len())
    }

    fn unwritable(&self, error: ParquetError) -> DataError {
        let place = Place::shard(self.location.url_of(&self.next_path()));
        DataError::Shard { place, reason: format!("cannot be written: {error}") }
    }
}

impl OpenShard {
    fn new() -> Result<OpenShard, ParquetError> {
        // Without Arrow's own copy of the schema a shard is plain parquet, and the same for every Arrow version.
        let options =
            ArrowWriterOptions::new().with_skip_arrow_metadata(true).with_properties(properties()?);
        let writer =
            ArrowWriter::try_new_with_options(Vec::new(), schema(DataType::Binary), options)?;
        Ok(OpenShard { writer, groups: Vec::new() })
    }

    fn add(&mut self, rows: &[Row]) -> Result<(), ParquetError> {
        self.writer.write(&encode(rows)?)?;
        self.writer.flush()?;
        let texts = rows.iter().flat_map(|row| row.qa.iter().map(|pair| pair.text_len() as u64));
        let frames = rows.iter().map(|row| row.frames as u64);
        self.groups.push(GroupContent {
            rows: rows.len() as u64,
            frames: extent(frames),
            text: extent(texts),
        });
        Ok(())
    }

    /// The file and what its row groups hold. Its footer tells the checksum of what is not features.
    fn finish(mut self) -> Result<(Vec<u8>, Vec<GroupContent>), ParquetError> {
        self.writer.sync()?;
        let groups = self.writer.flushed_row_groups().iter();
        let rests = groups.map(|group| rest_xxh3(self.writer.inner(), group));
        let rests: Option<Vec<u64>> = rests.collect();
        let rests = rests.ok_or_else(not_read_back)?;
        self.writer.append_key_value_metadata(rest_checksum::entry(&rests));
        Ok((self.writer.into_inner()?, self.groups))
    }
}

/// No input should lead here: what the parquet library wrote just now has not the layout that its footer tells.
fn not_read_back() -> ParquetError {
    let what = "the layout of what was written is not the one asked for; no input should do this, please report it";
    ParquetError::General(what.to_owned())
}

fn rest_xxh3(file: &[u8], group: &RowGroupMetaData) -> Option<u64> {
    let range = group_range(group)?;
    let bytes = file.get(range.start as usize..range.end as usize)?;
    let rest = rest_checksum::rest_of(bytes, range.start, column_range(group.column(FEATURES))?)?;
    Some(rest.xxh3)
}

/// Least and greatest value; zeros where there is none.
pub(crate) fn extent(values: impl Iterator<Item = u64>) -> [u64; 2] {
    let extent = values.fold(None, |extent: Option<[u64; 2]>, value| {
        let [least, greatest] = extent.unwrap_or([value, value]);
        Some([least.min(value), greatest.max(value)])
    });
    extent.unwrap_or_default()
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let features = ColumnPath::from("features");
    // Checksums do not compress, and plain ones can be read even where the row group is damaged.
    let checksums = ColumnPath::from("xxh3");
    Ok(WriterProperties::builder()
        .set_created_by(concat!("strand ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_column_compression(features.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(features, false)
        .set_column_compression(checksums.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(checksums, false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(MAX_GROUP_ROWS as usize))
        .build())
}

/// A finished file as the manifest tells it; `None` if it is not what was written.
fn describe(path: &str, file: &[u8], contents: &[GroupContent]) -> Option<Shard> {
    let footer_bytes = footer_length(file)?;
    let tail = &file[file.len().checked_sub((footer_bytes + TAIL_BYTES) as usize)?..];
    let metadata = parse(tail).ok()?;
    let footer_xxh3 = Xxh3(xxh3(&tail[..footer_bytes as usize]));
    let found = metadata.row_groups();
    let described = contents.iter().zip(found).map(|(content, group)| {
        let range = group_range(group)?;
        let bytes = file.get(range.start as usize..range.end as usize)?;
        let GroupContent { rows, frames, text } = *content;
        let size = bytes.len() as u64;
        Some(Group {
            rows,
            offset: range.start,
            bytes: size,
            xxh3: Xxh3(xxh3(bytes)),
            frames,
            text,
        })
    });
    let groups: Vec<Group> = described.collect::<Option<_>>()?;
    (groups.len() == found.len()).then(|| Shard {
        path: path.to_owned(),
        bytes: file.len() as u64,
        rows: groups.iter().map(|group| group.rows).sum(),
        blake3: blake3::hash(file).to_hex().to_string(),
        footer_bytes,
        footer_xxh3,
        groups,
    })
}
