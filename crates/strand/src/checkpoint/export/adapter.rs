//! LoRA's factors alone, in the folder that PEFT keeps an adapter in.

use serde_json::json;
use strand_checkpoint::Reader;
use strand_checkpoint::weights::ADAPTER_CONFIG;
use strand_control::ExitCode;
use strand_recipe::{Recipe, Start, adapter_json};
use strand_store::Location;

use super::plan::AdapterPlan;
use super::shard::Shards;
use super::{ExportArgs, refuse_full};
use crate::block_on::block_on;
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

pub fn run(
    args: &ExportArgs,
    reader: &Reader,
    recipe: &Recipe,
    talk: &Talk,
) -> anyhow::Result<ExitCode> {
    let plan = AdapterPlan::new(reader.manifest(), recipe)?;
    if plan.changes_llama {
        talk.warn("the LLaMA was trained as well: without --adapter it is exported too");
    }
    let out = Location::open(&args.out)?;
    block_on(refuse_full(&out))?;
    let shards =
        Shards { reader, out: &out, dtype: args.dtype.dtype(), size: args.max_shard_size.0 };
    let mut files = with_progress(talk, "tensors", "export", |progress| {
        block_on(shards.write_adapter(&plan, progress))
    })?;
    block_on(write_config(recipe, &reader.manifest().state.stage, &out))?;
    files.push(ADAPTER_CONFIG);
    let size = shards.bytes(&plan.factors) + shards.bytes(&plan.extra);
    let document = json!({
        "path": out.url(),
        "dtype": args.dtype.torch(),
        "bytes": size,
        "files": files,
        "extra": plan.extra.iter().map(|item| &item.name).collect::<Vec<_>>(),
    });
    talk.result(&format!("{}: {} in {} files", out.url(), bytes(size), files.len()), &document)?;
    talk.next(format!("PeftModel.from_pretrained(base, {:?}) in PEFT", out.url()));
    Ok(ExitCode::Done)
}

async fn write_config(recipe: &Recipe, stage: &str, out: &Location) -> anyhow::Result<()> {
    let Some(lora) = &recipe.model.lora else { return Ok(()) };
    let config = adapter_json(lora, base(recipe, stage));
    Ok(out.put(ADAPTER_CONFIG, format!("{config:#}\n").into()).await?)
}

/// The folder of the LLaMA that the factors belong to, where a stage up to this one starts from one.
fn base<'a>(recipe: &'a Recipe, stage: &str) -> Option<&'a str> {
    let last = recipe.stages.iter().position(|it| it.name == stage)?;
    recipe.stages[..=last].iter().rev().find_map(|stage| match &stage.start {
        Start::HuggingFace(start) => Some(start.llama.as_str()),
        _ => None,
    })
}
