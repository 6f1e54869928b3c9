//! A video question-answering set of a moving shape and flashing lights, made to need the order of frames.
//!
//! A clip shows a shape that moves by one cell a step around a row or a column (what leaves at one border comes back
//! at the other) and lights, two to four, that stand still. Six [kinds](Kind) of questions are asked. `direction`,
//! `first` and `turns` need the order of the frames; `colour`, `shape` and `count` do not. Training rows have a second
//! question whose answer is dense: where things are, step by step.
//!
//! The mean over frames says nothing about order. The shape's visits to the cells of its lane are as likely with
//! either direction and any number of turns (module `path`), no two things share a cell, so nothing hides another,
//! everything is in sight in every frame, and both lights flash for one step, in either order.
//!
//! A row is a pure function of seed, split and index. A layout, which is everything but what happens in time, belongs
//! to one split only, by its hash, whatever the seed.

mod generator;
#[cfg(test)]
mod leak_tests;
mod mix;
mod path;
mod questions;
mod render;
mod scene;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use strand_data::{Manifest, Row, ShardWriter};
use strand_store::Location;

pub use generator::Generator;
pub use mix::{Kind, Mix, is_order};
pub use questions::DENSE;

use crate::{OnProgress, ToolsError};

/// Name of the tokenizer's file beside the data sets.
pub const TOKENIZER: &str = "tokenizer.json";

/// Rows that are made in one go on one thread.
const CHUNK: u64 = 256;

/// Which of the two data sets a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To train on.
    Train,
    /// To measure with.
    HeldOut,
}

impl Split {
    /// Folder of the data set, and beginning of the ids.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOut => "held_out",
        }
    }
}

/// What [`run`] makes.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// Folder or URL that gets `train`, `held_out` and `tokenizer.json`.
    pub out: String,
    /// Rows of the training set.
    pub train_rows: u64,
    /// Rows of the held-out set.
    pub held_out_rows: u64,
    /// T, the frames of a clip.
    pub frames: usize,
    /// Frames for which a step lasts; a divisor of `frames`. With 2, every second frame still shows every step: what
    /// a longer clip needs whose local frames are every second one.
    pub hold: usize,
    /// Height and width of the canvas in pixels.
    pub size: usize,
    /// K, the patches of a frame, a square number from 9 on; the cells of the canvas are the patches.
    pub patches: usize,
    /// F, the values of a token.
    pub feature_size: usize,
    /// Seed of the rows; the encoder is the same for every seed.
    pub seed: u64,
    /// The kinds of questions and their weights.
    pub kinds: Mix,
    /// Rows of a row group; where not given, as many as make 6 to 16 MB.
    pub rows_per_group: Option<usize>,
}

impl Default for SynthOptions {
    /// 10,000 and 600 rows of 6 frames × 16 patches × 64 values in the folder `synth`.
    fn default() -> Self {
        SynthOptions {
            out: "synth".to_owned(),
            train_rows: 10_000,
            held_out_rows: 600,
            frames: 6,
            hold: 1,
            size: 32,
            patches: 16,
            feature_size: 64,
            seed: 0,
            kinds: Mix::default(),
            rows_per_group: None,
        }
    }
}

/// What [`run`] made.
#[derive(Clone, Debug, Serialize)]
pub struct SynthReport {
    /// URL of the training set.
    pub train: String,
    /// URL of the held-out set.
    pub held_out: String,
    /// URL of the tokenizer.
    pub tokenizer: String,
    /// Manifest id of the training set.
    pub train_id: String,
    /// Manifest id of the held-out set.
    pub held_out_id: String,
    /// Rows of the training set.
    pub train_rows: u64,
    /// Rows of the held-out set.
    pub held_out_rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Entries of the tokenizer's vocabulary.
    pub vocab_size: usize,
}

