//! A data set written anew: other sizes, another place, a part of its rows, or several parts.
//!
//! Rows stream through one row group at a time. Ids, features and their checksums stay as they are, and so does the
//! order. The manifests are written when all shards of all parts are there.

mod select;
#[cfg(test)]
mod tests;

use std::collections::BinaryHeap;

use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use strand_data::{DataError, Dataset, Manifest, Row, ShardWriter, WriterOptions};
use strand_store::Location;

pub use select::{Between, Filter, Split, Subset};

use crate::{OnProgress, Sizes, ToolsError};

/// Row groups that are read ahead.
const READ_AHEAD: usize = 4;

/// What [`run`] makes.
#[derive(Clone, Debug)]
pub struct ReshardOptions {
    /// Folder or URL of the data set.
    pub source: String,
    /// Folder or URL of the new one, or of the folders of its parts.
    pub out: String,
    /// Sizes of shards and row groups.
    pub sizes: Sizes,
    /// Rows that are taken at all.
    pub filter: Filter,
    /// How many of those.
    pub subset: Option<Subset>,
    /// Parts that they are divided into, each a folder of `out`.
    pub split: Option<Split>,
    /// Seed of subset and split.
    pub seed: u64,
}

impl ReshardOptions {
    /// All rows, in shards of the usual sizes.
    pub fn new(source: String, out: String) -> ReshardOptions {
        ReshardOptions {
            source,
            out,
            sizes: Sizes::default(),
            filter: Filter::default(),
            subset: None,
            split: None,
            seed: 0,
        }
    }
}

/// What [`run`] made.
#[derive(Clone, Debug, Serialize)]
pub struct ReshardReport {
    /// URL of the source.
    pub source: String,
    /// Its manifest's id.
    pub source_id: String,
    /// Its rows.
    pub source_rows: u64,
    /// What was written.
    pub parts: Vec<PartReport>,
}

/// One of the data sets that were written.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// Name in the split; empty without one.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Its manifest's id.
    pub id: String,
    /// Its rows.
    pub rows: u64,
    /// Its shards.
    pub shards: usize,
    /// Their row groups.
    pub groups: usize,
    /// Bytes of all shards.
    pub bytes: u64,
}

/// Writes the new data sets. `progress` is called with rows read, of all that are to be read.
///
/// # Errors
/// [`ToolsError::Options`] where nothing is left for one of the parts, before any manifest is written; those of reading
/// and writing data sets.
pub async fn run(
    options: &ReshardOptions,
    progress: OnProgress<'_>,
) -> Result<ReshardReport, ToolsError> {
    let source = Dataset::open(&options.source).await?;
    let mut parts = Parts::create(options, source.manifest()).await?;
    // An exact number of rows takes two passes: which ids come first is known only when all were seen.
    let passes = if matches!(options.subset, Some(Subset::Rows(_))) { 2 } else { 1 };
    let (mut done, total) = (0, source.num_rows() * passes);
    let mut count = |rows| {
        done += rows;
        progress(done, total);
    };
    let chosen = Chosen::find(options, &source, &mut count).await?;
    let mut groups = read_all(&source);
    while let Some(rows) = groups.next().await {
        let rows = rows?;
        let read = rows.len() as u64;
        for row in rows.into_iter().filter_map(|row| options.filter.take(row)) {
            if chosen.has(options.seed, &row.id) {
                parts.write(row).await?;
            }
        }
        count(read);
    }
    Ok(ReshardReport {
        source: source.location().url(),
        source_id: source.manifest().id.clone(),
        source_rows: source.num_rows(),
        parts: parts.finish().await?,
    })
}

/// The rows of all row groups, in order.
fn read_all(set: &Dataset) -> impl Stream<Item = Result<Vec<Row>, DataError>> + Unpin + use<> {
    let shards = set.manifest().shards.iter().enumerate();
    let places: Vec<(usize, usize)> = shards
        .flat_map(|(index, shard)| (0..shard.groups.len()).map(move |group| (index, group)))
        .collect();
    let set = set.clone();
    let read = move |(shard, group)| {
        let set = set.clone();
        async move { set.read_group(shard, group).await }
    };
    Box::pin(stream::iter(places).map(read).buffered(READ_AHEAD))
}

