//! `strand checkpoint verify`.

use strand_checkpoint::{Report, verify};
use strand_control::ExitCode;
use strand_store::Location;

use super::CheckpointArgs;
use crate::block_on::block_on;
use crate::failure::Failure;
use crate::table::bytes;
use crate::talk::Talk;

pub fn run(args: &CheckpointArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let folder = Location::open(&args.checkpoint)?;
    talk.say(format!("reading all of {}", folder.url()));
    let report = block_on(async { Ok(verify(&folder).await?) })?;
    if !report.is_sound() {
        return Err(damaged(&folder.url(), &report).into());
    }
    let text = format!(
        "{}: sound, {} tensors in {} files, {}",
        folder.url(),
        report.num_tensors,
        report.num_files,
        bytes(report.bytes)
    );
    talk.result(&text, &serde_json::to_value(&report)?)?;
    for extra in &report.extra_files {
        talk.warn(format!("{extra}: not part of the checkpoint"));
    }
    talk.next(format!("strand launch RECIPE --resume {}", args.checkpoint));
    Ok(ExitCode::Done)
}

fn damaged(url: &str, report: &Report) -> Failure {
    let mut message = format!("{url}: damaged in {} places", report.faults.len());
    for fault in &report.faults {
        message.push_str(&format!("\n  {}: {}", fault.url, fault.reason));
    }
    Failure::new(ExitCode::Storage, message)
        .hint("remove this folder: the run then continues from the checkpoint before it")
        .details(serde_json::json!({"report": report}))
}
