//! Weights in Hugging Face's layout, in and out. `tests/hugging_face.sh` compares with transformers itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use strand_checkpoint::Dtype;
use strand_checkpoint::weights::{FileWriter, Head, INDEX, from_f32};
use strand_comm::Group;
use strand_model::VideoLm;
use strand_recipe::{Llama, Recipe, config_json};
use strand_tests::harness::{Workspace, layout_arguments, same_bits, same_within, strand, text};
use strand_train::model_config;
use tch::{Device, Kind};

const LORA: &str = "model.lora={rank: 2, alpha: 4, targets: [q_proj, down_proj], dropout: 0.1}";

/// What an export says, and its tensors.
type Exported = (Value, BTreeMap<String, Vec<u8>>);

/// The workspace's model as a folder: its tensors in two files, bf16, with an index.
struct Model {
    workspace: Workspace,
    recipe: Recipe,
}

impl Model {
    fn new() -> Result<Model> {
        let workspace = Workspace::new()?;
        let recipe = Recipe::load(workspace.recipe(), &[])?;
        let model = Model { workspace, recipe };
        model.write(&model.recipe.model.llama, |_| true)?;
        Ok(model)
    }

    fn folder(&self) -> PathBuf {
        self.workspace.path("llama")
    }

    /// Writes the tensors that are `wanted`, in two files.
    fn write(&self, llama: &Llama, wanted: impl Fn(&str) -> bool) -> Result<()> {
        std::fs::create_dir_all(self.folder())?;
        let config = config_json(llama, 0.02, "bfloat16");
        std::fs::write(self.folder().join("config.json"), config.to_string())?;
        let mut tensors = llama.tensors();
        tensors.retain(|(name, _)| wanted(name));
        let mut map = Map::new();
        for (number, part) in (1..).zip(tensors.chunks(tensors.len().div_ceil(2))) {
            let file = format!("part-{number}.safetensors");
            write_file(&self.folder().join(&file), part)?;
            map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        }
        let index = json!({"metadata": {}, "weight_map": map});
        Ok(std::fs::write(self.folder().join(INDEX), index.to_string())?)
    }

    fn start(&self) -> String {
        format!("stages.base.start={{hugging_face: {{llama: {}}}}}", self.folder().display())
    }

    fn start_with(&self, adapter: &Path) -> String {
        let (llama, adapter) = (self.folder(), adapter.display());
        let llama = llama.display();
        format!("stages.base.start={{hugging_face: {{llama: {llama}, adapter: {adapter}}}}}")
    }

    /// Trains LoRA's factors and the projector on a layout, with changes to the recipe.
    fn train_lora(&self, run: &str, layout: (usize, usize), changes: &[&str]) -> Result<()> {
        let trained =
            ["base", "all"].map(|stage| format!("stages.{stage}.train=['*.lora_*', 'proj.*']"));
        let changes = [LORA]
            .into_iter()
            .chain(trained.iter().map(String::as_str))
            .chain(changes.iter().copied());
        let arguments: Vec<&str> = changes.flat_map(|change| ["--set", change]).collect();
        self.workspace.train(run, layout, &arguments)
    }

    /// Exports a checkpoint of the workspace.
    fn export(&self, checkpoint: &str, name: &str, options: &[&str]) -> Result<Exported> {
        let out = self.workspace.path(name);
        let mut arguments = words("export", &self.workspace.path(checkpoint), &out);
        arguments.extend(options.iter().map(OsString::from));
        Ok((document(strand(&arguments)?)?, read(&out)?))
    }

    fn import(&self) -> Result<Value> {
        let (folder, out) = (self.folder(), self.workspace.path("weights"));
        document(strand(words("import", &folder, &out))?)
    }
}

/// `strand checkpoint VERB FROM TO --json`.
fn words(verb: &str, from: &Path, to: &Path) -> Vec<OsString> {
    let words: [&OsStr; 5] =
        ["checkpoint".as_ref(), verb.as_ref(), from.as_ref(), to.as_ref(), "--json".as_ref()];
    words.map(OsStr::to_owned).into()
}

/// Values that depend on name and place.
fn values(name: &str, count: u64) -> Vec<f32> {
    let salt = name.bytes().fold(7_u32, |salt, byte| salt.wrapping_mul(31) ^ u32::from(byte));
    let value = |i: u64| {
        let mixed = (i as u32 ^ salt).wrapping_mul(0x9e37_79b9);
        (mixed >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1
    };
    (0..count).map(value).collect()
}

fn write_file(path: &Path, tensors: &[(String, Vec<u64>)]) -> Result<()> {
    let head = |(name, shape): &(String, Vec<u64>)| Head {
        name: name.clone(),
        dtype: Dtype::Bf16,
        shape: shape.clone(),
    };
    let mut file = FileWriter::create(path, &tensors.iter().map(head).collect::<Vec<_>>())?;
    for (name, shape) in tensors {
        file.write(&from_f32(&values(name, shape.iter().product()), Dtype::Bf16)?)?;
    }
    Ok(file.finish()?)
}

fn document(output: Output) -> Result<Value> {
    ensure!(output.status.success(), "{}", text(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// All tensors of a folder's files.
fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut tensors = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = std::fs::read(&path)?;
            let file = SafeTensors::deserialize(&bytes)?;
            tensors.extend(file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())));
        }
    }
    Ok(tensors)
}

