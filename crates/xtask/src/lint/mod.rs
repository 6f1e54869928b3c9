//! `cargo xtask lint`: every check runs, then the failed ones are named together.

mod files;
mod program;
mod python;
mod shell;

use std::process::Command;

use crate::failure::{FAILED, Failure};
use crate::process::{answer, run as run_to_success};
use crate::talk::{duration, say, timed};
use crate::{setup, workspace::Workspace};

type Check = fn(&Workspace) -> anyhow::Result<Outcome>;

const CHECKS: [(&str, Check); 6] = [
    ("sizes of files", files::check),
    ("rustfmt", format),
    ("shellcheck", shell::check),
    ("ruff", python::check),
    ("cargo-deny", deny),
    ("clippy", clippy),
];

/// How a check that found nothing wrong ended.
pub enum Outcome {
    /// It ran.
    Passed,
    /// It could not run here, and need not: why.
    NotRun(String),
}

/// Runs all checks.
pub fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        match timed(|| check(workspace)) {
            Ok((Outcome::Passed, took)) => say("lint", format!("{name}: ok, {}", duration(took))),
            Ok((Outcome::NotRun(why), _)) => say("lint", format!("{name}: NOT RUN: {why}")),
            Err(error) => {
                say("lint", format!("{name}: FAILED: {error:#}"));
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let hint = "`cargo fmt`, `cargo clippy --fix` and `ruff format` mend much of it";
    Err(Failure::new(FAILED, format!("lint failed: {}", failed.join(", "))).hint(hint).into())
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&workspace.root).args(arguments);
    cargo
}

fn format(workspace: &Workspace) -> anyhow::Result<Outcome> {
    let mut format = cargo(workspace, &["fmt", "--all", "--check"]);
    run_to_success(&mut format, "cargo fmt")?;
    Ok(Outcome::Passed)
}

/// In release, so that the outputs of build scripts, the C++ above all, serve the tests too.
fn clippy(workspace: &Workspace) -> anyhow::Result<Outcome> {
    setup::ensure(workspace)?;
    let what = ["clippy", "--release", "--workspace", "--all-targets", "--"];
    let mut clippy = cargo(workspace, &what);
    clippy.args(["-D", "warnings"]);
    run_to_success(&mut clippy, "cargo clippy")?;
    Ok(Outcome::Passed)
}

/// Offline: advisories need a database from the network, the rest reads Cargo.lock.
fn deny(workspace: &Workspace) -> anyhow::Result<Outcome> {
    if answer(&mut cargo(workspace, &["deny", "--version"])).is_none() {
        let why = "it is not installed (`cargo install --locked cargo-deny` installs it)";
        return Ok(Outcome::NotRun(why.to_owned()));
    }
    let what = ["deny", "--offline", "check", "bans", "licenses", "sources"];
    run_to_success(&mut cargo(workspace, &what), "cargo deny")?;
    Ok(Outcome::Passed)
}
