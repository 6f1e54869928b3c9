//! `strand data verify`.

use clap::Args;
use serde_json::json;
use strand_control::ExitCode;
use strand_data_tools::verify::{Verification, verify};

use super::DataSetArgs;
use crate::block_on::block_on;
use crate::failure::Failure;
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

/// Problems that are told; the document with --json has all.
const TOLD: usize = 20;

/// What to read.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    set: DataSetArgs,
    /// Shards read at the same time [default: the cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub fn run(args: &VerifyArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let found = with_progress(talk, "rows", "verify", |progress| {
        block_on(async { Ok(verify(&args.set.url, args.jobs, progress).await?) })
    })?;
    for extra in &found.extra_files {
        talk.warn(format!("{extra}: not part of the data set"));
    }
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
    let Verification { url, damaged, shards, problems, .. } = found;
    let mut message = format!("{url}: {damaged} of {shards} shards are damaged");
    for problem in problems.iter().take(TOLD) {
        message.push_str(&format!("\n  {}: {}", problem.shard, problem.message));
    }
    if problems.len() > TOLD {
        message.push_str(&format!("\n  and {} more", problems.len() - TOLD));
    }
    let failure = Failure::new(ExitCode::Data, message).details(json!({"verification": found}));
    match problems.iter().find_map(|problem| problem.hint.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
