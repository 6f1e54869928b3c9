//! `strand runs show`.

use clap::Args;
use serde_json::json;
use strand_control::{Attempt, ExitCode, FirstCause};
use strand_telemetry::{Evaluation, evaluation};

use super::summary::Summary;
use crate::failure::Failure;
use crate::launch::continuing;
use crate::place::RunView;
use crate::table::table;
use crate::talk::Talk;

/// Which run.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The run's directory or URL
    run: String,
}

pub fn run(args: &ShowArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let view = RunView::open(&args.run)?;
    let run = Summary::load(&view.dir)?.ok_or_else(|| no_run(args))?;
    let evaluations = evaluation::read(&run.dir.evaluations())?;
    let failure = FirstCause::load(&run.dir)?;
    let mut document = run.document();
    document["record"] = serde_json::to_value(&run.record)?;
    document["last"] = serde_json::to_value(&run.last)?;
    document["evaluations"] = json!(evaluations);
    document["error"] = json!(failure);
    talk.result(&render(&run, &evaluations, failure.as_ref()), &document)?;
    talk.next(next(&run, failure.as_ref()));
    Ok(ExitCode::Done)
}

fn no_run(args: &ShowArgs) -> Failure {
    Failure::usage(format!("{}: no run.json here: not a run directory", args.run))
        .hint("`strand runs list` shows the runs under runs/")
}

fn next(run: &Summary, failure: Option<&FirstCause>) -> String {
    let dir = run.dir.url();
    match (run.status, failure) {
        ("running", _) if run.dir.is_remote() => format!("strand runs show {dir}"),
        ("failed", Some(cause)) if !run.dir.is_remote() => format!("less {}", cause.log.display()),
        ("running", _) => format!("tail -f {}", run.dir.metrics().display()),
        ("done", _) => format!("strand checkpoint list {dir}"),
        _ => continuing(&run.dir, run.record.layout),
    }
}

fn render(run: &Summary, evaluations: &[Evaluation], failure: Option<&FirstCause>) -> String {
    let record = &run.record;
    let layout = record.layout;
    let mut text = format!(
        "{}: {}\nid {}, dp {} × tp {}, recipe {}\n",
        run.dir.url(),
        run.status,
        record.id,
        layout.dp,
        layout.tp,
        record.recipe_hash.get(..12).unwrap_or(&record.recipe_hash),
    );
    if let Some(last) = &run.last {
        let line = format!(
            "step {}, stage {}, loss {:.4}, {:.1} samples/s\n",
            last.step, last.stage, last.loss, last.samples_per_s
        );
        text.push_str(&line);
    }
    text.push('\n');
    text.push_str(&attempts(&record.attempts));
    if !evaluations.is_empty() {
        text.push('\n');
        text.push_str(&accuracies(evaluations));
    }
    if let Some(cause) = failure {
        text.push_str(&format!("\n{}\nlog {}\n", cause.summary(), cause.log.display()));
    }
    text
}

fn attempts(attempts: &[Attempt]) -> String {
    let row = |attempt: &Attempt| {
        vec![
            attempt.number.to_string(),
            attempt.host.clone(),
            attempt.started.get(..19).unwrap_or_default().replace('T', " "),
            attempt.exit_code.map_or("-".to_owned(), |code| code.code().to_string()),
            attempt.cause.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = attempts.iter().map(row).collect();
    table(&["#attempt", "host", "started (UTC)", "#exit", "cause"], &rows)
}

/// Accuracy by stage, set and kind of question.
pub fn accuracies(evaluations: &[Evaluation]) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = Vec::new();
    for one in evaluations {
        let mut row = |kind: &str, accuracy: f64, total: u64| {
            let cells = [&one.stage, &one.set, kind].map(str::to_owned);
            rows.push([cells.to_vec(), vec![percent(accuracy), total.to_string()]].concat());
        };
        for (kind, score) in &one.by_kind {
            row(kind, score.accuracy(), score.total);
        }
        row("all kinds", one.accuracy, one.total);
    }
    table(&["stage", "set", "kind", "#accuracy", "#questions"], &rows)
}
