//! Tensors of a Hugging Face safetensors folder, by name.
//!
//! A folder holds the language model too, many gigabytes of it. Only headers and the byte ranges of the tensors that
//! an encoder asks for are read, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::error::VisionError;
use crate::eva::EvaVit;
use crate::folder::read_small;
use crate::identity::Identity;
use crate::qformer::QFormer;

/// What an encoder's tensors begin with.
const PREFIXES: [&str; 3] = ["vision_model.", "qformer.", "query_tokens"];

/// Longer headers are refused by the reference implementation too.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Bytes in front of a header: its length.
const LENGTH_BYTES: u64 = 8;

/// Where the tensors of an encoder lie.
#[derive(Debug)]
pub struct Weights {
    /// Named where a tensor is missing: the single file or the index.
    catalogue: PathBuf,
    places: BTreeMap<String, Place>,
}

/// Where one tensor lies.
#[derive(Debug, Clone)]
struct Place {
    file: Arc<OpenFile>,
    dtype: Dtype,
    shape: Vec<i64>,
    /// First byte in the file, and number of bytes.
    offset: u64,
    bytes: usize,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads the headers: of `model.safetensors`, or of those files that `model.safetensors.index.json` names for the
    /// tensors of an encoder.
    ///
    /// # Errors
    /// [`VisionError::NoWeights`] where there is neither, [`VisionError::Read`] and [`VisionError::File`] for a file
    /// that is missing or damaged, [`VisionError::MissingTensor`] for one that the index promises in vain.
    pub fn open(folder: &Path) -> Result<Weights, VisionError> {
        let single = folder.join("model.safetensors");
        if single.is_file() {
            let places = read_header(&single)?;
            return Ok(Weights { catalogue: single, places });
        }
        let index = folder.join("model.safetensors.index.json");
        if !index.is_file() {
            return Err(VisionError::NoWeights { folder: folder.to_owned() });
        }
        let places = read_indexed(folder, &index)?;
        Ok(Weights { catalogue: index, places })
    }

    /// A reader that brings tensors to `kind` on `device` and notes them in an [`Identity`].
    pub fn reader(&self, kind: Kind, device: Device) -> Reader<'_> {
        Reader { source: Source::Weights(self), identity: Identity::default(), kind, device }
    }

    fn place(&self, name: &str) -> Result<&Place, VisionError> {
        self.places.get(name).ok_or_else(|| VisionError::MissingTensor {
            path: self.catalogue.clone(),
            tensor: name.to_owned(),
        })
    }
}

/// Reads tensors for one encoder.
#[derive(Debug)]
pub struct Reader<'a> {
    source: Source<'a>,
    identity: Identity,
    kind: Kind,
    device: Device,
}

#[derive(Debug)]
enum Source<'a> {
    Weights(&'a Weights),
    /// Nothing is read: names and shapes are noted.
    List(Vec<(String, Vec<i64>)>),
}

/// Names and shapes of all tensors of a model, in the order in which they are read.
///
/// # Errors
/// [`VisionError::Torch`].
pub fn tensor_shapes(config: &Config) -> Result<Vec<(String, Vec<i64>)>, VisionError> {
    let (kind, device) = (Kind::Float, Device::Cpu);
    let identity = Identity::default();
    let mut reader = Reader { source: Source::List(Vec::new()), identity, kind, device };
    EvaVit::read(&config.vision, &mut reader)?;
    QFormer::read(config, &mut reader)?;
    match reader.source {
        Source::List(shapes) => Ok(shapes),
        Source::Weights(_) => Ok(Vec::new()),
    }
}

