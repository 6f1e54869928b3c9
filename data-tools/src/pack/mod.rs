//! From features that people already have, and annotations, to a data set.
//!
//! Features lie in folders, tar files as WebDataset writes them, or `.safetensors` files of many tensors; the
//! annotations in a file of their own, or beside the features. Files are read in parallel and rows written in the
//! order of the records.

mod array;
mod index;
mod npy;
mod records;
mod tar;
mod tensors;
mod whole;

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Serialize;
use strand_data::{Dtype, Encoder, Media, Row, ShardWriter, WriterOptions};
use strand_store::Location;

use crate::{Budget, OnProgress, Sizes, ToolsError};
use array::Frames;
use index::{Index, Place};
use records::Record;
use whole::{Reading, Sample};

/// What [`run`] makes.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Folders, tar files and files of tensors that hold the features.
    pub features: Vec<PathBuf>,
    /// The annotations; where not given, the `.json` beside the features of each sample.
    pub annotations: Option<PathBuf>,
    /// Folder or URL of the data set.
    pub out: String,
    /// What made the features.
    pub encoder: Encoder,
    /// The type that features are stored in.
    pub dtype: Dtype,
    /// K where arrays are `[T·K, F]`.
    pub tokens: Option<usize>,
    /// Name of the tensor of features, where files have several.
    pub tensor: Option<String>,
    /// Frames a second of the features, where they are evenly spaced from 0 on.
    pub feature_fps: Option<f64>,
    /// How many records without features are passed over.
    pub skip_missing: Budget,
    /// Sizes of shards and row groups.
    pub sizes: Sizes,
    /// Files that are read at the same time; as many as there are cores where unset.
    pub jobs: Option<usize>,
}

impl PackOptions {
    /// The usual options: half floats, nothing passed over.
    pub fn new(features: Vec<PathBuf>, out: String, encoder: Encoder) -> PackOptions {
        PackOptions {
            features,
            annotations: None,
            out,
            encoder,
            dtype: Dtype::F16,
            tokens: None,
            tensor: None,
            feature_fps: None,
            skip_missing: Budget::NONE,
            sizes: Sizes::default(),
            jobs: None,
        }
    }
}

/// What [`run`] made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PackReport {
    /// URL of the data set.
    pub out: String,
    /// Its manifest's id.
    pub id: String,
    /// Rows, one a record.
    pub rows: u64,
    /// Shards.
    pub shards: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Fewest and most frames of a row.
    pub frames: [usize; 2],
    /// Records that were passed over for want of features; never any unless asked.
    pub missing: Vec<Missing>,
    /// Features that no record asks for.
    pub unused: usize,
}

/// A record without features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its number, from 0.
    pub record: usize,
    /// The video or key that was looked for.
    pub name: String,
}

/// Packs a data set. `progress` is called with records done, of all records.
///
/// # Errors
/// [`ToolsError::Annotations`], [`ToolsError::Features`] and [`ToolsError::MissingFeatures`] name the file and the
/// record; others as they are named.
pub async fn run(
    options: &PackOptions,
    progress: OnProgress<'_>,
) -> Result<PackReport, ToolsError> {
    if options.feature_fps.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(ToolsError::Options("the frames a second are a positive number".to_owned()));
    }
    let out = Location::open(&options.out)?;
    let index = Index::scan(&options.features)?;
    let records = match &options.annotations {
        Some(path) => records::load(path)?,
        None => beside(&index)?,
    };
    let mut plan = Plan::new(records, &index);
    plan.spend(options.skip_missing)?;
    let jobs = options.jobs.unwrap_or_else(crate::cores).max(1);
    let reading =
        Reading { tokens: options.tokens, tensor: options.tensor.clone(), dtype: options.dtype };
    let (total, passed_over) = (plan.total as u64, plan.missing.len() as u64);
    let mut samples = stream::iter(plan.jobs).map(|job| job.read(reading.clone())).buffered(jobs);
    let mut packing: Option<Packing> = None;
    let mut done = passed_over;
    while let Some((job, sample)) = samples.next().await.transpose()? {
        let packing = match &mut packing {
            Some(packing) => packing,
            None => packing.insert(Packing::start(options, out.clone(), sample.shape).await?),
        };
        packing.take(job, sample).await?;
        done += 1;
        progress(done, total);
    }
    let packing = packing.ok_or(ToolsError::NoFeatures { count: plan.total })?;
    let report = packing.finish().await?;
    Ok(PackReport { out: out.url(), missing: plan.missing, unused: plan.unused, ..report })
}

/// The records that lie beside the features.
fn beside(index: &Index) -> Result<Vec<Record>, ToolsError> {
    let mut ignored = BTreeSet::new();
    let mut records = Vec::new();
    for key in index.keys() {
        let entry = index.get(key).cloned().unwrap_or_default();
        let Some((file, range)) = entry.json else {
            let file = entry.features.map_or_else(PathBuf::new, |place| place.file.to_path_buf());
            return Err(ToolsError::features(&file, format!("`{key}` has no .json beside it")));
        };
        let defaults = |record: &mut Record| {
            record.features.get_or_insert_with(|| key.to_owned());
            record.id.get_or_insert_with(|| key.to_owned());
            if record.video.is_empty() {
                record.video = key.to_owned();
            }
        };
        let text = whole::text(&file, &range, records::MOST_LINE);
        let record = text.and_then(|text| records::object(&text, defaults, &mut ignored));
        let refuse = |reason| ToolsError::features(&file, format!("{key}.json: {reason}"));
        records.push(record.map_err(refuse)?);
    }
    if let Some((file, _)) = index.keys().find_map(|key| index.get(key)?.json.clone()) {
        records::warn_ignored(&file, &ignored);
    }
    Ok(records)
}

