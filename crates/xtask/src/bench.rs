//! `cargo xtask bench`: builds, then runs a benchmark.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::process::{build, outcome};
use crate::{setup, test, workspace::Workspace};

/// Where the benchmark against the other loaders begins.
pub const DATA: &str = "tests/bench/data_peers/run";
/// Where the benchmark against the step in PyTorch begins.
pub const STEP: &str = "tests/bench/step_peers/run";

/// Measures strand beside its peers with a script of the project. The table it prints goes to stdout.
pub fn peers(workspace: &Workspace, script: &str, options: &[String]) -> anyhow::Result<()> {
    if !options.iter().any(|option| option == "--help" || option == "-h") {
        setup::ensure(workspace)?;
        build(workspace, "bench")?;
    }
    let mut command = Command::new(workspace.root.join(script));
    command.current_dir(&workspace.root).stdin(Stdio::null());
    // First, so that one among the options counts.
    command.arg("--strand").arg(workspace.release().join("strand")).args(options);
    let status = command.status().with_context(|| format!("{script} could not be started"))?;
    outcome(status, "the benchmark")
}

/// What the order of 50 million samples costs: a test that others are spared, because it needs 3 GB of memory.
pub fn order(workspace: &Workspace) -> anyhow::Result<()> {
    spared_test(workspace, "order", "fifty_million")
}

/// What `strand plan` says of memory beside what steps take: a test that others are spared, because it needs minutes and
/// 5 GB of memory.
pub fn plan(workspace: &Workspace) -> anyhow::Result<()> {
    setup::ensure(workspace)?;
    build(workspace, "bench")?;
    spared_test(workspace, "plan", "planned_memory")
}

/// Runs a test that is ignored otherwise, and shows what it prints.
fn spared_test(workspace: &Workspace, file: &str, name: &str) -> anyhow::Result<()> {
    let provided = setup::ensure(workspace)?;
    let mut measure = test::tests(workspace, &provided.libtorch);
    // The whole workspace, for the features with which all else is built.
    measure.args(["--quiet", "--workspace", "--test", file, "--"]);
    measure.args(["--ignored", "--nocapture", name]);
    let status = measure.status().context("cargo could not be started")?;
    outcome(status, "the measurement")
}
