//! `strand recipe check`.

use clap::Args;
use serde_json::json;
use strand_control::ExitCode;
use strand_recipe::{Length, Recipe, Stage, Start};

use super::RecipeArgs;
use crate::table::table;
use crate::talk::Talk;

/// What to check, and for how many ranks.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Check as well that dp × tp fills this many ranks
    #[arg(long, value_name = "N")]
    world_size: Option<usize>,
}

pub fn run(args: &CheckArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let recipe = args.recipe.load()?;
    let warnings = recipe.validate()?;
    let mesh = args.world_size.map(|size| recipe.world(size)).transpose()?;
    for warning in &warnings {
        talk.warn(warning.to_string());
    }
    let document = json!({
        "ok": true,
        "name": recipe.name,
        "hash": recipe.hash()?,
        "stages": recipe.stages.iter().map(|stage| &stage.name).collect::<Vec<_>>(),
        "mesh": mesh.map(|(dp, tp)| json!({"dp": dp, "tp": tp})),
        "problems": warnings,
    });
    talk.result(&summary(&recipe), &document)?;
    let path = args.recipe.recipe.display();
    talk.next(format!("strand plan {path}"));
    Ok(ExitCode::Done)
}

fn summary(recipe: &Recipe) -> String {
    let rows: Vec<Vec<String>> = recipe.stages.iter().map(row).collect();
    let header = ["stage", "starts from", "#length", "data", "video", "mask"];
    let stages = table(&header, &rows);
    format!("{}: ok, {} stages\n\n{stages}", recipe.name, rows.len())
}

fn row(stage: &Stage) -> Vec<String> {
    let start = match &stage.start {
        Start::Scratch => "fresh weights".to_owned(),
        Start::Stage(name) => format!("the end of {name}"),
        Start::Checkpoint(url) => url.clone(),
        Start::HuggingFace(start) => start.llama.clone(),
    };
    let length = match stage.length {
        Length::Steps(steps) => format!("{steps} steps"),
        Length::Epochs(epochs) => format!("{epochs} epochs"),
    };
    let sets: Vec<&str> = stage.data.iter().map(|source| source.set.as_str()).collect();
    vec![
        stage.name.clone(),
        start,
        length,
        sets.join(", "),
        word(&stage.video.input),
        word(&stage.mask),
    ]
}

/// The word that a recipe has for this: the key, where it is a map with one key.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(map)) => map.keys().next().cloned().unwrap_or_default(),
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
