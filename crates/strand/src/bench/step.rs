//! `strand bench step`.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};
use strand_control::{ExitCode, LaunchSpec, Outcome, Resume, RunDir, Timing, launch};

use crate::failure::Failure;
use crate::launch::world::{self, Ranks};
use crate::launch::{Watch, failed, resolve, worker};
use crate::recipe::RecipeArgs;
use crate::table::table;
use crate::talk::Talk;

const EXAMPLES: &str = "\
Examples:
  strand bench step recipes/demo.yaml
  strand bench step recipes/demo.yaml --steps 20 --stage all --json
  strand bench step recipes/demo.yaml --set parallel.tp=1 --nproc-per-node 1 --set precision=bf16

Weights are fresh and features made up: no data set, tokenizer or checkpoint of the recipe is opened.";

/// Which steps, and of what shapes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StepArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Steps that are measured; their median is shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: u32,
    /// The stage [default: the last one]
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Frames of a video where the stage takes all
    #[arg(long, value_name = "T", default_value_t = 16)]
    frames: usize,
    /// Tokens of a frame
    #[arg(long, value_name = "K", default_value_t = 32)]
    tokens: usize,
    /// Text tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 48)]
    prompt: usize,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    answer: usize,
    /// Ranks on this node: a number, or `auto` for dp × tp of the recipe, else one a GPU or core
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = Ranks::parse)]
    nproc_per_node: Ranks,
}

pub fn run(args: &StepArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let recipe = resolve::recipe(&args.recipe, talk)?;
    let layout = world::layout(&recipe, args.nproc_per_node)?;
    let folder = tempfile::tempdir()
        .map_err(|error| Failure::environment("no folder for logs").because(error))?;
    let report = folder.path().join("bench.json");
    let spec = LaunchSpec {
        worker: worker::find()?,
        worker_args: vec!["bench-step".into(), args.options().to_string().into(), (&report).into()],
        env: worker::env(talk.verbosity()),
        run_dir: RunDir::new(folder.path()),
        name: recipe.name.clone(),
        recipe: recipe.to_yaml()?,
        recipe_hash: recipe.hash()?,
        layout,
        resume: Resume::Never,
        max_restarts: 0,
        timing: Timing::default(),
    };
    talk.say(format!(
        "{}: {} steps on {} ranks (dp {} × tp {})",
        recipe.name, args.steps, layout.world_size, layout.dp, layout.tp
    ));
    let mut watch = Watch::new(*talk);
    let outcome = launch(&spec, &mut |notice| watch.on(notice))?;
    watch.finish();
    match &outcome {
        Outcome::Done => {
            tell(&report, talk)?;
            talk.next(format!("strand launch {}", args.recipe.recipe.display()));
        }
        Outcome::Failed(cause) => return Err(failed(&spec.run_dir, cause).into()),
        Outcome::Stopped | Outcome::Interrupted { .. } => talk.say("interrupted"),
    }
    Ok(outcome.exit_code())
}

impl StepArgs {
    /// As `strand-worker` reads them.
    fn options(&self) -> Value {
        json!({
            "stage": self.stage,
            "steps": self.steps,
            "warmup": self.warmup,
            "frames": self.frames,
            "tokens": self.tokens,
            "prompt": self.prompt,
            "answer": self.answer,
        })
    }
}

fn tell(report: &Path, talk: &Talk) -> anyhow::Result<()> {
    let document: Value = serde_json::from_slice(&std::fs::read(report)?)?;
    let number = |key: &str| document[key].as_f64().unwrap_or(f64::NAN);
    let tokens = &document["tokens"];
    let known = |key: &str, unit: &str| match document[key].as_f64() {
        Some(value) => format!("{value:.3} {unit}"),
        None => "not known".to_owned(),
    };
    let rows = [
        ("samples a second", format!("{:.3}", number("samples_per_s"))),
        ("step, median", format!("{:.3} s", number("step_s"))),
        (
            "visual tokens, kept of all",
            format!("{} of {}", tokens["visual_kept"], tokens["visual_all"]),
        ),
        ("text tokens", tokens["text"].to_string()),
        ("teraflops a second", known("tflops", "")),
        ("peak memory of a rank", known("peak_mib", "MiB")),
        ("parameters", document["parameters"].to_string()),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    talk.result(&table(&["", "#measured"], &rows), &document)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::bench::BenchVerb;
    use crate::cli::{Cli, Verb};

    #[test]
    fn the_worker_is_told_what_was_typed() {
        let words = ["strand", "bench", "step", "r.yaml", "--steps", "9", "--stage", "all"];
        let Verb::Bench { verb: BenchVerb::Step(args) } = Cli::try_parse_from(words).unwrap().verb
        else {
            panic!("another verb");
        };
        let options = args.options();
        assert_eq!((&options["steps"], &options["stage"]), (&json!(9), &json!("all")));
    }
}