#[test]
fn a_recipe_names_the_tensors_that_the_model_has() -> Result<()> {
    let workspace = Workspace::new()?;
    let heads = "model.llama.num_key_value_heads=2".to_owned();
    let recipe = Recipe::load(workspace.recipe(), &[heads])?;
    let draws = |_: &str| ChaCha8Rng::seed_from_u64(0);
    let (tp, kind) = (Group::single("tp"), (Kind::Float, Device::Cpu));
    let model = VideoLm::fresh(model_config(&recipe), 0.02, &tp, kind, draws)?;
    let named: BTreeMap<String, Vec<u64>> = recipe.model.llama.tensors().into_iter().collect();
    let ours = model
        .parameters()
        .iter()
        .filter(|it| it.name.starts_with("model.") || it.name.starts_with("lm_head."));
    let shape = |shape: &[i64]| shape.iter().map(|&size| size as u64).collect();
    let ours: BTreeMap<String, Vec<u64>> =
        ours.map(|it| (it.name.clone(), shape(&it.shape))).collect();
    ensure!(named == ours, "{named:?}, the model has {ours:?}");
    Ok(())
}

/// The same bits whichever way the weights come in, and the same steps whoever reads which part of them.
#[test]
fn a_stage_starts_from_a_folder_on_every_layout() -> Result<()> {
    let model = Model::new()?;
    let workspace = &model.workspace;
    let imported = model.import()?;
    let path = imported["path"].as_str().context("a path")?;
    let checkpoint = format!("stages.base.start={{checkpoint: {path}}}");
    workspace.train("imported", (1, 2), &["--set", &checkpoint])?;
    workspace.train("1x2", (1, 2), &["--set", &model.start()])?;
    let expected = workspace.metrics("1x2")?;
    same_bits(&expected, &workspace.metrics("imported")?)?;
    workspace.train("fresh", (1, 2), &[])?;
    ensure!(
        same_within(&workspace.metrics("fresh")?, &expected, 1e-4).is_err(),
        "nothing was read"
    );
    for (dp, tp, zero) in [(1, 1, 0), (2, 2, 3), (1, 4, 1), (3, 1, 2)] {
        let run = format!("{dp}x{tp}");
        let zero = format!("memory.zero={zero}");
        workspace.train(&run, (dp, tp), &["--set", &model.start(), "--set", &zero])?;
        same_within(&workspace.metrics(&run)?, &expected, 1e-4).context(run)?;
    }
    Ok(())
}

/// What is frozen is the folder's on every rank, whether or not its state could be divided.
#[test]
fn frozen_weights_are_whole_on_every_layout() -> Result<()> {
    let model = Model::new()?;
    let start = model.start();
    model.train_lora("1x1", (1, 1), &[&start])?;
    let expected = model.workspace.metrics("1x1")?;
    for (dp, tp, zero) in [(2, 1, 1), (2, 1, 2), (3, 1, 3), (2, 2, 1)] {
        let run = format!("{dp}x{tp}-zero-{zero}");
        model.train_lora(&run, (dp, tp), &[&start, &format!("memory.zero={zero}")])?;
        same_within(&model.workspace.metrics(&run)?, &expected, 1e-4).context(run)?;
    }
    Ok(())
}

/// The rows that a larger vocabulary adds are drawn, the same ones on every layout.
#[test]
fn a_vocabulary_may_be_larger_than_the_folder_s() -> Result<()> {
    let model = Model::new()?;
    let workspace = &model.workspace;
    let larger = [
        "--set".to_owned(),
        "model.llama.vocab_size=515".to_owned(),
        "--set".to_owned(),
        model.start(),
    ];
    let larger: Vec<&str> = larger.iter().map(String::as_str).collect();
    workspace.train("one", (1, 1), &larger)?;
    workspace.train("four", (1, 4), &larger)?;
    same_within(&workspace.metrics("four")?, &workspace.metrics("one")?, 1e-4)?;
    Ok(())
}

