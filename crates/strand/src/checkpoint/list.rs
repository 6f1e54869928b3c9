//! `strand checkpoint list`.

use clap::Args;
use serde_json::{Value, json};
use strand_checkpoint::{Manifest, list, step_folder};
use strand_control::ExitCode;

use crate::block_on::block_on;
use crate::place;
use crate::table::{bytes, table};
use crate::talk::Talk;

/// Where to look.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Run directory, or folder or URL of its checkpoints
    run: String,
}

pub fn run(args: &ListArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let folder = place::checkpoints(&args.run)?;
    let found = block_on(async { Ok(list(&folder).await?) })?;
    let path = |manifest: &Manifest| folder.url_of(&step_folder(manifest.state.step));
    let documents: Vec<Value> = found.iter().map(|one| document(one, path(one))).collect();
    talk.result(&render(&found, &folder.url()), &json!({"checkpoints": documents}))?;
    match found.last() {
        Some(last) => talk.next(format!("strand checkpoint verify {}", path(last))),
        None => talk.next("strand launch RECIPE writes the first one"),
    }
    Ok(ExitCode::Done)
}

/// What a checkpoint is, without its tensors.
pub fn document(manifest: &Manifest, path: String) -> Value {
    let state = &manifest.state;
    json!({
        "path": path,
        "step": state.step,
        "stage": state.stage,
        "stage_step": state.stage_step,
        "stage_done": state.stage_done,
        "dp": state.dp,
        "tp": state.tp,
        "recipe_hash": state.recipe_hash,
        "seed": state.seed,
        "writer_epoch": state.writer_epoch,
        "bytes": manifest.body_bytes(),
        "files": manifest.files.len(),
        "tensors": manifest.tensors.len(),
    })
}

fn render(found: &[Manifest], url: &str) -> String {
    if found.is_empty() {
        return format!("{url}: no checkpoints");
    }
    let row = |manifest: &Manifest| {
        let state = &manifest.state;
        let stage_end = if state.stage_done { " (end)" } else { "" };
        vec![
            step_folder(state.step),
            format!("{}{stage_end}", state.stage),
            state.stage_step.to_string(),
            format!("{} × {}", state.dp, state.tp),
            bytes(manifest.body_bytes()),
        ]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    table(&["checkpoint", "stage", "#stage step", "dp × tp", "#size"], &rows)
}
