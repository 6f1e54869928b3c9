//! The checks for machines with a GPU, as far as they go without one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use strand_tests::harness::{program, root, text};

/// False, with a line that says so, where the machine has no python.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        println!("not run: there is no python3 on PATH");
    }
    found
}

/// Runs a program on a machine whose nvidia-smi finds no driver, and whose python no torch.
fn without_gpu(program: &Path, arguments: &[&str]) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    let smi = folder.path().join("nvidia-smi");
    std::fs::write(&smi, "#!/bin/sh\necho no driver is loaded\nexit 9\n")?;
    std::fs::set_permissions(&smi, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").context("PATH")?;
    let mut command = Command::new(program);
    command.current_dir(root()?).args(arguments).args(["--python", "false"]);
    command.env("PATH", format!("{}:{path}", folder.path().display()));
    Ok(command.output()?)
}

#[test]
fn its_own_tests_pass() -> Result<()> {
    if !has_python() {
        return Ok(());
    }
    let mut python = Command::new("python3");
    python.current_dir(root()?.join("tests/gpu_check"));
    python.args(["-B", "-m", "unittest", "--quiet"]).env("PYTHONPATH", "../bench/shared");
    let output = python.output()?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    ensure!(text(&output.stderr).contains("Ran "), "no test ran: {}", text(&output.stderr));
    Ok(())
}

/// Before anything is built: that would take minutes, and nothing could be done with it.
#[test]
fn without_a_gpu_it_says_so_and_what_to_do() -> Result<()> {
    if !has_python() {
        return Ok(());
    }
    let script = without_gpu(&root()?.join("tests/gpu_check/run"), &[])?;
    let xtask = without_gpu(&program("xtask")?, &["gpu-check"])?;
    for output in [script, xtask] {
        let (out, said) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.code() == Some(3) && out.is_empty(), "{out}{said}");
        ensure!(said.contains("error: there is no GPU: nvidia-smi says: no driver"), "{said}");
        ensure!(said.contains("hint: ") && !said.contains("building"), "{said}");
    }
    Ok(())
}
