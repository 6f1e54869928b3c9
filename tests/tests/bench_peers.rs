//! The benchmark against other loaders, as far as it goes without installing them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use strand_tests::harness::text;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/data_peers")
}

/// False, with a line that says so, where the machine has no python.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        println!("not run: there is no python3 on PATH");
    }
    found
}

#[test]
fn its_help_names_every_contender() -> Result<()> {
    if !has_python() {
        return Ok(());
    }
    let output = Command::new(folder().join("run")).arg("--help").output()?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    for word in ["--quick", "--strand", "strand, mds, lit, arrow, web, hugging"] {
        ensure!(text(&output.stdout).contains(word), "{word}: {}", text(&output.stdout));
    }
    Ok(())
}

#[test]
fn its_own_tests_pass() -> Result<()> {
    if !has_python() {
        return Ok(());
    }
    let mut python = Command::new("python3");
    python.current_dir(folder()).args(["-B", "-m", "unittest", "--quiet"]);
    python.env("PYTHONPATH", "../shared");
    let output = python.output()?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    ensure!(text(&output.stderr).contains("Ran "), "no test ran: {}", text(&output.stderr));
    Ok(())
}
