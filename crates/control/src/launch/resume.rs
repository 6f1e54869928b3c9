//! Starting over, or from an older checkpoint, without deleting anything.

use std::fs;
use std::path::{Path, PathBuf};

use super::spec::Resume;
use crate::files::{io_error, make_folder};
use crate::{FileError, RunDir};

/// Makes the run directory ready for the first attempt, `attempt`, of a launch. Afterwards one rule
/// holds for every attempt: go on from the run directory's last checkpoint; where it has none, from
/// the returned one; without that, from the start.
pub(super) fn prepare(
    run_dir: &RunDir,
    resume: &Resume,
    attempt: u64,
) -> Result<Option<String>, FileError> {
    match resume {
        Resume::Auto => Ok(None),
        Resume::Never => {
            set_aside(run_dir, attempt)?;
            Ok(None)
        }
        Resume::From(checkpoint) => {
            let inside = name_inside(run_dir, Path::new(checkpoint));
            let aside = set_aside(run_dir, attempt)?;
            let Some(name) = inside else {
                return Ok(Some(checkpoint.clone()));
            };
            // The steps up to that checkpoint belong to this run's history: the trainer cuts the rest.
            bring_back(&aside, run_dir.metrics())?;
            bring_back(&aside, run_dir.evaluations())?;
            let moved = aside.join("checkpoints").join(name);
            Ok(Some(moved.display().to_string()))
        }
    }
}

/// The folder name of a checkpoint that is one of the run directory's own.
fn name_inside(run_dir: &RunDir, checkpoint: &Path) -> Option<PathBuf> {
    let own = fs::canonicalize(run_dir.checkpoints()).ok()?;
    let given = fs::canonicalize(checkpoint).ok()?;
    given.strip_prefix(own).ok().map(Path::to_path_buf)
}

/// Moves the state of the run so far to `previous/before-attempt-N`.
fn set_aside(run_dir: &RunDir, attempt: u64) -> Result<PathBuf, FileError> {
    let aside = run_dir.root().join(format!("previous/before-attempt-{attempt}"));
    for path in [run_dir.checkpoints(), run_dir.metrics(), run_dir.evaluations(), run_dir.report()]
    {
        let Some(name) = path.file_name().filter(|_| path.exists()) else {
            continue;
        };
        make_folder(&aside)?;
        fs::rename(&path, aside.join(name)).map_err(io_error("set aside", &path))?;
    }
    Ok(aside)
}

fn bring_back(aside: &Path, path: PathBuf) -> Result<(), FileError> {
    let kept = path.file_name().map(|name| aside.join(name));
    match kept.filter(|kept| kept.exists()) {
        None => Ok(()),
        Some(kept) => fs::copy(&kept, &path).map(|_| ()).map_err(io_error("copy to", &path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with_state() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        fs::create_dir_all(dir.checkpoints().join("step-00000500")).unwrap();
        fs::write(dir.metrics(), "metrics").unwrap();
        (folder, dir)
    }

    #[test]
    fn auto_leaves_everything() {
        let (_folder, dir) = run_with_state();
        assert_eq!(prepare(&dir, &Resume::Auto, 2).unwrap(), None);
        assert!(dir.checkpoints().join("step-00000500").exists());
    }

    #[test]
    fn never_sets_the_old_state_aside() {
        let (_folder, dir) = run_with_state();
        assert_eq!(prepare(&dir, &Resume::Never, 2).unwrap(), None);
        assert!(!dir.checkpoints().exists() && !dir.metrics().exists());
        let aside = dir.root().join("previous/before-attempt-2");
        assert!(aside.join("checkpoints/step-00000500").exists());
        assert!(aside.join("metrics.jsonl").exists());
    }

    #[test]
    fn a_checkpoint_of_the_run_itself_is_followed_to_its_new_place() {
        let (_folder, dir) = run_with_state();
        let own = dir.checkpoints().join("step-00000500");
        let resume = Resume::From(own.display().to_string());
        let from = prepare(&dir, &resume, 3).unwrap().unwrap();
        assert!(from.ends_with("previous/before-attempt-3/checkpoints/step-00000500"));
        assert!(Path::new(&from).exists() && !own.exists());
        assert!(dir.metrics().exists());
    }

    #[test]
    fn a_checkpoint_of_another_run_brings_no_history() {
        let (_folder, dir) = run_with_state();
        let url = "s3://bucket/other/checkpoints/step-00000100";
        let from = prepare(&dir, &Resume::From(url.into()), 2).unwrap();
        assert_eq!(from.as_deref(), Some(url));
        assert!(!dir.metrics().exists());
    }
}
