//! What a training run hands over: pieces of tensors, and where it stands.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What the values of a tensor are to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The parameter as the model computes with it.
    Parameter,
    /// AdamW's mean of the gradients.
    ExpAvg,
    /// AdamW's mean of the squared gradients.
    ExpAvgSq,
    /// The fp32 original of a parameter of a narrower type.
    Master,
}

impl Kind {
    /// The word of the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Parameter => "parameter",
            Kind::ExpAvg => "exp_avg",
            Kind::ExpAvgSq => "exp_avg_sq",
            Kind::Master => "master",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type of a tensor's values, stored little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 8 bytes.
    F64,
    /// 4 bytes.
    F32,
    /// 2 bytes, the upper half of an F32.
    Bf16,
    /// 2 bytes, IEEE half precision.
    F16,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// None for types that are no floats of ours.
    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        [Dtype::F64, Dtype::F32, Dtype::Bf16, Dtype::F16]
            .into_iter()
            .find(|ours| ours.safetensors() == dtype)
    }

    pub(crate) fn safetensors(self) -> safetensors::Dtype {
        match self {
            Dtype::F64 => safetensors::Dtype::F64,
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F16 => safetensors::Dtype::F16,
        }
    }
}

/// A box of a tensor's values, as one rank holds it.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The tensor's global name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// Their type.
    pub dtype: Dtype,
    /// The whole tensor's shape.
    pub shape: Vec<u64>,
    /// The box's first index on each axis.
    pub offset: Vec<u64>,
    /// The box's size on each axis.
    pub extent: Vec<u64>,
    /// The values of the box, last axis fastest, little-endian.
    pub data: Bytes,
}

/// Where a run stands: what a checkpoint holds beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps done in the whole run.
    pub step: u64,
    /// The stage's name.
    pub stage: String,
    /// Optimizer steps done in this stage.
    pub stage_step: u64,
    /// True for the stage's last checkpoint.
    pub stage_done: bool,
    /// The loader's position, opaque here.
    pub cursor: serde_json::Value,
    /// The hash of the recipe that led here.
    pub recipe_hash: String,
    /// The run's seed.
    pub seed: u64,
    /// The attempt that wrote this; of two writers of one step the later attempt wins.
    pub writer_epoch: u64,
    /// Data-parallel size of the writer.
    pub dp: usize,
    /// Tensor-parallel size of the writer.
    pub tp: usize,
}
