//! The layout that fits and takes least time.

use serde::Serialize;
use strand_recipe::{ActivationCheckpointing, Batch, Recipe};

use super::case::World;
use super::gpu;
use super::shapes::SampleShape;
use super::stage::{Given, StagePlan};

/// A layout that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suggestion {
    /// The world.
    pub world_size: usize,
    /// What to change in the recipe, for `--set`.
    pub set: Vec<String>,
    /// What it needs of each rank's memory, in bytes.
    pub needed: u64,
    /// Seconds of its slowest stage's step.
    pub step_s: f64,
}

/// The world may grow so many times.
const WORLDS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The fastest layout that fits all stages, in the given world or else in the smallest larger one. The recipe's results
/// stay as they are.
pub fn suggest(recipe: &Recipe, samples: &[SampleShape], given: Given) -> Option<Suggestion> {
    WORLDS.iter().find_map(|times| {
        let world = given.world.world_size * times;
        let fitting = candidates(recipe, world, given.ranks_per_node)
            .filter_map(|candidate| fit(recipe, &candidate, samples, given, world));
        fitting.min_by(|a, b| a.step_s.total_cmp(&b.step_s).then(a.set.len().cmp(&b.set.len())))
    })
}

/// The candidate as a suggestion, where it is a layout and all stages fit.
fn fit(
    recipe: &Recipe,
    candidate: &Recipe,
    samples: &[SampleShape],
    given: Given,
    world_size: usize,
) -> Option<Suggestion> {
    candidate.validate().ok()?;
    let world = World::of(candidate, world_size, given.ranks_per_node).ok()?;
    // Ranks on CPUs share one machine, whatever their number.
    let shared = match given.gpu.name == gpu::CPU {
        true => Some(gpu::find(gpu::CPU, world.ranks_per_node).ok()?),
        false => None,
    };
    let gpu = shared.as_ref().unwrap_or(given.gpu);
    let given = Given { world, gpu, ..given };
    let mut suggestion =
        Suggestion { world_size, set: changes(recipe, candidate), needed: 0, step_s: 0.0 };
    for (stage, sample) in candidate.stages.iter().zip(samples) {
        let plan = StagePlan::of(candidate, stage, *sample, given);
        if !plan.fits {
            return None;
        }
        suggestion.needed = suggestion.needed.max(plan.memory.needed);
        suggestion.step_s = suggestion.step_s.max(plan.time.step_s);
    }
    Some(suggestion)
}

/// The recipe under other layouts, those before which are nearer to how it is.
fn candidates(
    recipe: &Recipe,
    world_size: usize,
    ranks_per_node: usize,
) -> impl Iterator<Item = Recipe> {
    let tps = (0..).map(|power| 1 << power).take_while(move |&tp| tp <= ranks_per_node);
    let checkpointing = [
        ActivationCheckpointing::None,
        ActivationCheckpointing::Selective,
        ActivationCheckpointing::Full,
    ];
    let micros = micro_batches(recipe);
    let settings = move |tp: usize| {
        let micros = micros.clone();
        let memory = (0..=3).flat_map(move |zero| checkpointing.map(|again| (zero, again)));
        // What else there is comes before a step that waits for the node's memory.
        let last_resort = (0..=3).map(|zero| (zero, ActivationCheckpointing::Full, true));
        let memory = memory.map(|(zero, again)| (zero, again, false)).chain(last_resort);
        memory.flat_map(move |memory| {
            micros.clone().into_iter().map(move |micro| (tp, memory, micro))
        })
    };
    tps.flat_map(settings).map(move |(tp, (zero, again, offload), micro)| {
        let mut one = recipe.clone();
        let parallel = &mut one.parallel;
        parallel.dp = parallel.dp.map(|_| world_size / tp);
        parallel.tp = tp;
        parallel.sequence_parallel |= tp > 1 && parallel.exact_tp.is_none();
        (one.memory.zero, one.memory.activation_checkpointing) = (zero, again);
        one.memory.offload_optimizer |= offload;
        set_micro(&mut one, micro);
        one
    })
}

/// None for the recipe's own. Where micro-batches decide the result they stay.
fn micro_batches(recipe: &Recipe) -> Vec<Option<usize>> {
    let fixed = recipe.depends_on_micro_batches() || recipe.parallel.exact_tp.is_some();
    let sizes = [32, 16, 8, 4, 2, 1].map(Some);
    if fixed { vec![None] } else { std::iter::once(None).chain(sizes).collect() }
}

fn set_micro(recipe: &mut Recipe, micro: Option<usize>) {
    let Some(micro) = micro else { return };
    let set = |batch: &mut Batch| {
        batch.micro = Some(batch.micro.unwrap_or(usize::MAX).min(micro).min(batch.global));
    };
    set(&mut recipe.batch);
    recipe.stages.iter_mut().filter_map(|stage| stage.batch.as_mut()).for_each(set);
}

/// The differences as overrides.
fn changes(recipe: &Recipe, candidate: &Recipe) -> Vec<String> {
    let mut set = Vec::new();
    let mut differs = |key: &str, was: String, is: String| {
        if was != is {
            set.push(format!("{key}={is}"));
        }
    };
    let optional = |size: Option<usize>| size.map_or(String::new(), |size| size.to_string());
    let (was, is) = (&recipe.parallel, &candidate.parallel);
    differs("parallel.dp", optional(was.dp), optional(is.dp));
    differs("parallel.tp", was.tp.to_string(), is.tp.to_string());
    let sequence = |on: bool| on.to_string();
    differs(
        "parallel.sequence_parallel",
        sequence(was.sequence_parallel),
        sequence(is.sequence_parallel),
    );
    let (was, is) = (&recipe.memory, &candidate.memory);
    differs("memory.zero", was.zero.to_string(), is.zero.to_string());
    let word = |mode: ActivationCheckpointing| match mode {
        ActivationCheckpointing::None => "none".to_owned(),
        ActivationCheckpointing::Selective => "selective".to_owned(),
        ActivationCheckpointing::Full => "full".to_owned(),
    };
    differs(
        "memory.activation_checkpointing",
        word(was.activation_checkpointing),
        word(is.activation_checkpointing),
    );
    let (before, now) = (was.offload_optimizer, is.offload_optimizer);
    differs("memory.offload_optimizer", before.to_string(), now.to_string());
    differs("batch.micro", optional(recipe.batch.micro), optional(candidate.batch.micro));
    for (was, is) in recipe.stages.iter().zip(&candidate.stages) {
        let micro = |batch: Option<Batch>| optional(batch.and_then(|batch| batch.micro));
        differs(&format!("stages.{}.batch.micro", was.name), micro(was.batch), micro(is.batch));
    }
    set
}
