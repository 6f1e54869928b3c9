//! How far the shards are: what of an interrupted run needs no parts any more.
//!
//! A shard that is stored is not made again. The journal, beside the parts, tells the shards and how many of the
//! videos, in order, they hold; the parts of those videos are removed. So the parts of a long run never hold more
//! than the shard that is being filled and the videos that are read ahead.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::json;
use strand_data::Shard;
use strand_store::{Location, StoreError};

use super::ExtractReport;
use super::parts::Parts;
use crate::ToolsError;

/// The journal's name among the parts.
const NAME: &str = "journal.json";

/// Longer ones were not written here.
const MOST_BYTES: u64 = 1 << 30;

/// Where a run goes on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// Hash of what the run is asked for.
    job: String,
    /// The shards that are stored.
    pub shards: Vec<Shard>,
    /// Videos of which all rows are in them.
    pub videos: usize,
    /// Rows of the video after those that are in them too.
    pub rows_of_next: u64,
    /// What the report said after those videos.
    pub report: ExtractReport,
    /// Parts that are not needed since the last shard: removed next, or by the next run.
    superfluous: Vec<String>,
}

/// Keeps a [`Position`] up to date in storage.
#[derive(Debug)]
pub struct Journal {
    parts: Parts,
    position: Position,
    /// Videos that were written, but not stored yet: the report after each, and its part.
    open: VecDeque<(ExtractReport, Option<String>)>,
}

impl Journal {
    /// Reads what an earlier run with the same `job` left. Another job's journal counts as none, and so does one
    /// whose shards are not there.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn open(out: &Location, parts: Parts, job: &str) -> Result<Journal, ToolsError> {
        let bytes = match parts.location().get_bounded(NAME, MOST_BYTES).await {
            Ok(bytes) => Some(bytes),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let read = |bytes: &bytes::Bytes| serde_json::from_slice::<Position>(bytes).ok();
        let left = bytes.as_ref().and_then(read).filter(|position| position.job == job);
        let position = match left {
            Some(position) if are_there(out, &position.shards).await? => {
                remove(&parts, &position.superfluous).await?;
                position
            }
            _ => Position { job: job.to_owned(), ..Position::default() },
        };
        Ok(Journal { parts, position, open: VecDeque::new() })
    }

    /// Where the run goes on.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Notes that all rows of the next video were written. `shards` are those that are stored by now.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn note(
        &mut self,
        shards: &[Shard],
        report: &ExtractReport,
        part: Option<String>,
    ) -> Result<(), ToolsError> {
        self.open.push_back((report.clone(), part));
        if shards.len() == self.position.shards.len() {
            return Ok(());
        }
        let stored: u64 = shards.iter().map(|shard| shard.rows).sum();
        let whole = self.open.partition_point(|(report, _)| report.rows <= stored);
        self.position.superfluous.clear();
        for (report, part) in self.open.drain(..whole) {
            self.position.report = report;
            self.position.videos += 1;
            self.position.superfluous.extend(part);
        }
        self.position.rows_of_next = stored - self.position.report.rows;
        self.position.shards = shards.to_vec();
        let document = json!(self.position).to_string();
        self.parts.location().put(NAME, document.into()).await?;
        remove(&self.parts, &self.position.superfluous).await
    }
}

async fn remove(parts: &Parts, names: &[String]) -> Result<(), ToolsError> {
    for name in names {
        parts.location().delete(name).await?;
    }
    Ok(())
}

/// Whether each shard is as long as it should be. A shard that was written is never changed.
async fn are_there(out: &Location, shards: &[Shard]) -> Result<bool, ToolsError> {
    for shard in shards {
        match out.size(&shard.path).await {
            Ok(bytes) if bytes == shard.bytes => {}
            Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
