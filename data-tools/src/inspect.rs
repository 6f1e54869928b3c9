//! Looking at a data set.

use serde::Serialize;
use strand_data::{Dataset, Dtype, Encoder, Media, Qa};

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
    /// Fewest and most frames of a row.
    pub frames: [u64; 2],
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
        bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
        frames: [least.unwrap_or(0), most.unwrap_or(0)],
        rows: first_rows(&set, rows).await?,
    })
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

impl Inspection {
    /// For people: a summary and a table of the rows.
    pub fn to_table(&self) -> String {
        let Encoder { kind, hash, image_size, sampling, .. } = &self.encoder;
        let mut text = format!(
            "{}\n  id       {}\n  rows     {} in {} row groups of {} shards, {} bytes\n  features {} to {} frames × {} tokens × {} values, {:?}\n  encoder  {kind} {hash}, image size {image_size}, sampling {sampling}\n\n",
            self.url,
            self.id,
            self.num_rows,
            self.num_groups,
            self.num_shards,
            self.bytes,
            self.frames[0],
            self.frames[1],
            self.tokens,
            self.dim,
            self.dtype,
        );
        let width = self.rows.iter().map(|row| row.id.chars().count()).max();
        let width = width.unwrap_or(0).max(2);
        for row in &self.rows {
            text.push_str(&format!("  {:width$}  {:>4} frames\n", row.id, row.frames));
            for qa in &row.qa {
                let kind = if qa.kind.is_empty() { "-" } else { &qa.kind };
                text.push_str(&format!("      [{kind}] {} → {}\n", qa.question, qa.answer));
            }
        }
        text
    }
}
