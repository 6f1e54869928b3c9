//! The command line: every verb and flag, with its help.

use clap::{Args, Parser, Subcommand};

use crate::{bench, checkpoint, data, launch, plan, recipe, runs};

const EXAMPLES: &str = "\
Examples:
  strand recipe check recipes/demo.yaml     find all that is wrong, before it runs
  strand plan RECIPE --gpu a100-80          memory, time and a layout that fits
  strand launch recipes/demo.yaml           train; the same command again continues
  strand runs show runs/demo                how far it is, or why it failed
  strand checkpoint list runs/demo          what could be resumed from

Exit codes: 0 done, 1 failed, 2 usage or recipe, 3 environment, 4 data, 5 storage or checkpoint,
6 not finite, 75 stopped with a checkpoint (run the same command again), 128+n ended by signal n.";

/// Trains video language models from pre-extracted frame features.
#[derive(Debug, Parser)]
#[command(name = "strand", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(subcommand)]
    pub verb: Verb,
}

/// How much is said, and how.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct TalkArgs {
    /// Print one JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Say less; twice: errors only
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Train what a recipe says, or continue it
    Launch(launch::LaunchArgs),
    /// Say what a recipe needs and how long it takes, before it runs
    #[command(after_help = plan::EXAMPLES)]
    Plan(plan::PlanArgs),
    /// Check, show and compare recipes
    #[command(arg_required_else_help = true)]
    Recipe {
        #[command(subcommand)]
        verb: recipe::RecipeVerb,
    },
    /// Make and inspect data sets
    #[command(arg_required_else_help = true)]
    Data {
        #[command(subcommand)]
        verb: data::DataVerb,
    },
    /// List, show, verify, prune, import and export checkpoints
    #[command(arg_required_else_help = true)]
    Checkpoint {
        #[command(subcommand)]
        verb: checkpoint::CheckpointVerb,
    },
    /// Measure how fast this machine trains
    #[command(arg_required_else_help = true)]
    Bench {
        #[command(subcommand)]
        verb: bench::BenchVerb,
    },
    /// List and show runs
    #[command(arg_required_else_help = true)]
    Runs {
        #[command(subcommand)]
        verb: runs::RunsVerb,
    },
    /// Look whether this machine has what training needs
    #[command(after_help = "Example:\n  strand doctor --json")]
    Doctor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
