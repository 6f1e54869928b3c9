//! A run that is killed and started again equals one that was not.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use strand_tests::harness::{Workspace, layout_arguments, same_bits, same_within, text};

/// Slows nothing, but lets a test see a run in its middle.
fn wait_for_step(workspace: &Workspace, run: &str, step: usize, child: &mut Child) -> Result<()> {
    let started = Instant::now();
    loop {
        let lines = workspace.metrics(run).map_or(0, |lines| lines.len());
        if lines >= step {
            return Ok(());
        }
        ensure!(child.try_wait()?.is_none(), "the run ended before step {step}");
        ensure!(started.elapsed() < Duration::from_secs(120), "no step {step} after two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the run on 2×2, kills the launcher with SIGKILL once `step` is written, and waits until its ranks are gone.
fn killed_at(workspace: &Workspace, run: &str, step: usize) -> Result<()> {
    let mut child = workspace.launch(run, &[])?.spawn()?;
    wait_for_step(workspace, run, step, &mut child)?;
    child.kill()?;
    child.wait()?;
    let folder = workspace.path(run);
    let started = Instant::now();
    while ranks_of(&folder)? > 0 {
        ensure!(started.elapsed() < Duration::from_secs(20), "ranks outlive their launcher");
        std::thread::sleep(Duration::from_millis(20));
    }
    let lines = workspace.metrics(run)?.len();
    ensure!(lines < 22, "the run had ended before it was killed");
    Ok(())
}

/// Processes that have `run` as their run directory.
fn ranks_of(run: &Path) -> Result<usize> {
    let wanted = format!("STRAND_RUN_DIR={}", run.display());
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        let environment = std::fs::read(entry?.path().join("environ")).unwrap_or_default();
        count += usize::from(environment.split(|&byte| byte == 0).any(|v| v == wanted.as_bytes()));
    }
    Ok(count)
}

#[test]
fn killed_and_started_again_it_takes_the_same_steps_bit_for_bit() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (2, 2), &[])?;
    let expected = workspace.metrics("whole")?;
    ensure!(expected.len() == 22);
    for step in [2, 7, 15] {
        let run = format!("killed-{step}");
        killed_at(&workspace, &run, step)?;
        workspace.train(&run, (2, 2), &[])?;
        same_bits(&workspace.metrics(&run)?, &expected).context(run)?;
    }
    Ok(())
}

#[test]
fn another_layout_goes_on_with_the_same_samples() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (2, 2), &[])?;
    let expected = workspace.metrics("whole")?;
    for (dp, tp) in [(1, 2), (4, 1), (1, 1)] {
        let run = format!("resumed-{dp}x{tp}");
        killed_at(&workspace, &run, 13)?;
        workspace.train(&run, (dp, tp), &[])?;
        let worst = same_within(&workspace.metrics(&run)?, &expected, 1e-4).context(run)?;
        println!("resumed on dp {dp} × tp {tp}: losses deviate by {worst:.1e} at most");
    }
    Ok(())
}

#[test]
fn a_stop_on_request_commits_and_goes_on() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (2, 2), &[])?;
    let mut child = workspace.launch("stopped", &[])?.args(layout_arguments(2, 2)).spawn()?;
    wait_for_step(&workspace, "stopped", 6, &mut child)?;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    ensure!(child.wait()?.code() == Some(75), "a stopped run exits with 75");
    let done = workspace.metrics("stopped")?.len();
    ensure!(workspace.path(&format!("stopped/checkpoints/step-{done:08}/manifest.json")).exists());
    workspace.train("stopped", (2, 2), &[])?;
    same_bits(&workspace.metrics("stopped")?, &workspace.metrics("whole")?)
}

#[test]
fn resume_never_starts_over() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("run", (1, 1), &[])?;
    let first = workspace.metrics("run")?;
    workspace.train("run", (1, 1), &["--resume", "never", "--set", "seed=6"])?;
    let second = workspace.metrics("run")?;
    ensure!(first.len() == second.len() && first[0]["lm_loss"] != second[0]["lm_loss"]);
    Ok(())
}

#[test]
fn a_changed_recipe_does_not_go_on_in_silence() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("run", (1, 1), &[])?;
    let output =
        workspace.launch("run", &["--set", "seed=6"])?.args(layout_arguments(1, 1)).output()?;
    ensure!(output.status.code() == Some(2), "{:?}: {}", output.status, text(&output.stderr));
    ensure!(text(&output.stderr).contains("seed"), "{}", text(&output.stderr));
    Ok(())
}
