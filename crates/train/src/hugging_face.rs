//! Weights of other tools as a stage's start.

use strand_checkpoint::Kind;
use strand_checkpoint::weights::{
    Expected, LlamaWeights, Stored, read_adapter_config, read_config,
};
use strand_model::VideoLm;
use strand_recipe::{AdapterConfig, HuggingFace, LlamaConfig, Recipe};
use tokio::runtime::Handle;

use crate::error::TrainError;
use crate::sharded::{Held, Sharded};
use crate::state::{from_bytes, unsigned};

/// Opens the weights that a stage starts from and checks them against the recipe's model. No values are read.
///
/// # Errors
/// A configuration differs, tensors are missing, not known or of another shape, or a file cannot be read.
pub fn open(
    start: &HuggingFace,
    recipe: &Recipe,
    handle: &Handle,
) -> Result<LlamaWeights, TrainError> {
    handle.block_on(open_checked(start, recipe))
}

async fn open_checked(start: &HuggingFace, recipe: &Recipe) -> Result<LlamaWeights, TrainError> {
    let (json, url) = read_config(&start.llama).await?;
    let config = LlamaConfig::parse(&json, &url)?;
    config.check(&recipe.model.llama)?;
    let expected = Expected { tensors: config.llama.tensors(), tied: config.tied };
    let mut weights =
        LlamaWeights::open(&start.llama, start.projector.as_deref(), &expected).await?;
    if let Some(adapter) = &start.adapter {
        let (json, url) = read_adapter_config(adapter).await?;
        let adapted = AdapterConfig::parse(&json, &url)?;
        adapted.check(recipe.model.lora.as_ref())?;
        weights.add_adapter(adapter, &adapted.lora.tensors(&recipe.model.llama)).await?;
    }
    weights.check_shapes_of(&recipe.extra_tensors())?;
    Ok(weights)
}

/// Reads what this rank keeps of the parameters. Returns what stays fresh: names, and rows of a larger vocabulary.
///
/// # Errors
/// Values cannot be read.
pub fn load(
    model: &VideoLm,
    sharded: &mut Sharded,
    weights: &LlamaWeights,
    handle: &Handle,
) -> Result<Vec<String>, TrainError> {
    let held = sharded.held(model.parameters());
    for held in &held {
        if let Some(stored) = weights.tensor(&held.parameter.name) {
            load_held(held, stored, weights, handle)?;
        }
    }
    drop(held);
    sharded.publish()?;
    Ok(fresh(model, weights))
}

fn load_held(
    held: &Held,
    stored: &Stored,
    weights: &LlamaWeights,
    handle: &Handle,
) -> Result<(), TrainError> {
    let mut extent = held.extent.clone();
    // Rows that the recipe's vocabulary has beyond the stored one stay as they were drawn.
    extent[0] = extent[0].min(stored.shape[0] as i64 - held.offset[0]);
    if extent[0] <= 0 {
        return Ok(());
    }
    let (offset, size) = (unsigned(&held.offset), unsigned(&extent));
    let bytes = handle.block_on(weights.read_slice(&held.parameter.name, &offset, &size))?;
    // Values that are no floats have been reported by `read_slice`.
    match stored.dtype {
        Some(dtype) => held.set(Kind::Parameter, &from_bytes(&bytes, &extent, dtype)?),
        None => Ok(()),
    }
}

fn fresh(model: &VideoLm, weights: &LlamaWeights) -> Vec<String> {
    let of = |parameter: &strand_model::Parameter| {
        let (name, rows) = (&parameter.name, parameter.shape[0]);
        match weights.tensor(name).map(|stored| stored.shape[0] as i64) {
            None => Some(name.clone()),
            Some(stored) if stored < rows => {
                Some(format!("rows {stored} to {} of {name}", rows - 1))
            }
            Some(_) => None,
        }
    };
    model.parameters().iter().filter_map(of).collect()
}
