//! `strand data inspect`.

use clap::Args;
use serde::Serialize;
use strand_control::ExitCode;
use strand_data::{DataError, Encoder};
use strand_data_tools::ToolsError;
use strand_data_tools::inspect::{Inspection, PlainInspection, RowSummary, inspect, inspect_plain};

use super::DataSetArgs;
use crate::block_on::block_on;
use crate::table::{bytes, table};
use crate::talk::Talk;

/// Longest text of a cell.
const WIDEST: usize = 48;

/// What to look at.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    set: DataSetArgs,
    /// How many of the first rows are shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    rows: usize,
}

pub fn run(args: &InspectArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let url = &args.set.url;
    match block_on(async { Ok(inspect(url, args.rows).await) })? {
        Ok(found) => {
            show(&render(&found), &found, talk)?;
            talk.next(format!("strand data verify {url}"));
        }
        Err(ToolsError::Data(missing @ DataError::MissingManifest { .. })) => {
            let found = match block_on(async { Ok(inspect_plain(url).await) })? {
                // A folder without any parquet file: that it is no data set says more.
                Err(ToolsError::Data(DataError::Settings(_))) => return Err(missing.into()),
                found => found?,
            };
            show(&render_plain(&found), &found, talk)?;
            talk.next(format!("strand data pack --adopt {url} --encoder FILE"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::Done)
}

fn show(text: &str, document: &impl Serialize, talk: &Talk) -> anyhow::Result<()> {
    talk.result(text, &serde_json::to_value(document)?)
}

fn render(found: &Inspection) -> String {
    let Inspection { url, id, num_rows, num_shards, num_groups, tokens, dim, dtype, .. } = found;
    let Encoder { kind, hash, image_size, sampling, question_conditioned, config } = &found.encoder;
    let [least, most] = found.frames;
    let conditioned = if *question_conditioned { ", of each question" } else { "" };
    let between = |[least, most]: [u64; 2]| format!("{} to {}", bytes(least), bytes(most));
    let facts = [
        ("id", id.clone()),
        ("rows", format!("{num_rows} in {num_groups} row groups of {num_shards} shards")),
        ("features", format!("{least} to {most} frames × {tokens} tokens × {dim} values, {dtype}")),
        (
            "encoder",
            format!("{kind} {hash}, image size {image_size}, sampling {sampling}{conditioned}"),
        ),
        ("encoder's config", if config.is_empty() { "-".to_owned() } else { config.clone() }),
        ("size", bytes(found.bytes)),
        ("shards", between(found.shard_bytes)),
        ("row groups", between(found.group_bytes)),
    ];
    let facts: Vec<Vec<String>> =
        facts.into_iter().map(|(name, fact)| vec![format!("  {name}"), fact]).collect();
    let facts = table(&["", ""], &facts);
    let facts = facts.trim_start_matches('\n');
    format!("{url}\n{facts}\n{}\n{}", schema(&found.schema), rows(&found.rows))
}

fn render_plain(found: &PlainInspection) -> String {
    let files: Vec<Vec<String>> = found
        .files
        .iter()
        .map(|file| {
            let counts = [file.rows.to_string(), file.groups.to_string(), bytes(file.bytes)];
            [file.path.clone()].into_iter().chain(counts).collect()
        })
        .collect();
    format!(
        "{}: no manifest, {} rows in {} parquet files in the schema of shards, {}\n\n{}\n{}",
        found.url,
        found.num_rows,
        found.files.len(),
        bytes(found.bytes),
        schema(&found.schema),
        table(&["file", "#rows", "#groups", "#size"], &files)
    )
}

fn schema(columns: &[(String, String)]) -> String {
    let columns: Vec<Vec<String>> =
        columns.iter().map(|(name, kind)| vec![name.clone(), kind.clone()]).collect();
    table(&["column", "type"], &columns)
}

/// A line for each pair; the row's own cells stand in its first.
fn rows(rows: &[RowSummary]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let seconds = row.seconds.map_or("-".to_owned(), |[first, last]| format!("{first}–{last}"));
        let media = row.media.as_str().to_owned();
        let mut own =
            vec![cut(&row.id), media, row.frames.to_string(), seconds, bytes(row.bytes as u64)];
        for pair in &row.qa {
            let kind = if pair.kind.is_empty() { "-" } else { &pair.kind };
            lines.push([own, [kind, &pair.question, &pair.answer].map(cut).to_vec()].concat());
            own = vec![String::new(); 5];
        }
    }
    table(
        &["id", "media", "#frames", "#seconds", "#features", "kind", "question", "answer"],
        &lines,
    )
}

/// One line of at most [`WIDEST`] characters.
fn cut(text: &str) -> String {
    let line: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.len() <= WIDEST {
        true => line.into_iter().collect(),
        false => line.into_iter().take(WIDEST - 1).chain(['…']).collect(),
    }
}
