//! What a recipe says about memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is kept in memory and what is computed again. It changes no result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// What the backward pass computes again in place of keeping it.
    pub activation_checkpointing: ActivationCheckpointing,
    /// How much of the training state the data-parallel ranks divide among themselves (ZeRO, arXiv 1910.02054): 0 nothing,
    /// 1 the optimizer's state, 2 gradients too, 3 weights too.
    #[schemars(range(max = 3))]
    pub zero: u8,
    /// Keep the optimizer's state (fp32 weights and moments) in the memory of the node, and update there: for a GPU that
    /// cannot hold it. Each step moves the gradients there and the weights back. On CPUs it changes nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub offload_optimizer: bool,
}

/// What the backward pass computes again in place of keeping it (arXiv 1604.06174).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationCheckpointing {
    /// Nothing.
    #[default]
    None,
    /// In each layer what lies between the products of its MLP: about a quarter of the memory, and hardly more computing,
    /// for no product is computed twice.
    Selective,
    /// Each layer of the language model, from its input: a third more computing, and a small part of the memory.
    Full,
}
