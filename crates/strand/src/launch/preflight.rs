//! What would fail on every rank is found before any is started, and all of it at once.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;
use strand_checkpoint::Manifest;
use strand_checkpoint::weights::{Expected, LlamaWeights, read_adapter_config, read_config};
use strand_control::{ExitCode, Resume};
use strand_data::{Dataset, PromptStyle, Prompter};
use strand_recipe::{self as recipe, Recipe, Start, VideoInput};
use strand_store::Location;

use super::worker;
use crate::block_on::block_on;
use crate::failure::{self, Failure};

/// A `tokenizer.json` of a large vocabulary has a few MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Finds the worker, and looks at everything that the recipe names.
pub fn run(recipe: &Recipe, resume: &Resume) -> anyhow::Result<PathBuf> {
    let worker = worker::find();
    let mut problems = Problems::default();
    if let Err(error) = &worker {
        let hint = error.hint().unwrap_or_default();
        let found = Failure::new(error.exit_code(), error.to_string());
        problems.0.push(found.hint(format!("{hint}, or set STRAND_WORKER")).into());
    }
    block_on(async {
        problems.note(tokenizer(recipe).await);
        for name in used_sets(recipe) {
            problems.note(data_set(recipe, name).await);
        }
        for url in checkpoints(recipe, resume) {
            problems.note(checkpoint(url).await);
        }
        for stage in &recipe.stages {
            if let Start::HuggingFace(start) = &stage.start {
                problems.note(hugging_face(recipe, start).await);
            }
        }
        Ok(())
    })?;
    problems.verdict()?;
    Ok(worker?)
}

#[derive(Debug, Default)]
struct Problems(Vec<anyhow::Error>);

impl Problems {
    fn note(&mut self, found: anyhow::Result<()>) {
        self.0.extend(found.err());
    }

    /// One problem is told as it is; several as a list, with the first one's exit code.
    fn verdict(mut self) -> anyhow::Result<()> {
        if self.0.len() < 2 {
            return self.0.pop().map_or(Ok(()), Err);
        }
        let mut message = format!("{} things are not ready", self.0.len());
        let mut documents = Vec::new();
        for problem in &self.0 {
            let text = failure::messages(problem).join(": ");
            let verdict = failure::verdict(problem);
            message.push_str(&format!("\n  {text}"));
            if let Some(hint) = &verdict.hint {
                message.push_str(&format!("\n    hint: {hint}"));
            }
            let code = verdict.exit.code();
            documents.push(json!({"message": text, "hint": verdict.hint, "exit_code": code}));
        }
        let exit = failure::verdict(&self.0[0]).exit;
        Err(Failure::new(exit, message).details(json!({"problems": documents})).into())
    }
}

fn used_sets(recipe: &Recipe) -> BTreeSet<&str> {
    let of = |stage: &'_ recipe::Stage| -> Vec<String> {
        let trained = stage.data.iter().map(|source| source.set.clone());
        trained.chain(stage.evaluate.iter().map(|set| set.set.clone())).collect()
    };
    let used: BTreeSet<String> = recipe.stages.iter().flat_map(of).collect();
    recipe.data.keys().map(String::as_str).filter(|name| used.contains(*name)).collect()
}

async fn tokenizer(recipe: &Recipe) -> anyhow::Result<()> {
    let (folder, name) = recipe.tokenizer.rsplit_once('/').unwrap_or((".", &recipe.tokenizer));
    let location = Location::open(folder)?;
    let bytes = match location.get_bounded(name, MAX_TOKENIZER_BYTES).await {
        Err(error) if error.is_not_found() => {
            let message = format!("tokenizer: {}: not found", recipe.tokenizer);
            let failure = Failure::new(ExitCode::Data, message);
            return Err(failure.hint("set `tokenizer` to a Hugging Face tokenizer.json").into());
        }
        bytes => bytes?,
    };
    let style = match recipe.model.prompt {
        recipe::PromptStyle::Instructblip => PromptStyle::Instructblip,
        recipe::PromptStyle::Minigpt4 => PromptStyle::Minigpt4,
    };
    let ids = Prompter::open(&bytes, style)?.vocab_size();
    let rows = recipe.model.llama.vocab_size;
    if ids > rows {
        let message =
            format!("model.llama.vocab_size: {rows}, but the tokenizer has ids up to {}", ids - 1);
        return Err(Failure::usage(message).hint(format!("set it to {ids}")).into());
    }
    Ok(())
}

