//! `extract.json`: what a data set was extracted from, so that the same command again finds it done.

use serde::{Deserialize, Serialize};
use serde_json::json;
use strand_data::{Dataset, MANIFEST};
use strand_store::{Location, StoreError};

use super::annotations::Record;
use super::parts::Parts;
use super::{ExtractOptions, ExtractReport};
use crate::ToolsError;

/// The object beside the manifest.
const NAME: &str = "extract.json";

/// Longer ones were not written here.
const MOST_BYTES: u64 = 64 << 20;

/// What an extraction is asked for, as a hash: annotations, encoder, sampling and the form of the shards. The videos
/// themselves are no part of it: a finished data set is not looked at again because a file changed.
#[derive(Debug)]
pub struct Job(String);

#[derive(Serialize, Deserialize)]
struct Document {
    job: String,
    report: ExtractReport,
}

impl Job {
    /// `common` tells encoder and sampling.
    pub fn new(options: &ExtractOptions, records: &[Record], common: &str) -> Job {
        let ExtractOptions { frames, skip_bad, rows_per_group, shard_bytes, .. } = options;
        let asked = json!([common, frames, skip_bad, rows_per_group, shard_bytes]);
        let content = format!("{asked} {records:?}");
        Job(blake3::hash(content.as_bytes()).to_hex().to_string())
    }

    /// The hash.
    pub fn hash(&self) -> &str {
        &self.0
    }

    /// The report of a run that did the same and finished. What it did not come to remove is removed.
    ///
    /// # Errors
    /// All that storage can do, and [`ToolsError::Data`] for a manifest that cannot be believed.
    pub async fn report(&self, out: &Location) -> Result<Option<ExtractReport>, ToolsError> {
        if !out.exists(MANIFEST).await? {
            return Ok(None);
        }
        let bytes = match out.get_bounded(NAME, MOST_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let document: Option<Document> = serde_json::from_slice(&bytes).ok();
        let Some(document) = document.filter(|document| document.job == self.0) else {
            return Ok(None);
        };
        let mut report = ExtractReport { complete: true, out: out.url(), ..document.report };
        report.describe(Dataset::open(&out.url()).await?.manifest());
        Parts::remove(out).await?;
        Ok(Some(report))
    }

    /// Writes it down; the manifest that follows makes it count.
    ///
    /// # Errors
    /// All that storage can do.
    pub async fn save(&self, out: &Location, report: &ExtractReport) -> Result<(), ToolsError> {
        // Neither the place nor the way there belongs to what was made.
        let report = ExtractReport { out: String::new(), resumed: 0, ..report.clone() };
        let document = Document { job: self.0.clone(), report };
        Ok(out.put(NAME, json!(document).to_string().into()).await?)
    }
}
