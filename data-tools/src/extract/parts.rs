//! What a run that was interrupted leaves for the next: the features of each video that was read, beside the shards.
//!
//! A part is named by a hash of all that its features follow from: the video's name, size and time of change, the
//! clips and questions, how frames are chosen, the encoder and how it computes. So a part is never taken for another.
//! The shards are written from rows in the order of the annotations, hence equal byte for byte however often a run
//! was interrupted. With the manifest the parts are superfluous and removed.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use strand_data::encoding::{LENGTH_BYTES, head, head_length, parse};
use strand_store::{Location, StoreError, xxh3};

use super::video::{Features, Outcome, Video};
use crate::ToolsError;

/// The folder of the parts in the folder of the data set.
const FOLDER: &str = "parts";

/// Bytes of the checksum at the end of a part.
const CHECKSUM_BYTES: usize = 8;

/// The parts of one extraction.
#[derive(Clone, Debug)]
pub struct Parts {
    location: Location,
    /// What all of them follow from.
    common: String,
}

/// What stands in front of a clip's features.
#[derive(Debug, Serialize, Deserialize)]
struct ClipHead {
    seconds: Vec<f32>,
    decoded: usize,
    /// Bytes of each row.
    rows: Vec<usize>,
}

impl Parts {
    /// Those beside the shards of `out`; `common` tells encoder and sampling.
    pub fn new(out: &Location, common: String) -> Parts {
        Parts { location: out.join(FOLDER), common }
    }

    /// Where they are.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The name of a video's part.
    pub fn key(&self, video: &Video, file: &Metadata) -> String {
        let changed = file.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let clips: Vec<_> = video
            .clips
            .iter()
            .map(|wanted| {
                let clip = &wanted.clip;
                json!([clip.start, clip.end, clip.frames, wanted.questions])
            })
            .collect();
        let changed = changed.map(|time| time.as_nanos().to_string());
        let content = json!([self.common, video.name, file.len(), changed, clips]);
        blake3::hash(content.to_string().as_bytes()).to_hex().to_string()
    }

    /// What an earlier run left of a video; nothing where it left nothing, or where it was damaged.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn load(
        &self,
        key: &str,
        video: &Video,
    ) -> Result<Option<Vec<Features>>, ToolsError> {
        let bytes = match self.location.get(key).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let features = read(&bytes).filter(|features| features.len() == video.clips.len());
        if features.is_none() {
            tracing::warn!("{}: damaged, {} is read again", self.location.url_of(key), video.name);
        }
        Ok(features)
    }

    /// Leaves a video's features for a later run; `false` where it did not, because a clip failed and is to be tried
    /// again.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn save(&self, key: &str, outcomes: &[Outcome]) -> Result<bool, ToolsError> {
        let features: Option<Vec<&Features>> =
            outcomes.iter().map(|(_, made)| made.as_ref().ok()).collect();
        let Some(features) = features else { return Ok(false) };
        let part = write(&features)
            .map_err(|source| ToolsError::Part { url: self.location.url_of(key), source })?;
        self.location.put(key, part.into()).await?;
        Ok(true)
    }

    /// Removes all parts.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn remove(out: &Location) -> Result<(), ToolsError> {
        Ok(out.delete_folder(FOLDER).await?)
    }
}

/// Removes what a killed run left of files that it was writing. Nobody else writes where no manifest is yet.
///
/// # Errors
/// [`ToolsError::Part`] names the file.
pub async fn sweep(out: &Location) -> Result<(), ToolsError> {
    let Some(folder) = out.local_path() else { return Ok(()) };
    let failed = |source| ToolsError::Part { url: out.url(), source };
    let mut entries = match tokio::fs::read_dir(&folder).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        if is_unfinished(&entry.file_name().to_string_lossy()) {
            tokio::fs::remove_file(entry.path()).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// `object_store` writes `name#1` and renames it to `name`.
fn is_unfinished(name: &str) -> bool {
    let Some((name, number)) = name.rsplit_once('#') else { return false };
    let ours = name.starts_with("shard-") && name.ends_with(".parquet") || name.ends_with(".json");
    ours && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn write(features: &[&Features]) -> std::io::Result<Vec<u8>> {
    let clips: Vec<ClipHead> = features
        .iter()
        .map(|features| ClipHead {
            seconds: features.seconds.clone(),
            decoded: features.decoded,
            rows: features.rows.iter().map(Bytes::len).collect(),
        })
        .collect();
    let mut part = head(&clips)?;
    for row in features.iter().flat_map(|features| &features.rows) {
        part.extend_from_slice(row);
    }
    part.extend(xxh3(&part).to_le_bytes());
    Ok(part)
}

/// `None` for anything but what [`write`] wrote.
fn read(part: &Bytes) -> Option<Vec<Features>> {
    let (content, checksum) = part.split_last_chunk::<CHECKSUM_BYTES>()?;
    if xxh3(content).to_le_bytes() != *checksum {
        return None;
    }
    let length = head_length(*content.first_chunk::<LENGTH_BYTES>()?).ok()?;
    let mut at = LENGTH_BYTES.checked_add(length)?;
    let clips: Vec<ClipHead> = parse(content.get(LENGTH_BYTES..at)?).ok()?;
    let mut features = Vec::new();
    for ClipHead { seconds, decoded, rows } in clips {
        let mut clip = Features { rows: Vec::new(), seconds, decoded };
        for bytes in rows {
            let end = at.checked_add(bytes).filter(|end| *end <= content.len())?;
            clip.rows.push(part.slice(at..end));
            at = end;
        }
        features.push(clip);
    }
    (at == content.len()).then_some(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Vec<Features> {
        let row = |byte| Bytes::from(vec![byte; 5]);
        let one =
            Features { rows: vec![row(1), row(2)], seconds: vec![0.1, 1.0 / 3.0], decoded: 2 };
        vec![one, Features { rows: vec![row(3)], seconds: vec![7.5], decoded: 1 }]
    }

    #[test]
    fn parts_read_as_they_were_written() {
        let features = features();
        let part = Bytes::from(write(&features.iter().collect::<Vec<_>>()).unwrap());
        assert_eq!(read(&part), Some(features));
    }

    #[test]
    fn only_unfinished_files_are_swept() {
        for name in ["shard-00000.parquet#1", "manifest.json#12"] {
            assert!(is_unfinished(name), "{name}");
        }
        for name in ["shard-00000.parquet", "manifest.json", "a.mp4#1", "shard-1.parquet#", "#1"] {
            assert!(!is_unfinished(name), "{name}");
        }
    }

    #[test]
    fn damage_is_seen() {
        let part = write(&features().iter().collect::<Vec<_>>()).unwrap();
        for at in 0..part.len() {
            let mut damaged = part.clone();
            damaged[at] ^= 4;
            assert_eq!(read(&damaged.into()), None, "byte {at}");
            assert_eq!(read(&part[..at].to_vec().into()), None, "cut at {at}");
        }
    }
}
