//! `cargo xtask gpu-check`: what can only be checked on an NVIDIA GPU, here or, gathered in a folder, elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;

use crate::args::GpuCheck;
use crate::built::test_programs;
use crate::failure::{ENVIRONMENT, FAILED, Failure, USAGE};
use crate::process::{answer, build, outcome, run as run_to_success, status};
use crate::talk::say;
use crate::{setup, test, workspace::Workspace};

/// Runs the checks; knows its own options.
const SCRIPT: &str = "tests/gpu_check/run";
/// Built as programs of the workspace.
const PROGRAMS: [&str; 2] = ["strand", "strand-worker"];
/// Built as test programs.
const TESTS: [&str; 2] = ["conformance", "golden"];
/// What the script reads, at the same places in a folder that is gathered.
const FILES: [&str; 4] =
    ["tests/gpu_check", "tests/golden", "tests/bench/shared", "tests/bench/step_peers/peer.py"];
/// What a folder of programs is named.
const FOLDER: &str = "programs";
/// The same in a folder that is gathered: a third as large. The script unpacks it.
const ARCHIVE: &str = "programs.tar.gz";
/// What a folder may hold, so that it is quickly taken elsewhere.
const MAX_BYTES: u64 = 64 << 20;

/// Runs the script, or gathers what it needs.
pub fn run(workspace: &Workspace, what: &GpuCheck) -> anyhow::Result<()> {
    match what {
        GpuCheck::Gather(folder) => gather(workspace, Path::new(folder)),
        GpuCheck::Run(options) => check(workspace, options),
    }
}

/// Looks for a GPU before anything is built.
fn check(workspace: &Workspace, options: &[String]) -> anyhow::Result<()> {
    let asks = |words: &[&str]| options.iter().any(|option| words.contains(&option.as_str()));
    if asks(&["--help", "-h", "--look"]) {
        return outcome(status_of(&mut script(workspace, options))?, "the script");
    }
    let mut look = script(workspace, options);
    let found = status(look.arg("--look"))?;
    if !found.success() {
        let message = "the checks cannot begin on this machine: the reason is above";
        let code = found.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ENVIRONMENT);
        return Err(Failure::new(code, message)
            .hint("`cargo xtask gpu-check --gather FOLDER` prepares a folder for another machine")
            .into());
    }
    let folder = workspace.root.join("target/gpu-check").join(FOLDER);
    collect_programs(workspace, &folder)?;
    let mut checks = script(workspace, &["--programs".as_ref(), folder.as_os_str()]);
    outcome(status_of(checks.args(options))?, "the GPU's checks")
}

fn script(workspace: &Workspace, options: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(workspace.root.join(SCRIPT));
    command.current_dir(&workspace.root).stdin(Stdio::null()).args(options);
    command
}

/// Its table goes to stdout.
fn status_of(command: &mut Command) -> anyhow::Result<ExitStatus> {
    command.status().with_context(|| format!("{SCRIPT} could not be started"))
}

/// Builds, and copies everything into a folder that a machine without cargo can run.
fn gather(workspace: &Workspace, folder: &Path) -> anyhow::Result<()> {
    make_room(folder)?;
    collect_programs(workspace, &folder.join(FOLDER))?;
    pack(folder)?;
    for file in FILES {
        copy(&workspace.root.join(file), &folder.join(file))?;
    }
    let bytes = size(folder)?;
    say("gpu-check", format!("{} holds {} MiB", folder.display(), bytes.div_ceil(1 << 20)));
    if bytes > MAX_BYTES {
        let message = format!("that is more than {} MiB", MAX_BYTES >> 20);
        let hint = "install `strip` (binutils): without debug information the programs are small";
        return Err(Failure::new(FAILED, message).hint(hint).into());
    }
    let next = "next: take it to the machine with the GPU and run tests/gpu_check/run in it";
    say("gpu-check", next);
    Ok(())
}

/// Makes an archive of the programs, and removes them.
fn pack(folder: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.current_dir(folder).args(["-czf", ARCHIVE, FOLDER]);
    run_to_success(&mut tar, "packing the programs")?;
    let programs = folder.join(FOLDER);
    fs::remove_dir_all(&programs).with_context(|| programs.display().to_string())
}

/// A folder of an earlier call is emptied; one that holds anything else is left alone.
fn make_room(folder: &Path) -> anyhow::Result<()> {
    let is_filled = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if !is_filled {
        return Ok(());
    }
    if !folder.join(ARCHIVE).is_file() || folder.join("Cargo.toml").exists() {
        let message = format!("{} is not empty, and was not gathered", folder.display());
        return Err(Failure::new(USAGE, message).hint("name a new folder").into());
    }
    // The script has unpacked the programs, where it has run.
    for part in [FOLDER, "tests"].map(|part| folder.join(part)).iter().filter(|it| it.exists()) {
        fs::remove_dir_all(part).with_context(|| part.display().to_string())?;
    }
    Ok(())
}

/// Builds the programs and copies them into `folder`, without what only debuggers read.
fn collect_programs(workspace: &Workspace, folder: &Path) -> anyhow::Result<()> {
    let provided = setup::ensure(workspace)?;
    build(workspace, "gpu-check")?;
    let mut cargo = test::tests(workspace, &provided.libtorch);
    // The whole workspace, for the features with which all else is built.
    let tests = test_programs(cargo.arg("--workspace"), &TESTS)?;
    let programs = PROGRAMS.map(|name| workspace.release().join(name));
    for (name, path) in PROGRAMS.into_iter().chain(TESTS).zip(programs.into_iter().chain(tests)) {
        let copied = folder.join(name);
        copy(&path, &copied)?;
        if answer(Command::new("strip").arg("--strip-debug").arg(&copied)).is_none() {
            say("gpu-check", format!("{name} keeps its debug information: there is no `strip`"));
        }
    }
    Ok(())
}

/// Copies a file, or a folder with all in it but what python leaves behind.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_file() {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        return Ok(());
    }
    for entry in entries(from)? {
        let name = entry.file_name().unwrap_or_default();
        if name != "__pycache__" {
            copy(&entry, &to.join(name))?;
        }
    }
    Ok(())
}

/// Bytes of all files in a folder.
fn size(path: &Path) -> anyhow::Result<u64> {
    if path.is_file() {
        return Ok(fs::metadata(path)?.len());
    }
    entries(path)?.iter().map(|entry| size(entry)).sum()
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    read.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_folder_is_copied_without_what_python_leaves() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        write(&from.join("a/b.py"), "12345");
        write(&from.join("a/__pycache__/b.pyc"), "123");
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b.py")).unwrap(), "12345");
        assert_eq!(size(&to).unwrap(), 5);
    }

    #[test]
    fn only_a_gathered_folder_is_emptied() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("gathered");
        make_room(&folder).unwrap();
        write(&folder.join("tests/mine"), "");
        let error = make_room(&folder).unwrap_err();
        assert!(error.to_string().contains("was not gathered"), "{error}");
        write(&folder.join(ARCHIVE), "");
        make_room(&folder).unwrap();
        assert!(folder.join(ARCHIVE).exists());
        assert!(!folder.join("tests").exists());
    }

    /// What the script imports or reads is among what is gathered.
    #[test]
    fn everything_that_is_gathered_is_there() {
        let workspace = Workspace::find().unwrap();
        assert!(FILES.iter().all(|file| workspace.root.join(file).exists()));
        assert!(FILES.iter().any(|file| SCRIPT.starts_with(file)));
    }
}
