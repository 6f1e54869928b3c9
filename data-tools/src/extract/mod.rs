//! From video files and annotations to a data set.
//!
//! Each file is read once for its times (`ffmpeg -c copy`, nothing is decoded) and once for each clip that records
//! ask for; records with the same clip share it. Files are read in parallel. Only chosen frames leave ffmpeg, and
//! they are encoded as they come.

mod annotations;
mod choose;
mod decode;
mod ffmpeg;
mod timeline;
mod video;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Serialize;
use strand_data::{Dtype, Media, Row, ShardWriter, WriterOptions};
use strand_store::Location;

pub use annotations::{Pair, Record, load};
pub use choose::Sampling;

use crate::patch::{PatchConfig, PatchEncoder};
use crate::{OnProgress, ToolsError, tokenizer};
use ffmpeg::Ffmpeg;
use video::{Outcome, Shared, Video};

/// What [`run`] makes.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// Folder of the videos.
    pub videos: PathBuf,
    /// The annotations, a JSON file.
    pub annotations: PathBuf,
    /// Folder or URL of the data set.
    pub out: String,
    /// T where a record says nothing.
    pub frames: usize,
    /// How frames are chosen.
    pub sampling: Sampling,
    /// Seed of [`Sampling::Rand`].
    pub seed: u64,
    /// The encoder.
    pub encoder: PatchConfig,
    /// Pass over files that cannot be decoded; else the first one is the error.
    pub skip_bad: bool,
    /// How long ffmpeg may take for one clip.
    pub time_limit: Duration,
    /// Files that are read at the same time; as many as there are cores where unset.
    pub jobs: Option<usize>,
    /// Rows of a row group; where not given, as many as make 6 to 16 MB.
    pub rows_per_group: Option<usize>,
    /// Where to write a tokenizer that is trained from the annotations' text, a path or URL that ends with its name.
    pub tokenizer: Option<String>,
    /// Bound of that tokenizer's vocabulary.
    pub vocab_size: usize,
}

impl ExtractOptions {
    /// The usual options: 16 frames from the middle of equal parts, no file passed over, ten minutes a clip.
    pub fn new(videos: PathBuf, annotations: PathBuf, out: String) -> ExtractOptions {
        ExtractOptions {
            videos,
            annotations,
            out,
            frames: 16,
            sampling: Sampling::Middle,
            seed: 0,
            encoder: PatchConfig::default(),
            skip_bad: false,
            time_limit: Duration::from_secs(600),
            jobs: None,
            rows_per_group: None,
            tokenizer: None,
            vocab_size: 1024,
        }
    }
}

/// What [`run`] made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ExtractReport {
    /// URL of the data set.
    pub out: String,
    /// Its manifest's id.
    pub id: String,
    /// Rows, one a record.
    pub rows: u64,
    /// Video files that were read.
    pub videos: usize,
    /// Frames that were decoded; records that share a clip share its frames.
    pub frames_decoded: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// What was passed over; never anything unless asked.
    pub skipped: Vec<Skipped>,
    /// Entries of the tokenizer's vocabulary, where one was trained.
    pub vocab_size: Option<usize>,
}

/// A video, or some clips of it, that was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The video.
    pub video: String,
    /// Numbers of the records that are missing, from 0.
    pub records: Vec<usize>,
    /// Why.
    pub reason: String,
}

/// Extracts a data set. `progress` is called with records done, of all records.
///
/// # Errors
/// [`ToolsError::Video`] and [`ToolsError::TimeOut`] name the file (with `skip_bad` it is passed over instead),
/// [`ToolsError::Annotations`] the record; [`ToolsError::NoFfmpeg`] and others as they are named.
pub async fn run(
    options: &ExtractOptions,
    progress: OnProgress<'_>,
) -> Result<ExtractReport, ToolsError> {
    if options.frames == 0 {
        return Err(ToolsError::Options("0 frames: at least 1 is needed".to_owned()));
    }
    let records = annotations::load(&options.annotations)?;
    let encoder = PatchEncoder::new(options.encoder)?;
    let ffmpeg = Ffmpeg::find(options.time_limit).await?;
    let location = Location::open(&options.out)?;
    let writer = ShardWriter::create(location.clone(), writer_options(options, &encoder)).await?;
    let vocab_size = train_tokenizer(options, &records).await?;
    let report = ExtractReport {
        out: location.url(),
        tokens: options.encoder.tokens(),
        dim: options.encoder.dim,
        vocab_size,
        ..ExtractReport::default()
    };
    let shared = Arc::new(Shared {
        ffmpeg,
        encoder,
        folder: options.videos.clone(),
        sampling: options.sampling,
        seed: options.seed,
    });
    let mut extraction = Extraction { options, records, writer, report };
    extraction.read_all(&shared, progress).await?;
    extraction.finish().await
}

