//! `strand checkpoint export`.

mod adapter;
mod around;
mod merge;
mod plan;
mod shard;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use strand_checkpoint::{Dtype, Reader};
use strand_control::ExitCode;
use strand_recipe::ByteSize;
use strand_store::Location;

use self::plan::Plan;
use self::shard::{Files, Shards};
use crate::block_on::block_on;
use crate::failure::{Failure, messages};
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

/// What to write, and how.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder or URL of the checkpoint (…/checkpoints/step-NNNNNNNN)
    checkpoint: String,
    /// Folder or URL that is written; it must be empty
    out: String,
    /// The checkpoint's recipe [default: that of the run around it]
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<std::path::PathBuf>,
    /// Type of the weights
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Type::Fp32)]
    dtype: Type,
    /// Add the products of LoRA's factors to the weights that they adapt
    #[arg(long)]
    merge_lora: bool,
    /// Write LoRA's factors only, as PEFT's adapter, and what else was trained beside the LLaMA
    #[arg(long, conflicts_with_all = ["merge_lora", "max_shard_size"])]
    adapter: bool,
    /// Size of a file; a larger tensor has a file of its own
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard_size: ByteSize,
}

/// The types that weights are written in.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    Fp32,
    Fp16,
    Bf16,
}

impl Type {
    fn dtype(self) -> Dtype {
        match self {
            Type::Fp32 => Dtype::F32,
            Type::Fp16 => Dtype::F16,
            Type::Bf16 => Dtype::Bf16,
        }
    }

    /// As PyTorch names it.
    fn torch(self) -> &'static str {
        match self {
            Type::Fp32 => "float32",
            Type::Fp16 => "float16",
            Type::Bf16 => "bfloat16",
        }
    }
}

pub fn run(args: &ExportArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let checkpoint = Location::open(&args.checkpoint)?;
    let reader = block_on(async { Ok(Reader::open(&checkpoint).await?) })?;
    let recipe = around::recipe(&args.checkpoint, args.recipe.as_deref(), reader.manifest())?;
    if args.adapter {
        return adapter::run(args, &reader, &recipe, talk);
    }
    let plan = Plan::new(reader.manifest(), &recipe, args.merge_lora)?;
    if !args.merge_lora && plan.extra.iter().any(|item| item.is_factor()) {
        talk.warn("the LLaMA is written without what LoRA adds: --merge-lora adds it");
    }
    let out = Location::open(&args.out)?;
    block_on(refuse_full(&out))?;
    let size = args.max_shard_size.0;
    let shards = Shards { reader: &reader, out: &out, dtype: args.dtype.dtype(), size };
    let files = with_progress(talk, "tensors", "export", |progress| {
        block_on(shards.write(&plan, progress))
    })?;
    let tokenizer = block_on(around::tokenizer(&recipe, &out)).unwrap_or_else(|error| {
        let reason = messages(&error).join(": ");
        talk.warn(format!("no tokenizer is written: {reason}"));
        Vec::new()
    });
    block_on(async {
        around::config(&recipe, &out, args.dtype.torch()).await?;
        files.write_index(&out).await
    })?;
    let mut document = document(&plan, &files);
    document["path"] = out.url().into();
    document["dtype"] = args.dtype.torch().into();
    document["tokenizer"] = tokenizer.into();
    let count = files.names().len();
    talk.result(&format!("{}: {} in {count} files", out.url(), bytes(files.bytes)), &document)?;
    talk.next(format!("AutoModelForCausalLM.from_pretrained({:?}) in transformers", out.url()));
    Ok(ExitCode::Done)
}

fn document(plan: &Plan, files: &Files) -> Value {
    json!({
        "bytes": files.bytes,
        "files": files.names(),
        "extra": plan.extra.iter().map(|item| &item.name).collect::<Vec<_>>(),
        "merged": plan.llama.iter().filter(|item| item.factors.is_some()).count(),
    })
}

/// Files of an earlier model must not stand beside these.
async fn refuse_full(out: &Location) -> anyhow::Result<()> {
    if out.list("").await?.is_empty() {
        return Ok(());
    }
    let failure = Failure::usage(format!("{}: is not empty", out.url()));
    Err(failure.hint("name another folder, or remove this one").into())
}