#[test]
fn another_model_is_refused_before_anything_starts() -> Result<()> {
    let model = Model::new()?;
    let refused = |changes: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = model.workspace.launch("refused", &["--set", &model.start()])?;
        let changes = changes.iter().flat_map(|change| ["--set", change]);
        let output = command.args(layout_arguments(1, 1)).args(changes).output()?;
        Ok((output.status.code(), text(&output.stderr)))
    };
    let (code, words) = refused(&["model.llama.rope_theta=5000", "model.llama.vocab_size=511"])?;
    ensure!(code == Some(2), "exit {code:?}: {words}");
    for found in [
        "rope_theta is 10000, but the recipe's model.llama.rope_theta is 5000",
        "vocab_size is 512",
    ] {
        ensure!(words.contains(found), "{found} in {words}");
    }
    model.write(&model.recipe.model.llama, |name| !name.contains("o_proj"))?;
    let (code, words) = refused(&[])?;
    ensure!(code == Some(5), "exit {code:?}: {words}");
    for found in ["2 tensors are missing", "model.layers.1.self_attn.o_proj.weight"] {
        ensure!(words.contains(found), "{found} in {words}");
    }
    Ok(())
}

#[test]
fn what_comes_in_goes_out() -> Result<()> {
    let model = Model::new()?;
    let imported = model.import()?;
    let out = model.workspace.path("exported");
    let path = imported["path"].as_str().context("a path")?;
    let mut arguments = words("export", Path::new(path), &out);
    arguments
        .extend(["--dtype", "bf16", "--max-shard-size", "20KB", "--recipe"].map(OsString::from));
    arguments.push(model.workspace.recipe().as_os_str().to_owned());
    let exported = document(strand(&arguments)?)?;
    ensure!(read(&out)? == read(&model.folder())?, "other tensors");
    let files = exported["files"].as_array().context("files")?;
    ensure!(files.len() > 2, "{files:?}");
    let index: Value = serde_json::from_slice(&std::fs::read(out.join(INDEX))?)?;
    let map = index["weight_map"].as_object().context("a map")?;
    ensure!(map.len() == model.recipe.model.llama.tensors().len(), "{index}");
    ensure!(index["metadata"]["total_size"] == exported["bytes"], "{index}");
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json"))?)?;
    ensure!(config["torch_dtype"] == "bfloat16" && config["hidden_size"] == 32, "{config}");
    ensure!(out.join("tokenizer.json").exists(), "the recipe's tokenizer belongs to the model");
    let again = strand(&arguments)?;
    ensure!(again.status.code() == Some(2), "a full folder: {}", text(&again.stderr));
    Ok(())
}

/// A run's own checkpoint: its recipe stands beside it, and what LLaMA does not have goes into a file of its own.
#[test]
fn a_run_s_checkpoint_is_exported_whole() -> Result<()> {
    let model = Model::new()?;
    model.workspace.train("run", (1, 2), &["--set", LORA, "--set", &model.start()])?;
    let checkpoint = "run/checkpoints/step-00000022";
    let export = |name: &str, options: &[&str]| model.export(checkpoint, name, options);
    let (plain, tensors) = export("plain", &[])?;
    let (merged, with_lora) = export("merged", &["--merge-lora"])?;
    let names = |document: &Value| document["extra"].to_string();
    ensure!(
        names(&plain).contains("q_proj.lora_A") && names(&plain).contains("mvm_decoder"),
        "{plain}"
    );
    ensure!(
        !names(&merged).contains("lora") && names(&merged).contains("global_local"),
        "{merged}"
    );
    ensure!(merged["merged"] == 4 && plain["merged"] == 0, "two products of two layers: {merged}");
    for (part, changes) in [("q_proj", true), ("k_proj", false)] {
        let name = format!("model.layers.0.self_attn.{part}.weight");
        ensure!((tensors[&name] != with_lora[&name]) == changes, "{name}");
    }
    // Another width would be another scale.
    let recipe = std::fs::read_to_string(model.workspace.recipe())?;
    let lora = "  lora: {rank: 7, alpha: 7, targets: [q_proj, down_proj]}";
    let other = model.workspace.path("other.yaml");
    std::fs::write(&other, recipe.replace("tokenizer:", &format!("{lora}\ntokenizer:")))?;
    let (checkpoint, out) = (model.workspace.path(checkpoint), model.workspace.path("other"));
    let mut arguments = words("export", &checkpoint, &out);
    arguments.extend(["--merge-lora", "--recipe"].map(OsString::from));
    arguments.push(other.into());
    let refused = strand(&arguments)?;
    ensure!(!refused.status.success() && !out.exists(), "{refused:?}");
    ensure!(text(&refused.stderr).contains("lora_A.weight has shape"), "{refused:?}");
    Ok(())
}

/// One step of each stage that changes nothing.
const STANDING_STILL: [&str; 4] = [
    "stages.base.length={steps: 1}",
    "stages.base.optimizer={lr: 1.0, groups: [{names: ['*'], lr_scale: 0}]}",
    "stages.all.length={steps: 1}",
    "stages.all.optimizer={lr: 1.0, groups: [{names: ['*'], lr_scale: 0}]}",
];

