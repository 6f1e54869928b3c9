//! What the tests of whole runs share: a folder with data and a recipe, and the programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// A program of this workspace, built beside the tests.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("tests lie in a target folder")?;
    let path = folder.join(name);
    ensure!(path.exists(), "{} is not built: run `cargo xtask test`", path.display());
    Ok(path)
}

/// A folder of its own for runs of one recipe.
pub struct Workspace {
    folder: TempDir,
    recipe: PathBuf,
    /// Changes to the recipe that all runs share.
    changes: Vec<String>,
}

/// Two short stages with masks, MVM and checkpoints in between: `{folder}` is filled in.
const RECIPE: &str = r"
name: small
seed: 5
model:
  llama: {vocab_size: 512, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
  feature_size: 16
  adapter_size: 8
tokenizer: {folder}/data/tokenizer.json
data:
  train: {url: {folder}/data/train}
  held_out: {url: {folder}/data/held_out}
parallel: {dp: 2, tp: 2}
batch: {global: 6, micro: 2}
checkpoint: {every_steps: 4, keep: 2}
trace: {samples: true}
runtime: {collective_timeout_s: 60}
stages:
  - name: base
    data: [{set: train}]
    video: {input: all}
    optimizer: {lr: 1.0e-3}
    length: {steps: 10}
  - name: all
    start: {stage: base}
    data: [{set: train}]
    video: {input: global_local, local_frames: 3}
    mask: {dynamic: {}}
    mvm: {}
    optimizer: {lr: 1.0e-3, weight_decay: 0.01, clip_grad_norm: 1.0}
    length: {steps: 12}
    evaluate: [{set: held_out}]
";

impl Workspace {
    /// Synthetic data and a small recipe of two stages.
    ///
    /// # Errors
    /// `strand data synth` fails.
    pub fn new() -> Result<Workspace> {
        let folder = tempfile::tempdir()?;
        let recipe = folder.path().join("recipe.yaml");
        let workspace = Workspace { folder, recipe, changes: Vec::new() };
        let data = workspace.path("data");
        let made = strand(synth_arguments(&data, 48))?;
        ensure!(made.status.success(), "{}", text(&made.stderr));
        let folder = workspace.folder.path().display().to_string();
        std::fs::write(workspace.recipe(), RECIPE.replace("{folder}", &folder))?;
        Ok(workspace)
    }

    /// The demo's recipe and data, with `changes` (`key=value`) in all runs.
    ///
    /// # Errors
    /// The demo's data cannot be made.
    pub fn demo(changes: &[&str]) -> Result<Workspace> {
        let made = xtask(&["demo", "--data"])?;
        ensure!(made.status.success(), "{}", text(&made.stderr));
        let (folder, recipe) = (tempfile::tempdir()?, root()?.join("recipes/demo.yaml"));
        Ok(Workspace { folder, recipe, changes: Vec::new() }.with(changes))
    }

    /// The same with more `changes` (`key=value`) in all runs.
    pub fn with(mut self, changes: &[&str]) -> Workspace {
        self.changes.extend(changes.iter().map(|&change| change.to_owned()));
        self
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The recipe.
    pub fn recipe(&self) -> &Path {
        &self.recipe
    }

    /// `strand launch` of the recipe into the run directory `run`, a folder of this one or a URL.
    ///
    /// # Errors
    /// The program is not built.
    pub fn launch(&self, run: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("strand")?);
        // The demo's paths are relative to the root.
        command.current_dir(root()?).stdin(Stdio::null());
        command.arg("launch").arg(self.recipe()).arg("--run-dir");
        match run.contains("://") {
            true => command.arg(run),
            false => command.arg(self.path(run)),
        };
        command.args(self.changes.iter().flat_map(|change| ["--set", change])).args(arguments);
        Ok(command)
    }

    /// Runs to the end on dp × tp ranks.
    ///
    /// # Errors
    /// The run fails.
    pub fn train(&self, run: &str, (dp, tp): (usize, usize), arguments: &[&str]) -> Result<()> {
        let layout = layout_arguments(dp, tp);
        let mut command = self.launch(run, &[])?;
        let output = command.args(layout).args(arguments).output()?;
        ensure!(output.status.success(), "dp {dp} × tp {tp}: {}", text(&output.stderr));
        Ok(())
    }

    /// The lines of a run's metrics.jsonl.
    ///
    /// # Errors
    /// There is none, or a line is not JSON.
    pub fn metrics(&self, run: &str) -> Result<Vec<Value>> {
        let path = self.path(run).join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        json_lines(&text)
    }
}

/// Parses JSON lines.
///
/// # Errors
/// A line is not JSON.
pub fn json_lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The root of the project.
///
/// # Errors
/// This package lies elsewhere than it was built.
pub fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the project's root")
}

