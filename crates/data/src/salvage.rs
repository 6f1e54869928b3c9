//! What can still be used of a damaged row group, where damage may be skipped.
//!
//! The row group is fetched once more, past any cache. Where features differ from their row's checksum, those rows are
//! left out and the others used; where the damage cannot be found in features, all rows are left out. Nothing takes
//! the place of what is left out.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::{Held, RowGroup};
use crate::decode::decode_rows;
use crate::error::Place;
use crate::{DataError, Dataset, Row, SampleRef};

/// Row groups that are remembered; damage comes in few of them.
const REMEMBERED: usize = 4;

/// A damaged sample that was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// URL of the shard.
    pub shard: String,
    /// The row group, from 0.
    pub group: usize,
    /// The row of the row group, from 0.
    pub row: usize,
    /// Its id, where it can be read.
    pub id: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// Rows of a damaged row group: each is intact or left out.
type Rows = Arc<Vec<Result<Row, Skipped>>>;

/// Salvages rows of damaged row groups.
#[derive(Debug)]
pub(crate) struct Salvage {
    sets: Vec<Dataset>,
    groups: HashMap<(usize, usize, usize), Rows>,
}

impl Salvage {
    pub fn new(sets: Vec<Dataset>) -> Salvage {
        Salvage { sets, groups: HashMap::new() }
    }

    /// The row, or why it is left out. `error` is what reading it or its row group ended with.
    ///
    /// # Errors
    /// `error`, where it is not damage of the data; else storage's.
    pub async fn held(
        &mut self,
        at: SampleRef,
        error: DataError,
    ) -> Result<Result<Held, Skipped>, DataError> {
        let row = self.row(at, error).await?;
        Ok(row.map(|row| {
            let group = Arc::new(RowGroup { rows: vec![row], stored: None });
            Held { group, row: 0, at }
        }))
    }

    async fn row(
        &mut self,
        at: SampleRef,
        error: DataError,
    ) -> Result<Result<Row, Skipped>, DataError> {
        if !error.is_damage() {
            return Err(error);
        }
        let key = (at.set, at.shard, at.group);
        let rows = match self.groups.get(&key) {
            Some(rows) => rows.clone(),
            None => {
                let set = &self.sets[at.set];
                let rows = Arc::new(salvage(set, at.shard, at.group, &error).await?);
                if self.groups.len() >= REMEMBERED {
                    self.groups.clear();
                }
                self.groups.insert(key, rows.clone());
                rows
            }
        };
        rows.get(at.row).cloned().ok_or(error)
    }
}

async fn salvage(
    set: &Dataset,
    shard: usize,
    group: usize,
    error: &DataError,
) -> Result<Vec<Result<Row, Skipped>>, DataError> {
    let (file, description) = set.group(shard, group)?;
    let place = Place::group(set.location().url_of(&file.path), group);
    match decode_rows(set, shard, group).await {
        Ok(rows) => Ok(rows
            .into_iter()
            .enumerate()
            .map(|(row, (id, found))| found.map_err(|error| skipped(&place, row, id, &error)))
            .collect()),
        Err(again) if again.is_damage() => Ok((0..description.rows as usize)
            .map(|row| Err(skipped(&place, row, None, error)))
            .collect()),
        Err(again) => Err(again),
    }
}

fn skipped(place: &Place, row: usize, id: Option<String>, error: &DataError) -> Skipped {
    let (shard, group) = (place.shard.clone(), place.group.unwrap_or_default());
    Skipped { shard, group, row, id, reason: error.to_string() }
}
