//! The vision encoder and the Q-Former, against the oracle: see `tests/golden_encoder/README.md`.
//!
//! Each case is written as a model's folder and read back, so that names, shapes and the reading of safetensors are
//! checked too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use strand_vision::{Config, EvaVit, QFormer, Text, Weights};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 2e-5;

/// The folder of `STRAND_GOLDEN_ENCODER`, or the project's own copy.
fn folder() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden_encoder");
    std::env::var_os("STRAND_GOLDEN_ENCODER").map_or(own, PathBuf::from)
}

/// The `.json` files that have a `.safetensors` beside them.
fn cases() -> Result<Vec<PathBuf>> {
    let folder = folder();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        if is_json && path.with_extension("safetensors").is_file() {
            cases.push(path);
        }
    }
    cases.sort();
    ensure!(!cases.is_empty(), "no golden cases in {}", folder.display());
    Ok(cases)
}

/// `config.json` and `model.safetensors` of a case.
fn write_model(case: &Path, tensors: &SafeTensors, folder: &Path) -> Result<()> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(case)?)?;
    let conditioned = config["text_conditioned"].as_bool().context("no text_conditioned")?;
    config["model_type"] = if conditioned { "instructblip" } else { "blip-2" }.into();
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let weights =
        tensors.iter().filter_map(|(name, view)| Some((name.strip_prefix("weight.")?, view)));
    let weights: BTreeMap<&str, TensorView> = weights.collect();
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(weights, None)?)?;
    Ok(())
}

fn tensor(tensors: &SafeTensors, name: &str) -> Result<Tensor> {
    let view = tensors.tensor(name).with_context(|| name.to_owned())?;
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        other => anyhow::bail!("{name}: type {other:?}"),
    };
    let size: Vec<i64> = view.shape().iter().map(|&dim| dim as i64).collect();
    Ok(Tensor::f_from_data_size(view.data(), &size, kind)?)
}

fn deviation(actual: &Tensor, expected: &Tensor) -> Result<f64> {
    ensure!(actual.size() == expected.size(), "{actual:?}, expected {expected:?}");
    Ok((actual.to_kind(Kind::Double) - expected).abs().max().double_value(&[]))
}

/// The greatest deviations of the hidden states of frames and of the queries' output.
fn check(case: &Path) -> Result<[f64; 2]> {
    let bytes = std::fs::read(case.with_extension("safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let folder = tempfile::tempdir()?;
    write_model(case, &tensors, folder.path())?;
    let config = Config::load(&folder.path().join("config.json"))?;
    let weights = Weights::open(folder.path())?;
    let mut reader = weights.reader(Kind::Float, Device::Cpu);
    let vit = EvaVit::read(&config.vision, &mut reader)?;
    let qformer = QFormer::read(&config, &mut reader)?;
    let text = match config.family.is_question_conditioned() {
        false => None,
        true => {
            Some(Text { ids: tensor(&tensors, "text_ids")?, mask: tensor(&tensors, "text_mask")? })
        }
    };
    let pixels = tensor(&tensors, "pixel_values")?;
    let frames = tch::no_grad(|| vit.forward(&pixels))?;
    let queries = tch::no_grad(|| qformer.forward(&frames, text.as_ref()))?;
    Ok([
        deviation(&frames, &tensor(&tensors, "vision_hidden")?)?,
        deviation(&queries, &tensor(&tensors, "query_output")?)?,
    ])
}

#[test]
fn frames_and_queries_agree_with_the_oracle() -> Result<()> {
    for case in cases()? {
        let [frames, queries] = check(&case).with_context(|| case.display().to_string())?;
        let name = case.file_stem().unwrap_or_default().display();
        println!(
            "{name}: greatest deviation vision_hidden {frames:.1e}, query_output {queries:.1e}"
        );
        let worst = frames.max(queries);
        // Written so that NaN fails.
        ensure!(worst <= TOLERANCE, "{}: deviates by {worst:e}", case.display());
    }
    Ok(())
}
