//! `strand data`: data sets of features, made and looked at.

mod bench;
mod extract;
mod inspect;
mod pack;
mod reshard;
mod sizes;
mod stats;
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
    /// Turn features that are there (.npy, .safetensors, tar) and annotations into a data set
    #[command(after_help = pack::NOTES)]
    Pack(Box<pack::PackArgs>),
    /// Write a data set anew: other sizes, another place, a part of it, or train and held-out parts
    #[command(after_help = reshard::NOTES)]
    Reshard(Box<reshard::ReshardArgs>),
    /// Show what a data set holds
    #[command(after_help = "Examples:
  strand data inspect data/shapes/train
  strand data inspect s3://bucket/shapes/train --rows 3 --json")]
    Inspect(inspect::InspectArgs),
    /// Show how long clips and texts are, and which kinds of questions there are
    #[command(after_help = "Examples:
  strand data stats data/shapes/train --tokenizer data/shapes/tokenizer.json
  strand data stats s3://bucket/shapes/train --picture shapes.html")]
    Stats(stats::StatsArgs),
    /// Read a whole data set and check every byte of it
    #[command(after_help = "Example:
  strand data verify s3://bucket/shapes/train")]
    Verify(verify::VerifyArgs),
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
        DataVerb::Pack(args) => pack::run(args, talk),
        DataVerb::Reshard(args) => reshard::run(args, talk),
        DataVerb::Stats(args) => stats::run(args, talk),
        DataVerb::Inspect(args) => inspect::run(args, talk),
        DataVerb::Verify(args) => verify::run(args, talk),
        DataVerb::Bench(args) => bench::run(args, talk),
    }
}
