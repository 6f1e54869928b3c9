//! Plain parquet files that others wrote in the schema of shards: looked at, checked, and given a manifest.

use std::collections::HashSet;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use strand_store::{Entry, Location, xxh3};
use twox_hash::XxHash3_128;

use crate::dataset::guarded;
use crate::decode::{Checksums, decode_group};
use crate::error::Place;
use crate::footer::{self, chunk, footer_length, group_range};
use crate::manifest::{
    Group, MANIFEST, MAX_FOOTER_BYTES, MAX_GROUP_BYTES, Shard, TAIL_BYTES, Xxh3,
};
use crate::pages::plain_values;
use crate::row::RowShape;
use crate::schema::FEATURES;
use crate::texts;
use crate::walk::pieces;
use crate::writer::extent;
use crate::{DataError, Dtype, Encoder, Manifest, Row};

/// A parquet file that no manifest tells of.
#[derive(Clone, Debug)]
pub struct PlainFile {
    place: Place,
    /// As a manifest would describe it; checksums, frames and texts are not known before the rows are read.
    shard: Shard,
    footer: ArrowReaderMetadata,
}

impl PlainFile {
    /// Reads the footer of a file: `tail` is the end of a file of `size` bytes, with all of the footer in it.
    fn parse(place: Place, path: &str, size: u64, tail: &[u8]) -> Result<PlainFile, DataError> {
        let bad = |reason: String| DataError::Shard { place: place.clone(), reason };
        let metadata = footer::parse(tail).map_err(bad)?;
        let groups = metadata.row_groups().iter().map(|group| {
            let range = group_range(group)?;
            let rows = u64::try_from(group.num_rows()).ok()?;
            let (offset, bytes) = (range.start, range.end - range.start);
            let xxh3 = Xxh3(0);
            Some(Group { rows, offset, bytes, xxh3, frames: [1, 1], text: [0, 0] })
        });
        let groups: Option<Vec<Group>> = groups.collect();
        let groups = groups.ok_or_else(|| bad("a row group of a negative size".to_owned()))?;
        let shard = Shard {
            path: path.to_owned(),
            bytes: size,
            rows: groups.iter().fold(0, |rows, group| rows.saturating_add(group.rows)),
            blake3: "0".repeat(64),
            footer_bytes: tail.len() as u64 - TAIL_BYTES,
            footer_xxh3: Xxh3(xxh3(&tail[..tail.len() - TAIL_BYTES as usize])),
            groups,
        };
        shard.check(RowShape { tokens: 1, dim: 1, question_conditioned: false }).map_err(bad)?;
        let footer = footer::check(&shard, tail).map_err(bad)?;
        Ok(PlainFile { place, shard, footer })
    }

    /// Its path in the folder.
    pub fn path(&self) -> &str {
        &self.shard.path
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.shard.bytes
    }

    /// Its rows.
    pub fn num_rows(&self) -> u64 {
        self.shard.rows
    }

    /// Its row groups.
    pub fn num_groups(&self) -> usize {
        self.shard.groups.len()
    }

    /// Reads a row group; its description becomes a full one.
    fn read(
        &mut self,
        index: usize,
        bytes: Bytes,
        known: &mut Known,
    ) -> Result<Vec<Row>, DataError> {
        let place = Place { group: Some(index), ..self.place.clone() };
        let group = &mut self.shard.groups[index];
        group.xxh3 = Xxh3(xxh3(&bytes));
        let shape = match known.shape {
            Some(shape) => shape,
            None => *known.shape.insert(shape_of(
                &place,
                &self.footer,
                group,
                &bytes,
                known.conditioned,
            )?),
        };
        let checksums = Checksums::GroupAndRows;
        let rows = decode_group(&place, &self.footer, group, shape, bytes, checksums)?;
        for row in &rows {
            row.check(shape, known.dtype)?;
            if !known.ids.insert(XxHash3_128::oneshot(row.id.as_bytes())) {
                let reason = "another row has the same id".to_owned();
                return Err(DataError::Row { id: row.id.clone(), reason });
            }
        }
        group.frames = extent(rows.iter().map(|row| row.frames as u64));
        group.text =
            extent(rows.iter().flat_map(|row| row.qa.iter().map(|qa| qa.text_len() as u64)));
        Ok(rows)
    }
}

/// What is known of a data set while its files are read.
struct Known {
    dtype: Dtype,
    conditioned: bool,
    shape: Option<RowShape>,
    ids: HashSet<u128>,
}

impl Known {
    fn new(dtype: Dtype, conditioned: bool) -> Known {
        Known { dtype, conditioned, shape: None, ids: HashSet::new() }
    }
}

