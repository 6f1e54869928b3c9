//! `strand checkpoint import`.

use clap::Args;
use serde_json::json;
use strand_checkpoint::weights::{
    Expected, LlamaWeights, Stored, read_adapter_config, read_config,
};
use strand_checkpoint::{
    Dtype, Kind, MANIFEST, Manifest, PartWriter, Piece, State, commit, step_folder,
};
use strand_control::ExitCode;
use strand_recipe::{AdapterConfig, Llama, LlamaConfig, Lora};
use strand_store::Location;

use crate::block_on::block_on;
use crate::failure::Failure;
use crate::place;
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

/// Tensors are read until they are this many bytes, and then written.
const GROUP_BYTES: u64 = 256 << 20;

/// What to read, and where it goes.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Folder or URL of a LLaMA, or of an InstructBLIP, in Hugging Face's layout
    folder: String,
    /// Folder or URL in which checkpoints/step-00000000 is written
    out: String,
    /// Folder or URL of an InstructBLIP, or .safetensors file with MiniGPT-4's llama_proj: its projector
    #[arg(long, value_name = "PATH")]
    projector: Option<String>,
    /// Folder or URL of an adapter (LoRA) as PEFT writes it: its factors, and what an export wrote beside them
    #[arg(long, value_name = "PATH")]
    adapter: Option<String>,
}

/// What is imported, and what the recipe's model has to be for it.
struct Source {
    weights: LlamaWeights,
    llama: Llama,
    lora: Option<Lora>,
}

pub fn run(args: &ImportArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let out = place::checkpoints(&args.out)?;
    let Source { weights, llama, lora } = block_on(open(args))?;
    let manifest = with_progress(talk, "tensors", "import", |progress| {
        block_on(import(&weights, &out, progress))
    })?;
    let path = out.url_of(&step_folder(manifest.state.step));
    let (tensors, size) = (manifest.tensors.len(), manifest.body_bytes());
    let (llama, lora) = (serde_json::to_value(&llama)?, serde_json::to_value(&lora)?);
    let mut text = format!("{path}: {tensors} tensors, {}\nmodel.llama: {llama}", bytes(size));
    if !lora.is_null() {
        text.push_str(&format!("\nmodel.lora: {lora}"));
    }
    let document =
        json!({"path": path, "tensors": tensors, "bytes": size, "llama": llama, "lora": lora});
    talk.result(&text, &document)?;
    talk.next(format!("write `start: {{checkpoint: {path}}}` into a stage of a recipe"));
    Ok(ExitCode::Done)
}

async fn open(args: &ImportArgs) -> anyhow::Result<Source> {
    let (json, url) = read_config(&args.folder).await?;
    let LlamaConfig { llama, tied, .. } = LlamaConfig::parse(&json, &url)?;
    let expected = Expected { tensors: llama.tensors(), tied };
    let mut weights =
        LlamaWeights::open(&args.folder, args.projector.as_deref(), &expected).await?;
    let Some(adapter) = &args.adapter else { return Ok(Source { weights, llama, lora: None }) };
    let (json, url) = read_adapter_config(adapter).await?;
    let lora = AdapterConfig::parse(&json, &url)?.lora;
    weights.add_adapter(adapter, &lora.tensors(&llama)).await?;
    Ok(Source { weights, llama, lora: Some(lora) })
}

async fn import(
    weights: &LlamaWeights,
    out: &Location,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> anyhow::Result<Manifest> {
    let state = state();
    let folder = out.join(&step_folder(state.step));
    if folder.exists(MANIFEST).await? {
        let failure = Failure::usage(format!("{}: there is a checkpoint already", folder.url()));
        return Err(failure.hint("import into another folder").into());
    }
    let mut writer = PartWriter::new(out, &state, 0);
    let (mut pieces, mut held) = (Vec::new(), 0);
    let total = weights.tensors().count() as u64;
    for (done, (name, stored)) in (1..).zip(weights.tensors()) {
        let piece = piece(weights, name, stored).await?;
        held += piece.data.len() as u64;
        pieces.push(piece);
        if held >= GROUP_BYTES {
            writer.write(std::mem::take(&mut pieces)).await?;
            held = 0;
        }
        progress(done, total);
    }
    writer.write(pieces).await?;
    Ok(commit(out, &state, vec![writer.finish()]).await?)
}

async fn piece(weights: &LlamaWeights, name: &str, stored: &Stored) -> anyhow::Result<Piece> {
    let Stored { shape, dtype, .. } = stored;
    let offset = vec![0; shape.len()];
    let data = weights.read_slice(name, &offset, shape).await?;
    Ok(Piece {
        name: name.to_owned(),
        kind: Kind::Parameter,
        // Other types have been refused by the read.
        dtype: dtype.unwrap_or(Dtype::F32),
        shape: shape.clone(),
        offset,
        extent: shape.clone(),
        data,
    })
}

/// Before any step, of no run.
fn state() -> State {
    State {
        step: 0,
        stage: "imported".into(),
        stage_step: 0,
        stage_done: true,
        cursor: serde_json::Value::Null,
        recipe_hash: String::new(),
        seed: 0,
        writer_epoch: 0,
        dp: 1,
        tp: 1,
    }
}
