//! From video files and annotations to a data set.
//!
//! Each file is read once for its times (`ffmpeg -c copy`, nothing is decoded) and once for each clip that records
//! ask for; records with the same clip share it. Files are read in parallel. Only chosen frames leave ffmpeg, and
//! they are brought to the encoder's size as they come. An interrupted run goes on where it was (`parts`).

mod annotations;
mod choose;
mod decode;
mod done;
mod ffmpeg;
mod journal;
mod parts;
mod timeline;
mod video;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use strand_data::{Manifest, Media, Qa, Row, ShardWriter, WriterOptions};
use strand_store::Location;

pub use annotations::{Pair, Record, load};
pub use choose::Sampling;

use crate::encoder::{EncoderChoice, Output};
use crate::patch::PatchConfig;
use crate::{OnProgress, ToolsError, tokenizer};
use done::Job;
use ffmpeg::Ffmpeg;
use journal::Journal;
use parts::Parts;
use video::{Features, Outcome, Shared, Video, Wanted};

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
    pub encoder: EncoderChoice,
    /// Pass over files that cannot be decoded; else the first one is the error.
    pub skip_bad: bool,
    /// How long ffmpeg may take for one clip.
    pub time_limit: Duration,
    /// Files that are read at the same time; as many as there are cores where unset.
    pub jobs: Option<usize>,
    /// Rows of a row group; where not given, as many as make 6 to 16 MB.
    pub rows_per_group: Option<usize>,
    /// A shard ends with the row group that reaches this size; 256 MiB where not given.
    pub shard_bytes: Option<u64>,
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
            encoder: EncoderChoice::Patch(PatchConfig::default()),
            skip_bad: false,
            time_limit: Duration::from_secs(600),
            jobs: None,
            rows_per_group: None,
            shard_bytes: None,
            tokenizer: None,
            vocab_size: 1024,
        }
    }
}

/// What [`run`] made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExtractReport {
    /// URL of the data set.
    pub out: String,
    /// Its manifest's id.
    pub id: String,
    /// Rows: one a record, or one a question where features depend on it.
    pub rows: u64,
    /// Video files that rows were made from.
    pub videos: usize,
    /// Those of them that an earlier, interrupted run had read.
    pub resumed: usize,
    /// Whether an earlier run had finished, so that nothing was left to do.
    pub complete: bool,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The video.
    pub video: String,
    /// Numbers of the records that are missing, from 0.
    pub records: Vec<usize>,
    /// Why.
    pub reason: String,
}

/// Extracts a data set. `progress` is called with records done, of all records. Where an earlier run with the same
/// options was interrupted, what it read is not read again; where it had finished, nothing is done.
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
    let ffmpeg = Ffmpeg::find(options.time_limit).await?;
    let encoder = options.encoder.open().await?;
    let output = encoder.output();
    let location = Location::open(&options.out)?;
    let common = format!("1 {output:?} {} {}", options.sampling, options.seed);
    let job = Job::new(options, &records, &common);
    let vocab_size = train_tokenizer(options, &records).await?;
    if let Some(report) = job.report(&location).await? {
        return Ok(report);
    }
    parts::sweep(&location).await?;
    let parts = Parts::new(&location, common);
    let journal = Journal::open(&location, parts.clone(), job.hash()).await?;
    let mut extraction = Extraction::start(options, records, output, &location, journal).await?;
    extraction.report.vocab_size = vocab_size;
    let (folder, sampling, seed) = (options.videos.clone(), options.sampling, options.seed);
    let shared = Arc::new(Shared { ffmpeg, encoder, folder, sampling, seed, parts });
    extraction.read_all(&shared, progress).await?;
    extraction.finish(&location, &job).await
}

struct Extraction<'a> {
    options: &'a ExtractOptions,
    records: Vec<Record>,
    output: Output,
    writer: ShardWriter,
    report: ExtractReport,
    journal: Journal,
    /// Rows to come that are in a stored shard already.
    stored: u64,
}

