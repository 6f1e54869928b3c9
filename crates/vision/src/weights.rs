//! An encoder's tensors in a Hugging Face folder, by name.
//!
//! A folder holds the language model too, many gigabytes of it. Only headers and the byte ranges of the tensors that
//! an encoder asks for are read, one tensor at a time.

use std::path::Path;

use strand_checkpoint::Dtype;
use strand_checkpoint::weights;
use strand_checkpoint::weights::WeightsError;
use tch::{Device, Kind, Tensor};
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::error::VisionError;
use crate::eva::EvaVit;
use crate::identity::Identity;
use crate::qformer::QFormer;

/// What an encoder's tensors begin with.
const PREFIXES: [&str; 3] = ["vision_model.", "qformer.", "query_tokens"];

/// Where the tensors of an encoder lie.
#[derive(Debug)]
pub struct Weights {
    stored: weights::Weights,
    /// Waits for the reads: an encoder is opened by plain functions.
    runtime: Runtime,
}

impl Weights {
    /// Reads the headers: of `model.safetensors`, or of those files that `model.safetensors.index.json` names for the
    /// tensors of an encoder. Not to be called from a task.
    ///
    /// # Errors
    /// [`VisionError::Weights`] where there is neither, for a file that is missing or damaged, and for a tensor that the
    /// index promises in vain.
    pub fn open(folder: &Path) -> Result<Weights, VisionError> {
        let path = || folder.to_owned();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| VisionError::Read { path: path(), source })?;
        let url = folder.to_str().ok_or_else(|| VisionError::File {
            path: path(),
            reason: "the path is not UTF-8".to_owned(),
        })?;
        let wanted = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let stored = runtime.block_on(weights::Weights::open(url, wanted))?;
        Ok(Weights { stored, runtime })
    }

    /// A reader that brings tensors to `kind` on `device` and notes them in an [`Identity`].
    pub fn reader(&self, kind: Kind, device: Device) -> Reader<'_> {
        Reader { source: Source::Weights(self), identity: Identity::default(), kind, device }
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
    /// [`VisionError::Weights`] names file and tensor.
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
        let Weights { stored, runtime } = match &mut self.source {
            Source::Weights(weights) => weights,
            Source::List(shapes) => {
                shapes.push((name.to_owned(), shape.to_vec()));
                return Ok(Tensor::f_zeros([0], (kind, self.device))?);
            }
        };
        let found = stored.tensor(name)?;
        let expected: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
        if found.shape != expected {
            let (url, tensor) = (stored.url_of(found), name.to_owned());
            let found = found.shape.clone();
            return Err(WeightsError::Shape { url, tensor, found, expected }.into());
        }
        let bytes = runtime.block_on(stored.read_tensor(name))?;
        // Values that are no floats have been refused by the read.
        let stored_kind = found.dtype.map_or(kind, kind_of);
        self.identity.add_tensor(name, &format!("{} {shape:?}", found.type_name), &bytes);
        let tensor = Tensor::f_from_data_size(&bytes, shape, stored_kind)?;
        Ok(tensor.f_to_device(self.device)?.f_to_kind(kind)?)
    }
}

fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
    }
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
    fn shapes_are_checked_and_files_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Weights::open(folder.path()).expect_err("nothing there");
        assert!(matches!(error, VisionError::Weights(WeightsError::NoWeights { .. })));
        let path = folder.path().join("model.safetensors");
        write_file(&path, &vec![("qformer.a".into(), vec![2], vec![1.0; 2])]);
        let weights = Weights::open(folder.path()).unwrap();
        let error = reader(&weights).tensor("qformer.a", &[3]).expect_err("another shape");
        assert!(error.to_string().contains("`qformer.a` has shape [2]"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("config.json")));
    }
}
