//! `strand data verify`.

use serde_json::json;
use strand_control::ExitCode;
use strand_data_tools::verify::{Verification, verify};

use super::{DataSetArgs, with_progress};
use crate::block_on::block_on;
use crate::failure::Failure;
use crate::table::bytes;
use crate::talk::Talk;

pub fn run(args: &DataSetArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let found = with_progress(talk, "rows", "verify", |progress| {
        block_on(async { Ok(verify(&args.url, progress).await?) })
    })?;
    if !found.is_sound() {
        return Err(damaged(&found).into());
    }
    let Verification { url, shards, rows, .. } = &found;
    let size = bytes(found.bytes);
    let text = format!("{url}: sound, {rows} rows in {shards} shards, {size}");
    talk.result(&text, &serde_json::to_value(&found)?)?;
    talk.next("strand launch RECIPE, with its url under `data`");
    Ok(ExitCode::Done)
}

fn damaged(found: &Verification) -> Failure {
    let mut message =
        format!("{}: {} of {} shards are damaged", found.url, found.problems.len(), found.shards);
    for problem in &found.problems {
        message.push_str(&format!("\n  {}: {}", problem.shard, problem.message));
    }
    let failure = Failure::new(ExitCode::Data, message).details(json!({"verification": found}));
    match found.problems.iter().find_map(|problem| problem.hint.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