/// The shape of the features, told by the first row of a row group.
fn shape_of(
    place: &Place,
    footer: &ArrowReaderMetadata,
    group: &Group,
    bytes: &Bytes,
    question_conditioned: bool,
) -> Result<RowShape, DataError> {
    let bad = |reason: &str| DataError::Shard { place: place.clone(), reason: reason.to_owned() };
    let found = footer.metadata().row_group(place.group.unwrap_or_default());
    let features = chunk(found.column(FEATURES), group, bytes)
        .and_then(|chunk| Some(plain_values(chunk, None)?.first()?.len()))
        .ok_or_else(|| bad("the features are not stored plain, one after the other"))?;
    let rows = texts::decode_whole(place, footer, group, bytes.clone())?;
    let first = rows.first().ok_or_else(|| bad("it has no row"))?;
    let values = first.frames.checked_mul(first.tokens).and_then(|n| n.checked_mul(Dtype::BYTES));
    match values {
        Some(values) if values > 0 && features > 0 && features.is_multiple_of(values) => {
            Ok(RowShape { tokens: first.tokens, dim: features / values, question_conditioned })
        }
        _ => Err(bad("the first row's features are not frames × tokens × values")),
    }
}

/// Reads a whole parquet file in the schema of shards that lies in memory, with every check but those of a manifest.
///
/// # Errors
/// [`DataError::Shard`], [`DataError::Checksum`] and [`DataError::Row`]; the shard's name is `name`.
pub fn read_plain(name: &str, file: &Bytes, dtype: Dtype) -> Result<Vec<Row>, DataError> {
    let place = Place::shard(name.to_owned());
    let bad = |reason: &str| DataError::Shard { place: place.clone(), reason: reason.to_owned() };
    let length = footer_length(file).filter(|&length| length <= MAX_FOOTER_BYTES);
    let start = length.and_then(|length| (file.len() as u64).checked_sub(length + TAIL_BYTES));
    let start = start.ok_or_else(|| bad("it does not end as a parquet file"))?;
    let tail = &file[start as usize..];
    let mut plain = PlainFile::parse(place.clone(), "file.parquet", file.len() as u64, tail)?;
    let mut known = Known::new(dtype, false);
    let mut rows = Vec::new();
    for index in 0..plain.num_groups() {
        let range = plain.shard.groups[index].range();
        let bytes = file.slice(range.start as usize..range.end as usize);
        rows.extend(plain.read(index, bytes, &mut known)?);
    }
    Ok(rows)
}

/// Reads the footers of all parquet files of a folder, in the order of their names.
///
/// # Errors
/// [`DataError::Settings`] where there is none, [`DataError::Shard`] for one that cannot be a shard.
pub async fn plain_files(location: &Location) -> Result<Vec<PlainFile>, DataError> {
    let listed = location.list("").await?;
    let entries: Vec<Entry> =
        listed.into_iter().filter(|entry| entry.path.ends_with(".parquet")).collect();
    if entries.is_empty() {
        return Err(DataError::Settings(format!("{location}: no parquet file")));
    }
    let mut files = Vec::new();
    for entry in entries {
        files.push(plain_file(location, entry).await?);
    }
    Ok(files)
}

async fn plain_file(location: &Location, entry: Entry) -> Result<PlainFile, DataError> {
    let Entry { path, bytes: size } = entry;
    let place = Place::shard(location.url_of(&path));
    let bad = |reason: String| DataError::Shard { place: place.clone(), reason };
    let end = location.get_range(&path, size.saturating_sub(TAIL_BYTES)..size).await?;
    let length = footer_length(&end).ok_or_else(|| bad("the file is too short".to_owned()))?;
    let start = size.checked_sub(length + TAIL_BYTES).filter(|_| length <= MAX_FOOTER_BYTES);
    let start = start.ok_or_else(|| bad(format!("a footer of {length} bytes")))?;
    let tail = location.get_range(&path, start..size).await?;
    let task = place.clone();
    guarded(&place, move || PlainFile::parse(task, &path, size, &tail)).await
}

/// Writes the manifest of a folder of plain parquet files, after every row of them was checked. `progress` is called
/// with rows read, of all rows.
///
/// # Errors
/// Those of [`plain_files`], [`DataError::Checksum`] and [`DataError::Row`] for rows that do not belong into a data
/// set, [`DataError::Store`] where there is a manifest already or storage fails.
pub async fn adopt(
    location: &Location,
    encoder: Encoder,
    dtype: Dtype,
    mut progress: impl FnMut(u64, u64),
) -> Result<Manifest, DataError> {
    if location.exists(MANIFEST).await? {
        return Err(
            strand_store::StoreError::AlreadyExists { url: location.url_of(MANIFEST) }.into()
        );
    }
    let files = plain_files(location).await?;
    let total = files.iter().map(PlainFile::num_rows).sum();
    let mut known = Known::new(dtype, encoder.question_conditioned);
    let (mut shards, mut done) = (Vec::new(), 0);
    for file in files {
        let mut count = |rows| {
            done += rows;
            progress(done, total);
        };
        let (shard, read) = read_all(location, file, known, &mut count).await?;
        known = read;
        shards.push(shard);
    }
    let shape = known.shape.unwrap_or(RowShape { tokens: 0, dim: 0, question_conditioned: false });
    let manifest = Manifest::new(encoder, shape.tokens, shape.dim, dtype, shards);
    let json = manifest.to_json();
    Manifest::parse(&location.url_of(MANIFEST), json.as_bytes())?;
    location.put_new(MANIFEST, Bytes::from(json)).await?;
    Ok(manifest)
}