/// Writes both data sets and the tokenizer. `progress` is called with the rows made so far, of all rows.
///
/// # Errors
/// [`ToolsError::Options`] for sizes that cannot work, before anything is written; [`ToolsError::Store`] and
/// [`ToolsError::Data`] where the data sets are there already or storage fails.
pub async fn run(
    options: &SynthOptions,
    progress: OnProgress<'_>,
) -> Result<SynthReport, ToolsError> {
    let generator = Arc::new(Generator::new(options)?);
    let out = Location::open(&options.out)?;
    let (json, vocab_size) = generator.tokenizer()?;
    out.put(TOKENIZER, json.into()).await?;
    let (mut done, total) = (0, options.train_rows + options.held_out_rows);
    let mut count = |rows| {
        done += rows;
        progress(done, total);
    };
    let splits = [(Split::Train, options.train_rows), (Split::HeldOut, options.held_out_rows)];
    let mut manifests = Vec::new();
    for (split, rows) in splits {
        let writer =
            ShardWriter::create(out.join(split.name()), generator.writer_options()).await?;
        manifests.push(write(writer, &generator, split, rows, &mut count).await?);
    }
    let bytes =
        manifests.iter().flat_map(|manifest| &manifest.shards).map(|shard| shard.bytes).sum();
    Ok(SynthReport {
        train: out.url_of(Split::Train.name()),
        held_out: out.url_of(Split::HeldOut.name()),
        tokenizer: out.url_of(TOKENIZER),
        train_id: manifests[0].id.clone(),
        held_out_id: manifests[1].id.clone(),
        train_rows: options.train_rows,
        held_out_rows: options.held_out_rows,
        bytes,
        tokens: options.patches,
        dim: options.feature_size,
        vocab_size,
    })
}

/// Makes the rows in parallel and writes them in order.
async fn write(
    mut writer: ShardWriter,
    generator: &Arc<Generator>,
    split: Split,
    rows: u64,
    count: &mut (dyn FnMut(u64) + Send),
) -> Result<Manifest, ToolsError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunks = (0..rows.div_ceil(CHUNK)).map(|chunk| {
        let (generator, range) = (generator.clone(), chunk * CHUNK..rows.min((chunk + 1) * CHUNK));
        let make = move || range.map(|index| generator.row(split, index)).collect::<Vec<Row>>();
        async { tokio::task::spawn_blocking(make).await }
    });
    let mut chunks = stream::iter(chunks).buffered(threads);
    while let Some(rows) = chunks.try_next().await? {
        let made = rows.len() as u64;
        for row in rows {
            writer.write(row).await?;
        }
        count(made);
    }
    Ok(writer.finish().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strand_data::Dataset;

    fn small(out: &std::path::Path) -> SynthOptions {
        SynthOptions {
            out: out.display().to_string(),
            train_rows: 300,
            held_out_rows: 40,
            rows_per_group: Some(64),
            ..SynthOptions::default()
        }
    }

    async fn rows(url: &str) -> Vec<Row> {
        let set = Dataset::open(url).await.unwrap();
        let mut rows = Vec::new();
        for (index, shard) in set.manifest().shards.iter().enumerate() {
            for group in 0..shard.groups.len() {
                rows.extend(set.read_group(index, group).await.unwrap());
            }
        }
        rows
    }

    #[tokio::test]
    async fn the_data_sets_hold_the_generators_rows() {
        let folder = tempfile::tempdir().unwrap();
        let options = small(folder.path());
        let mut seen = 0;
        let report = run(&options, &mut |done, _| seen = done).await.unwrap();
        assert_eq!(seen, 340);
        let generator = Generator::new(&options).unwrap();
        for (split, url, count) in
            [(Split::Train, &report.train, 300), (Split::HeldOut, &report.held_out, 40)]
        {
            let rows = rows(url).await;
            assert_eq!(rows.len(), count);
            for (index, row) in rows.iter().enumerate() {
                assert_eq!(*row, generator.row(split, index as u64));
            }
        }
        let again = run(&options, &mut |_, _| {}).await.expect_err("exists");
        assert_eq!(again.exit_code(), 5);
    }

    #[tokio::test]
    async fn the_same_options_give_the_same_bytes_and_another_seed_others() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let mut ids = Vec::new();
        for (folder, seed) in folders.iter().zip([5, 5, 6]) {
            let options = SynthOptions { seed, ..small(folder.path()) };
            ids.push(run(&options, &mut |_, _| {}).await.unwrap().train_id);
        }
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
    }
}
