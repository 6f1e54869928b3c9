//! What people name on the command line: recipes, runs and checkpoints, told apart by what is there.

use std::path::{Path, PathBuf};

use strand_control::RunDir;
use strand_store::{Location, StoreError};

/// The recipe file that is meant: the file itself, or the resolved recipe of a run directory.
pub fn recipe_file(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => RunDir::new(path).recipe(),
        false => path.to_owned(),
    }
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
    fn a_run_directory_stands_for_its_recipe() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(recipe_file(folder.path()), folder.path().join("recipe.yaml"));
        assert_eq!(recipe_file(Path::new("a.yaml")), Path::new("a.yaml"));
    }
}
