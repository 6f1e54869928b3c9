//! `strand runs list`.

use clap::Args;
use serde_json::json;
use strand_control::ExitCode;
use strand_store::Location;

use super::summary::Summary;
use crate::block_on::block_on;
use crate::place::RunView;
use crate::table::table;
use crate::talk::Talk;

/// Where to look.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Folder of run directories, or its URL
    #[arg(default_value = "runs")]
    folder: String,
}

pub fn run(args: &ListArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let mut runs: Vec<Summary> = Vec::new();
    for run in folders(&args.folder)? {
        match RunView::open(&run).and_then(|view| Summary::load(&view.dir)) {
            Ok(run) => runs.extend(run),
            Err(error) => talk.warn(format!("{error:#}")),
        }
    }
    runs.sort_by(|a, b| a.record.created.cmp(&b.record.created));
    let documents: Vec<_> = runs.iter().map(Summary::document).collect();
    talk.result(&render(&runs, &args.folder), &json!({"runs": documents}))?;
    match runs.last() {
        Some(last) => talk.next(format!("strand runs show {}", last.dir.url())),
        None => talk.next("strand launch RECIPE"),
    }
    Ok(ExitCode::Done)
}

fn folders(folder: &str) -> anyhow::Result<Vec<String>> {
    let location = Location::open(folder)?;
    let names = block_on(async { Ok(location.list_folders("").await?) })?;
    Ok(names.iter().map(|name| format!("{}/{name}", folder.trim_end_matches('/'))).collect())
}

fn render(runs: &[Summary], folder: &str) -> String {
    if runs.is_empty() {
        return format!("{folder}: no runs");
    }
    let row = |run: &Summary| {
        vec![
            run.dir.url(),
            run.status.to_owned(),
            run.step().to_string(),
            run.last.as_ref().map_or("-".to_owned(), |last| format!("{:.4}", last.loss)),
            format!("{} × {}", run.record.layout.dp, run.record.layout.tp),
            run.record.attempts.len().to_string(),
            run.record.updated.get(..19).unwrap_or_default().replace('T', " "),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    table(&["run", "status", "#step", "#loss", "dp × tp", "#attempts", "updated (UTC)"], &rows)
}
