//! Bad input and broken machines: a clear error, the right exit code, and never a hang.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strand_tests::harness::{Workspace, layout_arguments, program, same_bits, strand, text};

/// Launches on one rank and expects exit code `code` and all of `words` on stderr.
fn refused(workspace: &Workspace, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let mut command =
        workspace.launch("refused", &["--set", "parallel.dp=1", "--set", "parallel.tp=1"])?;
    expect(command.args(["--nproc-per-node", "1"]).args(arguments), code, words)
}

fn expect(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    let output = command.output()?;
    let stderr = text(&output.stderr);
    ensure!(output.status.code() == Some(code), "{:?}, not {code}: {stderr}", output.status);
    for word in words {
        ensure!(stderr.contains(word), "no {word:?} in: {stderr}");
    }
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(())
}

fn edit(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    ensure!(text.contains(from), "{} has no {from:?}", path.display());
    Ok(std::fs::write(path, text.replace(from, to))?)
}

/// The first shard of the training set.
fn shard(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.path("data/train");
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json"))?)?;
    let path = manifest["shards"][0]["path"].as_str().context("a shard's path")?;
    Ok(folder.join(path))
}

#[test]
fn recipes_with_mistakes_name_the_place() -> Result<()> {
    for (from, to, words) in [
        ("global: 6", "globl: 6", &["recipe.yaml:13:", "globl", "global"][..]),
        ("{steps: 10}", "{steps: ten}", &["recipe.yaml:22:", "ten"][..]),
        ("{stage: base}", "{stage: bsae}", &["bsae", "base"][..]),
        ("input: all", "input: al", &["al", "all"][..]),
    ] {
        let workspace = Workspace::new()?;
        edit(workspace.recipe(), from, to)?;
        expect(&mut workspace.launch("refused", &[])?, 2, words).context(to)?;
        ensure!(!workspace.path("refused/checkpoints").exists());
    }
    Ok(())
}

#[test]
fn layouts_that_do_not_fit_are_refused() -> Result<()> {
    let workspace = Workspace::new()?;
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--nproc-per-node", "3"], &["dp 2 × tp 2", "3"]),
        (
            &["--set", "parallel.dp=1", "--set", "parallel.tp=3", "--nproc-per-node", "3"],
            &["heads", "3"],
        ),
        (
            &["--set", "parallel.pad_vocab=false", "--set", "model.llama.vocab_size=513"],
            &["vocab_size", "513"],
        ),
    ];
    for (arguments, words) in cases {
        expect(&mut workspace.launch("refused", arguments)?, 2, words)?;
    }
    Ok(())
}

#[test]
fn sizes_that_do_not_fit_the_data_are_refused() -> Result<()> {
    let workspace = Workspace::new()?;
    refused(&workspace, &["--set", "model.feature_size=24"], 4, &["16", "24", "feature_size"])?;
    refused(&workspace, &["--set", "model.llama.vocab_size=20"], 2, &["vocab_size", "20"])?;
    refused(&workspace, &["--set", "stages.base.train=[nothing]"], 2, &["base", "no parameter"])
}

#[test]
fn missing_data_are_named() -> Result<()> {
    let workspace = Workspace::new()?;
    let shard = shard(&workspace)?;
    std::fs::rename(&shard, shard.with_extension("away"))?;
    let name = shard.file_name().and_then(|name| name.to_str()).context("a name")?;
    refused(&workspace, &[], 4, &[name])?;
    std::fs::remove_file(workspace.path("data/train/manifest.json"))?;
    refused(&workspace, &[], 4, &["manifest.json"])
}

#[test]
fn a_truncated_shard_is_named() -> Result<()> {
    let workspace = Workspace::new()?;
    let shard = shard(&workspace)?;
    let bytes = std::fs::read(&shard)?;
    std::fs::write(&shard, &bytes[..bytes.len() / 2])?;
    refused(&workspace, &[], 4, &[".parquet"])
}

#[test]
fn a_flipped_byte_is_named_by_shard_group_and_row() -> Result<()> {
    let workspace = Workspace::new()?;
    let shard = shard(&workspace)?;
    let mut bytes = std::fs::read(&shard)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes)?;
    refused(&workspace, &[], 4, &[".parquet", "row group", "row"])
}

