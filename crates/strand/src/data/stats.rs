//! `strand data stats`.

use std::path::{Path, PathBuf};

use clap::Args;
use strand_control::ExitCode;
use strand_data_tools::stats::{Bin, Named, Stats, stats};
use strand_store::Location;
use strand_telemetry::report::histogram::{self, Histogram};

use super::DataSetArgs;
use crate::block_on::block_on;
use crate::failure::Failure;
use crate::table::{bytes, table};
use crate::talk::{Talk, with_progress};

/// Largest tokenizer.json that is read, in bytes.
const MOST_TOKENIZER: u64 = 256 << 20;
/// Kinds that are shown; the document with --json has all.
const KINDS: usize = 20;

/// What to look at.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    set: DataSetArgs,
    /// A tokenizer.json, to count the tokens of questions and answers too
    #[arg(long, value_name = "URL")]
    tokenizer: Option<String>,
    /// Draw the distributions into a file that ends with .html or .svg
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

pub fn run(args: &StatsArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let picture = args.picture.as_deref().map(Picture::of).transpose()?;
    let found = with_progress(talk, "rows", "stats", |progress| {
        block_on(async {
            let tokenizer = match &args.tokenizer {
                Some(url) => Some(read(url).await?),
                None => None,
            };
            Ok(stats(&args.set.url, tokenizer.as_deref(), progress).await?)
        })
    })?;
    if let Some(picture) = picture {
        picture.write(&found)?;
        talk.say(format!("drawn: {}", picture.path.display()));
    }
    talk.result(&render(&found), &serde_json::to_value(&found)?)?;
    talk.next(format!("strand data verify {}", args.set.url));
    Ok(ExitCode::Done)
}

async fn read(url: &str) -> anyhow::Result<Vec<u8>> {
    let (folder, name) = url.rsplit_once('/').unwrap_or((".", url));
    Ok(Location::open(folder)?.get_bounded(name, MOST_TOKENIZER).await?.to_vec())
}

fn render(found: &Stats) -> String {
    let Stats { url, rows, questions, .. } = found;
    let media: Vec<String> = found.media.iter().map(|(media, n)| format!("{n} {media}")).collect();
    let size = bytes(found.bytes);
    let summary =
        format!("{url}: {rows} rows ({}), {questions} questions, {size}", media.join(", "));
    let row = |one: &Named| {
        let d = &one.distribution;
        let numbers = [d.least, d.mean, d.median, d.p90, d.p99, d.most].map(number);
        [one.of.replace('_', " ")].into_iter().chain(numbers).collect()
    };
    let header = ["", "#least", "#mean", "#median", "#90 %", "#99 %", "#most"];
    let rows: Vec<Vec<String>> = found.distributions.iter().map(row).collect();
    let kinds: Vec<Vec<String>> =
        kinds(found).into_iter().map(|(kind, count)| vec![kind, count.to_string()]).collect();
    format!("{summary}\n\n{}\n{}", table(&header, &rows), table(&["kind", "#questions"], &kinds))
}

/// `3`, `3.25`.
fn number(value: f64) -> String {
    let rounded = format!("{value:.2}");
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The most frequent kinds, and how many questions the others have together.
fn kinds(found: &Stats) -> Vec<(String, u64)> {
    let name = |kind: &String| if kind.is_empty() { "-".to_owned() } else { kind.clone() };
    let mut kinds: Vec<(String, u64)> =
        found.kinds.iter().map(|(kind, count)| (name(kind), *count)).collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let others = kinds.split_off(kinds.len().min(KINDS));
    if !others.is_empty() {
        let rest = others.iter().map(|(_, count)| count).sum();
        kinds.push((format!("{} others", others.len()), rest));
    }
    kinds
}

/// A file to draw into.
struct Picture<'a> {
    path: &'a Path,
    /// A page, or else a picture alone.
    is_page: bool,
}

impl Picture<'_> {
    fn of(path: &Path) -> Result<Picture<'_>, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => Ok(Picture { path, is_page: true }),
            Some("svg") => Ok(Picture { path, is_page: false }),
            _ => Err(Failure::usage(format!(
                "{}: a picture ends with .html or .svg",
                path.display()
            ))),
        }
    }

    fn write(&self, found: &Stats) -> anyhow::Result<()> {
        let histograms = histograms(found);
        let drawn = match self.is_page {
            false => histogram::picture(&found.url, &histograms)?,
            true => {
                let facts = [
                    format!("{} rows", found.rows),
                    format!("{} questions", found.questions),
                    bytes(found.bytes),
                ];
                histogram::html(&found.url, &facts, &histograms)?
            }
        };
        let failed = |error| {
            let message = format!("{}: cannot write", self.path.display());
            Failure::new(ExitCode::Storage, message).because(error)
        };
        Ok(std::fs::write(self.path, drawn).map_err(failed)?)
    }
}

fn histograms(found: &Stats) -> Vec<Histogram> {
    let of_kinds = Histogram {
        title: "kinds".to_owned(),
        about: "Questions by kind.".to_owned(),
        bars: kinds(found),
    };
    let of = |one: &Named| {
        let d = &one.distribution;
        let about = format!(
            "{} values, mean {}, median {}, 99 % up to {}, most {}.",
            d.count,
            number(d.mean),
            number(d.median),
            number(d.p99),
            number(d.most)
        );
        let bars = d.bins.iter().map(|bin| (span(bin), bin.count)).collect();
        Histogram { title: one.of.replace('_', " "), about, bars }
    };
    found.distributions.iter().map(of).chain([of_kinds]).collect()
}

/// `8`, or `8–15`.
fn span(bin: &Bin) -> String {
    match bin.from == bin.to {
        true => number(bin.from),
        false => format!("{}–{}", number(bin.from), number(bin.to)),
    }
}
