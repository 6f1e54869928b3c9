//! One video: its times are read once, each of its clips is decoded once.

use std::path::PathBuf;
use std::sync::Arc;

use super::annotations::Record;
use super::choose::{Clip, Sampling};
use super::decode::decode;
use super::ffmpeg::Ffmpeg;
use super::timeline::Timeline;
use crate::ToolsError;
use crate::patch::PatchEncoder;

/// What all videos share.
#[derive(Debug)]
pub struct Shared {
    pub ffmpeg: Ffmpeg,
    pub encoder: PatchEncoder,
    pub folder: PathBuf,
    pub sampling: Sampling,
    pub seed: u64,
}

/// A video and what is wanted of it.
#[derive(Debug)]
pub struct Video {
    /// Relative to the folder of the videos.
    pub name: String,
    /// Each clip once, with the numbers of the records that want it.
    pub clips: Vec<(Clip, Vec<usize>)>,
}

/// Features of a clip.
#[derive(Debug)]
pub struct Features {
    /// `[frames, tokens, dim]`, half floats.
    pub bytes: Vec<u8>,
    /// Time of each frame.
    pub seconds: Vec<f32>,
    /// Frames that were decoded; those that repeat count once.
    pub decoded: usize,
}

/// What became of a clip, and the numbers of the records that want it.
pub type Outcome = (Vec<usize>, Result<Features, ToolsError>);

impl Video {
    /// Records by video and clip, in the order in which they first occur; T is `frames` unless a record says it.
    pub fn group(records: &[Record], frames: usize) -> Vec<Video> {
        let mut videos: Vec<Video> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let clip = Clip {
                start: record.start,
                end: record.end,
                frames: record.num_frames.unwrap_or(frames),
            };
            let place = *places.entry(&record.video).or_insert(videos.len());
            if place == videos.len() {
                videos.push(Video { name: record.video.clone(), clips: Vec::new() });
            }
            let clips = &mut videos[place].clips;
            match clips.iter_mut().find(|(known, _)| *known == clip) {
                Some((_, records)) => records.push(index),
                None => clips.push((clip, vec![index])),
            }
        }
        videos
    }

    /// Reads the video. A file that is no video spoils all of its clips, a clip without frames only itself.
    ///
    /// # Errors
    /// Only those that have nothing to do with the file: ffmpeg does not run.
    pub async fn read(self, shared: Arc<Shared>) -> Result<Vec<Outcome>, ToolsError> {
        let path = shared.folder.join(&self.name);
        let timeline = match probe(&shared, &path).await {
            Ok(timeline) => timeline,
            Err(error) if concerns_file(&error) => {
                let records = self.clips.into_iter().flat_map(|(_, records)| records);
                return Ok(vec![(records.collect(), Err(error))]);
            }
            Err(error) => return Err(error),
        };
        let mut outcomes = Vec::new();
        for (clip, records) in self.clips {
            match extract(&shared, &self.name, &path, &timeline, &clip).await {
                Err(error) if !concerns_file(&error) => return Err(error),
                made => outcomes.push((records, made)),
            }
        }
        Ok(outcomes)
    }
}

/// Whether another file could fare better.
fn concerns_file(error: &ToolsError) -> bool {
    matches!(error, ToolsError::Video { .. } | ToolsError::TimeOut { .. })
}

async fn probe(shared: &Shared, path: &std::path::Path) -> Result<Timeline, ToolsError> {
    let bad = |reason: String| ToolsError::Video { path: path.to_owned(), reason };
    let found = tokio::fs::metadata(path).await;
    match found {
        Err(error) => Err(bad(error.to_string())),
        Ok(found) if !found.is_file() => Err(bad("not a file".to_owned())),
        Ok(_) => Timeline::probe(&shared.ffmpeg, path).await,
    }
}

async fn extract(
    shared: &Shared,
    name: &str,
    path: &std::path::Path,
    timeline: &Timeline,
    clip: &Clip,
) -> Result<Features, ToolsError> {
    let chosen = clip.choose(timeline, shared.sampling, shared.seed, name);
    let chosen = chosen.map_err(|reason| ToolsError::Video { path: path.to_owned(), reason })?;
    let mut unique = chosen.clone();
    unique.dedup();
    let mut encoded = Vec::new();
    let encode = |frame| shared.encoder.encode(&frame, &mut encoded);
    decode(&shared.ffmpeg, path, timeline, &unique, encode).await?;
    let frame_bytes = encoded.len() / unique.len();
    let of_frame = |frame: &usize| {
        let at = unique.partition_point(|other| other < frame);
        &encoded[at * frame_bytes..(at + 1) * frame_bytes]
    };
    Ok(Features {
        bytes: chosen.iter().flat_map(of_frame).copied().collect(),
        seconds: chosen.iter().map(|&frame| timeline.seconds(frame) as f32).collect(),
        decoded: unique.len(),
    })
}