impl<'a> Extraction<'a> {
    /// Goes on where the journal says.
    async fn start(
        options: &'a ExtractOptions,
        records: Vec<Record>,
        output: Output,
        location: &Location,
        journal: Journal,
    ) -> Result<Extraction<'a>, ToolsError> {
        let position = journal.position().clone();
        let writer_options = writer_options(options, &output);
        let writer = ShardWriter::resume(location.clone(), writer_options, position.shards).await?;
        let report = ExtractReport {
            out: location.url(),
            tokens: output.tokens,
            dim: output.dim,
            resumed: position.videos,
            ..position.report
        };
        let stored = position.rows_of_next;
        Ok(Extraction { options, records, output, writer, report, journal, stored })
    }

    fn videos(&self) -> Vec<Video> {
        let by_question = self.output.encoder.question_conditioned;
        Video::group(&self.records, self.options.frames, by_question)
    }

    /// Reads the videos in parallel and writes their rows in order.
    async fn read_all(
        &mut self,
        shared: &Arc<Shared>,
        progress: OnProgress<'_>,
    ) -> Result<(), ToolsError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.options.jobs.unwrap_or(cores).max(1);
        let (mut done, total) = (0, self.records.len() as u64);
        let mut videos = self.videos();
        for video in videos.drain(..self.journal.position().videos.min(videos.len())) {
            done += video.clips.iter().map(|wanted| wanted.records.len() as u64).sum::<u64>();
        }
        let mut reading = stream::iter(videos)
            .map(|video| {
                let (name, shared) = (video.name.clone(), shared.clone());
                // The set ends its tasks when it is dropped, and they their ffmpeg: an error leaves nothing behind.
                let mut task = tokio::task::JoinSet::new();
                task.spawn(video.read(shared));
                async move { (name, task.join_next().await) }
            })
            .buffered(jobs);
        while let Some((name, read)) = reading.next().await {
            let Some(read) = read.transpose()?.transpose()? else { continue };
            let before = self.report.rows;
            for outcome in read.outcomes {
                done += outcome.0.records.len() as u64;
                self.take(&name, outcome).await?;
            }
            self.report.videos += usize::from(self.report.rows > before);
            self.report.resumed += usize::from(read.resumed);
            self.journal.note(self.writer.shards(), &self.report, read.part).await?;
            progress(done, total);
        }
        Ok(())
    }

    async fn take(&mut self, name: &str, (wanted, made): Outcome) -> Result<(), ToolsError> {
        let features = match made {
            Ok(features) => features,
            Err(error) if self.options.skip_bad => {
                tracing::warn!("skipped: {error}");
                self.report.skipped.push(Skipped {
                    video: name.to_owned(),
                    records: wanted.records,
                    reason: error.to_string(),
                });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.report.frames_decoded += features.decoded;
        for &index in &wanted.records {
            for row in self.rows(index, name, &wanted, &features) {
                self.report.rows += 1;
                match self.stored {
                    0 => self.writer.write(row).await?,
                    _ => self.stored -= 1,
                }
            }
        }
        Ok(())
    }

    /// The rows of a record: one for each pair where features depend on the question, else one with all of them.
    fn rows(&self, index: usize, name: &str, wanted: &Wanted, features: &Features) -> Vec<Row> {
        let row = |id: String, qa: Vec<Qa>, features_at: usize| Row {
            id,
            video: name.to_owned(),
            media: Media::Video,
            frames: features.seconds.len(),
            tokens: self.report.tokens,
            features: features.rows[features_at].clone(),
            seconds: features.seconds.clone(),
            qa,
        };
        let pairs = &self.records[index].pairs;
        if wanted.questions.is_empty() {
            let qa = pairs.iter().map(Pair::qa).collect();
            return vec![row(format!("{index:08}-{name}"), qa, 0)];
        }
        let of_pair = |(place, pair): (usize, &Pair)| {
            let question = pair.question();
            let at = wanted.questions.iter().position(|known| *known == question);
            at.map(|at| row(format!("{index:08}.{place:03}-{name}"), vec![pair.qa()], at))
        };
        pairs.iter().enumerate().filter_map(of_pair).collect()
    }

    async fn finish(mut self, location: &Location, job: &Job) -> Result<ExtractReport, ToolsError> {
        if self.report.rows == 0 {
            return Err(ToolsError::NothingLeft { count: self.videos().len() });
        }
        job.save(location, &self.report).await?;
        let manifest = self.writer.finish().await?;
        Parts::remove(location).await?;
        self.report.describe(&manifest);
        Ok(self.report)
    }
}

impl ExtractReport {
    fn describe(&mut self, manifest: &Manifest) {
        self.bytes = manifest.shards.iter().map(|shard| shard.bytes).sum();
        self.id = manifest.id.clone();
    }
}

fn writer_options(options: &ExtractOptions, output: &Output) -> WriterOptions {
    let mut encoder = output.encoder.clone();
    encoder.sampling = format!("{}:{}", options.sampling, options.frames);
    let usual = WriterOptions::new(encoder, output.tokens, output.dim, output.dtype);
    WriterOptions {
        rows_per_group: options.rows_per_group,
        shard_bytes: options.shard_bytes.unwrap_or(usual.shard_bytes),
        ..usual
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
