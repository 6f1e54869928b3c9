//! `strand plan`: what a recipe needs and how long it takes, before it runs. No GPU, no libtorch, no data.

mod activations;
mod case;
mod gpu;
mod memory;
mod shapes;
mod show;
mod stage;
mod state;
mod suggest;
#[cfg(test)]
mod tests;
mod time;

use clap::Args;
use serde_json::json;
use strand_control::ExitCode;
use strand_recipe::{Gpu, Recipe};

use crate::recipe::RecipeArgs;
use crate::talk::Talk;
use case::World;
use shapes::{SampleArgs, SampleShape};
use stage::{Given, StagePlan};
use suggest::{Suggestion, suggest};

pub const EXAMPLES: &str = "\
Examples:
  strand plan recipes/instructblip_7b_qa_dp8-zero3_8xa100-80.yaml --world-size 8 --gpu a100-80
  strand plan recipes/instructblip_7b_qa_dp8-zero3_8xa100-80.yaml --gpu h100 --set memory.zero=2
  strand plan recipes/demo.yaml --gpu cpu --frames 6 --tokens 16 --json     where its data is not made yet

Times are estimates, bytes follow the tensors of the trainer: docs/plan.md has the formulas and what they leave out.
Ends with 0 where the layout is a layout, whether it fits the memory or not: `fits` says that. An invalid one ends with 2.";

/// Ranks of a node where nothing says how many.
const RANKS_PER_NODE: usize = 8;

/// What is planned, and for which machines.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Ranks [default: dp × tp of the recipe, else those of a node]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    world_size: Option<u32>,
    /// Ranks of a node [default: 8, or all where there are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nproc_per_node: Option<u32>,
    /// Device: a100-40, a100-80, h100, h200, l40s, rtx4090, or cpu for this machine
    #[arg(long, value_name = "NAME", default_value = "a100-80")]
    gpu: String,
    /// Megabytes a second that a node writes to storage
    #[arg(long, value_name = "MB", default_value_t = 1000.0, value_parser = rate)]
    storage_mb_per_s: f64,
    #[command(flatten)]
    samples: SampleArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    number.ok_or_else(|| "give a number above 0".to_owned())
}

/// The plan of a recipe.
pub struct Plan<'a> {
    recipe: &'a Recipe,
    given: Given<'a>,
    stages: Vec<StagePlan>,
    suggestion: Option<Suggestion>,
}

pub fn run(args: &PlanArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let recipe = args.recipe.load()?;
    let warnings = recipe.validate()?;
    for warning in &warnings {
        talk.warn(warning.to_string());
    }
    let world = args.world(&recipe)?;
    let gpu = gpu::find(&args.gpu, world.ranks_per_node)?;
    let storage = args.storage_mb_per_s * 1e6;
    let given = Given { world, ranks_per_node: args.ranks_per_node(), gpu: &gpu, storage };
    let plan = Plan::of(&recipe, given, &args.samples)?;
    let mut document = plan.document();
    document["problems"] = json!(warnings);
    talk.result(&show::text(&plan), &document)?;
    plan.tell(args, talk);
    Ok(ExitCode::Done)
}

impl PlanArgs {
    fn world(&self, recipe: &Recipe) -> anyhow::Result<World> {
        let count = |given: Option<u32>| given.map(|count| count as usize);
        let known = count(self.world_size).or(recipe.world_size());
        let world_size = known.unwrap_or(self.ranks_per_node());
        Ok(World::of(recipe, world_size, self.ranks_per_node())?)
    }

    fn ranks_per_node(&self) -> usize {
        self.nproc_per_node.map_or(RANKS_PER_NODE, |count| count as usize)
    }

    /// What was typed beside recipe, device and world.
    fn words(&self) -> String {
        let nodes = self.nproc_per_node.map(|count| format!(" --nproc-per-node {count}"));
        let set = self.recipe.set.iter().map(|set| format!(" --set '{set}'"));
        nodes.into_iter().chain(set).collect::<String>() + &self.samples.words()
    }
}

impl<'a> Plan<'a> {
    /// Plans every stage, and a layout that fits where this one does not.
    ///
    /// # Errors
    /// A sample does not fit the model, or a local data set cannot be read.
    fn of(recipe: &'a Recipe, given: Given<'a>, args: &SampleArgs) -> anyhow::Result<Plan<'a>> {
        let samples = recipe.stages.iter().map(|stage| SampleShape::of(recipe, stage, args));
        let samples = samples.collect::<anyhow::Result<Vec<_>>>()?;
        let stages = recipe.stages.iter().zip(&samples);
        let stages: Vec<_> =
            stages.map(|(stage, &sample)| StagePlan::of(recipe, stage, sample, given)).collect();
        let fits = stages.iter().all(|stage| stage.fits);
        let suggestion = if fits { None } else { suggest(recipe, &samples, given) };
        Ok(Plan { recipe, given, stages, suggestion })
    }

    fn fits(&self) -> bool {
        self.stages.iter().all(|stage| stage.fits)
    }

    /// The stage that needs most memory. A valid recipe has one.
    fn heaviest(&self) -> Option<&StagePlan> {
        self.stages.iter().rev().max_by_key(|stage| stage.memory.needed)
    }

    fn document(&self) -> serde_json::Value {
        let Gpu { memory, .. } = *self.given.gpu;
        json!({
            "name": self.recipe.name,
            "fits": self.fits(),
            "needed_bytes": self.heaviest().map(|stage| stage.memory.needed),
            "memory_bytes": memory,
            "filled_at_most": stage::FILLED,
            "heaviest_stage": self.heaviest().map(|stage| &stage.stage),
            "world": self.given.world,
            "gpu": self.given.gpu,
            "times_are": "estimates",
            "stages": self.stages,
            "suggestion": self.suggestion,
        })
    }

    /// What to type next.
    fn tell(&self, args: &PlanArgs, talk: &Talk) {
        let recipe = args.recipe.recipe.display();
        let set =
            |set: &[String]| set.iter().map(|set| format!(" --set '{set}'")).collect::<String>();
        let gpu = self.given.gpu.name;
        talk.next(match &self.suggestion {
            _ if self.fits() => format!("strand launch {recipe}{}", set(&args.recipe.set)),
            Some(found) => format!(
                "strand plan {recipe} --gpu {gpu} --world-size {}{}{}",
                found.world_size,
                args.words(),
                set(&found.set)
            ),
            None => {
                let others: Vec<&str> = gpu::names().filter(|&name| name != gpu).collect();
                format!("strand plan {recipe} --gpu {}{}", others.join("|"), args.words())
            }
        });
    }
}
