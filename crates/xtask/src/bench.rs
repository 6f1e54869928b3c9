//! `cargo xtask bench`: builds, then runs a benchmark.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::process::{build, outcome};
use crate::{setup, test, workspace::Workspace};

/// Where the benchmark against the other loaders begins.
const DATA: &str = "tests/bench/data_peers/run";

/// Reads the same samples with strand and with its peers. The table it prints goes to stdout.
pub fn data(workspace: &Workspace, options: &[String]) -> anyhow::Result<()> {
    if !options.iter().any(|option| option == "--help" || option == "-h") {
        setup::ensure(workspace)?;
        build(workspace, "bench")?;
    }
    let mut script = Command::new(workspace.root.join(DATA));
    script.current_dir(&workspace.root).stdin(Stdio::null());
    // First, so that one among the options counts.
    script.arg("--strand").arg(workspace.release().join("strand")).args(options);
    let status = script.status().with_context(|| format!("{DATA} could not be started"))?;
    outcome(status, "the benchmark")
}

/// What the order of 50 million samples costs: a test that others are spared, because it needs 3 GB of memory.
pub fn order(workspace: &Workspace) -> anyhow::Result<()> {
    let provided = setup::ensure(workspace)?;
    let mut measure = test::tests(workspace, &provided.libtorch);
    // The whole workspace, for the features with which all else is built.
    measure.args(["--quiet", "--workspace", "--test", "order", "--"]);
    measure.args(["--ignored", "--nocapture", "fifty_million"]);
    let status = measure.status().context("cargo could not be started")?;
    outcome(status, "the measurement")
}
