//! `strand plan`: its list of parameters is the model's, the paper's recipes fit, and what it says of memory is what a
//! step takes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use strand_comm::local;
use strand_model::VideoLm;
use strand_recipe::Recipe;
use strand_tests::harness::{root, strand, text};
use strand_train::model_config;
use tch::{Device, Kind};

/// A model with everything in it.
const RECIPE: &str = "
name: shapes
model:
  llama: {vocab_size: 101, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
  feature_size: 16
  adapter_size: 8
  lora: {rank: 3, alpha: 6, targets: [q_proj, k_proj, o_proj, down_proj]}
tokenizer: none.json
data: {none: {url: none}}
batch: {global: 4}
stages:
  - name: step
    data: [{set: none}]
    video: {input: all, frames: 8}
    mask: {constant: {rate: 0.5}}
    mvm: {}
    optimizer: {lr: 2.0e-5}
    length: {steps: 1}
";

#[test]
fn the_list_of_parameters_is_the_model_s() -> Result<()> {
    let changes: [&[&str]; 6] = [
        &[],
        &["parallel.tp=2"],
        &["parallel.tp=4", "model.llama.num_key_value_heads=2"],
        &["parallel.tp=2", "model.llama.num_key_value_heads=1", "model.llama.vocab_size=64"],
        &["model.lora.rank=0", "parallel.exact_tp=4", "parallel.tp=2", "batch.micro=2"],
        &["stages.step.mvm.decoder=false", "model.lora.rank=0"],
    ];
    for change in changes {
        let set: Vec<String> = change.iter().map(ToString::to_string).collect();
        let recipe = Recipe::parse(RECIPE, "shapes")?.with_overrides(&set)?;
        recipe.validate()?;
        same_shapes(&recipe).with_context(|| format!("{change:?}"))?;
    }
    Ok(())
}

fn same_shapes(recipe: &Recipe) -> Result<()> {
    let sizes = |shape: &[usize]| shape.iter().map(|&size| size as i64).collect::<Vec<i64>>();
    let listed = recipe.parameters();
    for mesh in local::meshes(1, recipe.parallel.tp, Duration::from_secs(60))? {
        let draws = |_: &str| ChaCha8Rng::seed_from_u64(0);
        let place = (Kind::Float, Device::Cpu);
        let model = VideoLm::fresh(model_config(recipe), 0.02, &mesh.tp, place, draws)?;
        let parameters: BTreeMap<&str, _> =
            model.parameters().iter().map(|one| (one.name.as_str(), one)).collect();
        ensure!(parameters.len() == listed.len(), "{} of {}", listed.len(), parameters.len());
        for one in &listed {
            let made = parameters.get(one.name.as_str()).with_context(|| one.name.clone())?;
            ensure!(made.shape == sizes(&one.shape), "{}: {:?}", one.name, made.shape);
            ensure!(
                made.tensor.size() == sizes(&one.local),
                "{}: {:?}",
                one.name,
                made.tensor.size()
            );
            ensure!(made.is_split() == one.split.is_some(), "{}: split", one.name);
        }
    }
    Ok(())
}

/// The files of the paper's recipes.
fn paper_recipes() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root()?.join("recipes"))? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|name| name.to_string_lossy().contains("_7b_")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn document(arguments: &[&str]) -> Result<Value> {
    let output = strand(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| text(&output.stdout))
}

#[test]
fn the_paper_s_recipes_are_right_and_fit_their_hardware() -> Result<()> {
    let recipes = paper_recipes()?;
    ensure!(recipes.len() == 5, "{recipes:?}");
    for path in recipes {
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        let path = path.display().to_string();
        let checked = document(&["recipe", "check", &path, "--world-size", "8", "--json"])?;
        ensure!(checked["problems"].as_array().is_some_and(Vec::is_empty), "{checked}");
        ensure!(checked["name"] == name.as_str(), "{checked}");
        let started = Instant::now();
        let plan = document(&["plan", &path, "--world-size", "8", "--gpu", "a100-80", "--json"])?;
        ensure!(started.elapsed() < Duration::from_secs(1), "{name}: {:?}", started.elapsed());
        ensure!(plan["fits"] == true, "{name}: {plan}");
        let trained = plan["stages"][0]["parameters"]["trained"].as_u64();
        ensure!(trained.is_some_and(|trained| trained > 6_700_000_000), "{name}: {trained:?}");
    }
    Ok(())
}

#[test]
fn what_is_suggested_can_be_typed_and_fits() -> Result<()> {
    let path = paper_recipes()?.pop().context("a recipe")?.display().to_string();
    let options = ["plan", &path, "--world-size", "8", "--gpu", "rtx4090", "--json"];
    let started = Instant::now();
    let plan = document(&options)?;
    ensure!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    ensure!(plan["fits"] == false, "{plan}");
    let suggestion = &plan["suggestion"];
    let world = suggestion["world_size"].to_string();
    let mut changed = vec!["plan", &path, "--world-size", &world, "--gpu", "rtx4090", "--json"];
    let set = suggestion["set"].as_array().context("changes")?;
    changed.extend(set.iter().filter_map(Value::as_str).flat_map(|set| ["--set", set]));
    let plan = document(&changed)?;
    ensure!(plan["fits"] == true, "{changed:?}: {plan}");
    ensure!(plan["needed_bytes"] == suggestion["needed"], "{plan}");
    Ok(())
}

