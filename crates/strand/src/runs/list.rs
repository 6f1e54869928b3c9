//! `strand runs list`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use strand_control::ExitCode;

use super::summary::Summary;
use crate::failure::Failure;
use crate::table::table;
use crate::talk::Talk;

/// Where to look.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Folder of run directories
    #[arg(default_value = "runs")]
    folder: PathBuf,
}

pub fn run(args: &ListArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let mut runs: Vec<Summary> = Vec::new();
    for path in folders(&args.folder)? {
        match Summary::load(path) {
            Ok(run) => runs.extend(run),
            Err(error) => talk.warn(format!("{error:#}")),
        }
    }
    runs.sort_by(|a, b| a.record.created.cmp(&b.record.created));
    let documents: Vec<_> = runs.iter().map(Summary::document).collect();
    talk.result(&render(&runs, &args.folder), &json!({"runs": documents}))?;
    match runs.last() {
        Some(last) => talk.next(format!("strand runs show {}", last.dir.root().display())),
        None => talk.next("strand launch RECIPE"),
    }
    Ok(ExitCode::Done)
}

fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| unreadable(folder).because(error))?,
    };
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(|error: std::io::Error| unreadable(folder).because(error).into())
}

fn unreadable(folder: &Path) -> Failure {
    Failure::new(ExitCode::Storage, format!("{}: cannot list the runs", folder.display()))
}

fn render(runs: &[Summary], folder: &Path) -> String {
    if runs.is_empty() {
        return format!("{}: no runs", folder.display());
    }
    let row = |run: &Summary| {
        vec![
            run.dir.root().display().to_string(),
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
