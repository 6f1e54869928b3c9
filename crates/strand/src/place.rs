//! What people name on the command line: recipes, runs and checkpoints, told apart by what is there.

use std::path::{Path, PathBuf};

use strand_control::RunDir;
use strand_recipe::Recipe;
use strand_store::{Location, StoreError, xxh3};
use tempfile::TempDir;

use crate::block_on::block_on;
use crate::failure::Failure;

/// Whether `text` names something in storage rather than a local path.
pub fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// The recipe that is meant, with its changes: a file's, or the resolved one of a run directory.
pub fn recipe(path: &Path, overrides: &[String]) -> anyhow::Result<Recipe> {
    let name = path.display().to_string();
    if is_url(&name) {
        return Ok(recipe_of_url(&name)?.with_overrides(overrides)?);
    }
    let file = if path.is_dir() { RunDir::new(path).recipe() } else { path.to_owned() };
    Ok(Recipe::load(&file, overrides)?)
}

fn recipe_of_url(url: &str) -> anyhow::Result<Recipe> {
    let bytes = block_on(async { Ok(Location::open(url)?.get("recipe.yaml").await?) })?;
    let origin = format!("{}/recipe.yaml", url.trim_end_matches('/'));
    Ok(Recipe::parse(&String::from_utf8_lossy(&bytes), &origin)?)
}

/// The run directory that a launch writes. One in storage has its working copy in the user's cache.
pub fn run_dir(name: &str) -> anyhow::Result<RunDir> {
    if !is_url(name) {
        return Ok(RunDir::new(name));
    }
    let url = Location::open(name)?.url();
    let copy = cache()?.join("runs").join(format!("{:016x}", xxh3(url.as_bytes())));
    Ok(RunDir::in_storage(&url, copy)?)
}

/// A run directory to read. One in storage is looked at through a copy that goes with this value: the working copy
/// belongs to the launch.
pub struct RunView {
    /// The run directory.
    pub dir: RunDir,
    _copy: Option<TempDir>,
}

impl RunView {
    pub fn open(name: &str) -> anyhow::Result<RunView> {
        if !is_url(name) {
            return Ok(RunView { dir: RunDir::new(name), _copy: None });
        }
        let no_copy = |error| Failure::environment("cannot make a temporary folder").because(error);
        let copy = tempfile::tempdir().map_err(no_copy)?;
        let dir = RunDir::in_storage(name, copy.path())?;
        block_on(async { Ok(dir.pull().await?) })?;
        Ok(RunView { dir, _copy: Some(copy) })
    }
}

/// The user's cache folder.
fn cache() -> Result<PathBuf, Failure> {
    strand_data::user_cache_folder().ok_or_else(|| {
        Failure::environment("no folder for the working copy of the run")
            .hint("set HOME or XDG_CACHE_HOME to an absolute path")
    })
}

/// The folder of a run's checkpoints: the folder itself, or the one in a run directory.
pub fn checkpoints(url: &str) -> Result<Location, StoreError> {
    let location = Location::open(url)?;
    Ok(match is_checkpoints_folder(url) {
        true => location,
        false => location.join("checkpoints"),
    })
}

fn is_checkpoints_folder(url: &str) -> bool {
    let name = url.trim_end_matches('/').rsplit('/').next();
    name == Some("checkpoints")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_and_its_checkpoints_name_the_same_folder() {
        let of_run = checkpoints("/runs/demo").unwrap().url();
        assert_eq!(of_run, "/runs/demo/checkpoints");
        assert_eq!(checkpoints("/runs/demo/checkpoints/").unwrap().url(), of_run);
        let remote = checkpoints("s3://bucket/demo").unwrap().url();
        assert_eq!(remote, "s3://bucket/demo/checkpoints");
    }

    #[test]
    fn a_url_has_one_working_copy_however_it_is_written() {
        let copy = |url| run_dir(url).unwrap().root().to_owned();
        assert_eq!(copy("s3://bucket/demo"), copy("s3://bucket/demo/"));
        assert_ne!(copy("s3://bucket/demo"), copy("s3://bucket/other"));
        assert_eq!(run_dir("s3://bucket/demo/").unwrap().url(), "s3://bucket/demo");
    }

    #[test]
    fn a_missing_recipe_is_named_with_its_path() {
        let error = recipe(Path::new("none.yaml"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "none.yaml: cannot read the recipe");
    }
}
