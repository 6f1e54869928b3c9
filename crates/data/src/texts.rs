//! Rows without their features: what a look through a large data set needs, for a thousandth of its bytes.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{ListArray, RecordBatch};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::file::metadata::RowGroupMetaData;

use crate::dataset::guarded;
use crate::decode::{Pairs, range};
use crate::decompress::{FileParts, record_batches};
use crate::error::Place;
use crate::footer::{check_chunk, column_range};
use crate::manifest::Group;
use crate::schema::{CHECKSUMS, FEATURES};
use crate::{DataError, Dataset, Media, Qa, Row};

/// A row without its features.
#[derive(Clone, Debug, PartialEq)]
pub struct RowText {
    /// Its id.
    pub id: String,
    /// Its source.
    pub video: String,
    /// Video or image.
    pub media: Media,
    /// T.
    pub frames: usize,
    /// K.
    pub tokens: usize,
    /// Time of each frame in seconds; empty where it is not known.
    pub seconds: Vec<f32>,
    /// Its pairs.
    pub qa: Vec<Qa>,
}

impl RowText {
    pub(crate) fn with_features(self, features: Bytes) -> Row {
        let RowText { id, video, media, frames, tokens, seconds, qa } = self;
        Row { id, video, media, frames, tokens, features, seconds, qa }
    }
}

impl Dataset {
    /// Reads the rows of a row group without their features. Sizes are checked as in [`Dataset::read_group`], but
    /// not the checksums, which cover features too.
    ///
    /// # Errors
    /// As [`Dataset::read_group`].
    pub async fn read_texts(&self, shard: usize, group: usize) -> Result<Vec<RowText>, DataError> {
        let description = self.shard(shard)?;
        let place = Place::group(self.location().url_of(&description.path), group);
        let Some(expected) = description.groups.get(group).cloned() else {
            return Err(DataError::Settings(format!("{place}: there is no such row group")));
        };
        let footer = self.footer(shard, description).await?;
        let found = footer.metadata().row_group(group);
        let ranges = text_ranges(found).ok_or_else(|| DataError::Shard {
            place: place.clone(),
            reason: "a column of a negative size".to_owned(),
        })?;
        let reads = ranges.iter().map(|range| self.read(description, range.clone()));
        let bytes = futures::future::try_join_all(reads).await?;
        let parts = FileParts(ranges.into_iter().map(|range| range.start).zip(bytes).collect());
        let task = place.clone();
        guarded(&place, move || decode(&task, &footer, &expected, &parts)).await
    }
}

/// Whether a column is read.
fn is_text(column: usize) -> bool {
    column != FEATURES && column != CHECKSUMS
}

/// The bytes of all columns but features and checksums, neighbours in one.
fn text_ranges(group: &RowGroupMetaData) -> Option<Vec<Range<u64>>> {
    let columns = group.columns().iter().enumerate().filter(|(index, _)| is_text(*index));
    let mut ranges: Vec<Range<u64>> =
        columns.map(|(_, column)| column_range(column)).collect::<Option<_>>()?;
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let neighbours = next.start <= last.end;
        if neighbours {
            last.end = last.end.max(next.end);
        }
        neighbours
    });
    Some(ranges)
}

/// As [`Dataset::read_texts`], of a row group whose bytes are all there.
pub(crate) fn decode_whole(
    place: &Place,
    footer: &ArrowReaderMetadata,
    group: &Group,
    bytes: Bytes,
) -> Result<Vec<RowText>, DataError> {
    decode(place, footer, group, &FileParts(vec![(group.offset, bytes)]))
}

/// The rows of a row group without features, of what was read of its file.
pub(crate) fn decode(
    place: &Place,
    footer: &ArrowReaderMetadata,
    group: &Group,
    parts: &FileParts,
) -> Result<Vec<RowText>, DataError> {
    let bad = |reason: String| DataError::Shard { place: place.clone(), reason };
    let index = place.group.unwrap_or_default();
    for (column, found) in footer.metadata().row_group(index).columns().iter().enumerate() {
        if is_text(column) {
            let chunk = column_range(found).and_then(|range| parts.get(range));
            let chunk = chunk.ok_or_else(|| bad("a column is not there".to_owned()))?;
            check_chunk(found, &chunk, false).map_err(bad)?;
        }
    }
    let roots = (0..footer.schema().fields().len()).filter(|&column| is_text(column));
    let mask = ProjectionMask::roots(footer.parquet_schema(), roots);
    let batches = record_batches(footer, index, parts, mask, group.rows as usize);
    let batches = batches.map_err(|error| bad(error.to_string()))?;
    let mut rows = Vec::with_capacity(group.rows as usize);
    for batch in batches {
        let batch = batch.map_err(|error| bad(error.to_string()))?;
        rows.extend(texts(&batch).ok_or_else(|| bad("a column has another type".to_owned()))?);
    }
    Ok(rows)
}

/// The rows of a batch; `None` for columns of other types or words.
fn texts(batch: &RecordBatch) -> Option<Vec<RowText>> {
    let column = |name| batch.column_by_name(name);
    let texts = |name| column(name)?.as_string_opt::<i32>();
    let (ids, videos, media) = (texts("id")?, texts("video")?, texts("media")?);
    let numbers = |name| column(name)?.as_primitive_opt::<Int32Type>();
    let (frames, tokens) = (numbers("frames")?, numbers("tokens")?);
    let seconds: &ListArray = column("seconds")?.as_list_opt()?;
    let times = seconds.values().as_primitive_opt::<Float32Type>()?.values();
    let qa: &ListArray = column("qa")?.as_list_opt()?;
    let pairs = Pairs::new(qa.values().as_struct_opt()?)?;
    let row = |i: usize| {
        Some(RowText {
            id: ids.value(i).to_owned(),
            video: videos.value(i).to_owned(),
            media: Media::parse(media.value(i))?,
            frames: usize::try_from(frames.value(i)).ok()?,
            tokens: usize::try_from(tokens.value(i)).ok()?,
            seconds: times.get(range(seconds, i))?.to_vec(),
            qa: range(qa, i).map(|j| pairs.get(j)).collect(),
        })
    };
    (0..batch.num_rows()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::{Folder, options, row};

    #[tokio::test]
    async fn texts_are_those_of_the_rows() {
        let rows: Vec<_> = (0..10).map(|i| row(i, 1 + i % 4)).collect();
        let folder = Folder::write(rows, options(4, 1 << 20)).await;
        let set = folder.open().await;
        for group in 0..3 {
            let whole = set.read_group(0, group).await.expect("rows");
            let texts = set.read_texts(0, group).await.expect("texts");
            assert_eq!(whole.len(), texts.len());
            for (whole, text) in whole.iter().zip(&texts) {
                assert_eq!(
                    (&whole.id, &whole.video, whole.media),
                    (&text.id, &text.video, text.media)
                );
                assert_eq!((whole.frames, whole.tokens), (text.frames, text.tokens));
                assert_eq!((&whole.seconds, &whole.qa), (&text.seconds, &text.qa));
            }
        }
    }

    #[tokio::test]
    async fn features_are_not_read() {
        let folder = Folder::write(vec![row(0, 5)], options(4, 1 << 20)).await;
        let features = row(0, 5).features;
        folder.edit("shard-00000.parquet", |file| {
            let at = file.windows(features.len()).position(|window| window == features);
            file[at.expect("stored as is")] ^= 1;
        });
        assert_eq!(folder.open().await.read_texts(0, 0).await.expect("texts")[0].id, "clip-0");
    }
}
