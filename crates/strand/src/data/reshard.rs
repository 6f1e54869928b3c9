//! `strand data reshard`.

use std::str::FromStr;

use clap::Args;
use regex::Regex;
use strand_control::ExitCode;
use strand_data::Media;
use strand_data_tools::reshard::{
    Between, Filter, PartReport, ReshardOptions, ReshardReport, Split, Subset, run as make,
};

use super::DataSetArgs;
use super::sizes::SizeArgs;
use crate::block_on::block_on;
use crate::failure::Failure;
use crate::table::{bytes, table};
use crate::talk::{Talk, with_progress};

/// What the help says about parts and memory.
pub const NOTES: &str = r#"Ids, features and their checksums stay as they are, and so does the order. Subset and split are decided by a hash of
each row's id and --seed: the same row goes to the same part however the rows are laid out, and a smaller subset lies
within a larger one. Filters come first. A shard of each part is held in memory. The manifests are written last; after
an interruption the same command starts over.

Examples:
  strand data reshard data/qa --out s3://bucket/qa --shard-mb 512
  strand data reshard data/qa --out data/parts --split train=0.95,held_out=0.05 --seed 1
  strand data reshard data/qa --out data/small --subset 1000 --frames 8..64 --kind direction"#;

/// What to read, what to take, and where it goes.
#[derive(Debug, Args)]
pub struct ReshardArgs {
    #[command(flatten)]
    set: DataSetArgs,
    /// Folder or URL of the new data set; with --split, of the folders of its parts
    #[arg(long, value_name = "URL")]
    out: String,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Take only questions of this kind, and rows that have one; may be given several times
    #[arg(long, value_name = "KIND", help_heading = "Which rows")]
    kind: Vec<String>,
    /// Take only videos or only images
    #[arg(long, value_name = "MEDIA", value_parser = media, help_heading = "Which rows")]
    media: Option<Media>,
    /// Take rows of so many frames: 8, 8..64, 8.. or ..64
    #[arg(long, value_name = "RANGE", help_heading = "Which rows")]
    frames: Option<Between>,
    /// Take rows whose id matches
    #[arg(long, value_name = "REGEX", value_parser = Regex::from_str, help_heading = "Which rows")]
    id: Option<Regex>,
    /// Take rows whose video matches
    #[arg(long, value_name = "REGEX", value_parser = Regex::from_str, help_heading = "Which rows")]
    video: Option<Regex>,
    /// Take so many of these rows (1000: exactly, which reads the source twice), or about a share of them (0.1, 10%)
    #[arg(long, value_name = "N|SHARE", help_heading = "Which rows")]
    subset: Option<Subset>,
    /// Divide the rows into parts, each a folder of --out
    #[arg(long, value_name = "NAME=SHARE,…", help_heading = "Which rows")]
    split: Option<Split>,
    /// Seed of --subset and --split
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Which rows")]
    seed: u64,
}

fn media(word: &str) -> Result<Media, Failure> {
    let found = [Media::Video, Media::Image].into_iter().find(|media| media.as_str() == word);
    found.ok_or_else(|| Failure::usage(format!("`{word}` is neither video nor image")))
}

impl ReshardArgs {
    fn options(&self) -> ReshardOptions {
        ReshardOptions {
            sizes: self.sizes.sizes(),
            filter: Filter {
                kinds: self.kind.clone(),
                media: self.media,
                frames: self.frames,
                id: self.id.clone(),
                video: self.video.clone(),
            },
            subset: self.subset,
            split: self.split.clone(),
            seed: self.seed,
            ..ReshardOptions::new(self.set.url.clone(), self.out.clone())
        }
    }
}

pub fn run(args: &ReshardArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let report = with_progress(talk, "rows", "reshard", |progress| {
        block_on(async { Ok(make(&args.options(), progress).await?) })
    })?;
    talk.result(&render(&report), &serde_json::to_value(&report)?)?;
    let first = report.parts.first().map_or(&args.out, |part| &part.url);
    talk.next(format!("strand data verify {first}"));
    Ok(ExitCode::Done)
}

fn render(report: &ReshardReport) -> String {
    let row = |part: &PartReport| {
        let numbers = [part.rows, part.shards as u64, part.groups as u64].map(|n| n.to_string());
        let [rows, shards, groups] = numbers;
        vec![part.url.clone(), rows, shards, groups, bytes(part.bytes)]
    };
    let rows: Vec<Vec<String>> = report.parts.iter().map(row).collect();
    let text = table(&["written", "#rows", "#shards", "#groups", "#size"], &rows);
    format!("{}: {} rows\n{text}", report.source, report.source_rows)
}
