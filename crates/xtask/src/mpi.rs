//! `cargo xtask test --mpi`: builds with MPI, then runs the ranks' own tests under mpirun.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::built::test_programs;
use crate::process::tee;
use crate::setup::{self, Mpi};
use crate::talk::{duration, say, timed};
use crate::test::{self, Summary};
use crate::workspace::Workspace;

/// Ranks that mpirun starts.
const RANKS: &str = "4";
/// Programs with a main of their own, in which every rank runs the same tests.
const PROGRAMS: [&str; 2] = ["conformance_mpi", "golden_mpi"];
/// Where MPI is an option.
const FEATURES: &str = "strand-comm/mpi,strand-worker/mpi,strand-tests/mpi";

/// Sets up, builds, runs, and sums up.
pub fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let provided = setup::ensure(workspace)?;
    let mpi = setup::mpi(workspace)?;
    let (programs, built) = timed(|| build(workspace, &mpi))?;
    say("test", format!("built in {}", duration(built)));
    let libtorch = provided.libtorch.join("lib");
    let ((success, text), took) = timed(|| start_all(workspace, &mpi, &libtorch, &programs))?;
    test::conclude(&Summary { what: "mpi", success, text: &text, built, took })
}

/// Starts the programs one after the other; returns whether all ended well, and what they printed.
fn start_all(
    workspace: &Workspace,
    mpi: &Mpi,
    libtorch: &Path,
    programs: &[PathBuf],
) -> anyhow::Result<(bool, String)> {
    let folders: Vec<&Path> = mpi.library.as_deref().into_iter().chain([libtorch]).collect();
    let (mut success, mut all) = (true, String::new());
    for program in programs {
        let mut ranks = Command::new(&mpi.mpirun);
        ranks.current_dir(&workspace.root).stdin(Stdio::null());
        ranks.args(["-n", RANKS]).arg(program);
        ranks.env("LD_LIBRARY_PATH", test::library_path(&folders));
        let (status, text) = tee(mpi.prepare(&mut ranks))?;
        success &= status.success();
        all += &text;
    }
    Ok((success, all))
}

/// Builds the programs and finds where cargo has put them.
fn build(workspace: &Workspace, mpi: &Mpi) -> anyhow::Result<Vec<PathBuf>> {
    let mut cargo = test::cargo(workspace, "test");
    cargo.args(["--workspace", "--features", FEATURES]);
    test_programs(mpi.prepare(&mut cargo), &PROGRAMS)
}
