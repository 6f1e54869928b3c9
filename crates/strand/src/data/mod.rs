//! `strand data`: data sets of features, made and looked at.

mod bench;
mod extract;
mod inspect;
mod synth;
mod verify;

use clap::{Args, Subcommand};
use strand_control::ExitCode;

use crate::talk::Talk;

/// The verbs on data sets.
#[derive(Debug, Subcommand)]
pub enum DataVerb {
    /// Make a video question-answering set of moving shapes: train, held_out and tokenizer.json
    #[command(after_help = "Examples:
  strand data synth --out data/shapes
  strand data synth --out s3://bucket/shapes --train-rows 1000 --frames 12 --hold 2")]
    Synth(Box<synth::SynthArgs>),
    /// Turn videos and annotations into a data set of features
    #[command(after_help = extract::NOTES)]
    Extract(Box<extract::ExtractArgs>),
    /// Show what a data set holds
    #[command(after_help = "Examples:
  strand data inspect data/shapes/train
  strand data inspect s3://bucket/shapes/train --rows 3 --json")]
    Inspect(inspect::InspectArgs),
    /// Read a whole data set and check every byte of it
    #[command(after_help = "Example:
  strand data verify s3://bucket/shapes/train")]
    Verify(DataSetArgs),
    /// Measure how fast a trainer would be fed from a data set
    #[command(after_help = "Examples:
  strand data bench data/shapes/train
  strand data bench s3://bucket/shapes/train --batch 32 --ranks 4 --batches 100 --json

Every sample is checked against its checksum and copied into a batch buffer. Batches are shuffled, as in training.")]
    Bench(bench::BenchArgs),
}

/// One data set.
#[derive(Debug, Args)]
pub struct DataSetArgs {
    /// Folder or URL that holds manifest.json
    pub url: String,
}

/// Runs one of them.
pub fn run(verb: &DataVerb, talk: &Talk) -> anyhow::Result<ExitCode> {
    match verb {
        DataVerb::Synth(args) => synth::run(args, talk),
        DataVerb::Extract(args) => extract::run(args, talk),
        DataVerb::Inspect(args) => inspect::run(args, talk),
        DataVerb::Verify(args) => verify::run(args, talk),
        DataVerb::Bench(args) => bench::run(args, talk),
    }
}

/// Runs `work`, which reports what is done and what there is, with a progress bar.
fn with_progress<T>(
    talk: &Talk,
    unit: &str,
    label: &str,
    work: impl FnOnce(&mut (dyn FnMut(u64, u64) + Send)) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut progress = None;
    let result = work(&mut |done, total| {
        if progress.is_none() {
            progress = talk.progress(total, unit, label);
        }
        if let Some(progress) = &mut progress {
            progress.set(done);
        }
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(result)
}
