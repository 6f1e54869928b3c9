//! A LLaMA and a projector among the tensors of other tools' files, under the names of this trainer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strand_store::Location;

use super::{Stored, Weights, WeightsError};

/// The file that says what a folder's model is.
pub const CONFIG: &str = "config.json";

/// Longer configurations are not read.
pub(super) const MOST_CONFIG_BYTES: u64 = 16 << 20;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The projector's tensors.
const PROJECTOR: [&str; 2] = ["proj.weight", "proj.bias"];

/// What names of InstructBLIP's language model begin with.
const LANGUAGE_MODEL: &str = "language_model.";

/// The projector as InstructBLIP, MiniGPT-4 and this trainer name it.
const PROJECTORS: [&str; 3] = ["language_projection.", "llama_proj.", "proj."];

/// Parts of InstructBLIP and MiniGPT-4 that make features and are no part of training.
const ENCODERS: [&str; 8] = [
    "vision_model.",
    "qformer.",
    "query_tokens",
    "visual_encoder.",
    "ln_vision.",
    "Qformer.",
    "language_model.",
    "llama_model.",
];

/// A buffer that older versions of transformers wrote, and that follows from the configuration.
const FREQUENCIES: &str = ".rotary_emb.inv_freq";

/// The `config.json` of a model's folder, and its URL.
///
/// # Errors
/// Storage errors: there may be none.
pub async fn read_config(folder: &str) -> Result<(Bytes, String), WeightsError> {
    let folder = Location::open(folder)?;
    let bytes = folder.get_bounded(CONFIG, MOST_CONFIG_BYTES).await?;
    Ok((bytes, folder.url_of(CONFIG)))
}

/// The tensors that a language model's folder has to hold.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Names and shapes.
    pub tensors: Vec<(String, Vec<u64>)>,
    /// Whether the head is the embedding, whatever is stored.
    pub tied: bool,
}

/// A language model and, where there is one, a projector.
#[derive(Debug, Clone)]
pub struct LlamaWeights {
    sources: Vec<Weights>,
    /// By our name: the source, and the name in it.
    places: BTreeMap<String, (usize, String)>,
}

impl LlamaWeights {
    /// Finds the tensors of a folder: those of the language model, bare or as a part of InstructBLIP, and the projector
    /// `proj.*`, if there is one. The projector of `projector`, a folder or file, comes before the folder's own.
    ///
    /// # Errors
    /// [`WeightsError::Names`] lists all tensors that are missing and all that are not known, [`WeightsError::Shape`];
    /// those of [`Weights::open`].
    pub async fn open(
        folder: &str,
        projector: Option<&str>,
        expected: &Expected,
    ) -> Result<LlamaWeights, WeightsError> {
        let mut llama = LlamaWeights { sources: Vec::new(), places: BTreeMap::new() };
        llama.add(Weights::open(folder, |name| !is_encoder(name)).await?, language_model)?;
        if expected.tied {
            llama.places.insert(HEAD.to_owned(), (0, llama.embedding_name()));
        }
        llama.check_names(expected)?;
        if let Some(url) = projector {
            let weights = Weights::open(url, |name| !is_beside_projector(name)).await?;
            llama.add(weights, projector_name)?;
            llama.check_projector()?;
        }
        for (name, shape) in &expected.tensors {
            llama.check_shape(name, shape)?;
        }
        Ok(llama)
    }

    /// A tensor by our name.
    pub fn tensor(&self, name: &str) -> Option<&Stored> {
        let (source, stored) = self.places.get(name)?;
        self.sources[*source].tensor(stored).ok()
    }

