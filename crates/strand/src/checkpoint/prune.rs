//! `strand checkpoint prune`.

use std::path::Path;

use clap::Args;
use serde_json::json;
use strand_checkpoint::{prune, step_folder};
use strand_control::{ExitCode, RunDir, RunLock};

use crate::block_on::block_on;
use crate::place;
use crate::talk::Talk;

/// What stays.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Run directory, or folder or URL of its checkpoints
    run: String,
    /// How many of the newest checkpoints stay
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
    /// Remove the last checkpoints of earlier stages as well
    #[arg(long)]
    stage_ends: bool,
}

pub fn run(args: &PruneArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let folder = place::checkpoints(&args.run)?;
    // A checkpoint that is being written looks like an abandoned one.
    let run_dir = folder.local_path().as_deref().and_then(run_dir_of);
    let _lock = run_dir.as_ref().map(RunLock::acquire).transpose()?;
    let keep = usize::try_from(args.keep)?;
    let removed = block_on(async { Ok(prune(&folder, keep, !args.stage_ends).await?) })?;
    let names: Vec<String> = removed.iter().map(|&step| step_folder(step)).collect();
    let text = match names.as_slice() {
        [] => format!("{}: nothing to remove", folder.url()),
        _ => format!("{}: removed {}", folder.url(), names.join(", ")),
    };
    talk.result(&text, &json!({"removed": names}))?;
    talk.next(format!("strand checkpoint list {}", args.run));
    Ok(ExitCode::Done)
}

/// The run directory around a folder of checkpoints, where there is one.
fn run_dir_of(checkpoints: &Path) -> Option<RunDir> {
    let run_dir = RunDir::new(checkpoints.parent()?);
    run_dir.record().exists().then_some(run_dir)
}
