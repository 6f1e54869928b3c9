//! Reading everything and checking it.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use serde::Serialize;
use strand_store::{Location, StoreError};

use crate::commit::file_sizes;
use crate::manifest::{File, MANIFEST, Manifest};
use crate::read::{IN_FLIGHT, all_requests, read_blocks, shortage};
use crate::{CheckpointError, Sum};

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checkpoint's step.
    pub step: u64,
    /// Files that the manifest names.
    pub num_files: usize,
    /// Tensors that it names.
    pub num_tensors: usize,
    /// The bytes of the files.
    pub bytes: u64,
    /// All that is wrong, empty for a sound checkpoint.
    pub faults: Vec<Fault>,
    /// Files in the folder that the manifest does not name: harmless remains of an earlier attempt.
    pub extra_files: Vec<String>,
}

impl Report {
    /// True where nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// The file's URL.
    pub url: String,
    /// Where and how.
    pub reason: String,
}

/// Reads a whole checkpoint and checks every byte of it.
///
/// # Errors
/// Those of [`Manifest::open`], and storage errors; damage of the files is in the report.
pub async fn verify(folder: &Location) -> Result<Report, CheckpointError> {
    let manifest = Manifest::open(folder).await?;
    let sizes = file_sizes(folder).await?;
    let mut faults = check_sizes(folder, &manifest, &sizes);
    if faults.is_empty() {
        faults.extend(check_headers(folder, &manifest).await?);
        faults.extend(check_parts(folder, &manifest).await?);
    }
    faults.sort();
    Ok(Report {
        step: manifest.state.step,
        num_files: manifest.files.len(),
        num_tensors: manifest.tensors.len(),
        bytes: manifest.body_bytes(),
        faults,
        extra_files: extra(&manifest, sizes),
    })
}

fn extra(manifest: &Manifest, sizes: BTreeMap<String, u64>) -> Vec<String> {
    let known =
        |path: &String| path == MANIFEST || manifest.files.iter().any(|file| &file.path == path);
    sizes.into_keys().filter(|path| !known(path)).collect()
}

fn check_sizes(
    folder: &Location,
    manifest: &Manifest,
    sizes: &BTreeMap<String, u64>,
) -> Vec<Fault> {
    let fault = |file: &File, reason| Fault { url: folder.url_of(&file.path), reason };
    manifest
        .files
        .iter()
        .filter_map(|file| match sizes.get(&file.path) {
            None => Some(fault(file, "the file is missing".to_owned())),
            Some(&bytes) if bytes == file.bytes => None,
            Some(bytes) => Some(fault(file, format!("{bytes} bytes, not {}", file.bytes))),
        })
        .collect()
}

async fn check_headers(
    folder: &Location,
    manifest: &Manifest,
) -> Result<Vec<Fault>, CheckpointError> {
    let checks = stream::iter(&manifest.files).map(|file| check_header(folder, file));
    collect_faults(checks.buffer_unordered(IN_FLIGHT).collect().await)
}

async fn check_header(folder: &Location, file: &File) -> Result<(), CheckpointError> {
    let url = folder.url_of(&file.path);
    let header = match folder.get_range(&file.path, 0..file.header_bytes).await {
        Ok(header) => header,
        Err(error @ (StoreError::Truncated { .. } | StoreError::NotFound { .. })) => {
            return Err(CheckpointError::damaged(url, shortage(&error)));
        }
        Err(error) => return Err(error.into()),
    };
    if Sum::of(&header) == file.header_xxh3 {
        return Ok(());
    }
    let reason = format!("wrong checksum in bytes 0..{}", file.header_bytes);
    Err(CheckpointError::damaged(url, reason))
}

async fn check_parts(
    folder: &Location,
    manifest: &Manifest,
) -> Result<Vec<Fault>, CheckpointError> {
    let block = manifest.block_bytes;
    let parts = manifest.tensors.iter().flat_map(|tensor| &tensor.parts);
    let requests = parts
        .flat_map(|part| all_requests(part, block).into_iter().map(move |blocks| (part, blocks)));
    let checks = stream::iter(requests).map(|(part, blocks)| async move {
        read_blocks(folder, part, block, blocks).await.map(drop)
    });
    collect_faults(checks.buffer_unordered(IN_FLIGHT).collect().await)
}

/// Damage is for the report, anything else ends the check.
fn collect_faults(
    results: Vec<Result<(), CheckpointError>>,
) -> Result<Vec<Fault>, CheckpointError> {
    let mut faults = Vec::new();
    for result in results {
        match result {
            Ok(()) => {}
            Err(CheckpointError::Damaged { url, reason }) => faults.push(Fault { url, reason }),
            Err(error) => return Err(error),
        }
    }
    Ok(faults)
}
