//! `strand recipe`: what a run would be, before it runs.

mod check;
mod diff;
mod schema;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strand_control::ExitCode;
use strand_recipe::Recipe;

pub use diff::render as render_changes;

use crate::place;
use crate::talk::Talk;

/// The verbs on recipes.
#[derive(Debug, Subcommand)]
pub enum RecipeVerb {
    /// Find everything that is wrong in a recipe
    #[command(after_help = "Examples:
  strand recipe check recipes/demo.yaml
  strand recipe check recipes/demo.yaml --world-size 4 --set stages.base.length.steps=10")]
    Check(check::CheckArgs),
    /// Print the resolved recipe, defaults included
    #[command(after_help = "Examples:
  strand recipe show recipes/demo.yaml
  strand recipe show runs/demo                     the recipe of a run")]
    Show(RecipeArgs),
    /// Compare two recipes or runs, value by value
    #[command(after_help = "Example:
  strand recipe diff recipes/demo.yaml runs/demo")]
    Diff(diff::DiffArgs),
    /// Print the JSON schema of recipes, for editors
    #[command(after_help = "Example:
  strand recipe schema > recipes/schema.json")]
    Schema,
}

/// A recipe and what to change in it.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Recipe file, or the directory or URL of a run
    pub recipe: PathBuf,
    /// Change a value: key.key=value; elements of lists by name or index (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl RecipeArgs {
    /// Reads the recipe and applies the changes.
    pub fn load(&self) -> anyhow::Result<Recipe> {
        place::recipe(&self.recipe, &self.set)
    }
}

/// Runs one of them.
pub fn run(verb: &RecipeVerb, talk: &Talk) -> anyhow::Result<ExitCode> {
    match verb {
        RecipeVerb::Check(args) => check::run(args, talk),
        RecipeVerb::Show(args) => show::run(args, talk),
        RecipeVerb::Diff(args) => diff::run(args, talk),
        RecipeVerb::Schema => schema::run(talk),
    }
}