#[test]
fn what_is_no_layout_is_refused() -> Result<()> {
    let path = paper_recipes()?.pop().context("a recipe")?.display().to_string();
    for (options, words) in [
        (["--gpu", "h10"], "did you mean `h100`?"),
        (["--set", "parallel.tp=3"], "not a multiple of parallel.tp = 3"),
        (["--set", "parallel.dp=5"], "world size 8: dp 5 × tp 1 = 5 ranks do not fill it"),
        (["--set", "memory.zero=4"], "is not 0, 1, 2 or 3"),
        (["--frames", "0"], "--frames"),
    ] {
        let output = strand(["plan", &path, "--world-size", "8"].iter().chain(&options))?;
        ensure!(output.status.code() == Some(2), "{options:?}: {:?}", output.status);
        ensure!(text(&output.stderr).contains(words), "{options:?}: {}", text(&output.stderr));
    }
    Ok(())
}

/// A size: vocabulary, hidden size, feed-forward, layers, heads; samples at once; more changes.
type Size = (&'static str, [usize; 5], usize, &'static [&'static str]);

/// The heap's share is fitted to the first three: the others say whether it holds elsewhere.
const SIZES: [Size; 10] = [
    ("10 M", [8192, 256, 688, 8, 8], 8, &[]),
    ("58 M", [32001, 512, 1376, 8, 8], 4, &[]),
    ("216 M", [32001, 1024, 2752, 12, 16], 4, &["memory.activation_checkpointing=full"]),
    ("20 M, little dropped", [8192, 384, 1024, 8, 8], 8, &["stages.step.mask.constant.rate=0.1"]),
    ("32 M", [16384, 512, 1376, 5, 8], 6, &[]),
    ("58 M, 4 frames", [32001, 512, 1376, 8, 8], 4, &["stages.step.video.frames=4"]),
    (
        "58 M, selective",
        [32001, 512, 1376, 8, 8],
        4,
        &["memory.activation_checkpointing=selective"],
    ),
    ("130 M", [32001, 768, 2048, 12, 12], 2, &[]),
    ("58 M, bf16", [32001, 512, 1376, 8, 8], 4, &["precision=bf16"]),
    (
        "130 M, bf16, in micro-batches",
        [32001, 768, 2048, 12, 12],
        4,
        &["precision=bf16", "batch.micro=2", "memory.activation_checkpointing=full"],
    ),
];

#[test]
#[ignore = "a measurement of minutes and 5 GB: `cargo xtask bench plan`"]
fn planned_memory_is_what_a_step_takes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recipe.yaml");
    let mut worst: f64 = 0.0;
    for (name, sizes, micro, changes) in SIZES {
        let mut set = Vec::new();
        let keys = [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ];
        set.extend(keys.iter().zip(sizes).map(|(key, size)| format!("model.llama.{key}={size}")));
        set.extend([format!("batch.global={micro}"), "model.feature_size=768".to_owned()]);
        set.extend(["model.lora.rank=0".to_owned(), "stages.step.video.frames=16".to_owned()]);
        set.extend(changes.iter().map(ToString::to_string));
        let recipe = Recipe::parse(RECIPE, "sizes")?.with_overrides(&set)?;
        std::fs::write(&path, recipe.to_yaml()?)?;
        worst = worst.max(deviation(name, &path.display().to_string())?);
    }
    ensure!(worst <= 0.10, "off by {:.1} %", 100.0 * worst);
    Ok(())
}

/// How far the plan is from the measured peak, as a share of it. Prints both.
fn deviation(name: &str, path: &str) -> Result<f64> {
    let plan = document(&["plan", path, "--world-size", "1", "--gpu", "cpu", "--json"])?;
    let options = ["--nproc-per-node", "1", "--steps", "2", "--warmup", "1", "--json"];
    let bench = document(&[&["bench", "step", path], &options[..]].concat())?;
    let mib = |value: &Value| value.as_f64().context("a number").map(|bytes| bytes / 1048576.0);
    let peak = &plan["stages"][0]["memory"]["peak"];
    let (planned, runtime) = (mib(&peak["total"])?, mib(&peak["runtime"])?);
    let measured = bench["peak_mib"].as_f64().context("a peak")?;
    let baseline = bench["baseline_mib"].as_f64().context("a baseline")?;
    let (of_all, of_model) =
        (planned / measured - 1.0, (planned - runtime) / (measured - baseline) - 1.0);
    println!(
        "{name}: planned {planned:.0} MiB ({}), measured {measured:.0} MiB: {:+.1} %; without {runtime:.0} and {baseline:.0} MiB of the process {:+.1} %",
        peak["at"],
        100.0 * of_all,
        100.0 * of_model
    );
    Ok(of_all.abs())
}
