//! From parts to a checkpoint, and finding it again.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use strand_store::{Location, StoreError};

use crate::manifest::{Format, MANIFEST, Manifest, Tensor};
use crate::part::PartTensor;
use crate::{BLOCK_BYTES, CheckpointError, Kind, Part, State};

/// Manifests read at a time.
const IN_FLIGHT: usize = 8;

/// The name of a step's folder.
pub fn step_folder(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step that a folder's name says.
fn step_of(folder: &str) -> Option<u64> {
    let step = folder.strip_prefix("step-")?.parse().ok()?;
    (step_folder(step) == folder).then_some(step)
}

/// Makes the folder of `state.step` below `run` a checkpoint by writing its manifest, after checking that each of the
/// dp × tp ranks has written its part for this step and attempt, that the parts hold every tensor exactly once, and
/// that the files are there.
///
/// # Errors
/// [`CheckpointError::Parts`], [`CheckpointError::Overlap`] and [`CheckpointError::Hole`] where the parts do not make
/// up a checkpoint, [`CheckpointError::Fenced`] where a later attempt has committed this step, storage errors.
pub async fn commit(
    run: &Location,
    state: &State,
    parts: Vec<Part>,
) -> Result<Manifest, CheckpointError> {
    let folder = run.join(&step_folder(state.step));
    check_ranks(state, &parts)?;
    let manifest = assemble(state, parts)?;
    manifest.check(&folder.url_of(MANIFEST))?;
    check_files(&folder, &manifest).await?;
    put_manifest(&folder, &manifest).await?;
    Ok(manifest)
}

fn check_ranks(state: &State, parts: &[Part]) -> Result<(), CheckpointError> {
    let refuse = |reason: String| CheckpointError::Parts { step: state.step, reason };
    let world = state.dp * state.tp;
    for rank in 0..world {
        let count = parts.iter().filter(|part| part.rank == rank).count();
        if count != 1 {
            return Err(refuse(format!("{count} parts of rank {rank}, need 1")));
        }
    }
    let other = parts.iter().find(|part| {
        part.rank >= world || (part.step, part.writer_epoch) != (state.step, state.writer_epoch)
    });
    match other {
        None => Ok(()),
        Some(part) => Err(refuse(format!(
            "the part of rank {} is of step {}, attempt {}; this is attempt {} with {world} ranks",
            part.rank, part.step, part.writer_epoch, state.writer_epoch
        ))),
    }
}

fn assemble(state: &State, parts: Vec<Part>) -> Result<Manifest, CheckpointError> {
    let mut files = Vec::new();
    let mut tensors: BTreeMap<(String, Kind), Tensor> = BTreeMap::new();
    for part in parts {
        files.extend(part.files);
        for piece in part.tensors {
            add(&mut tensors, piece, part.rank)?;
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut tensors: Vec<Tensor> = tensors.into_values().collect();
    for tensor in &mut tensors {
        tensor.parts.sort_by(|a, b| a.offset.cmp(&b.offset));
    }
    Ok(Manifest {
        format: Format::current(),
        state: state.clone(),
        block_bytes: BLOCK_BYTES,
        files,
        tensors,
    })
}

fn add(
    tensors: &mut BTreeMap<(String, Kind), Tensor>,
    piece: PartTensor,
    rank: usize,
) -> Result<(), CheckpointError> {
    let key = (piece.name.clone(), piece.kind);
    let tensor = tensors.entry(key).or_insert_with(|| Tensor {
        name: piece.name.clone(),
        kind: piece.kind,
        dtype: piece.dtype,
        shape: piece.shape.clone(),
        parts: Vec::new(),
    });
    if (tensor.dtype, &tensor.shape) != (piece.dtype, &piece.shape) {
        let reason = format!(
            "{:?} of shape {:?}, but {:?} of shape {:?} on another rank",
            piece.dtype, piece.shape, tensor.dtype, tensor.shape
        );
        return Err(CheckpointError::Piece { rank, name: piece.name, kind: piece.kind, reason });
    }
    tensor.parts.push(piece.part);
    Ok(())
}

/// Whether all files have arrived, whole.
async fn check_files(folder: &Location, manifest: &Manifest) -> Result<(), CheckpointError> {
    let sizes = file_sizes(folder).await?;
    for file in &manifest.files {
        match sizes.get(&file.path) {
            Some(&bytes) if bytes == file.bytes => {}
            found => {
                let found = found.map_or("missing".to_owned(), |bytes| format!("{bytes} bytes"));
                let reason = format!("{found}, {} bytes were written", file.bytes);
                return Err(CheckpointError::damaged(folder.url_of(&file.path), reason));
            }
        }
    }
    Ok(())
}

/// The sizes of all files in a checkpoint's folder.
pub(crate) async fn file_sizes(
    folder: &Location,
) -> Result<BTreeMap<String, u64>, CheckpointError> {
    let entries = folder.list("").await?;
    Ok(entries.into_iter().map(|entry| (entry.path, entry.bytes)).collect())
}

/// The commit. Where the step is committed already the later attempt wins.
async fn put_manifest(folder: &Location, manifest: &Manifest) -> Result<(), CheckpointError> {
    let url = folder.url_of(MANIFEST);
    let bytes =
        manifest.encode().map_err(|error| CheckpointError::damaged(&url, error.to_string()))?;
    match folder.put_new(MANIFEST, bytes.clone()).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        result => return Ok(result?),
    }
    let theirs = Manifest::open(folder).await?.state.writer_epoch;
    let ours = manifest.state.writer_epoch;
    if theirs > ours {
        return Err(CheckpointError::Fenced { url, theirs, ours });
    }
    Ok(folder.put(MANIFEST, bytes).await?)
}

/// The committed checkpoints below `run`, by step. Folders without a manifest are passed over.
///
/// # Errors
/// [`CheckpointError::Damaged`] for the first damaged manifest, storage errors.
pub async fn list(run: &Location) -> Result<Vec<Manifest>, CheckpointError> {
    let found: Vec<Option<Manifest>> = stream::iter(steps(run).await?)
        .map(|step| open_step(run, step))
        .buffered(IN_FLIGHT)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// The committed checkpoint of the highest step below `run`, if there is one.
///
/// # Errors
/// [`CheckpointError::Damaged`] where that one's manifest is damaged (an older one is not used in silence), storage
/// errors.
pub async fn latest(run: &Location) -> Result<Option<Manifest>, CheckpointError> {
    for step in steps(run).await?.into_iter().rev() {
        let found = open_step(run, step).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The steps that have a folder, committed or not, in order.
pub(crate) async fn steps(run: &Location) -> Result<Vec<u64>, CheckpointError> {
    let folders = run.list_folders("").await?;
    let mut steps: Vec<u64> = folders.iter().filter_map(|name| step_of(name)).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// A step's manifest, nothing where it is not committed.
pub(crate) async fn open_step(
    run: &Location,
    step: u64,
) -> Result<Option<Manifest>, CheckpointError> {
    let folder = run.join(&step_folder(step));
    match Manifest::open(&folder).await {
        Ok(manifest) if manifest.state.step == step => Ok(Some(manifest)),
        Ok(manifest) => Err(CheckpointError::damaged(
            folder.url_of(MANIFEST),
            format!("it is of step {}", manifest.state.step),
        )),
        Err(CheckpointError::NotACheckpoint { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_one_to_one() {
        assert_eq!(step_folder(7), "step-00000007");
        assert_eq!(step_of("step-00000007"), Some(7));
        assert_eq!(step_of(&step_folder(123_456_789)), Some(123_456_789));
        for other in ["step-7", "step-0000000x", "steps", "step-+0000007"] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }
}
