//! One video: its times are read once, each of its clips is decoded and encoded once.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::annotations::Record;
use super::choose::{Clip, Sampling};
use super::decode::decode;
use super::ffmpeg::Ffmpeg;
use super::parts::Parts;
use super::timeline::Timeline;
use crate::ToolsError;
use crate::encoder::ClipEncoder;
use crate::image::Frame;

/// What all videos share.
#[derive(Debug)]
pub struct Shared {
    pub ffmpeg: Ffmpeg,
    pub encoder: Arc<dyn ClipEncoder>,
    pub folder: PathBuf,
    pub sampling: Sampling,
    pub seed: u64,
    pub parts: Parts,
}

/// A video and what is wanted of it.
#[derive(Debug)]
pub struct Video {
    /// Relative to the folder of the videos.
    pub name: String,
    /// Each clip once.
    pub clips: Vec<Wanted>,
}

/// A clip, the numbers of the records that want it, and what features depend on beside it.
#[derive(Debug)]
pub struct Wanted {
    pub clip: Clip,
    pub records: Vec<usize>,
    /// Each question once; none where features do not depend on it.
    pub questions: Vec<String>,
}

/// Features of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// `[frames, tokens, dim]`, for each question of the clip, or one where there are none.
    pub rows: Vec<Bytes>,
    /// Time of each frame.
    pub seconds: Vec<f32>,
    /// Frames that were decoded; those that repeat count once.
    pub decoded: usize,
}

/// What became of a clip.
pub type Outcome = (Wanted, Result<Features, ToolsError>);

/// What became of a video.
#[derive(Debug)]
pub struct Read {
    pub outcomes: Vec<Outcome>,
    /// Whether an earlier run had read it.
    pub resumed: bool,
    /// The name of its part, where it has one.
    pub part: Option<String>,
}

impl Video {
    /// Records by video and clip, in the order in which they first occur; T is `frames` unless a record says it.
    /// `by_question`: features depend on the question.
    pub fn group(records: &[Record], frames: usize, by_question: bool) -> Vec<Video> {
        let mut videos: Vec<Video> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let place = *places.entry(&record.video).or_insert(videos.len());
            if place == videos.len() {
                videos.push(Video { name: record.video.clone(), clips: Vec::new() });
            }
            let frames = record.num_frames.unwrap_or(frames);
            let clip = Clip { start: record.start, end: record.end, frames };
            let wanted = videos[place].want(clip);
            wanted.records.push(index);
            for question in record.pairs.iter().map(|pair| pair.question()) {
                if by_question && !wanted.questions.contains(&question) {
                    wanted.questions.push(question);
                }
            }
        }
        videos
    }

    fn want(&mut self, clip: Clip) -> &mut Wanted {
        let known = self.clips.iter().position(|wanted| wanted.clip == clip);
        let place = known.unwrap_or(self.clips.len());
        if place == self.clips.len() {
            self.clips.push(Wanted { clip, records: Vec::new(), questions: Vec::new() });
        }
        &mut self.clips[place]
    }

    /// Reads the video, or takes what an earlier run left of it. A file that is no video spoils all of its clips, a
    /// clip without frames only itself.
    ///
    /// # Errors
    /// Only those that have nothing to do with the file: ffmpeg does not run, the encoder or storage fails.
    pub async fn read(self, shared: Arc<Shared>) -> Result<Read, ToolsError> {
        let path = shared.folder.join(&self.name);
        let file = match file(&path).await {
            Ok(file) => file,
            Err(error) => return Ok(self.spoil(error)),
        };
        let key = shared.parts.key(&self, &file);
        if let Some(features) = shared.parts.load(&key, &self).await? {
            let outcomes = self.clips.into_iter().zip(features.into_iter().map(Ok)).collect();
            return Ok(Read { outcomes, resumed: true, part: Some(key) });
        }
        let timeline = match Timeline::probe(&shared.ffmpeg, &path).await {
            Ok(timeline) => timeline,
            Err(error) if concerns_file(&error) => return Ok(self.spoil(error)),
            Err(error) => return Err(error),
        };
        let mut outcomes = Vec::new();
        for wanted in self.clips {
            match extract(&shared, &self.name, &path, &timeline, &wanted).await {
                Err(error) if !concerns_file(&error) => return Err(error),
                made => outcomes.push((wanted, made)),
            }
        }
        let saved = shared.parts.save(&key, &outcomes).await?;
        Ok(Read { outcomes, resumed: false, part: saved.then_some(key) })
    }

    fn spoil(self, error: ToolsError) -> Read {
        let records = self.clips.into_iter().flat_map(|wanted| wanted.records).collect();
        let clip = Clip { start: None, end: None, frames: 0 };
        let outcomes = vec![(Wanted { clip, records, questions: Vec::new() }, Err(error))];
        Read { outcomes, resumed: false, part: None }
    }
}

/// Whether another file could fare better.
fn concerns_file(error: &ToolsError) -> bool {
    matches!(error, ToolsError::Video { .. } | ToolsError::TimeOut { .. })
}

async fn file(path: &Path) -> Result<Metadata, ToolsError> {
    let bad = |reason: String| ToolsError::Video { path: path.to_owned(), reason };
    match tokio::fs::metadata(path).await {
        Err(error) => Err(bad(error.to_string())),
        Ok(found) if !found.is_file() => Err(bad("not a file".to_owned())),
        Ok(found) => Ok(found),
    }
}

async fn extract(
    shared: &Shared,
    name: &str,
    path: &Path,
    timeline: &Timeline,
    wanted: &Wanted,
) -> Result<Features, ToolsError> {
    let chosen = wanted.clip.choose(timeline, shared.sampling, shared.seed, name);
    let chosen = chosen.map_err(|reason| ToolsError::Video { path: path.to_owned(), reason })?;
    let mut unique = chosen.clone();
    unique.dedup();
    let prepared = prepare(shared, path, timeline, &unique).await?;
    let encoded = shared.encoder.encode(name, &prepared, &wanted.questions).await?;
    let row = |frames: Vec<u8>| {
        let frame_bytes = frames.len() / unique.len();
        let of_frame = |frame: &usize| {
            let at = unique.partition_point(|other| other < frame);
            &frames[at * frame_bytes..(at + 1) * frame_bytes]
        };
        Bytes::from(chosen.iter().map(of_frame).collect::<Vec<_>>().concat())
    };
    Ok(Features {
        rows: encoded.into_iter().map(row).collect(),
        seconds: chosen.iter().map(|&frame| timeline.seconds(frame) as f32).collect(),
        decoded: unique.len(),
    })
}

/// Decodes frames and prepares each on a thread of its own, while the next one is decoded.
async fn prepare(
    shared: &Shared,
    path: &Path,
    timeline: &Timeline,
    frames: &[usize],
) -> Result<Vec<Vec<u8>>, ToolsError> {
    let mut preparing = Vec::new();
    let take = |frame: Frame| {
        let encoder = shared.encoder.clone();
        preparing.push(tokio::task::spawn_blocking(move || encoder.prepare(&frame)));
    };
    decode(&shared.ffmpeg, path, timeline, frames, take).await?;
    let mut prepared = Vec::new();
    for task in preparing {
        prepared.push(task.await?);
    }
    Ok(prepared)
}
