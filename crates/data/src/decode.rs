//! Rows of a fetched row group.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, UInt64Type};
use arrow_array::{
    BinaryViewArray, ListArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::file::metadata::RowGroupMetaData;
use strand_store::xxh3;

use crate::dataset::guarded;
use crate::decompress::{FileParts, record_batches};
use crate::error::Place;
use crate::footer::{check_pages, chunk};
use crate::manifest::Group;
use crate::pages::plain_values;
use crate::rest_checksum;
use crate::row::RowShape;
use crate::schema::{CHECKSUMS, FEATURES};
use crate::{DataError, Dataset, Media, Qa, Row};

/// Which checksums a row group is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    /// The group's: it covers every byte once, the features and their own checksums among them. Those only serve to
    /// tell the row where it differs.
    Group,
    /// The group's, then those of the rows: so a shard that was written wrong shows, too.
    GroupAndRows,
}

/// Decodes a row group whose bytes are as they were written. Features point into `bytes`.
pub(crate) fn decode_group(
    place: &Place,
    footer: &ArrowReaderMetadata,
    group: &Group,
    shape: RowShape,
    bytes: Bytes,
    checksums: Checksums,
) -> Result<Vec<Row>, DataError> {
    let bad = |reason: String| DataError::Shard { place: place.clone(), reason };
    let index = place.group.unwrap_or_default();
    let found = footer
        .metadata()
        .row_groups()
        .get(index)
        .ok_or_else(|| bad("not in the footer".to_owned()))?;
    if xxh3(&bytes) != group.xxh3.0 {
        return Err(damage(place, found, group, &bytes));
    }
    check_pages(found, group, &bytes).map_err(bad)?;
    let rest = || rest_checksum::is_intact(footer.metadata(), index, &bytes, group.offset);
    if checksums == Checksums::GroupAndRows && rest() == Some(false) {
        return Err(bad("the footer has another checksum of its texts".to_owned()));
    }
    read_rows(place, footer, group, shape, bytes, checksums)
}

/// Where a damaged row group is damaged: a row where it is one's features, else the row group.
fn damage(place: &Place, found: &RowGroupMetaData, group: &Group, bytes: &[u8]) -> DataError {
    let values = |column, size| plain_values(chunk(found.column(column), group, bytes)?, size);
    let checksums = values(CHECKSUMS, Some(8)).unwrap_or_default();
    let features = values(FEATURES, None).unwrap_or_default();
    let differs = |(features, checksum): (&[u8], &[u8])| xxh3(features).to_le_bytes() != checksum;
    match features.into_iter().zip(checksums).position(differs) {
        Some(row) => DataError::Checksum { place: place.row(row), what: "the features".to_owned() },
        None => DataError::Checksum { place: place.clone(), what: "the row group".to_owned() },
    }
}

/// A row and, where the row itself is damaged, the id it has.
type RowResult = (Option<String>, Result<Row, DataError>);

/// Fetches a damaged row group once more and decodes it row by row.
///
/// # Errors
/// Where it cannot be told which rows are damaged, and what storage does.
pub(crate) async fn decode_rows(
    set: &Dataset,
    shard: usize,
    group: usize,
) -> Result<Vec<RowResult>, DataError> {
    let (file, description) = set.group(shard, group)?;
    let place = Place::group(set.location().url_of(&file.path), group);
    let footer = set.footer(shard, file).await?;
    let bytes = set.read(file, description.range()).await?;
    let (task, group, shape) = (place.clone(), description.clone(), set.manifest().row_shape());
    guarded(&place, move || {
        let bad = |reason: String| DataError::Shard { place: task.clone(), reason };
        let index = task.group.unwrap_or_default();
        let found = footer.metadata().row_groups().get(index);
        let found = found.ok_or_else(|| bad("not in the footer".to_owned()))?;
        check_pages(found, &group, &bytes).map_err(bad)?;
        let is_intact = xxh3(&bytes) == group.xxh3.0;
        let rest = rest_checksum::is_intact(footer.metadata(), index, &bytes, group.offset);
        let rows = row_results(&task, &footer, &group, shape, bytes, Checksums::GroupAndRows)?;
        // Damage that lies in no row's features lies in the small columns, for which nothing vouches row by row.
        let in_features = rest.unwrap_or_else(|| rows.iter().any(|(_, row)| row.is_err()));
        if !is_intact && !in_features {
            return Err(DataError::Checksum {
                place: task.clone(),
                what: "the row group".to_owned(),
            });
        }
        Ok(rows)
    })
    .await
}

fn read_rows(
    place: &Place,
    footer: &ArrowReaderMetadata,
    group: &Group,
    shape: RowShape,
    bytes: Bytes,
    checksums: Checksums,
) -> Result<Vec<Row>, DataError> {
    let rows = row_results(place, footer, group, shape, bytes, checksums)?;
    rows.into_iter().map(|(_, row)| row).collect()
}