/// LoRA's factors and the projector that was trained with them, on every layout and by way of a checkpoint.
#[test]
fn an_adapter_goes_out_and_comes_in() -> Result<()> {
    let model = Model::new()?;
    model.train_lora("run", (1, 2), &[&model.start()])?;
    let (adapter, tensors) =
        model.export("run/checkpoints/step-00000022", "adapter", &["--adapter"])?;
    ensure!(adapter["extra"] == json!(["proj.bias", "proj.weight"]), "{adapter}");
    ensure!(tensors.len() == 10, "two factors of two products of two layers: {:?}", tensors.keys());
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
    ensure!(tensors[name].iter().any(|&byte| byte != 0), "it learned nothing");
    let start = model.start_with(&model.workspace.path("adapter"));
    let changes = [&[start.as_str()], &STANDING_STILL[..]].concat();
    for (dp, tp, zero) in
        [(1, 1, "memory.zero=0"), (1, 4, "memory.zero=1"), (2, 2, "memory.zero=3")]
    {
        let run = format!("{dp}x{tp}");
        model.train_lora(&run, (dp, tp), &[&changes[..], &[zero]].concat())?;
        let checkpoint = format!("{run}/checkpoints/step-00000002");
        let (_, again) = model.export(&checkpoint, &format!("{run}-adapter"), &["--adapter"])?;
        ensure!(again == tensors, "{run}: other tensors");
    }
    import_adapter(&model, &tensors)
}

/// A checkpoint of the folder and the adapter gives the same adapter, and weights that a stage goes on from.
fn import_adapter(model: &Model, tensors: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut arguments = words("import", &model.folder(), &model.workspace.path("imported"));
    arguments.extend(["--adapter".into(), model.workspace.path("adapter").into_os_string()]);
    let imported = document(strand(&arguments)?)?;
    ensure!(imported["lora"]["rank"] == 2 && imported["lora"]["alpha"] == 4.0, "{imported}");
    let recipe = model.workspace.path("run/recipe.yaml").display().to_string();
    let options = ["--adapter", "--recipe", &recipe];
    let (_, again) = model.export("imported/checkpoints/step-00000000", "again", &options)?;
    ensure!(again == *tensors, "by way of a checkpoint: other tensors");
    Ok(())
}

#[test]
fn another_adapter_is_refused_before_anything_starts() -> Result<()> {
    let model = Model::new()?;
    model.train_lora("run", (1, 1), &[&model.start()])?;
    model.export("run/checkpoints/step-00000022", "adapter", &["--adapter"])?;
    let start = model.start_with(&model.workspace.path("adapter"));
    let refused = |lora: &str| -> Result<(Option<i32>, String)> {
        let mut command = model.workspace.launch("refused", &["--set", &start, "--set", lora])?;
        let output = command.args(layout_arguments(1, 1)).output()?;
        Ok((output.status.code(), text(&output.stderr)))
    };
    let (code, words) = refused("model.lora={rank: 4, alpha: 8, targets: [q_proj]}")?;
    ensure!(code == Some(2), "exit {code:?}: {words}");
    for found in ["r is 2, but", "lora_alpha is 4, but", "target_modules is"] {
        ensure!(words.contains(found), "{found} in {words}");
    }
    let (code, words) = refused("model.lora=null")?;
    ensure!(code == Some(2) && words.contains("the model has no `lora`"), "{code:?}: {words}");
    let file = model.workspace.path("adapter/adapter_model.safetensors");
    let other = "base_model.model.lm_head.weight".to_owned();
    write_file(&file, &[(other, vec![2, 2])])?;
    let (code, words) = refused(LORA)?;
    ensure!(code == Some(5), "exit {code:?}: {words}");
    for found in ["8 tensors are missing", "1 tensor is not known\n  base_model.model.lm_head"] {
        ensure!(words.contains(found), "{found} in {words}");
    }
    Ok(())
}

#[test]
fn an_adapter_is_asked_for_alone_and_where_there_is_one() -> Result<()> {
    let model = Model::new()?;
    let imported = model.import()?;
    let path = Path::new(imported["path"].as_str().context("a path")?);
    let refused = |options: &[&str], words_of_it: &str| -> Result<()> {
        let mut arguments = words("export", path, &model.workspace.path("out"));
        arguments.extend(options.iter().map(OsString::from));
        arguments.extend(["--recipe".into(), model.workspace.recipe().as_os_str().to_owned()]);
        let output = strand(&arguments)?;
        let said = text(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains(words_of_it), "{said}");
        Ok(())
    };
    refused(&["--adapter"], "--adapter: the recipe's model has no `lora`")?;
    refused(&["--adapter", "--merge-lora"], "cannot be used with")
}
