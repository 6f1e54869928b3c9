//! Removing checkpoints that are no longer needed.

use strand_store::Location;

use crate::commit::{open_step, step_folder, steps};
use crate::manifest::{MANIFEST, Manifest};
use crate::{CheckpointError, State};

/// Keeps the newest `keep` checkpoints (the newest one always) and, if `keep_stage_ends`, each stage's last one;
/// removes the others, and unfinished folders older than the newest checkpoint. A manifest goes first, so that a
/// half-removed folder is not a checkpoint. Gives the removed steps. A checkpoint with a damaged manifest stays, with a
/// warning: what it was is not known.
///
/// Only the one writer of a run may call this: a folder being written looks unfinished.
///
/// # Errors
/// Storage errors.
pub async fn prune(
    run: &Location,
    keep: usize,
    keep_stage_ends: bool,
) -> Result<Vec<u64>, CheckpointError> {
    let mut committed = Vec::new();
    let mut unfinished = Vec::new();
    for step in steps(run).await? {
        match open_step(run, step).await {
            Ok(Some(manifest)) => committed.push(manifest.state),
            Ok(None) => unfinished.push(step),
            Err(error @ (CheckpointError::Store(_) | CheckpointError::Fenced { .. })) => {
                return Err(error);
            }
            Err(error) => tracing::warn!("not pruned: {error}"),
        }
    }
    let removed = to_remove(&committed, &unfinished, keep, keep_stage_ends);
    for &step in &removed {
        remove(run, step).await?;
    }
    Ok(removed)
}

fn to_remove(
    committed: &[State],
    unfinished: &[u64],
    keep: usize,
    keep_stage_ends: bool,
) -> Vec<u64> {
    let Some(newest) = committed.last().map(|state| state.step) else {
        return Vec::new();
    };
    let old = &committed[..committed.len().saturating_sub(keep.max(1))];
    let old =
        old.iter().filter(|state| !(keep_stage_ends && state.stage_done)).map(|state| state.step);
    let abandoned = unfinished.iter().copied().filter(|&step| step < newest);
    let mut steps: Vec<u64> = old.chain(abandoned).collect();
    steps.sort_unstable();
    steps
}

async fn remove(run: &Location, step: u64) -> Result<(), CheckpointError> {
    let folder = step_folder(step);
    run.join(&folder).delete(MANIFEST).await?;
    Ok(run.delete_folder(&folder).await?)
}

/// Removes what an unfinished write has left in a step's folder, e.g. to make room after a full disk.
///
/// # Errors
/// [`CheckpointError::Committed`] where the folder is a checkpoint, storage errors.
pub async fn discard(run: &Location, step: u64) -> Result<(), CheckpointError> {
    let folder = run.join(&step_folder(step));
    match Manifest::open(&folder).await {
        Err(CheckpointError::NotACheckpoint { .. }) => remove(run, step).await,
        Err(CheckpointError::Store(error)) => Err(error.into()),
        _ => Err(CheckpointError::Committed { url: folder.url() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::tests::state;

    #[test]
    fn the_newest_and_stage_ends_stay() {
        let mut committed: Vec<State> = [10, 20, 30, 40].map(state).into();
        committed[1].stage_done = true;
        let unfinished = [5, 35, 50];
        let remove = |keep, ends| to_remove(&committed, &unfinished, keep, ends);
        assert_eq!(remove(2, true), [5, 10, 35]);
        assert_eq!(remove(2, false), [5, 10, 20, 35]);
        assert_eq!(remove(0, true), [5, 10, 30, 35]);
        assert_eq!(remove(9, false), [5, 35]);
        assert!(to_remove(&[], &unfinished, 1, true).is_empty());
    }
}