fn row_results(
    place: &Place,
    footer: &ArrowReaderMetadata,
    group: &Group,
    shape: RowShape,
    bytes: Bytes,
    checksums: Checksums,
) -> Result<Vec<RowResult>, DataError> {
    let bad = |reason: String| DataError::Shard { place: place.clone(), reason };
    let index = place.group.unwrap_or_default();
    let parts = FileParts(vec![(group.offset, bytes.clone())]);
    let rows = group.rows as usize;
    let batches = record_batches(footer, index, &parts, ProjectionMask::all(), rows);
    let batches = batches.map_err(|error| bad(error.to_string()))?;
    let mut rows = Vec::with_capacity(group.rows as usize);
    for batch in batches {
        let batch = batch.map_err(|error| bad(error.to_string()))?;
        let columns =
            Columns::new(&batch).ok_or_else(|| bad("a column has another type".to_owned()))?;
        for i in 0..batch.num_rows() {
            let place = place.row(rows.len());
            let checked = match checksums {
                Checksums::GroupAndRows => columns.check(i, &place),
                Checksums::Group => Ok(()),
            };
            let row = checked.and_then(|()| columns.row(i, &place, shape, &bytes));
            rows.push((row.is_err().then(|| columns.id.value(i).to_owned()), row));
        }
    }
    if rows.len() as u64 != group.rows {
        return Err(bad(format!("{} rows, the manifest says {}", rows.len(), group.rows)));
    }
    Ok(rows)
}

/// The columns of a record batch, by their types.
struct Columns<'a> {
    id: &'a StringArray,
    video: &'a StringArray,
    media: &'a StringArray,
    frames: &'a PrimitiveArray<Int32Type>,
    tokens: &'a PrimitiveArray<Int32Type>,
    features: &'a BinaryViewArray,
    xxh3: &'a PrimitiveArray<UInt64Type>,
    seconds: &'a ListArray,
    qa: &'a ListArray,
    pairs: Pairs<'a>,
}

impl<'a> Columns<'a> {
    fn new(batch: &'a RecordBatch) -> Option<Columns<'a>> {
        let column = |name| batch.column_by_name(name);
        let qa = column("qa")?.as_list_opt()?;
        Some(Columns {
            id: column("id")?.as_string_opt()?,
            video: column("video")?.as_string_opt()?,
            media: column("media")?.as_string_opt()?,
            frames: column("frames")?.as_primitive_opt()?,
            tokens: column("tokens")?.as_primitive_opt()?,
            features: column("features")?.as_binary_view_opt()?,
            xxh3: column("xxh3")?.as_primitive_opt()?,
            seconds: column("seconds")?.as_list_opt()?,
            qa,
            pairs: Pairs::new(qa.values().as_struct_opt()?)?,
        })
    }

    fn check(&self, i: usize, place: &Place) -> Result<(), DataError> {
        if xxh3(self.features.value(i)) == self.xxh3.value(i) {
            return Ok(());
        }
        let what = format!("the features of sample `{}`", self.id.value(i));
        Err(DataError::Checksum { place: place.clone(), what })
    }

    fn row(
        &self,
        i: usize,
        place: &Place,
        shape: RowShape,
        bytes: &Bytes,
    ) -> Result<Row, DataError> {
        let bad = |reason: String| DataError::Shard { place: place.clone(), reason };
        let media = self.media.value(i);
        let row = Row {
            id: self.id.value(i).to_owned(),
            video: self.video.value(i).to_owned(),
            media: Media::parse(media).ok_or_else(|| bad(format!("unknown media `{media}`")))?,
            frames: usize::try_from(self.frames.value(i)).unwrap_or_default(),
            tokens: usize::try_from(self.tokens.value(i)).unwrap_or_default(),
            features: shared(bytes, self.features.value(i)),
            seconds: self
                .seconds(i)
                .ok_or_else(|| bad("the times have another type".to_owned()))?,
            qa: range(self.qa, i).map(|j| self.pairs.get(j)).collect(),
        };
        match shape.refuse(&row) {
            Some(reason) => Err(bad(format!("sample `{}`: {reason}", row.id))),
            None => Ok(row),
        }
    }

    fn seconds(&self, i: usize) -> Option<Vec<f32>> {
        let values = self.seconds.values().as_primitive_opt::<Float32Type>()?;
        values.values().get(range(self.seconds, i)).map(<[f32]>::to_vec)
    }
}

/// The columns below `qa`.
pub(crate) struct Pairs<'a> {
    instruction: &'a StringArray,
    question: &'a StringArray,
    answer: &'a StringArray,
    options: &'a ListArray,
    option: &'a StringArray,
    kind: &'a StringArray,
}

impl<'a> Pairs<'a> {
    pub fn new(structs: &'a StructArray) -> Option<Pairs<'a>> {
        let column = |name| structs.column_by_name(name);
        let options: &ListArray = column("options")?.as_list_opt()?;
        Some(Pairs {
            instruction: column("instruction")?.as_string_opt()?,
            question: column("question")?.as_string_opt()?,
            answer: column("answer")?.as_string_opt()?,
            options,
            option: options.values().as_string_opt()?,
            kind: column("kind")?.as_string_opt()?,
        })
    }

    pub fn get(&self, j: usize) -> Qa {
        Qa {
            instruction: self.instruction.value(j).to_owned(),
            question: self.question.value(j).to_owned(),
            answer: self.answer.value(j).to_owned(),
            options: range(self.options, j).map(|k| self.option.value(k).to_owned()).collect(),
            kind: self.kind.value(j).to_owned(),
        }
    }
}

/// The elements of a list.
pub(crate) fn range(list: &ListArray, i: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    offsets[i] as usize..offsets[i + 1] as usize
}

/// `part` as a piece of `whole` where it lies inside, else a copy (values of up to 12 bytes are kept inline).
fn shared(whole: &Bytes, part: &[u8]) -> Bytes {
    let inside = whole.as_ptr_range().contains(&part.as_ptr())
        && part.as_ptr_range().end <= whole.as_ptr_range().end;
    if inside { whole.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}
