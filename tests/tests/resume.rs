//! A run that is killed and started again equals one that was not.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use strand_tests::harness::{Workspace, layout_arguments, same_bits, same_within, text};

/// Steps that a run has written down.
fn steps(workspace: &Workspace, run: &str) -> usize {
    let metrics = std::fs::read(workspace.path(run).join("metrics.jsonl")).unwrap_or_default();
    metrics.into_iter().filter(|&byte| byte == b'\n').count()
}

/// Slows nothing, but lets a test see a run in its middle.
fn wait_for_step(workspace: &Workspace, run: &str, step: usize, child: &mut Child) -> Result<()> {
    let started = Instant::now();
    loop {
        if steps(workspace, run) >= step {
            return Ok(());
        }
        ensure!(child.try_wait()?.is_none(), "the run ended before step {step}");
        ensure!(started.elapsed() < Duration::from_secs(900), "no step {step} after 15 minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the run of `total` steps on 2×2, kills the launcher with SIGKILL once `step` is written, and waits until its
/// ranks are gone.
fn killed_at(workspace: &Workspace, run: &str, step: usize, total: usize) -> Result<()> {
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
    ensure!(steps(workspace, run) < total, "the run had ended before it was killed");
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
        killed_at(&workspace, &run, step, 22)?;
        workspace.train(&run, (2, 2), &[])?;
        same_bits(&workspace.metrics(&run)?, &expected).context(run)?;
    }
    Ok(())
}

/// On one rank, where the gradients of bf16 matrices stay narrow, and on ranks that divide the halves of the masters.
#[test]
fn in_bf16_too() -> Result<()> {
    let divided = ["memory.zero=1", "memory.zero=3"].map(|zero| (2, ["batch.micro=2", zero]));
    for (dp, changes) in [(1, ["batch.micro=6", "memory.zero=0"])].into_iter().chain(divided) {
        let layout = format!("parallel.dp={dp}");
        let workspace = Workspace::new()?.with(&["precision=bf16", "parallel.tp=1", &layout]);
        let workspace = workspace.with(&changes);
        workspace.train("whole", (dp, 1), &[])?;
        killed_at(&workspace, "killed", 13, 22)?;
        workspace.train("killed", (dp, 1), &[])?;
        let expected = workspace.metrics("whole")?;
        same_bits(&workspace.metrics("killed")?, &expected).context(changes[1])?;
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
        killed_at(&workspace, &run, 13, 22)?;
        workspace.train(&run, (dp, tp), &[])?;
        let worst = same_within(&workspace.metrics(&run)?, &expected, 1e-4).context(run)?;
        println!("resumed on dp {dp} × tp {tp}: losses deviate by {worst:.1e} at most");
    }
    Ok(())
}

/// Stages of the demo in the short form of its test.
const SHORT_DEMO: [&str; 6] = [
    "stages.base.length.steps=50",
    "stages.mean.length.steps=16",
    "stages.mean.schedule.warmup.steps=4",
    "stages.all.length.steps=24",
    "stages.global_local.length.steps=14",
    "checkpoint.every_steps=10",
];

/// Copies a run, with all that lies in its folder.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        if entry.is_dir() {
            copy_folder(&entry, &to)?;
        } else {
            std::fs::copy(&entry, &to)?;
        }
    }
    Ok(())
}

/// The demo itself: shortened, or with STRAND_TEST_DEMO=full at its whole length, which takes half an hour. Its recipe
/// asks for the same bits on every layout.
#[test]
fn the_demo_goes_on_where_it_was_killed() -> Result<()> {
    let is_full = std::env::var("STRAND_TEST_DEMO").is_ok_and(|form| form == "full");
    let workspace = Workspace::demo(if is_full { &[] } else { &SHORT_DEMO })?;
    workspace.train("whole", (2, 2), &[])?;
    let expected = workspace.metrics("whole")?;
    let total = expected.len();
    let step = total / 2;
    killed_at(&workspace, "killed", step, total)?;
    for (dp, tp) in [(2, 2), (1, 2), (4, 1)] {
        let run = format!("killed-{dp}x{tp}");
        copy_folder(&workspace.path("killed"), &workspace.path(&run))?;
        workspace.train(&run, (dp, tp), &[])?;
        same_bits(&workspace.metrics(&run)?, &expected).context(run)?;
        println!(
            "demo killed at step {step} of {total}, resumed on dp {dp} × tp {tp}: the same bits"
        );
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

/// Steps 10 and 22 are the ends of the two stages; the second starts from the first.
#[test]
fn a_run_goes_on_from_an_older_or_a_foreign_checkpoint() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (1, 1), &[])?;
    let expected = workspace.metrics("whole")?;
    for step in [18, 10] {
        let end = format!("whole/checkpoints/step-{step:08}");
        let end = workspace.path(&end).display().to_string();
        let other = format!("other-{step}");
        workspace.train(&other, (1, 1), &["--resume", &end])?;
        same_bits(&workspace.metrics(&other)?, &expected[step..]).context(other)?;
        workspace.train("whole", (1, 1), &["--resume", &end])?;
        same_bits(&workspace.metrics("whole")?, &expected).context("whole")?;
    }
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
