//! `strand data extract`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use strand_control::ExitCode;
use strand_data_tools::extract::{ExtractOptions, ExtractReport, Sampling, run as make};
use strand_data_tools::patch::PatchConfig;

use super::with_progress;
use crate::block_on::block_on;
use crate::table::bytes;
use crate::talk::Talk;

/// What the help says about annotations and the encoder.
pub const NOTES: &str = r#"Annotations are a JSON list of records; `start`, `end` (seconds), `num_frames`, `options` and `kind` may be left out:
  [{"video": "a.mp4", "QA": [{"i": "", "q": "What happens?", "a": "A ball falls.", "options": [], "kind": ""}]}]

The encoder is `patch`: average-pooled patches through a fixed seeded projection. It is the demo's encoder, not a
vision model.

Examples:
  strand data extract --annotations qa.json --media videos --out data/clips
  strand data extract --annotations qa.json --media videos --out s3://bucket/clips --tokenizer s3://bucket/tokenizer.json"#;

/// What to read, how, and where it goes.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// JSON file of the questions and answers
    #[arg(long, value_name = "FILE")]
    annotations: PathBuf,
    /// Folder of the videos
    #[arg(long, value_name = "DIR")]
    media: PathBuf,
    /// Folder or URL of the data set
    #[arg(long, value_name = "URL")]
    out: String,
    /// Frames of a clip where its record says nothing
    #[arg(long, value_name = "T", default_value_t = defaults().frames)]
    frames: usize,
    /// Which frames: middle, rand or fps=RATE
    #[arg(long, value_name = "RULE", default_value_t = defaults().sampling)]
    sampling: Sampling,
    /// Seed of `--sampling rand`
    #[arg(long, value_name = "N", default_value_t = defaults().seed)]
    seed: u64,
    /// Height and width that frames are brought to
    #[arg(long, value_name = "PIXELS", default_value_t = PatchConfig::default().image_size)]
    image_size: usize,
    /// Patches along a side; a frame has their square as tokens
    #[arg(long, value_name = "N", default_value_t = PatchConfig::default().grid)]
    grid: usize,
    /// Cells along a side of a patch
    #[arg(long, value_name = "N", default_value_t = PatchConfig::default().pool)]
    pool: usize,
    /// Values of a token
    #[arg(long, value_name = "F", default_value_t = PatchConfig::default().dim)]
    feature_size: usize,
    /// Seed of the encoder's projection
    #[arg(long, value_name = "N", default_value_t = PatchConfig::default().seed)]
    encoder_seed: u64,
    /// Pass over files that cannot be decoded, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Most seconds that one clip may take
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().time_limit.as_secs())]
    time_limit: u64,
    /// Files read at the same time [default: the cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Rows of a row group [default: as many as make 6 to 16 MB]
    #[arg(long, value_name = "N")]
    rows_per_group: Option<usize>,
    /// Train a tokenizer from the annotations and write it there
    #[arg(long, value_name = "URL")]
    tokenizer: Option<String>,
    /// Most entries of that tokenizer
    #[arg(long, value_name = "N", default_value_t = defaults().vocab_size)]
    vocab_size: usize,
}

fn defaults() -> ExtractOptions {
    ExtractOptions::new(PathBuf::new(), PathBuf::new(), String::new())
}

impl ExtractArgs {
    fn options(&self) -> ExtractOptions {
        ExtractOptions {
            videos: self.media.clone(),
            annotations: self.annotations.clone(),
            out: self.out.clone(),
            frames: self.frames,
            sampling: self.sampling,
            seed: self.seed,
            encoder: PatchConfig {
                image_size: self.image_size,
                grid: self.grid,
                pool: self.pool,
                dim: self.feature_size,
                seed: self.encoder_seed,
            },
            skip_bad: self.skip_bad,
            time_limit: Duration::from_secs(self.time_limit),
            jobs: self.jobs,
            rows_per_group: self.rows_per_group,
            tokenizer: self.tokenizer.clone(),
            vocab_size: self.vocab_size,
        }
    }
}

pub fn run(args: &ExtractArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let report = with_progress(talk, "records", "extract", |progress| {
        block_on(async { Ok(make(&args.options(), progress).await?) })
    })?;
    for skipped in &report.skipped {
        talk.warn(format!("passed over {}: {}", skipped.video, skipped.reason));
    }
    talk.result(&render(&report), &serde_json::to_value(&report)?)?;
    talk.next(format!("strand data inspect {}", report.out));
    Ok(ExitCode::Done)
}

fn render(report: &ExtractReport) -> String {
    let mut text = format!(
        "{}: {} rows from {} videos, {} frames decoded\n{} tokens a frame, {} values a token, {}",
        report.out,
        report.rows,
        report.videos,
        report.frames_decoded,
        report.tokens,
        report.dim,
        bytes(report.bytes)
    );
    if !report.skipped.is_empty() {
        let records: usize = report.skipped.iter().map(|skipped| skipped.records.len()).sum();
        text.push_str(&format!("\n{} videos passed over, {records} records", report.skipped.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};
    use crate::data::DataVerb;

    #[test]
    fn defaults_are_the_library_s() {
        let words =
            ["strand", "data", "extract", "--annotations", "a", "--media", "m", "--out", "o"];
        let Verb::Data { verb: DataVerb::Extract(args) } = Cli::try_parse_from(words).unwrap().verb
        else {
            panic!("another verb");
        };
        let theirs = ExtractOptions::new("m".into(), "a".into(), "o".into());
        assert_eq!(format!("{:?}", args.options()), format!("{theirs:?}"));
    }
}