#[test]
fn a_dead_rank_stops_all_and_is_named() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (2, 2), &[])?;
    let steps = ["--set", "stages.base.length.steps=100000"];
    let mut child = workspace.launch("run", &steps)?.spawn()?;
    let victim = loop {
        ensure!(child.try_wait()?.is_none(), "the run ended by itself");
        if workspace.metrics("run").is_ok_and(|lines| lines.len() > 3) {
            break rank_process(&workspace.path("run"), 2)?;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let started = Instant::now();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL)?;
    let status = child.wait()?;
    ensure!(started.elapsed() < Duration::from_secs(40), "the others hang");
    ensure!(status.code() == Some(137) || status.code() == Some(1), "{status:?}");
    let error: Value = serde_json::from_slice(&std::fs::read(workspace.path("run/error.json"))?)?;
    ensure!(error["rank"] == 2, "{error}");
    Ok(())
}

/// The process that is `rank` of the run directory.
fn rank_process(run: &Path, rank: usize) -> Result<rustix::process::Pid> {
    let wanted = [format!("STRAND_RUN_DIR={}", run.display()), format!("RANK={rank}")];
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |wanted: &String| environment.split(|&b| b == 0).any(|v| v == wanted.as_bytes());
        if wanted.iter().all(has) {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            return pid.and_then(rustix::process::Pid::from_raw).context("a process id");
        }
    }
    anyhow::bail!("no process is rank {rank}")
}

#[test]
fn restarts_go_on_from_the_last_checkpoint() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.train("whole", (2, 2), &[])?;
    let mut child = workspace.launch("run", &["--max-restarts", "1"])?.spawn()?;
    loop {
        ensure!(child.try_wait()?.is_none(), "the run ended by itself");
        if workspace.metrics("run").is_ok_and(|lines| lines.len() > 6) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let victim = rank_process(&workspace.path("run"), 3)?;
    rustix::process::kill_process(victim, rustix::process::Signal::KILL)?;
    ensure!(child.wait()?.success(), "the restart did not end well");
    same_bits(&workspace.metrics("run")?, &workspace.metrics("whole")?)
}

#[test]
fn a_full_disk_while_saving_is_a_storage_error() -> Result<()> {
    let workspace = Workspace::new()?;
    let disk = workspace.path("disk");
    std::fs::create_dir(&disk)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"])
        .arg(&disk)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        println!("not run: a small tmpfs cannot be mounted here (needs root)");
        return Ok(());
    }
    let result = expect(
        workspace.launch("disk/run", &[])?.args(layout_arguments(1, 1)),
        5,
        &["space", "checkpoints"],
    );
    let committed = workspace.path("disk/run/checkpoints/step-00000004/manifest.json").exists();
    ensure!(Command::new("umount").arg(&disk).status()?.success(), "umount fails");
    ensure!(!committed, "a checkpoint that does not fit was committed");
    result
}

#[test]
fn a_file_that_is_not_a_video_is_named_or_skipped() -> Result<()> {
    let workspace = Workspace::new()?;
    std::fs::create_dir(workspace.path("media"))?;
    std::fs::write(workspace.path("media/notes.mp4"), b"no video at all")?;
    let annotations =
        r#"[{"video": "notes.mp4", "QA": [{"i": "", "q": "What?", "a": "Nothing."}]}]"#;
    std::fs::write(workspace.path("annotations.json"), annotations)?;
    let mut command = Command::new(program("strand")?);
    command
        .args(["data", "extract", "--annotations"])
        .arg(workspace.path("annotations.json"))
        .arg("--media")
        .arg(workspace.path("media"))
        .args(["--frames", "4", "--out"])
        .arg(workspace.path("shards"));
    expect(&mut command, 4, &["notes.mp4"])
}

#[test]
fn a_word_that_is_no_command_is_a_usage_error() -> Result<()> {
    ensure!(strand(["lanch"])?.status.code() == Some(2));
    Ok(())
}