/// Runs `cargo xtask` to its end.
///
/// # Errors
/// It cannot be started.
pub fn xtask(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new("cargo").current_dir(root()?).arg("xtask").args(arguments).output()?)
}

/// `--set` of a mesh, and as many processes.
pub fn layout_arguments(dp: usize, tp: usize) -> Vec<String> {
    let set = |key: &str, value: usize| ["--set".to_owned(), format!("parallel.{key}={value}")];
    let processes = ["--nproc-per-node".to_owned(), (dp * tp).to_string()];
    [set("dp", dp), set("tp", tp), processes].concat()
}

/// `strand data synth` of small clips.
pub fn synth_arguments(out: &Path, rows: usize) -> Vec<std::ffi::OsString> {
    let words = format!(
        "data synth --train-rows {rows} --held-out-rows 12 --frames 6 --feature-size 16 --seed 3 --out"
    );
    let words = words.split_whitespace().map(OsStr::new).map(OsStr::to_owned);
    words.chain([out.as_os_str().to_owned()]).collect()
}

/// Runs `strand` to its end.
///
/// # Errors
/// The program is not built.
pub fn strand(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
    let mut command = Command::new(program("strand")?);
    Ok(command.args(arguments).stdin(Stdio::null()).output()?)
}

/// What a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What of a step must not depend on time: losses, norm, rate, masks, tokens and sample ids.
const RESULTS: [&str; 10] = [
    "step",
    "stage",
    "lm_loss",
    "mvm_loss",
    "loss",
    "grad_norm",
    "lr",
    "mask_rate",
    "tokens",
    "sample_ids",
];

/// Checks that two runs took the same steps, bit for bit.
///
/// # Errors
/// The first difference.
pub fn same_bits(actual: &[Value], expected: &[Value]) -> Result<()> {
    ensure!(actual.len() == expected.len(), "{} steps, not {}", actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        for key in RESULTS {
            let (a, b) = (&actual[key], &expected[key]);
            ensure!(!b.is_null() || key == "mvm_loss", "step {}: no {key}", expected["step"]);
            ensure!(a == b, "step {}: {key} {a}, not {b}", expected["step"]);
        }
    }
    Ok(())
}

/// Checks that two runs took the same samples at all steps and that their losses agree within `tolerance`. Returns the
/// greatest deviation.
///
/// # Errors
/// The first difference.
pub fn same_within(actual: &[Value], expected: &[Value], tolerance: f64) -> Result<f64> {
    ensure!(actual.len() == expected.len(), "{} steps, not {}", actual.len(), expected.len());
    let mut worst: f64 = 0.0;
    for (actual, expected) in actual.iter().zip(expected) {
        let step = &expected["step"];
        ensure!(expected["sample_ids"].is_array(), "step {step}: no sample ids");
        for key in ["step", "stage", "mask_rate", "sample_ids", "tokens"] {
            ensure!(actual[key] == expected[key], "step {step}: {key} differs");
        }
        let deviation = deviation(actual, expected)?;
        ensure!(deviation <= tolerance, "step {step}: a loss deviates by {deviation:e}");
        worst = worst.max(deviation);
    }
    Ok(worst)
}

/// The greatest difference between the losses of a step.
fn deviation(actual: &Value, expected: &Value) -> Result<f64> {
    let mut worst: f64 = 0.0;
    for key in ["lm_loss", "mvm_loss", "loss"] {
        match (actual[key].as_f64(), expected[key].as_f64()) {
            (Some(a), Some(b)) => worst = worst.max((a - b).abs()),
            (None, None) => {}
            (a, b) => bail!("step {}: {key} {a:?}, not {b:?}", expected["step"]),
        }
    }
    Ok(worst)
}