/// What is to be read, and what is missing.
struct Plan {
    jobs: Vec<Job>,
    missing: Vec<Missing>,
    total: usize,
    unused: usize,
}

/// A record and where its features are.
struct Job {
    id: String,
    record: Record,
    place: Place,
}

impl Plan {
    fn new(records: Vec<Record>, index: &Index) -> Plan {
        let (mut jobs, mut missing, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
        let total = records.len();
        for (number, record) in records.into_iter().enumerate() {
            let found = index.features(record.name());
            let Some((key, place)) = found.map(|(key, place)| (key, place.clone())) else {
                missing.push(Missing { record: number, name: record.name().to_owned() });
                continue;
            };
            used.insert(key);
            jobs.push(Job { id: record.row_id(number), record, place });
        }
        Plan { jobs, missing, total, unused: index.num_features() - used.len() }
    }

    fn spend(&mut self, budget: Budget) -> Result<(), ToolsError> {
        match self.missing.first() {
            Some(first) if !budget.allows(self.missing.len()) => Err(ToolsError::MissingFeatures {
                count: self.missing.len(),
                total: self.total,
                record: first.record,
                name: first.name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Job {
    async fn read(self, reading: Reading) -> Result<(Job, Sample), ToolsError> {
        let task = tokio::task::spawn_blocking(move || {
            let sample = self.place.read(&reading)?;
            Ok((self, sample))
        });
        task.await?
    }
}

struct Packing<'a> {
    options: &'a PackOptions,
    shape: Frames,
    writer: ShardWriter,
    report: PackReport,
}

impl<'a> Packing<'a> {
    async fn start(
        options: &'a PackOptions,
        out: Location,
        shape: Frames,
    ) -> Result<Packing<'a>, ToolsError> {
        let Frames { tokens, dim, .. } = shape;
        let base = WriterOptions::new(options.encoder.clone(), tokens, dim, options.dtype);
        let writer = ShardWriter::create(out, options.sizes.apply(base)).await?;
        let frames = [usize::MAX, 0];
        Ok(Packing {
            options,
            shape,
            writer,
            report: PackReport { tokens, dim, frames, ..PackReport::default() },
        })
    }

    async fn take(&mut self, job: Job, mut sample: Sample) -> Result<(), ToolsError> {
        let refuse = |reason| ToolsError::features(&job.place.file, reason);
        let Frames { tokens, dim, .. } = sample.shape;
        if (tokens, dim) != (self.shape.tokens, self.shape.dim) {
            return Err(refuse(format!(
                "`{}` has {tokens} tokens × {dim} values a frame, the files before it have {} × {}",
                job.record.name(),
                self.shape.tokens,
                self.shape.dim
            )));
        }
        if let Some(rate) = self.options.feature_fps
            && sample.seconds.is_none()
        {
            let times = (0..sample.shape.frames).map(|frame| (frame as f64 / rate) as f32);
            sample.seconds = Some(times.collect());
        }
        if job.record.features.is_none() {
            cut(&mut sample, job.record.clip).map_err(|reason| {
                refuse(format!("record `{}` of `{}`: {reason}", job.id, job.record.video))
            })?;
        }
        self.write(job, sample).await
    }

    async fn write(&mut self, job: Job, sample: Sample) -> Result<(), ToolsError> {
        let Frames { frames, tokens, .. } = sample.shape;
        let told = if frames == 1 { Media::Image } else { Media::Video };
        let row = Row {
            id: job.id,
            video: job.record.video,
            media: job.record.media.unwrap_or(told),
            frames,
            tokens,
            features: Bytes::from(sample.features),
            seconds: sample.seconds.unwrap_or_default(),
            qa: job.record.qa,
        };
        self.writer.write(row).await?;
        self.report.rows += 1;
        let [least, most] = self.report.frames;
        self.report.frames = [least.min(frames), most.max(frames)];
        Ok(())
    }

    async fn finish(self) -> Result<PackReport, ToolsError> {
        let manifest = self.writer.finish().await?;
        let (shards, bytes) = (manifest.shards.len(), manifest.num_bytes());
        Ok(PackReport { id: manifest.id, shards, bytes, ..self.report })
    }
}

/// Leaves out the frames before and behind a clip.
fn cut(sample: &mut Sample, clip: [Option<f64>; 2]) -> Result<(), String> {
    if clip == [None, None] {
        return Ok(());
    }
    let seconds = sample.seconds.take().ok_or(
        "it has start or end, but the times of the frames are not known: give them as a tensor `seconds` or with --feature-fps",
    )?;
    let inside = |time: &f32| {
        let time = f64::from(*time);
        clip[0].is_none_or(|start| time >= start) && clip[1].is_none_or(|end| time <= end)
    };
    let begin = seconds.iter().position(inside);
    let begin =
        begin.ok_or_else(|| format!("none of its {} frames lies in the clip", seconds.len()))?;
    let kept: Vec<f32> = seconds[begin..].iter().copied().take_while(inside).collect();
    let frame = sample.features.len() / sample.shape.frames;
    sample.features.truncate((begin + kept.len()) * frame);
    sample.features.drain(..begin * frame);
    sample.shape.frames = kept.len();
    sample.seconds = Some(kept);
    Ok(())
}

#[cfg(test)]
mod tests;
