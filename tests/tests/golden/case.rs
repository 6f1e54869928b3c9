//! Reading a golden case: see `tests/golden/README.md`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use strand_model::{Config, Sample, VideoInput};
use tch::{Kind, Tensor};

#[derive(Clone, Deserialize)]
pub struct Case {
    pub name: String,
    model: serde_json::Value,
    video: Video,
    mvm: Mvm,
    lead_bos: bool,
    #[serde(default)]
    pub samples: Vec<Ids>,
    pub expected: Option<Losses>,
    pub optimizer: Option<Optimizer>,
    #[serde(default)]
    pub steps: Vec<Step>,
    #[serde(skip)]
    pub tensors: Tensors,
}

/// Tensors by name; a clone shares their memory.
#[derive(Default)]
pub struct Tensors(HashMap<String, Tensor>);

impl Clone for Tensors {
    fn clone(&self) -> Tensors {
        Tensors(
            self.0.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
        )
    }
}

impl Tensors {
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }
}

#[derive(Clone, Deserialize)]
struct Video {
    input: String,
    local_frames: Option<i64>,
    adapter_size: Option<i64>,
}

#[derive(Clone, Deserialize)]
struct Mvm {
    enabled: bool,
    decoder: bool,
}

#[derive(Clone, Deserialize)]
pub struct Ids {
    before: Vec<i64>,
    after: Vec<i64>,
    answer: Vec<i64>,
}

#[derive(Clone, Deserialize)]
pub struct Losses {
    pub lm_loss: f64,
    pub mvm_loss: Option<f64>,
    pub loss: f64,
}

#[derive(Clone, Deserialize)]
pub struct Optimizer {
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub clip_grad_norm: Option<f64>,
}

#[derive(Clone, Deserialize)]
pub struct Step {
    pub lr: f64,
    pub lm_loss: f64,
    pub mvm_loss: Option<f64>,
    pub grad_norm: f64,
    pub samples: Vec<Ids>,
}

/// The folder of `STRAND_GOLDEN`, or the project's own copy.
pub fn folder() -> PathBuf {
    std::env::var_os("STRAND_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from)
}

/// All cases in the folder, by name.
pub fn all() -> Result<Vec<Case>> {
    let folder = folder();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            cases.push(read(&path).with_context(|| path.display().to_string())?);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!cases.is_empty(), "no golden cases in {}", folder.display());
    Ok(cases)
}

fn read(path: &Path) -> Result<Case> {
    let mut case: Case = serde_json::from_slice(&std::fs::read(path)?)?;
    let bytes = std::fs::read(path.with_extension("safetensors"))?;
    for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::U8 => Kind::Uint8,
            Dtype::I64 => Kind::Int64,
            other => bail!("{name}: type {other:?} is not expected in a golden case"),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        case.tensors.0.insert(name, Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(case)
}

impl Case {
    pub fn config(&self) -> Result<Config> {
        let mut config: Config = serde_json::from_value(self.model.clone())?;
        config.adapter_size = self.video.adapter_size;
        config.mvm_decoder = self.mvm.decoder;
        Ok(config)
    }

    pub fn input(&self) -> Result<VideoInput> {
        let local_frames = self.video.local_frames;
        Ok(match (self.video.input.as_str(), local_frames) {
            ("all", _) => VideoInput::All,
            ("mean", _) => VideoInput::Mean,
            ("global_local", Some(local_frames)) => VideoInput::GlobalLocal { local_frames },
            other => bail!("video input {other:?}"),
        })
    }

    /// Masked video modelling: off, or on with or without the decoder.
    pub fn mvm(&self) -> Option<bool> {
        self.mvm.enabled.then_some(self.mvm.decoder)
    }

    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("{}: no tensor {name}", self.name))
    }

    /// The samples of a step; `suffix` is empty or `.3` for step 3 of a trajectory.
    pub fn batch(&self, ids: &[Ids], suffix: &str) -> Result<Vec<Sample>> {
        let features = self.tensor(&format!("features{suffix}"))?;
        let mask = self.tensors.get(&format!("mask{suffix}"));
        let bos = self.lead_bos.then(|| self.model["bos_token_id"].as_i64().context("no bos"));
        let bos = bos.transpose()?;
        ids.iter()
            .enumerate()
            .map(|(i, ids)| {
                Ok(Sample {
                    before: bos.iter().chain(&ids.before).copied().collect(),
                    features: features.get(i as i64),
                    kept: mask.map(|mask| kept(&mask.get(i as i64))).transpose()?,
                    after: ids.after.clone(),
                    answer: ids.answer.clone(),
                    dropout_key: None,
                })
            })
            .collect()
    }
}

fn kept(mask: &Tensor) -> Result<Vec<i64>> {
    let dropped: Vec<u8> = Vec::try_from(mask)?;
    Ok((0..dropped.len() as i64).filter(|&i| dropped[i as usize] == 0).collect())
}