    /// All tensors by our names, sorted.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.places.keys().filter_map(|name| Some((name.as_str(), self.tensor(name)?)))
    }

    /// A box of a tensor, as [`Weights::read_slice`] reads it.
    ///
    /// # Errors
    /// [`WeightsError::Missing`] for a name that it does not have, and those of [`Weights::read_slice`].
    pub async fn read_slice(
        &self,
        name: &str,
        offset: &[u64],
        extent: &[u64],
    ) -> Result<Bytes, WeightsError> {
        let (source, stored) = self.places.get(name).ok_or_else(|| self.missing(name))?;
        self.sources[*source].read_slice(stored, offset, extent).await
    }

    /// Checks that a tensor has a shape.
    ///
    /// # Errors
    /// [`WeightsError::Shape`] where it has another, [`WeightsError::Missing`].
    pub fn check_shape(&self, name: &str, expected: &[u64]) -> Result<(), WeightsError> {
        let (source, tensor) = self.places.get(name).ok_or_else(|| self.missing(name))?;
        let stored = self.sources[*source].tensor(tensor)?;
        if stored.shape == expected {
            return Ok(());
        }
        Err(WeightsError::Shape {
            url: self.sources[*source].url_of(stored),
            tensor: tensor.clone(),
            found: stored.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn missing(&self, name: &str) -> WeightsError {
        let url = self.sources.last().map_or("", Weights::url).to_owned();
        WeightsError::Missing { url, tensor: name.to_owned() }
    }

    /// Adds the tensors of a source under our names; tensors that have none keep their own.
    pub(super) fn add(
        &mut self,
        weights: Weights,
        our_name: impl Fn(&str) -> String,
    ) -> Result<(), WeightsError> {
        let source = self.sources.len();
        let mut found = BTreeMap::new();
        for name in weights.names().filter(|name| !name.ends_with(FREQUENCIES)) {
            let ours = our_name(name);
            if let Some((_, first)) = found.insert(ours, (source, name.to_owned())) {
                let reason = format!("`{first}` and `{name}` are the same part of the model");
                return Err(WeightsError::File { url: weights.url().to_owned(), reason });
            }
        }
        self.places.extend(found);
        self.sources.push(weights);
        Ok(())
    }

    fn embedding_name(&self) -> String {
        self.places.get(EMBEDDING).map_or(EMBEDDING.to_owned(), |(_, stored)| stored.clone())
    }

    fn check_names(&self, expected: &Expected) -> Result<(), WeightsError> {
        let is_there = |name: &str| match self.places.get(name) {
            Some((source, stored)) => self.sources[*source].tensor(stored).is_ok(),
            None => false,
        };
        let has_projector = PROJECTOR.iter().any(|name| is_there(name));
        let projector = PROJECTOR.into_iter().filter(|_| has_projector);
        let wanted: BTreeSet<&str> =
            expected.tensors.iter().map(|(name, _)| name.as_str()).chain(projector).collect();
        let missing = wanted.iter().filter(|name| !is_there(name)).map(|&name| name.to_owned());
        let unexpected = self.places.iter().filter(|(name, _)| !wanted.contains(name.as_str()));
        let unexpected = unexpected.map(|(_, (_, stored))| stored.clone()).collect();
        self.refuse(0, missing.collect(), unexpected)
    }

    /// The projector's own file holds weight and bias, and nothing else that is not known.
    fn check_projector(&self) -> Result<(), WeightsError> {
        let of_source = |name: &str| self.places.get(name).is_some_and(|(source, _)| *source == 1);
        let missing = PROJECTOR.iter().filter(|name| !of_source(name)).map(|&name| name.to_owned());
        let others = self.places.iter().filter(|(_, (source, _))| *source == 1);
        let unexpected = others.filter(|(name, _)| !PROJECTOR.contains(&name.as_str()));
        let unexpected = unexpected.map(|(_, (_, stored))| stored.clone()).collect();
        self.refuse(1, missing.collect(), unexpected)
    }

    fn refuse(
        &self,
        source: usize,
        missing: Vec<String>,
        unexpected: Vec<String>,
    ) -> Result<(), WeightsError> {
        if missing.is_empty() && unexpected.is_empty() {
            return Ok(());
        }
        let url = self.sources[source].url().to_owned();
        Err(WeightsError::Names { url, missing, unexpected })
    }
}

/// Whether a tensor of a language model's folder belongs to an encoder.
fn is_encoder(name: &str) -> bool {
    !name.starts_with(LANGUAGE_MODEL) && ENCODERS.iter().any(|part| name.starts_with(part))
}

/// Whether a tensor of a projector's folder or file belongs to another part of the model.
fn is_beside_projector(name: &str) -> bool {
    ENCODERS.iter().any(|part| name.starts_with(part))
}

/// Our name of a tensor in a language model's folder.
fn language_model(name: &str) -> String {
    match name.strip_prefix(LANGUAGE_MODEL) {
        Some(rest) => rest.to_owned(),
        None => projector_name(name),
    }
}

fn projector_name(name: &str) -> String {
    let rest = PROJECTORS.iter().find_map(|prefix| name.strip_prefix(prefix));
    rest.map_or_else(|| name.to_owned(), |rest| format!("proj.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::testing::{Folder, values};

    fn expected(tied: bool) -> Expected {
        let tensors = [(EMBEDDING, vec![2, 1]), (HEAD, vec![2, 1]), ("model.norm.weight", vec![1])];
        let tensors = tensors.map(|(name, shape)| (name.to_owned(), shape)).into();
        Expected { tensors, tied }
    }

    async fn read(llama: &LlamaWeights, name: &str) -> Vec<f32> {
        let shape = &llama.tensor(name).unwrap().shape;
        values(&llama.read_slice(name, &vec![0; shape.len()], shape).await.unwrap())
    }

    #[tokio::test]
    async fn a_plain_folder_may_be_tied_and_hold_frequencies() {
        let folder = Folder::new();
        folder.write(
            "model.safetensors",
            &[
                (EMBEDDING, &[2, 1], &[1.0, 2.0]),
                ("model.norm.weight", &[1], &[3.0]),
                ("model.layers.0.self_attn.rotary_emb.inv_freq", &[1], &[4.0]),
            ],
        );
        let llama = LlamaWeights::open(&folder.url(), None, &expected(true)).await.unwrap();
        assert_eq!(read(&llama, HEAD).await, [1.0, 2.0]);
        assert_eq!(llama.tensors().count(), 3);
        let error =
            LlamaWeights::open(&folder.url(), None, &expected(false)).await.expect_err("no head");
        assert!(error.to_string().ends_with("1 tensor is missing\n  lm_head.weight"), "{error}");
    }

    #[tokio::test]
    async fn instructblip_holds_a_language_model_and_a_projector() {
        let folder = Folder::new();
        folder.write(
            "model.safetensors",
            &[
                ("language_model.model.embed_tokens.weight", &[2, 1], &[1.0, 2.0]),
                ("language_model.lm_head.weight", &[2, 1], &[5.0, 6.0]),
                ("language_model.model.norm.weight", &[1], &[3.0]),
                ("language_projection.weight", &[1, 2], &[7.0, 8.0]),
                ("language_projection.bias", &[1], &[9.0]),
                ("vision_model.x", &[1], &[0.0]),
                ("query_tokens", &[1], &[0.0]),
            ],
        );
        let llama = LlamaWeights::open(&folder.url(), None, &expected(false)).await.unwrap();
        assert_eq!(read(&llama, HEAD).await, [5.0, 6.0]);
        assert_eq!(read(&llama, "proj.weight").await, [7.0, 8.0]);
        assert_eq!(llama.tensors().count(), 5);
    }

    #[tokio::test]
    async fn a_projector_of_its_own_comes_first() {
        let folder = Folder::new();
        let all: &[(&str, &[usize], &[f32])] = &[
            (EMBEDDING, &[2, 1], &[1.0, 2.0]),
            (HEAD, &[2, 1], &[1.0, 2.0]),
            ("model.norm.weight", &[1], &[3.0]),
            ("language_projection.weight", &[1, 1], &[0.0]),
            ("language_projection.bias", &[1], &[0.0]),
        ];
        folder.write("model.safetensors", all);
        let parts: &[(&str, &[usize], &[f32])] = &[
            ("llama_proj.weight", &[1, 1], &[4.0]),
            ("llama_proj.bias", &[1], &[5.0]),
            ("query_tokens", &[1], &[6.0]),
        ];
        folder.write("minigpt4.safetensors", parts);
        let file = format!("{}/minigpt4.safetensors", folder.url());
        let llama = LlamaWeights::open(&folder.url(), Some(&file), &expected(false)).await.unwrap();
        assert_eq!(read(&llama, "proj.weight").await, [4.0]);
        assert_eq!(read(&llama, "proj.bias").await, [5.0]);
        folder.write(
            "minigpt4.safetensors",
            &[("llama_proj.weight", &[1, 1], &[4.0]), ("x", &[1], &[1.0])],
        );
        let error = LlamaWeights::open(&folder.url(), Some(&file), &expected(false)).await;
        let text = error.expect_err("no bias, and something else").to_string();
        assert!(text.contains("missing\n  proj.bias\n1 tensor is not known\n  x"), "{text}");
    }

    #[tokio::test]
    async fn all_names_are_looked_at() {
        let folder = Folder::new();
        let (embedding, extra) =
            ((EMBEDDING, &[2, 1][..], &[1.0, 2.0][..]), ("model.layers.9.x", &[1][..], &[0.0][..]));
        folder.write("model.safetensors", &[embedding, extra]);
        let error =
            LlamaWeights::open(&folder.url(), None, &expected(false)).await.expect_err("names");
        let WeightsError::Names { missing, unexpected, .. } = error else { panic!("{error}") };
        assert_eq!(missing, [HEAD, "model.norm.weight"]);
        assert_eq!(unexpected, ["model.layers.9.x"]);
    }

    #[tokio::test]
    async fn shapes_are_those_of_the_configuration() {
        let folder = Folder::new();
        folder.write(
            "model.safetensors",
            &[(EMBEDDING, &[3, 1], &[1.0; 3]), ("model.norm.weight", &[1], &[3.0])],
        );
        let error =
            LlamaWeights::open(&folder.url(), None, &expected(true)).await.expect_err("a row more");
        assert!(error.to_string().contains("has shape [3, 1]"), "{error}");
    }
}