/// The rows of a subset.
enum Chosen {
    All,
    /// Ids whose number is below.
    Share(f64),
    /// Ids that do not stand behind this one.
    UpTo(u128),
}

impl Chosen {
    async fn find(
        options: &ReshardOptions,
        source: &Dataset,
        count: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Chosen, ToolsError> {
        let most = match options.subset {
            None => return Ok(Chosen::All),
            Some(Subset::Share(share)) => return Ok(Chosen::Share(share)),
            Some(Subset::Rows(rows)) => usize::try_from(rows).unwrap_or(usize::MAX),
        };
        let mut first = BinaryHeap::new();
        let mut groups = read_all(source);
        while let Some(rows) = groups.next().await {
            let rows = rows?;
            count(rows.len() as u64);
            for row in rows.into_iter().filter_map(|row| options.filter.take(row)) {
                first.push(select::rank(options.seed, &row.id));
                if first.len() > most {
                    first.pop();
                }
            }
        }
        match first.len() < most {
            true => Err(ToolsError::Options(format!(
                "a subset of {most} rows cannot be taken of {} rows",
                first.len()
            ))),
            false => Ok(Chosen::UpTo(first.peek().copied().unwrap_or_default())),
        }
    }

    fn has(&self, seed: u64, id: &str) -> bool {
        match *self {
            Chosen::All => true,
            Chosen::Share(share) => select::unit(seed, id, "subset") < share,
            Chosen::UpTo(last) => select::rank(seed, id) <= last,
        }
    }
}

/// The data sets that are being written.
struct Parts<'a> {
    options: &'a ReshardOptions,
    parts: Vec<Part>,
}

struct Part {
    name: String,
    location: Location,
    writer: ShardWriter,
    rows: u64,
}

impl<'a> Parts<'a> {
    async fn create(
        options: &'a ReshardOptions,
        source: &Manifest,
    ) -> Result<Parts<'a>, ToolsError> {
        let out = Location::open(&options.out)?;
        let names: Vec<&str> =
            options.split.as_ref().map_or(vec![""], |split| split.names().collect());
        let mut parts = Vec::new();
        for name in names {
            let location = out.join(name);
            let Manifest { encoder, tokens, dim, dtype, .. } = source.clone();
            let sizes = options.sizes.apply(WriterOptions::new(encoder, tokens, dim, dtype));
            let writer = ShardWriter::create(location.clone(), sizes).await?;
            parts.push(Part { name: name.to_owned(), location, writer, rows: 0 });
        }
        Ok(Parts { options, parts })
    }

    async fn write(&mut self, row: Row) -> Result<(), ToolsError> {
        let ReshardOptions { split, seed, .. } = self.options;
        let part = split.as_ref().map_or(0, |split| split.part(*seed, &row.id));
        let part = &mut self.parts[part];
        part.rows += 1;
        Ok(part.writer.write(row).await?)
    }

    async fn finish(mut self) -> Result<Vec<PartReport>, ToolsError> {
        if let Some(empty) = self.parts.iter().find(|part| part.rows == 0) {
            return Err(ToolsError::Options(format!("no row is left for {}", empty.location)));
        }
        for part in &mut self.parts {
            part.writer.flush().await?;
        }
        let mut reports = Vec::new();
        for part in self.parts {
            let manifest = part.writer.finish().await?;
            reports.push(PartReport {
                name: part.name,
                url: part.location.url(),
                rows: manifest.num_rows(),
                shards: manifest.shards.len(),
                groups: manifest.shards.iter().map(|shard| shard.groups.len()).sum(),
                bytes: manifest.num_bytes(),
                id: manifest.id,
            });
        }
        Ok(reports)
    }
}