async fn data_set(recipe: &Recipe, name: &str) -> anyhow::Result<()> {
    let opened = Dataset::open(&recipe.data[name].url).await;
    let set = opened.with_context(|| format!("data.{name}: cannot open"))?;
    let manifest = set.manifest();
    let (dim, wanted) = (manifest.dim, recipe.model.feature_size);
    if dim != wanted {
        let message = format!(
            "data.{name}: {}: features of {dim} values, but model.feature_size is {wanted}",
            set.location().url()
        );
        let hint = format!("set model.feature_size to {dim}, or extract the features again");
        return Err(Failure::new(ExitCode::Data, message).hint(hint).into());
    }
    let groups = manifest.shards.iter().flat_map(|shard| &shard.groups);
    let longest = groups.map(|group| group.frames[1]).max().unwrap_or(0);
    fits(recipe, name, manifest.tokens, usize::try_from(longest)?)
}

/// The visual tokens of every stage that uses the set leave room for text.
fn fits(recipe: &Recipe, set: &str, tokens: usize, longest: usize) -> anyhow::Result<()> {
    let limit = recipe.model.llama.max_position_embeddings;
    for stage in &recipe.stages {
        let trained = stage.data.iter().map(|source| &source.set);
        let mut sets = trained.chain(stage.evaluate.iter().map(|evaluate| &evaluate.set));
        let frames = stage.video.frames.map_or(longest, |frames| frames.min(longest));
        let visual = match stage.video.input {
            VideoInput::All => frames * tokens,
            VideoInput::Mean => tokens,
            VideoInput::GlobalLocal => stage.video.local_frames * tokens,
        };
        if visual >= limit && sets.any(|name| name == set) {
            let message = format!(
                "stages.{}.video: {visual} visual tokens of `{set}` leave no room for text in model.llama.max_position_embeddings = {limit}",
                stage.name
            );
            let hint = "take fewer frames (`video.frames`), or raise max_position_embeddings";
            return Err(Failure::usage(message).hint(hint).into());
        }
    }
    Ok(())
}

fn checkpoints<'a>(recipe: &'a Recipe, resume: &'a Resume) -> Vec<&'a str> {
    let of_stage = |stage: &'a recipe::Stage| match &stage.start {
        Start::Checkpoint(url) => Some(url.as_str()),
        Start::Scratch | Start::Stage(_) | Start::HuggingFace(_) => None,
    };
    let resumed = match resume {
        Resume::From(url) => Some(url.as_str()),
        Resume::Auto | Resume::Never => None,
    };
    recipe.stages.iter().filter_map(of_stage).chain(resumed).collect()
}

async fn checkpoint(url: &str) -> anyhow::Result<()> {
    Manifest::open(&Location::open(url)?).await?;
    Ok(())
}

/// Compares configuration, names and shapes with the recipe: no values are read.
async fn hugging_face(recipe: &Recipe, start: &recipe::HuggingFace) -> anyhow::Result<()> {
    let (json, url) = read_config(&start.llama).await?;
    let config = recipe::LlamaConfig::parse(&json, &url)?;
    config.check(&recipe.model.llama)?;
    let expected = Expected { tensors: config.llama.tensors(), tied: config.tied };
    let mut weights =
        LlamaWeights::open(&start.llama, start.projector.as_deref(), &expected).await?;
    if let Some(adapter) = &start.adapter {
        let (json, url) = read_adapter_config(adapter).await?;
        let adapted = recipe::AdapterConfig::parse(&json, &url)?;
        adapted.check(recipe.model.lora.as_ref())?;
        weights.add_adapter(adapter, &adapted.lora.tensors(&recipe.model.llama)).await?;
    }
    Ok(weights.check_shapes_of(&recipe.extra_tensors())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_problems_are_told_at_once() {
        let problems = Problems(vec![
            Failure::new(ExitCode::Data, "no data").hint("make some").into(),
            Failure::usage("no tokenizer").into(),
        ]);
        let error = problems.verdict().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("2 things are not ready\n  no data\n    hint: make some"),
            "{text}"
        );
        let verdict = failure::verdict(&error);
        assert_eq!(verdict.exit, ExitCode::Data);
        assert_eq!(verdict.details["problems"][1]["exit_code"], 2);
    }

    #[test]
    fn one_problem_is_told_as_it_is() {
        let error = Problems(vec![Failure::usage("one").into()]).verdict().unwrap_err();
        assert_eq!(error.to_string(), "one");
        assert!(Problems::default().verdict().is_ok());
    }
}
