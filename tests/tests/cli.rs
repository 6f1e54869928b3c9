//! The programs as people and scripts meet them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_tests::harness::{Workspace, program, strand, text};

#[test]
fn strand_links_no_libtorch() -> Result<()> {
    let libraries = Command::new("ldd").arg(program("strand")?).output()?;
    let libraries = text(&libraries.stdout);
    ensure!(libraries.contains("libc.so"), "ldd says nothing: {libraries}");
    // Behind a library's name stands an address, whose digits can be any word's.
    let mut names = libraries.lines().filter_map(|line| line.split_whitespace().next());
    let is_torch = |name: &&str| ["torch", "c10", "cuda"].iter().any(|part| name.contains(part));
    let found = names.find(is_torch);
    ensure!(found.is_none(), "strand links {found:?}: {libraries}");
    Ok(())
}

#[test]
fn json_is_one_document_and_nothing_else() -> Result<()> {
    let workspace = Workspace::new()?;
    let recipe = workspace.recipe().display().to_string();
    for arguments in [
        vec!["recipe", "check", &recipe, "--json"],
        vec!["recipe", "show", &recipe, "--json"],
        vec!["recipe", "schema", "--json"],
        vec!["recipe", "diff", &recipe, &recipe, "--json"],
    ] {
        let output = strand(&arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{arguments:?}: {}", text(&output.stdout)))?;
        ensure!(document.is_object(), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_finished_run_can_be_listed_and_its_checkpoints_verified() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("run", (1, 2), &[])?;
    let checkpoints = workspace.path("run").display().to_string();
    let output = strand(["checkpoint", "list", &checkpoints, "--json"])?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let last = workspace.path("run/checkpoints/step-00000022").display().to_string();
    let output = strand(["checkpoint", "verify", &last, "--json"])?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    for file in ["recipe.yaml", "run.json", "metrics.jsonl", "evaluations.jsonl", "report.html"] {
        ensure!(workspace.path("run").join(file).exists(), "no {file} in the run directory");
    }
    let log = workspace.path("run/logs/attempt-1/rank-0001.log");
    ensure!(log.exists(), "no log of rank 1");
    Ok(())
}
