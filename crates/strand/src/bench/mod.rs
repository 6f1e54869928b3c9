//! `strand bench`: measurements of this machine.

mod step;

use clap::Subcommand;
use strand_control::ExitCode;

use crate::talk::Talk;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Measure the optimizer steps of a recipe's shapes, on made-up features
    Step(step::StepArgs),
}

pub fn run(verb: &BenchVerb, talk: &Talk) -> anyhow::Result<ExitCode> {
    match verb {
        BenchVerb::Step(args) => step::run(args, talk),
    }
}
