//! `strand`: the program that people type. It links no libtorch; what needs tensors runs in `strand-worker`.
//!
//! One file a verb. Results go to stdout, talk to stderr; with `--json` stdout holds one JSON document and nothing else.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bench;
mod block_on;
mod checkpoint;
mod cli;
mod data;
mod doctor;
mod failure;
mod launch;
mod place;
mod plan;
mod recipe;
mod runs;
mod table;
mod talk;

use std::process::ExitCode;

use clap::Parser;
use strand_telemetry::logging;

use cli::{Cli, Verb};
use talk::Talk;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return talk::refuse(&refused),
    };
    let talk = Talk::new(&cli.talk);
    logging::init(logging::Options { rank: None, verbosity: talk.verbosity() });
    let ended = match cli.verb {
        Verb::Launch(args) => launch::run(&args, &talk),
        Verb::Plan(args) => plan::run(&args, &talk),
        Verb::Recipe { verb } => recipe::run(&verb, &talk),
        Verb::Data { verb } => data::run(&verb, &talk),
        Verb::Checkpoint { verb } => checkpoint::run(&verb, &talk),
        Verb::Bench { verb } => bench::run(&verb, &talk),
        Verb::Runs { verb } => runs::run(&verb, &talk),
        Verb::Doctor => doctor::run(&talk),
    };
    match ended {
        Ok(code) => code.into(),
        Err(error) => talk.fail(&error).into(),
    }
}
