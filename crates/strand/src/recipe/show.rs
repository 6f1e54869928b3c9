//! `strand recipe show`.

use strand_control::ExitCode;

use super::RecipeArgs;
use crate::talk::Talk;

pub fn run(args: &RecipeArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let recipe = args.load()?;
    talk.result(&recipe.to_yaml()?, &serde_json::to_value(&recipe)?)?;
    talk.next(format!("strand recipe check {}", args.recipe.display()));
    Ok(ExitCode::Done)
}
