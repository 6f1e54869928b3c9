//! How a launch ended, and what to type next.

use serde_json::{Value, json};
use strand_control::{ExitCode, FirstCause, Layout, Outcome, RunDir, RunRecord};
use strand_telemetry::{TelemetryError, bad_steps, evaluation, report, skipped};

use crate::block_on::block_on;
use crate::failure::Failure;
use crate::runs::accuracies;
use crate::talk::Talk;

/// Lines of the failed rank's log that are shown.
const LOG_LINES: usize = 10;

/// Tells how it ended. A failed run is an error, with the first cause.
pub fn tell(
    dir: &RunDir,
    outcome: &Outcome,
    layout: Layout,
    talk: &Talk,
) -> anyhow::Result<ExitCode> {
    let word = match outcome {
        Outcome::Failed(cause) => return Err(failed(dir, cause).into()),
        Outcome::Done => "done",
        Outcome::Stopped => "stopped with a checkpoint",
        Outcome::Interrupted { .. } => "interrupted before a checkpoint was written",
    };
    let code = outcome.exit_code();
    let root = dir.url();
    let evaluations = evaluation::read(&dir.evaluations())?;
    let mut text = format!("{root}: {word}\n");
    if !evaluations.is_empty() {
        text.push_str(&format!("\n{}", accuracies(&evaluations)));
    }
    let skipped = skipped::read(&dir.skipped())?.len();
    if skipped > 0 {
        text.push_str(&format!(
            "\nleft out as damaged: {skipped} samples, listed in skipped.jsonl\n"
        ));
    }
    let bad_steps = bad_steps::read(&dir.bad_steps())?.len();
    if bad_steps > 0 {
        text.push_str(&format!("\nbad steps: {bad_steps}, listed in bad-steps.jsonl\n"));
    }
    if let Some(report) = picture(dir, talk)? {
        text.push_str(&format!("\nreport: {report}"));
    }
    talk.result(&text, &document(dir, code)?)?;
    match outcome {
        Outcome::Done => talk.next(format!("strand runs show {root}")),
        _ => talk.next(continuing(dir, layout)),
    }
    Ok(code)
}

/// The command that continues a run as it was.
pub fn continuing(dir: &RunDir, layout: Layout) -> String {
    format!("strand launch {} --nproc-per-node {}", dir.url(), layout.world_size)
}

/// The run is what counts: a report that cannot be drawn fails nothing.
fn picture(dir: &RunDir, talk: &Talk) -> anyhow::Result<Option<String>> {
    match report::write(dir.root()) {
        Ok(path) => {
            block_on(async { Ok(dir.push().await?) })?;
            let url = dir.is_remote().then(|| format!("{}/report.html", dir.url()));
            Ok(Some(url.unwrap_or_else(|| path.display().to_string())))
        }
        Err(TelemetryError::Empty { .. }) => Ok(None),
        Err(error) => {
            talk.warn(format!("no report: {:#}", anyhow::Error::new(error)));
            Ok(None)
        }
    }
}

fn document(dir: &RunDir, code: ExitCode) -> anyhow::Result<Value> {
    Ok(json!({
        "run_dir": dir.url(),
        "report": dir.report().exists().then(|| dir.report()),
        "exit_code": code.code(),
        "run": RunRecord::load(dir)?,
        "evaluations": evaluation::read(&dir.evaluations())?,
        "skipped": skipped::read(&dir.skipped())?.len(),
        "bad_steps": bad_steps::read(&dir.bad_steps())?.len(),
    }))
}

/// The failure of a run: its first cause and the end of its log.
pub fn failed(dir: &RunDir, cause: &FirstCause) -> Failure {
    let mut message = cause.summary();
    let tail = &cause.log_tail[cause.log_tail.len().saturating_sub(LOG_LINES)..];
    for line in tail {
        message.push_str(&format!("\n  | {line}"));
    }
    message.push_str(&format!("\n  log: {}", cause.log.display()));
    let failure = Failure::new(cause.exit_code(), message)
        .details(json!({"run_dir": dir.url(), "first_cause": cause}));
    match &cause.error.hint {
        Some(hint) => failure.hint(hint),
        None => failure.hint(format!("read {}", dir.error().display())),
    }
}
