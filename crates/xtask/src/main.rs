//! `cargo xtask`: provisions what the build needs, then demonstrates, tests, lints and measures the project.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod bench;
mod built;
mod demo;
mod failure;
mod gpu_check;
mod lint;
mod mpi;
mod process;
mod setup;
mod talk;
mod test;
mod workspace;

use std::process::ExitCode;

use args::Command;
use workspace::Workspace;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(failure::report(&error)),
    }
}

fn run() -> anyhow::Result<()> {
    let command = args::parse(std::env::args().skip(1))?;
    if matches!(command, Command::Help) {
        println!("{}", args::USAGE);
        return Ok(());
    }
    let workspace = Workspace::find()?;
    match command {
        Command::Help => Ok(()),
        Command::Setup => setup::command(&workspace),
        Command::Lint => lint::run(&workspace),
        Command::Test(area) => test::run(&workspace, area),
        Command::TestMpi => mpi::run(&workspace),
        Command::Demo(options) => demo::run(&workspace, options),
        Command::BenchData(options) => bench::peers(&workspace, bench::DATA, &options),
        Command::BenchStep(options) => bench::peers(&workspace, bench::STEP, &options),
        Command::BenchOrder => bench::order(&workspace),
        Command::BenchPlan => bench::plan(&workspace),
        Command::GpuCheck(what) => gpu_check::run(&workspace, &what),
    }
}
