//! Checking a data set: every byte, every row.

use serde::Serialize;
use strand_data::Dataset;

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
    /// Rows that are as they were written.
    pub rows: u64,
    /// Bytes of the shards that are as they were written.
    pub bytes: u64,
    /// What is wrong, one entry a damaged shard; empty where all is well.
    pub problems: Vec<Problem>,
}

/// A damaged shard.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Its path in the data set.
    pub shard: String,
    /// The first damage in it.
    pub message: String,
    /// What to do next, where there is something.
    pub hint: Option<String>,
}

impl Verification {
    /// Whether every byte is as it was written.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Reads all of a data set and checks the BLAKE3 of each shard, each footer, and the features of each row. Damage in
/// one shard does not end it: all damaged shards are listed. `progress` is called with rows read, of all rows.
///
/// # Errors
/// Where the manifest cannot be read, or storage fails.
pub async fn verify(url: &str, progress: OnProgress<'_>) -> Result<Verification, ToolsError> {
    let set = Dataset::open(url).await?;
    let manifest = set.manifest();
    let mut found = Verification {
        url: set.location().url(),
        id: manifest.id.clone(),
        shards: manifest.shards.len(),
        rows: 0,
        bytes: 0,
        problems: Vec::new(),
    };
    let mut seen = 0;
    for (index, shard) in manifest.shards.iter().enumerate() {
        match set.verify_shard(index).await {
            Ok(rows) => {
                found.rows += rows;
                found.bytes += shard.bytes;
            }
            // Trouble with the data, and not with getting at it.
            Err(error) if error.exit_code() == 4 => found.problems.push(Problem {
                shard: shard.path.clone(),
                message: error.to_string(),
                hint: error.hint(),
            }),
            Err(error) => return Err(error.into()),
        }
        seen += shard.rows;
        progress(seen, manifest.num_rows());
    }
    Ok(found)
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
        let sound = verify(&report.train, &mut |done, total| last = (done, total)).await.unwrap();
        assert!(sound.is_sound());
        assert_eq!((sound.rows, last), (60, (60, 60)));
        let seen = inspect(&report.train, 25).await.unwrap();
        assert_eq!((seen.num_rows, seen.num_groups, seen.rows.len()), (60, 3, 25));
        assert!(seen.to_table().contains("Which way does the shape move?"));

        let path = folder.path().join("train/shard-00000.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let damaged = verify(&report.train, &mut |_, _| {}).await.unwrap();
        assert!(!damaged.is_sound());
        assert_eq!(damaged.problems[0].shard, "shard-00000.parquet");
        assert!(damaged.problems[0].message.contains("row group 1"), "{:?}", damaged.problems);
    }
}
