//! `strand checkpoint`: what a run could continue from.

mod list;
mod prune;
mod show;
mod verify;

use clap::{Args, Subcommand};
use strand_control::ExitCode;

use crate::talk::Talk;

/// The verbs on checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointVerb {
    /// List the checkpoints of a run
    #[command(after_help = "Examples:
  strand checkpoint list runs/demo
  strand checkpoint list s3://bucket/demo/checkpoints")]
    List(list::ListArgs),
    /// Show what a checkpoint holds
    #[command(after_help = "Example:
  strand checkpoint show runs/demo/checkpoints/step-00000500")]
    Show(CheckpointArgs),
    /// Read a whole checkpoint and check every byte of it
    #[command(after_help = "Example:
  strand checkpoint verify runs/demo/checkpoints/step-00000500")]
    Verify(CheckpointArgs),
    /// Remove the older checkpoints of a run that is not running
    #[command(after_help = "Examples:
  strand checkpoint prune runs/demo --keep 2
  strand checkpoint prune runs/demo --keep 1 --stage-ends")]
    Prune(prune::PruneArgs),
}

/// One checkpoint.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// Folder or URL of the checkpoint (…/checkpoints/step-NNNNNNNN)
    pub checkpoint: String,
}

/// Runs one of them.
pub fn run(verb: &CheckpointVerb, talk: &Talk) -> anyhow::Result<ExitCode> {
    match verb {
        CheckpointVerb::List(args) => list::run(args, talk),
        CheckpointVerb::Show(args) => show::run(args, talk),
        CheckpointVerb::Verify(args) => verify::run(args, talk),
        CheckpointVerb::Prune(args) => prune::run(args, talk),
    }
}
