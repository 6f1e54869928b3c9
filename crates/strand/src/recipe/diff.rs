//! `strand recipe diff`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use strand_control::ExitCode;
use strand_recipe::{Change, diff};

use crate::place;
use crate::talk::Talk;

/// What to compare.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Recipe file, or the directory or URL of a run
    left: PathBuf,
    /// Another one
    right: PathBuf,
}

pub fn run(args: &DiffArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let left = place::recipe(&args.left, &[])?;
    let right = place::recipe(&args.right, &[])?;
    let changes = diff(&left, &right)?;
    let same_result = left.hash()? == right.hash()?;
    let document = json!({"changes": changes, "same_result": same_result});
    talk.result(&render(&changes), &document)?;
    if !changes.is_empty() && same_result {
        talk.say("these differences leave the result of a run as it is");
    }
    talk.next(format!("strand launch {}", args.right.display()));
    Ok(ExitCode::Done)
}

/// One line a difference: `path: left -> right`.
pub fn render(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no difference".to_owned();
    }
    let line = |change: &Change| {
        format!("{}: {} -> {}", change.path, shown(&change.left), shown(&change.right))
    };
    changes.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
