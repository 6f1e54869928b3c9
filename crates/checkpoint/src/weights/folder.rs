//! Tensors of a safetensors folder, by name.
//!
//! A folder may hold more than is asked for, many gigabytes of it. Only headers are read, of the files that hold
//! something wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use strand_store::Location;

use super::header::{Stored, read_header};
use super::{WeightsError, read};

/// The file that says which file holds a tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// The only file of a smaller model.
const SINGLE: &str = "model.safetensors";

/// Longer indices are not read.
const MOST_INDEX_BYTES: u64 = 64 << 20;

/// Headers read at a time.
const IN_FLIGHT: usize = 8;

/// Where the tensors of a folder or file lie.
#[derive(Debug, Clone)]
pub struct Weights {
    pub(super) folder: Location,
    /// Named where a tensor is missing: the single file or the index.
    catalogue: String,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads the headers: of `url` itself where it names a `.safetensors` file, else of `model.safetensors` in it, else
    /// of those files that `model.safetensors.index.json` names for the `wanted` tensors.
    ///
    /// # Errors
    /// [`WeightsError::NoWeights`] where there is none of these, [`WeightsError::Missing`] for a tensor that the index
    /// promises in vain, [`WeightsError::File`] for a damaged file, storage errors.
    pub async fn open(url: &str, wanted: impl Fn(&str) -> bool) -> Result<Weights, WeightsError> {
        if url.ends_with(".safetensors") {
            let (folder, file) = url.rsplit_once('/').unwrap_or((".", url));
            return single(Location::open(folder)?, file, wanted).await;
        }
        let folder = Location::open(url)?;
        if folder.exists(SINGLE).await? {
            return single(folder, SINGLE, wanted).await;
        }
        if !folder.exists(INDEX).await? {
            return Err(WeightsError::NoWeights { folder: folder.url() });
        }
        let tensors = read_indexed(&folder, wanted).await?;
        Ok(Weights { catalogue: folder.url_of(INDEX), folder, tensors })
    }

    /// A tensor by its name.
    ///
    /// # Errors
    /// [`WeightsError::Missing`].
    pub fn tensor(&self, name: &str) -> Result<&Stored, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            url: self.catalogue.clone(),
            tensor: name.to_owned(),
        })
    }

    /// The names of all wanted tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The single file or the index.
    pub fn url(&self) -> &str {
        &self.catalogue
    }

    /// The URL of the file that holds a tensor.
    pub fn url_of(&self, stored: &Stored) -> String {
        self.folder.url_of(&stored.file)
    }

    /// The box at `offset` of size `extent` of a tensor: its values, last axis fastest, little-endian. Little more than
    /// the box is read: where its rows lie apart, what is between them is read along if it is short.
    ///
    /// # Errors
    /// [`WeightsError::Missing`], [`WeightsError::Type`] for values that are no floats, [`WeightsError::Slice`], storage
    /// errors.
    pub async fn read_slice(
        &self,
        name: &str,
        offset: &[u64],
        extent: &[u64],
    ) -> Result<bytes::Bytes, WeightsError> {
        read::slice(self, name, offset, extent).await
    }

    /// A whole tensor.
    ///
    /// # Errors
    /// Those of [`Self::read_slice`].
    pub async fn read_tensor(&self, name: &str) -> Result<bytes::Bytes, WeightsError> {
        let shape = &self.tensor(name)?.shape;
        self.read_slice(name, &vec![0; shape.len()], shape).await
    }
}

