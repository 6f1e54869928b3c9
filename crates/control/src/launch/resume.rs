//! Starting over, or from an older checkpoint, without deleting anything.

use std::path::Path;

use strand_store::{Location, StoreError};

use super::spec::Resume;
use crate::RunDir;

const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "evaluations.jsonl";

/// Makes the run directory ready for the first attempt, `attempt`, of a launch. Afterwards one rule
/// holds for every attempt: go on from the run directory's last checkpoint; where it has none, from
/// `foreign`, another run's checkpoint; without that, from the start.
pub(super) async fn prepare(
    run_dir: &RunDir,
    resume: &Resume,
    foreign: &mut Option<String>,
    attempt: u64,
) -> Result<(), StoreError> {
    let location = run_dir.location()?;
    let aside = format!("previous/before-attempt-{attempt}");
    match resume {
        Resume::Auto => {}
        Resume::Never => {
            set_aside(&location, &aside).await?;
            *foreign = None;
        }
        Resume::From(checkpoint) => match name_inside(&location, checkpoint)? {
            Some(name) => set_newer_aside(&location, &aside, &name).await?,
            None => {
                set_aside(&location, &aside).await?;
                *foreign = Some(checkpoint.clone());
            }
        },
    }
    Ok(())
}

/// The folder name of a checkpoint that is one of the run directory's own.
fn name_inside(run_dir: &Location, checkpoint: &str) -> Result<Option<String>, StoreError> {
    let own = resolved(&run_dir.join("checkpoints"));
    let given = resolved(&Location::open(checkpoint)?);
    let name = given.strip_prefix(&own).and_then(|rest| rest.strip_prefix('/'));
    Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
}

/// A folder's URL; of a local one without symbolic links, as far as it exists.
fn resolved(location: &Location) -> String {
    let real = location.local_path().and_then(|path| Path::canonicalize(&path).ok());
    real.map_or_else(|| location.url(), |path| path.display().to_string())
}

/// Moves the state of the run so far.
async fn set_aside(run_dir: &Location, aside: &str) -> Result<(), StoreError> {
    for name in ["checkpoints", METRICS, EVALUATIONS, "report.html"] {
        run_dir.rename(name, &format!("{aside}/{name}")).await?;
    }
    Ok(())
}

/// Moves the checkpoints after `name`. Metrics and evaluations are copied: those up to that checkpoint belong to the
/// run's history, and the trainer cuts the rest.
async fn set_newer_aside(run_dir: &Location, aside: &str, name: &str) -> Result<(), StoreError> {
    for file in [METRICS, EVALUATIONS] {
        if run_dir.exists(file).await? {
            run_dir.copy(file, &format!("{aside}/{file}")).await?;
        }
    }
    let folders = run_dir.list_folders("checkpoints").await?;
    for newer in folders.iter().filter(|folder| folder.as_str() > name) {
        let from = format!("checkpoints/{newer}");
        run_dir.rename(&from, &format!("{aside}/{from}")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OWN: &str = "checkpoints/step-00000500";

    fn run_with_state() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        fs::create_dir_all(dir.root().join(OWN)).unwrap();
        fs::write(dir.metrics(), "metrics").unwrap();
        (folder, dir)
    }

    async fn prepared(dir: &RunDir, resume: Resume) -> Option<String> {
        let mut foreign = Some("s3://bucket/before".to_owned());
        prepare(dir, &resume, &mut foreign, 2).await.unwrap();
        foreign
    }

    #[tokio::test]
    async fn auto_leaves_everything() {
        let (_folder, dir) = run_with_state();
        assert_eq!(prepared(&dir, Resume::Auto).await.as_deref(), Some("s3://bucket/before"));
        assert!(dir.root().join(OWN).exists() && dir.metrics().exists());
    }

    #[tokio::test]
    async fn never_sets_the_old_state_aside() {
        let (_folder, dir) = run_with_state();
        assert_eq!(prepared(&dir, Resume::Never).await, None);
        assert!(!dir.root().join(OWN).exists() && !dir.metrics().exists());
        let aside = dir.root().join("previous/before-attempt-2");
        assert!(aside.join(OWN).exists());
        assert!(aside.join("metrics.jsonl").exists());
    }

    #[tokio::test]
    async fn a_checkpoint_of_the_run_itself_becomes_its_last() {
        let (_folder, dir) = run_with_state();
        let own = |step: &str| dir.root().join("checkpoints").join(step);
        for step in ["step-00000400", "step-00000600"] {
            fs::create_dir_all(own(step)).unwrap();
        }
        let given = own("step-00000500").display().to_string();
        prepared(&dir, Resume::From(given)).await;
        assert!(own("step-00000400").exists() && own("step-00000500").exists());
        assert!(!own("step-00000600").exists() && dir.metrics().exists());
        let aside = dir.root().join("previous/before-attempt-2");
        assert!(aside.join("checkpoints/step-00000600").exists());
        assert!(aside.join("metrics.jsonl").exists());
    }

    #[tokio::test]
    async fn a_checkpoint_of_another_run_brings_no_history() {
        let (_folder, dir) = run_with_state();
        let url = "s3://bucket/other/checkpoints/step-00000100";
        let foreign = prepared(&dir, Resume::From(url.into())).await;
        assert_eq!(foreign.as_deref(), Some(url));
        assert!(!dir.metrics().exists());
    }

    #[test]
    fn own_checkpoints_are_known_by_their_url() {
        let run = Location::open("s3://bucket/run").unwrap();
        let inside = |url| name_inside(&run, url).unwrap();
        assert_eq!(inside("s3://bucket/run/checkpoints/step-1/"), Some("step-1".into()));
        assert_eq!(inside("s3://bucket/run/checkpoints"), None);
        assert_eq!(inside("s3://bucket/run2/checkpoints/step-1"), None);
    }
}
