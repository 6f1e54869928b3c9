//! Which steps a run has: every stage with its data and its place in the run.

use strand_data::{Dataset, Order};
use strand_recipe::{Batch, Length, Recipe, Stage};
use tokio::runtime::Handle;

use crate::config::order_rules;
use crate::error::TrainError;

/// A stage with its data sets opened and its steps counted.
pub struct StagePlan {
    /// What the recipe says.
    pub stage: Stage,
    /// Its place in the recipe, from 0.
    pub index: usize,
    /// Its data sets and their weights.
    pub sets: Vec<(Dataset, Option<f64>)>,
    /// Samples of a step.
    pub batch: Batch,
    /// Steps of the run before it.
    pub first_step: u64,
    /// Its own steps.
    pub steps: u64,
}

/// Opens every stage's data sets and counts its steps.
///
/// # Errors
/// A data set cannot be opened or does not fit the model.
pub fn plan(recipe: &Recipe, handle: &Handle) -> Result<Vec<StagePlan>, TrainError> {
    let mut plans: Vec<StagePlan> = Vec::new();
    for (index, stage) in recipe.stages.iter().enumerate() {
        let first_step = plans.last().map_or(0, |last| last.first_step + last.steps);
        let sets = open_sets(recipe, stage, handle)?;
        let batch = stage.batch.unwrap_or(recipe.batch);
        let steps = steps_of(stage, &sets, batch.global as u64)?;
        plans.push(StagePlan { stage: stage.clone(), index, sets, batch, first_step, steps });
    }
    Ok(plans)
}

/// Steps of a stage; the last step of a finite one may be short.
fn steps_of(stage: &Stage, sets: &[(Dataset, Option<f64>)], batch: u64) -> Result<u64, TrainError> {
    let epochs = match stage.length {
        Length::Steps(steps) => return Ok(steps),
        Length::Epochs(epochs) => epochs,
    };
    let sets: Vec<_> = sets.iter().map(|(set, weight)| (set.manifest(), *weight)).collect();
    // The number of steps is the same for every seed.
    let order = Order::with_rules(&sets, 0, order_rules(stage, batch))?;
    Ok(order.steps_before(epochs.saturating_mul(order.epoch_len()), batch))
}

fn open_sets(
    recipe: &Recipe,
    stage: &Stage,
    handle: &Handle,
) -> Result<Vec<(Dataset, Option<f64>)>, TrainError> {
    let mut sets = Vec::new();
    for source in &stage.data {
        sets.push((open_set(recipe, &source.set, handle)?, source.weight));
    }
    Ok(sets)
}

/// Opens a data set of the recipe by its name.
///
/// # Errors
/// It cannot be opened, or its features are not of the model's size.
pub fn open_set(recipe: &Recipe, name: &str, handle: &Handle) -> Result<Dataset, TrainError> {
    let set = recipe.data.get(name).ok_or_else(|| TrainError::UnknownSet { set: name.into() })?;
    let dataset = handle.block_on(Dataset::open(&set.url))?;
    let (dim, feature_size) = (dataset.manifest().dim, recipe.model.feature_size);
    if dim != feature_size {
        return Err(TrainError::FeatureSize { set: name.into(), dim, feature_size });
    }
    Ok(dataset)
}