struct Extraction<'a> {
    options: &'a ExtractOptions,
    records: Vec<Record>,
    writer: ShardWriter,
    report: ExtractReport,
}

impl Extraction<'_> {
    /// Reads the videos in parallel and writes their rows in order.
    async fn read_all(
        &mut self,
        shared: &Arc<Shared>,
        progress: OnProgress<'_>,
    ) -> Result<(), ToolsError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.options.jobs.unwrap_or(cores).max(1);
        let videos = Video::group(&self.records, self.options.frames);
        let mut reading = stream::iter(videos)
            .map(|video| {
                let (name, shared) = (video.name.clone(), shared.clone());
                // The set ends its tasks when it is dropped, and they their ffmpeg: an error leaves nothing behind.
                let mut task = tokio::task::JoinSet::new();
                task.spawn(video.read(shared));
                async move { (name, task.join_next().await) }
            })
            .buffered(jobs);
        let (mut done, total) = (0, self.records.len() as u64);
        while let Some((name, outcomes)) = reading.next().await {
            let before = self.report.rows;
            for outcome in outcomes.transpose()?.transpose()?.into_iter().flatten() {
                done += outcome.0.len() as u64;
                self.take(&name, outcome).await?;
            }
            self.report.videos += usize::from(self.report.rows > before);
            progress(done, total);
        }
        Ok(())
    }

    async fn take(&mut self, name: &str, (records, made): Outcome) -> Result<(), ToolsError> {
        let features = match made {
            Ok(features) => features,
            Err(error) if self.options.skip_bad => {
                tracing::warn!("skipped: {error}");
                self.report.skipped.push(Skipped {
                    video: name.to_owned(),
                    records,
                    reason: error.to_string(),
                });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.report.frames_decoded += features.decoded;
        let bytes = Bytes::from(features.bytes);
        for index in records {
            let row = Row {
                id: format!("{index:08}-{name}"),
                video: name.to_owned(),
                media: Media::Video,
                frames: features.seconds.len(),
                tokens: self.report.tokens,
                features: bytes.clone(),
                seconds: features.seconds.clone(),
                qa: self.records[index].pairs.iter().map(Pair::qa).collect(),
            };
            self.writer.write(row).await?;
            self.report.rows += 1;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<ExtractReport, ToolsError> {
        if self.report.rows == 0 {
            let count = Video::group(&self.records, 1).len();
            return Err(ToolsError::NothingLeft { count });
        }
        let manifest = self.writer.finish().await?;
        self.report.bytes = manifest.shards.iter().map(|shard| shard.bytes).sum();
        self.report.id = manifest.id;
        Ok(self.report)
    }
}

fn writer_options(options: &ExtractOptions, encoder: &PatchEncoder) -> WriterOptions {
    let encoder = encoder.describe(format!("{}:{}", options.sampling, options.frames));
    let (tokens, dim) = (options.encoder.tokens(), options.encoder.dim);
    WriterOptions {
        rows_per_group: options.rows_per_group,
        ..WriterOptions::new(encoder, tokens, dim, Dtype::F16)
    }
}

async fn train_tokenizer(
    options: &ExtractOptions,
    records: &[Record],
) -> Result<Option<usize>, ToolsError> {
    let Some(url) = &options.tokenizer else {
        return Ok(None);
    };
    let (folder, name) = url.rsplit_once('/').unwrap_or((".", url));
    let (json, size) = tokenizer::train(annotations::texts(records), options.vocab_size)?;
    Location::open(folder)?.put(name, json.into()).await?;
    Ok(Some(size))
}

#[cfg(test)]
mod tests;
