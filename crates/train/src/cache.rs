//! The node's cache of row groups, as the recipe wants it.

use std::path::PathBuf;

use strand_data::{Cache, DataError, Dataset, default_cache_limit, user_cache_folder};
use strand_recipe::{CacheMode, Recipe};

use crate::error::TrainError;

/// Opens the cache for a stage's data sets; `None` where there is none. One that nobody asked for fails no run: where
/// it cannot be opened, a warning says so.
///
/// # Errors
/// A cache that the recipe asks for cannot be opened.
pub fn open_cache(
    recipe: &Recipe,
    sets: &[(Dataset, Option<f64>)],
    ranks_on_node: usize,
) -> Result<Option<Cache>, TrainError> {
    let wanted = &recipe.runtime.cache;
    let remote: Vec<&Dataset> = sets
        .iter()
        .map(|(set, _)| set)
        .filter(|set| set.location().local_path().is_none())
        .collect();
    let is_used = match wanted.mode {
        CacheMode::On => true,
        CacheMode::Auto => ranks_on_node > 1,
        CacheMode::Off => false,
    };
    if !is_used || remote.is_empty() {
        return Ok(None);
    }
    let is_asked_for =
        wanted.mode == CacheMode::On || wanted.folder.is_some() || wanted.limit.is_some();
    match open(wanted, &remote) {
        Ok(cache) => Ok(Some(cache)),
        Err(error) if is_asked_for => Err(error.into()),
        Err(error) => {
            tracing::warn!("{error}; each rank fetches for itself");
            Ok(None)
        }
    }
}

fn open(wanted: &strand_recipe::Cache, sets: &[&Dataset]) -> Result<Cache, DataError> {
    let folder = match &wanted.folder {
        Some(folder) => PathBuf::from(folder),
        None => user_cache_folder().map(|cache| cache.join("row-groups")).ok_or_else(|| {
            let reason = "neither HOME nor XDG_CACHE_HOME is set".to_owned();
            DataError::Cache { folder: "of the user".to_owned(), reason }
        })?,
    };
    let limit = match wanted.limit {
        Some(limit) => limit.0,
        None => default_cache_limit(&folder)?,
    };
    Cache::open_for(&folder, limit, sets)
}
