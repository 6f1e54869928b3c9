//! `strand launch`: look first, then start the ranks and watch them.

mod ended;
mod preflight;
pub mod resolve;
mod watch;
pub mod worker;
pub mod world;

use std::path::PathBuf;

use clap::Args;
use strand_control::{ExitCode, LaunchSpec, Layout, Resume, RunDir, Timing, launch};
use strand_recipe::Recipe;

use crate::failure::Failure;
use crate::recipe::RecipeArgs;
use crate::talk::Talk;
pub use ended::{continuing, failed};
pub use watch::Watch;
use world::Ranks;

const EXAMPLES: &str = "\
Examples:
  strand launch recipes/demo.yaml
  strand launch recipes/demo.yaml --nproc-per-node 4 --run-dir /data/demo
  strand launch recipes/demo.yaml --run-dir s3://bucket/demo
  strand launch recipes/demo.yaml --set stages.base.length.steps=50 --set seed=7
  strand launch runs/demo                          continue a run as it was
  strand launch recipes/demo.yaml --resume never   start over; the old state moves to previous/

The same command again continues from the last checkpoint. Ctrl-C writes a checkpoint and exits with 75.";

/// What to train, where, and with how many ranks.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LaunchArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Where the run's files go, a folder or URL [default: runs/<name of the recipe>; the run itself where RECIPE is one]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<String>,
    /// Nodes (this version runs on one)
    #[arg(long, value_name = "N", default_value_t = 1)]
    nnodes: usize,
    /// This node among them
    #[arg(long, value_name = "R", default_value_t = 0)]
    node_rank: usize,
    /// Where nodes meet
    #[arg(long, value_name = "HOST:PORT")]
    rdzv_endpoint: Option<String>,
    /// Ranks on this node: a number, or `auto` for dp × tp of the recipe, else one a GPU or core
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = Ranks::parse)]
    nproc_per_node: Ranks,
    /// What to go on from: `auto` (the last checkpoint, if any), `never`, or a checkpoint
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto", value_parser = resolve::resume)]
    resume: Resume,
    /// How often a failed run is started again from its last checkpoint
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_restarts: u32,
}

pub fn run(args: &LaunchArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    one_node(args)?;
    let recipe = resolve::recipe(&args.recipe, talk)?;
    let layout = world::layout(&recipe, args.nproc_per_node)?;
    let run_dir = resolve::run_dir(args.run_dir.as_deref(), &args.recipe.recipe, &recipe)?;
    resolve::same_run(&run_dir, &recipe, &args.resume)?;
    let worker = preflight::run(&recipe, &args.resume)?;
    announce(args, &recipe, &run_dir, layout, talk);
    let spec = spec(args, &recipe, run_dir, layout, worker, talk)?;
    let mut watch = Watch::new(*talk);
    let outcome = launch(&spec, &mut |notice| watch.on(notice))?;
    watch.finish();
    ended::tell(&spec.run_dir, &outcome, layout, talk)
}

fn one_node(args: &LaunchArgs) -> anyhow::Result<()> {
    if args.nnodes == 0 || args.node_rank >= args.nnodes {
        let (rank, count) = (args.node_rank, args.nnodes);
        return Err(
            Failure::usage(format!("--node-rank {rank} is outside --nnodes {count}")).into()
        );
    }
    if args.nnodes > 1 || args.rdzv_endpoint.is_some() {
        return Err(Failure::environment("runs on more than one node are not built yet")
            .hint("use one node: leave out --nnodes, --node-rank and --rdzv-endpoint")
            .into());
    }
    Ok(())
}

fn announce(args: &LaunchArgs, recipe: &Recipe, run_dir: &RunDir, layout: Layout, talk: &Talk) {
    let Layout { world_size, dp, tp } = layout;
    let stages = recipe.stages.len();
    let dir = run_dir.url();
    talk.say(format!(
        "{}: {stages} stages on {world_size} ranks (dp {dp} × tp {tp}), in {dir}",
        recipe.name
    ));
    if args.resume == Resume::Never {
        talk.say("starting over: what the run has so far is moved to its folder previous/");
    }
}

fn spec(
    args: &LaunchArgs,
    recipe: &Recipe,
    run_dir: RunDir,
    layout: Layout,
    worker: PathBuf,
    talk: &Talk,
) -> anyhow::Result<LaunchSpec> {
    Ok(LaunchSpec {
        worker,
        worker_args: Vec::new(),
        env: worker::env(talk.verbosity()),
        run_dir,
        name: recipe.name.clone(),
        recipe: recipe.to_yaml()?,
        recipe_hash: recipe.hash()?,
        layout,
        resume: args.resume.clone(),
        max_restarts: args.max_restarts,
        timing: Timing::default(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn args(rest: &[&str]) -> LaunchArgs {
        let words = ["strand", "launch", "r.yaml"].iter().chain(rest);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Launch(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_run_on_this_node_and_continue() {
        let args = args(&[]);
        assert!(one_node(&args).is_ok());
        assert_eq!((args.nproc_per_node, args.resume), (Ranks::Auto, Resume::Auto));
        assert_eq!(args.max_restarts, 0);
    }

    #[test]
    fn more_nodes_are_refused() {
        let code = |rest: &[&str]| {
            let error = one_node(&args(rest)).unwrap_err();
            crate::failure::verdict(&error).exit
        };
        assert_eq!(code(&["--nnodes", "2"]), ExitCode::Environment);
        assert_eq!(code(&["--rdzv-endpoint", "a:1"]), ExitCode::Environment);
        assert_eq!(code(&["--node-rank", "1"]), ExitCode::Usage);
    }
}
