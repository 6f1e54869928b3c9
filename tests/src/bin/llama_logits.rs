//! Logits and greedy tokens of a checkpoint's language model, as JSON: for comparing with other programs.

use std::io::stdin;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use strand_checkpoint::Reader;
use strand_comm::Group;
use strand_model::VideoLm;
use strand_recipe::Recipe;
use strand_store::Location;
use strand_train::{load_parameters, model_config};
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

/// Print what follows each token of the prompts on stdin: {"prompts": [[1, 2]], "new_tokens": 3}.
#[derive(Parser)]
struct Args {
    /// The checkpoint's recipe
    recipe: PathBuf,
    /// Folder or URL of the checkpoint
    checkpoint: String,
}

#[derive(Deserialize)]
struct Request {
    prompts: Vec<Vec<i64>>,
    new_tokens: usize,
}

#[derive(Serialize)]
struct Reply {
    /// Of each prompt and each of its tokens.
    logits: Vec<Vec<Vec<f32>>>,
    /// The likeliest tokens after each prompt.
    greedy: Vec<Vec<i64>>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let request: Request = serde_json::from_reader(stdin().lock())?;
    let model = open(&args)?;
    let logits = |ids: &[i64]| model.text_logits(ids, Kind::Float);
    let mut reply = Reply { logits: Vec::new(), greedy: Vec::new() };
    for mut ids in request.prompts {
        let prompt = ids.len();
        reply.logits.push(Vec::try_from(logits(&ids)?.contiguous())?);
        for _ in 0..request.new_tokens {
            ids.push(likeliest(&logits(&ids)?));
        }
        reply.greedy.push(ids.split_off(prompt));
    }
    println!("{}", serde_json::to_string(&reply)?);
    Ok(())
}

fn open(args: &Args) -> Result<VideoLm> {
    let recipe = Recipe::load(&args.recipe, &[])?;
    let draws = |_: &str| ChaCha8Rng::seed_from_u64(0);
    let (tp, kind) = (Group::single("tp"), (Kind::Float, Device::Cpu));
    let model = VideoLm::fresh(model_config(&recipe), recipe.model.init_std, &tp, kind, draws)?;
    let runtime = Runtime::new()?;
    let reader = runtime.block_on(Reader::open(&Location::open(&args.checkpoint)?))?;
    load_parameters(&model, &reader, runtime.handle())?;
    Ok(model)
}

/// The token with the greatest logit after the last one.
fn likeliest(logits: &Tensor) -> i64 {
    logits.get(-1).argmax(0, false).int64_value(&[])
}
