//! `strand runs`: what became of runs.

mod alive;
mod list;
mod show;
mod summary;

use clap::Subcommand;
use strand_control::ExitCode;

pub use show::accuracies;

use crate::talk::Talk;

/// The verbs on runs.
#[derive(Debug, Subcommand)]
pub enum RunsVerb {
    /// List the runs of a folder
    #[command(after_help = "Examples:
  strand runs list                                 the runs under runs/
  strand runs list s3://bucket/runs --json")]
    List(list::ListArgs),
    /// Show how far a run is, its attempts and evaluations, and why it failed
    #[command(after_help = "Examples:
  strand runs show runs/demo
  strand runs show s3://bucket/runs/demo")]
    Show(show::ShowArgs),
}

/// Runs one of them.
pub fn run(verb: &RunsVerb, talk: &Talk) -> anyhow::Result<ExitCode> {
    match verb {
        RunsVerb::List(args) => list::run(args, talk),
        RunsVerb::Show(args) => show::run(args, talk),
    }
}
