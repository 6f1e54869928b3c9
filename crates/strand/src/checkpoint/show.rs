//! `strand checkpoint show`.

use serde_json::{Value, json};
use strand_checkpoint::{Manifest, Tensor};
use strand_control::ExitCode;
use strand_store::Location;

use super::{CheckpointArgs, list};
use crate::block_on::block_on;
use crate::table::{bytes, table};
use crate::talk::Talk;

pub fn run(args: &CheckpointArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let folder = Location::open(&args.checkpoint)?;
    let manifest = block_on(async { Ok(Manifest::open(&folder).await?) })?;
    let mut document = list::document(&manifest, folder.url());
    document["tensors"] = manifest.tensors.iter().map(tensor).collect();
    document["cursor"] = manifest.state.cursor.clone();
    talk.result(&render(&manifest, &folder), &document)?;
    talk.next(format!("strand checkpoint verify {}", args.checkpoint));
    Ok(ExitCode::Done)
}

fn tensor(tensor: &Tensor) -> Value {
    json!({
        "name": tensor.name,
        "kind": tensor.kind,
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "parts": tensor.parts.len(),
    })
}

fn render(manifest: &Manifest, folder: &Location) -> String {
    let state = &manifest.state;
    let head = format!(
        "{}\nstep {}, stage {} step {}{}\nwritten by dp {} × tp {}, attempt {}, {} in {} files\nrecipe {}\n\n",
        folder.url(),
        state.step,
        state.stage,
        state.stage_step,
        if state.stage_done { " (its end)" } else { "" },
        state.dp,
        state.tp,
        state.writer_epoch,
        bytes(manifest.body_bytes()),
        manifest.files.len(),
        state.recipe_hash,
    );
    let row = |tensor: &Tensor| {
        vec![
            tensor.name.clone(),
            tensor.kind.to_string(),
            format!("{:?}", tensor.dtype).to_lowercase(),
            format!("{:?}", tensor.shape),
            tensor.parts.len().to_string(),
        ]
    };
    let rows: Vec<_> = manifest.tensors.iter().map(row).collect();
    head + &table(&["tensor", "kind", "type", "shape", "#parts"], &rows)
}