/// Reads a file from its first byte to its last and fills in what its description lacks.
async fn read_all(
    location: &Location,
    mut file: PlainFile,
    mut known: Known,
    count: &mut impl FnMut(u64),
) -> Result<(Shard, Known), DataError> {
    let place = file.place.clone();
    let mut hasher = blake3::Hasher::new();
    for (range, group) in pieces(file.shard.bytes, &file.shard.groups) {
        if range.end - range.start > MAX_GROUP_BYTES {
            let reason = format!("a row group of {} bytes", range.end - range.start);
            return Err(DataError::Shard { place, reason });
        }
        let bytes = location.get_range(&file.shard.path, range).await?;
        let work = move || {
            hasher.update(&bytes);
            let rows = match group {
                Some(index) => file.read(index, bytes, &mut known)?.len(),
                None => 0,
            };
            Ok((file, known, hasher, rows))
        };
        let rows;
        (file, known, hasher, rows) = guarded(&place, work).await?;
        count(rows as u64);
    }
    file.shard.blake3 = hasher.finalize().to_hex().to_string();
    Ok((file.shard, known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Folder, encoder, options, row};

    async fn plain(ids: &[usize]) -> Folder {
        let rows = ids.iter().map(|&i| row(i, 1 + i % 4)).collect();
        let folder = Folder::write(rows, options(3, 1_500)).await;
        std::fs::remove_file(folder.guard.path().join(MANIFEST)).expect("removed");
        folder
    }

    async fn adopted(folder: &Folder) -> Result<Manifest, DataError> {
        adopt(&folder.location, encoder(), Dtype::F16, |_, _| {}).await
    }

    #[tokio::test]
    async fn a_lost_manifest_is_written_again() {
        let folder = plain(&(0..20).collect::<Vec<_>>()).await;
        let mut last = (0, 0);
        let files = plain_files(&folder.location).await.expect("files");
        assert!(files.len() > 1 && files.iter().map(PlainFile::num_rows).sum::<u64>() == 20);
        let count = |done, total| last = (done, total);
        let manifest =
            adopt(&folder.location, encoder(), Dtype::F16, count).await.expect("adopted");
        assert_eq!((manifest, last), (folder.manifest.clone(), (20, 20)));
        folder.open().await.verify_shard(0).await.expect("sound");
        assert!(adopted(&folder).await.expect_err("twice").to_string().contains("already exists"));
    }

    #[tokio::test]
    async fn what_does_not_belong_is_named_and_nothing_is_written() {
        let folder = plain(&[1, 2, 3]).await;
        let (first, second) = ("shard-00000.parquet", "shard-00001.parquet");
        let path = |name| folder.guard.path().join(name);
        std::fs::copy(path(first), path(second)).expect("copied");
        let error = adopted(&folder).await.expect_err("an id twice").to_string();
        assert_eq!(error, "sample `clip-1`: another row has the same id");
        let features = row(2, 3).features;
        folder.edit("shard-00000.parquet", |file| {
            let at = file.windows(features.len()).position(|window| window == features);
            file[at.expect("stored as is") + 1] ^= 1;
        });
        let error = adopted(&folder).await.expect_err("damaged").to_string();
        assert!(error.contains("row group 0, row 1: checksum mismatch"), "{error}");
        folder.edit("shard-00000.parquet", |file| file.truncate(100));
        let error = adopted(&folder).await.expect_err("cut").to_string();
        assert!(error.contains("shard-00000.parquet: bad shard: a footer of"), "{error}");
        assert!(!folder.location.exists(MANIFEST).await.expect("known"));
    }

    #[tokio::test]
    async fn a_file_in_memory_gives_the_same_rows() {
        let folder = Folder::write((0..5).map(|i| row(i, 2)).collect(), options(2, 1 << 20)).await;
        let file = folder.location.get("shard-00000.parquet").await.expect("read");
        let rows = read_plain("x", &file, Dtype::F16).expect("rows");
        assert_eq!(rows, (0..5).map(|i| row(i, 2)).collect::<Vec<_>>());
        assert!(read_plain("x", &Bytes::new(), Dtype::F16).is_err());
        assert!(read_plain("x", &file.slice(5..), Dtype::F16).is_err());
    }
}