async fn single(
    folder: Location,
    file: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Weights, WeightsError> {
    let tensors = read_header(&folder, file).await?;
    let tensors = tensors.into_iter().filter(|(name, _)| wanted(name)).collect();
    Ok(Weights { catalogue: folder.url_of(file), folder, tensors })
}

async fn read_indexed(
    folder: &Location,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Stored>, WeightsError> {
    let bad = |reason: String| WeightsError::File { url: folder.url_of(INDEX), reason };
    let bytes = folder.get_bounded(INDEX, MOST_INDEX_BYTES).await?;
    let Index { mut weight_map } =
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    weight_map.retain(|name, _| wanted(name));
    let files: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    if let Some(file) = files.iter().find(|file| !is_plain(file)) {
        return Err(bad(format!("`{file}` is not the name of a file in the same folder")));
    }
    let headers = stream::iter(files).map(|file| read_header(folder, file)).buffered(IN_FLIGHT);
    let mut tensors: BTreeMap<String, Stored> =
        headers.try_collect::<Vec<_>>().await?.into_iter().flatten().collect();
    tensors.retain(|name, _| wanted(name));
    match weight_map.into_iter().find(|(name, _)| !tensors.contains_key(name)) {
        None => Ok(tensors),
        Some((tensor, file)) => Err(WeightsError::Missing { url: folder.url_of(&file), tensor }),
    }
}

fn is_plain(file: &str) -> bool {
    Path::new(file).file_name().is_some_and(|name| name == file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::testing::{Folder, values};

    async fn open(folder: &Folder) -> Result<Weights, WeightsError> {
        Weights::open(&folder.url(), |name| name.starts_with("a.")).await
    }

    #[tokio::test]
    async fn only_what_is_wanted_is_known() {
        let folder = Folder::new();
        folder.write(SINGLE, &[("b.x", &[2], &[9.0; 2]), ("a.x", &[1, 2], &[1.0, 2.0])]);
        let weights = open(&folder).await.unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a.x"]);
        assert_eq!(values(&weights.read_tensor("a.x").await.unwrap()), [1.0, 2.0]);
        let error = weights.read_tensor("b.x").await.expect_err("not wanted");
        assert!(error.to_string().ends_with("model.safetensors: tensor `b.x` is missing"));
    }

    #[tokio::test]
    async fn an_index_is_followed_and_only_where_needed() {
        let folder = Folder::new();
        folder.write("model-1.safetensors", &[("a.x", &[1], &[3.0])]);
        // The other file is not there, and nobody asks for it.
        folder.index(&[("a.x", "model-1.safetensors"), ("b.x", "model-2.safetensors")]);
        let weights = open(&folder).await.unwrap();
        assert_eq!(values(&weights.read_tensor("a.x").await.unwrap()), [3.0]);
        for (place, named) in [
            (("a.x", "../model-1.safetensors"), "in the same folder"),
            (("a.y", "model-1.safetensors"), "`a.y` is missing"),
            (("a.y", "model-2.safetensors"), "model-2.safetensors"),
        ] {
            folder.index(&[place]);
            let error = open(&folder).await.expect_err(named);
            assert!(error.to_string().contains(named), "{error}");
        }
        std::fs::write(folder.path(INDEX), "{}").unwrap();
        let error = open(&folder).await.expect_err("no map");
        assert!(error.to_string().contains("weight_map"), "{error}");
    }

    #[tokio::test]
    async fn a_file_may_be_named_alone() {
        let folder = Folder::new();
        folder.write("projector.safetensors", &[("a.x", &[1], &[3.0])]);
        let url = format!("{}/projector.safetensors", folder.url());
        assert!(Weights::open(&url, |_| true).await.unwrap().tensor("a.x").is_ok());
        assert!(matches!(open(&folder).await, Err(WeightsError::NoWeights { .. })));
    }

    #[tokio::test]
    async fn damaged_files_are_named() {
        let folder = Folder::new();
        folder.write(SINGLE, &[("a.x", &[2], &[1.0; 2])]);
        let whole = std::fs::read(folder.path(SINGLE)).unwrap();
        let huge = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &whole[..4], &huge] {
            std::fs::write(folder.path(SINGLE), bytes).unwrap();
            let error = open(&folder).await.expect_err("damaged");
            assert!(error.to_string().contains(SINGLE), "{error}");
        }
    }
}
