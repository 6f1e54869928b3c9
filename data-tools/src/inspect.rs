//! Looking at a data set.

use serde::Serialize;
use strand_data::{Dataset, Dtype, Encoder, Media, PlainFile, Qa, columns, plain_files};
use strand_store::Location;

use crate::ToolsError;

/// What a data set is, and how its first rows look.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Where it is.
    pub url: String,
    /// The manifest's id.
    pub id: String,
    /// What made the features.
    pub encoder: Encoder,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Type of a value.
    pub dtype: Dtype,
    /// Shards.
    pub num_shards: usize,
    /// Row groups of all shards.
    pub num_groups: usize,
    /// Rows of all shards.
    pub num_rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Bytes of the smallest and the largest shard.
    pub shard_bytes: [u64; 2],
    /// Bytes of the smallest and the largest row group.
    pub group_bytes: [u64; 2],
    /// Fewest and most frames of a row.
    pub frames: [u64; 2],
    /// Names and types of the columns.
    pub schema: Vec<(String, String)>,
    /// The first rows.
    pub rows: Vec<RowSummary>,
}

/// A row without its features.
#[derive(Clone, Debug, Serialize)]
pub struct RowSummary {
    /// Its id.
    pub id: String,
    /// Its source.
    pub video: String,
    /// Video or image.
    pub media: Media,
    /// T.
    pub frames: usize,
    /// Bytes of its features.
    pub bytes: usize,
    /// Time of the first and the last frame, where times are known.
    pub seconds: Option<[f32; 2]>,
    /// Its questions.
    pub qa: Vec<Qa>,
}

/// Reads the manifest and the first `rows` rows.
///
/// # Errors
/// Those of opening and reading a data set.
pub async fn inspect(url: &str, rows: usize) -> Result<Inspection, ToolsError> {
    let set = Dataset::open(url).await?;
    let manifest = set.manifest();
    let groups = || manifest.shards.iter().flat_map(|shard| &shard.groups);
    let least = groups().map(|group| group.frames[0]).min();
    let most = groups().map(|group| group.frames[1]).max();
    Ok(Inspection {
        url: set.location().url(),
        id: manifest.id.clone(),
        encoder: manifest.encoder.clone(),
        tokens: manifest.tokens,
        dim: manifest.dim,
        dtype: manifest.dtype,
        num_shards: manifest.shards.len(),
        num_groups: groups().count(),
        num_rows: manifest.num_rows(),
        bytes: manifest.num_bytes(),
        shard_bytes: extent(manifest.shards.iter().map(|shard| shard.bytes)),
        group_bytes: extent(groups().map(|group| group.bytes)),
        schema: columns(),
        frames: [least.unwrap_or(0), most.unwrap_or(0)],
        rows: first_rows(&set, rows).await?,
    })
}

/// A folder of parquet files in the schema of shards, without a manifest.
#[derive(Clone, Debug, Serialize)]
pub struct PlainInspection {
    /// Where it is.
    pub url: String,
    /// Always false: there is none.
    pub manifest: bool,
    /// Rows of all files.
    pub num_rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Names and types of the columns.
    pub schema: Vec<(String, String)>,
    /// The files.
    pub files: Vec<FileSummary>,
}

/// A parquet file of a folder without a manifest.
#[derive(Clone, Debug, Serialize)]
pub struct FileSummary {
    /// Its path in the folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// Its row groups.
    pub groups: usize,
}

/// Reads the footers of a folder's parquet files. Their rows are not checked.
///
/// # Errors
/// Where there is no parquet file, or one that is not in the schema of shards.
pub async fn inspect_plain(url: &str) -> Result<PlainInspection, ToolsError> {
    let location = Location::open(url)?;
    let summary = |file: &PlainFile| FileSummary {
        path: file.path().to_owned(),
        bytes: file.bytes(),
        rows: file.num_rows(),
        groups: file.num_groups(),
    };
    let files: Vec<FileSummary> = plain_files(&location).await?.iter().map(summary).collect();
    Ok(PlainInspection {
        url: location.url(),
        manifest: false,
        num_rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        schema: columns(),
        files,
    })
}

fn extent(sizes: impl Iterator<Item = u64> + Clone) -> [u64; 2] {
    [sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0)]
}

async fn first_rows(set: &Dataset, count: usize) -> Result<Vec<RowSummary>, ToolsError> {
    let mut rows = Vec::new();
    for (shard, description) in set.manifest().shards.iter().enumerate() {
        for group in 0..description.groups.len() {
            if rows.len() >= count {
                return Ok(rows);
            }
            let wanted = count - rows.len();
            let read = set.read_group(shard, group).await?;
            rows.extend(read.iter().take(wanted).map(RowSummary::of));
        }
    }
    Ok(rows)
}

impl RowSummary {
    fn of(row: &strand_data::Row) -> RowSummary {
        let ends = row.seconds.first().zip(row.seconds.last());
        RowSummary {
            id: row.id.clone(),
            video: row.video.clone(),
            media: row.media,
            frames: row.frames,
            bytes: row.features.len(),
            seconds: ends.map(|(&first, &last)| [first, last]),
            qa: row.qa.clone(),
        }
    }
}
