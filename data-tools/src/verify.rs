//! Checking a data set: every byte, every row.

use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, stream};
use serde::Serialize;
use strand_data::{DataError, Dataset, ShardCheck};

use crate::{OnProgress, ToolsError};

/// What [`verify`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Where the data set is.
    pub url: String,
    /// The manifest's id.
    pub id: String,
    /// Shards that were read.
    pub shards: usize,
    /// Shards that are damaged.
    pub damaged: usize,
    /// Rows that are as they were written.
    pub rows: u64,
    /// Bytes of the shards that are as they were written.
    pub bytes: u64,
    /// What is wrong: an entry for each damaged row group, footer and file; empty where all is well.
    pub problems: Vec<Problem>,
    /// Parquet files of the folder that do not belong to the data set: no harm, but perhaps a write that was
    /// interrupted.
    pub extra_files: Vec<String>,
}

/// Damage.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Path of the shard in the data set.
    pub shard: String,
    /// What is damaged, and where.
    pub message: String,
    /// What to do next, where there is something.
    pub hint: Option<String>,
}

impl Verification {
    /// Whether every byte is as it was written.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn take(&mut self, path: &str, bytes: u64, check: ShardCheck) {
        self.rows += check.rows;
        match check.problems.is_empty() {
            true => self.bytes += bytes,
            false => self.damaged += 1,
        }
        self.problems.extend(check.problems.iter().map(|error| Problem {
            shard: path.to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        }));
    }
}

/// Reads all of a data set and checks the BLAKE3 of each shard, each footer, and the features of each row; `jobs`
/// shards at a time, as many as there are cores where not given. Damage does not end it: all of it is listed.
/// `progress` is called with rows read, of all rows.
///
/// # Errors
/// Where the manifest cannot be read, or storage fails.
pub async fn verify(
    url: &str,
    jobs: Option<usize>,
    progress: OnProgress<'_>,
) -> Result<Verification, ToolsError> {
    let set = Dataset::open(url).await?;
    let manifest = set.manifest();
    let mut found = Verification {
        url: set.location().url(),
        id: manifest.id.clone(),
        shards: manifest.shards.len(),
        damaged: 0,
        rows: 0,
        bytes: 0,
        problems: Vec::new(),
        extra_files: extra_files(&set).await?,
    };
    let total = manifest.num_rows();
    let counted = Mutex::new((0, progress));
    let count = |rows| {
        // Nothing can panic while the lock is held but the caller's own code.
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, progress) = &mut *counted;
        *done += rows;
        progress(*done, total);
    };
    let (set_, count) = (&set, &count);
    let check = |(index, shard)| async move {
        Ok::<_, DataError>((shard, set_.check_shard(index, count).await?))
    };
    let jobs = jobs.unwrap_or_else(crate::cores).max(1);
    let mut checks = stream::iter(manifest.shards.iter().enumerate()).map(check).buffered(jobs);
    while let Some(checked) = checks.next().await {
        let (shard, check) = checked?;
        found.take(&shard.path, shard.bytes, check);
    }
    Ok(found)
}

/// Parquet files of the folder that the manifest does not name.
async fn extra_files(set: &Dataset) -> Result<Vec<String>, ToolsError> {
    let shards = set.manifest().shards.iter().map(|shard| shard.path.as_str());
    let known: std::collections::HashSet<&str> = shards.collect();
    let paths = set.location().list("").await?.into_iter().map(|entry| entry.path);
    Ok(paths.filter(|path| path.ends_with(".parquet") && !known.contains(path.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::inspect;
    use crate::synth::{SynthOptions, run};

    #[tokio::test]
    async fn a_flipped_byte_is_found_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let options = SynthOptions {
            out: folder.path().display().to_string(),
            train_rows: 60,
            held_out_rows: 10,
            rows_per_group: Some(20),
            ..SynthOptions::default()
        };
        let report = run(&options, &mut |_, _| {}).await.unwrap();
        let mut last = (0, 0);
        let sound =
            verify(&report.train, None, &mut |done, total| last = (done, total)).await.unwrap();
        assert!(sound.is_sound());
        assert_eq!((sound.rows, last), (60, (60, 60)));
        let seen = inspect(&report.train, 25).await.unwrap();
        assert_eq!((seen.num_rows, seen.num_groups, seen.rows.len()), (60, 3, 25));
        assert!(seen.rows.iter().any(|row| row.qa[0].question == "Which way does the shape move?"));
        assert!(seen.group_bytes[0] > 0 && seen.schema.len() == 9, "{seen:?}");

        let path = folder.path().join("train/shard-00000.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(folder.path().join("train/shard-00009.parquet"), "rest").unwrap();
        let damaged = verify(&report.train, None, &mut |_, _| {}).await.unwrap();
        assert!(!damaged.is_sound());
        assert_eq!(damaged.problems[0].shard, "shard-00000.parquet");
        let places = ["row group 0", "row group 1"];
        for (problem, place) in damaged.problems.iter().zip(places) {
            assert!(problem.message.contains(place), "{problem:?}");
        }
        assert_eq!((damaged.problems.len(), damaged.damaged, damaged.rows), (2, 1, 20));
        assert_eq!(damaged.extra_files, ["shard-00009.parquet"]);
    }
}