impl Reader<'_> {
    /// A tensor in the type of the computation.
    ///
    /// # Errors
    /// [`VisionError::MissingTensor`], [`VisionError::Shape`], [`VisionError::TensorType`] and [`VisionError::Read`]
    /// name file and tensor.
    pub fn tensor(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, VisionError> {
        self.read(name, shape, self.kind)
    }

    /// A tensor in fp32 whatever the computation's type.
    ///
    /// # Errors
    /// Those of [`Self::tensor`].
    pub fn wide(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, VisionError> {
        self.read(name, shape, Kind::Float)
    }

    /// What was read.
    pub(crate) fn into_identity(self) -> Identity {
        self.identity
    }

    fn read(&mut self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, VisionError> {
        let place = match &mut self.source {
            Source::Weights(weights) => weights.place(name)?,
            Source::List(shapes) => {
                shapes.push((name.to_owned(), shape.to_vec()));
                return Ok(Tensor::f_zeros([0], (kind, self.device))?);
            }
        };
        let path = &place.file.path;
        if place.shape != shape {
            return Err(VisionError::Shape {
                path: path.clone(),
                tensor: name.to_owned(),
                found: place.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let stored = float(place.dtype).ok_or_else(|| VisionError::TensorType {
            path: path.clone(),
            tensor: name.to_owned(),
            found: format!("{:?}", place.dtype),
        })?;
        let mut bytes = vec![0; place.bytes];
        let read = place.file.file.read_exact_at(&mut bytes, place.offset);
        read.map_err(|source| VisionError::Read { path: path.clone(), source })?;
        self.identity.add_tensor(name, &format!("{:?} {shape:?}", place.dtype), &bytes);
        let tensor = Tensor::f_from_data_size(&bytes, shape, stored)?;
        Ok(tensor.f_to_device(self.device)?.f_to_kind(kind)?)
    }
}

fn float(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}

fn is_wanted(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn read_indexed(folder: &Path, index: &Path) -> Result<BTreeMap<String, Place>, VisionError> {
    let bad = |reason: String| VisionError::File { path: index.to_owned(), reason };
    let Index { weight_map } =
        serde_json::from_slice(&read_small(index)?).map_err(|error| bad(error.to_string()))?;
    let wanted: BTreeMap<&String, &String> =
        weight_map.iter().filter(|(name, _)| is_wanted(name)).collect();
    let mut places = BTreeMap::new();
    for file in wanted.values().copied().collect::<BTreeSet<_>>() {
        if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) {
            return Err(bad(format!("`{file}` is not the name of a file in the same folder")));
        }
        places.append(&mut read_header(&folder.join(file))?);
    }
    match wanted.into_iter().find(|(name, _)| !places.contains_key(*name)) {
        None => Ok(places),
        Some((name, file)) => {
            Err(VisionError::MissingTensor { path: folder.join(file), tensor: name.clone() })
        }
    }
}

/// The wanted tensors of a file; the file is opened and nothing but its header read.
fn read_header(path: &Path) -> Result<BTreeMap<String, Place>, VisionError> {
    let failed = |source| VisionError::Read { path: path.to_owned(), source };
    let bad = |reason: &str| VisionError::File {
        path: path.to_owned(),
        reason: format!("not safetensors: {reason}"),
    };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0).map_err(failed)?;
    let header = u64::from_le_bytes(length);
    if header > MOST_HEADER_BYTES || header > size.saturating_sub(LENGTH_BYTES) {
        return Err(bad(&format!("a header of {header} bytes in a file of {size}")));
    }
    let mut json = vec![0; header as usize];
    file.read_exact_at(&mut json, LENGTH_BYTES).map_err(failed)?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| bad(&error.to_string()))?;
    let file = Arc::new(OpenFile { path: path.to_owned(), file });
    let data = LENGTH_BYTES + header;
    let mut places = BTreeMap::new();
    for (name, info) in metadata.tensors().into_iter().filter(|(name, _)| is_wanted(name)) {
        let place = place(&file, data, size, info);
        let place = place.ok_or_else(|| bad(&format!("tensor `{name}` lies outside the file")))?;
        places.insert(name, place);
    }
    Ok(places)
}

/// `None` where a tensor's bytes are not in the file or not as many as its shape asks for.
fn place(file: &Arc<OpenFile>, data: u64, size: u64, info: &TensorInfo) -> Option<Place> {
    let (first, last) = info.data_offsets;
    let bytes = last.checked_sub(first)?;
    let values = info.shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
    let fits = data.checked_add(last as u64)? <= size;
    let shape = info.shape.iter().map(|&dim| i64::try_from(dim).ok()).collect::<Option<_>>()?;
    (fits && values.checked_mul(info.dtype.bitsize())? == bytes.checked_mul(8)?).then(|| Place {
        file: file.clone(),
        dtype: info.dtype,
        shape,
        offset: data + first as u64,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, write_file};

    fn reader(weights: &Weights) -> Reader<'_> {
        weights.reader(Kind::Float, Device::Cpu)
    }

    #[test]
    fn only_an_encoder_s_tensors_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let tensors: Values = vec![
            ("language_model.x".into(), vec![2], vec![9.0; 2]),
            ("query_tokens".into(), vec![1, 2], vec![1.0, 2.0]),
        ];
        write_file(&folder.path().join("model.safetensors"), &tensors);
        let weights = Weights::open(folder.path()).unwrap();
        let mut reader = reader(&weights);
        let tensor = reader.tensor("query_tokens", &[1, 2]).unwrap();
        assert_eq!(Vec::<f32>::try_from(tensor.view(-1)).unwrap(), [1.0, 2.0]);
        let error = reader.tensor("language_model.x", &[2]).expect_err("not an encoder's");
        assert!(error.to_string().contains("model.safetensors: tensor `language_model.x`"));
    }

    #[test]
    fn an_index_is_followed_and_only_where_needed() {
        let folder = tempfile::tempdir().unwrap();
        let tensors: Values = vec![("qformer.a".into(), vec![1], vec![3.0])];
        write_file(&folder.path().join("model-1.safetensors"), &tensors);
        // The language model's file is not there, and nobody asks for it.
        let index = r#"{"weight_map": {"qformer.a": "model-1.safetensors",
            "language_model.b": "model-2.safetensors"}}"#;
        let path = folder.path().join("model.safetensors.index.json");
        std::fs::write(&path, index).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        assert!(reader(&weights).tensor("qformer.a", &[1]).is_ok());
        for (index, named) in [
            (r#"{"weight_map": {"qformer.a": "../model-1.safetensors"}}"#, "in the same folder"),
            (r#"{"weight_map": {"qformer.b": "model-1.safetensors"}}"#, "`qformer.b` is missing"),
            (r#"{"weight_map": {"qformer.b": "model-2.safetensors"}}"#, "model-2.safetensors"),
            ("{}", "weight_map"),
        ] {
            std::fs::write(&path, index).unwrap();
            let error = Weights::open(folder.path()).expect_err(named);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn shapes_and_types_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_file(&path, &vec![("qformer.a".into(), vec![2], vec![1.0; 2])]);
        let weights = Weights::open(folder.path()).unwrap();
        let error = reader(&weights).tensor("qformer.a", &[3]).expect_err("another shape");
        assert!(error.to_string().contains("`qformer.a` has shape [2]"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        let header = String::from_utf8_lossy(&bytes).replace("F32", "I32");
        std::fs::write(&path, header).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        let error = reader(&weights).tensor("qformer.a", &[2]).expect_err("integers");
        assert!(error.to_string().contains("type I32"), "{error}");
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Weights::open(folder.path()).expect_err("nothing there");
        assert!(matches!(error, VisionError::NoWeights { .. }));
        let path = folder.path().join("model.safetensors");
        write_file(&path, &vec![("qformer.a".into(), vec![2], vec![1.0; 2])]);
        let whole = std::fs::read(&path).unwrap();
        let huge = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &whole[..4], &huge] {
            std::fs::write(&path, bytes).unwrap();
            let error = Weights::open(folder.path()).expect_err("damaged");
            assert!(error.to_string().contains("model.safetensors"), "{error}");
        }
    }
}
