//! Writes a model's folder with random weights: an EVA ViT-g and a Q-Former of the real shapes, or tiny ones.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use strand_tests::encoder::{real, tiny};
use strand_vision::{Family, random};

/// Write a model's folder with random weights, for tests and timings.
#[derive(Parser)]
struct Args {
    /// Where
    folder: PathBuf,
    /// Tiny shapes instead of the real ones, which take 2.4 GB
    #[arg(long)]
    tiny: bool,
    /// InstructBLIP, whose features depend on the question, instead of BLIP-2
    #[arg(long)]
    question_conditioned: bool,
    /// Layers of the vision transformer instead of the usual number
    #[arg(long, value_name = "N")]
    vision_layers: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let family = if args.question_conditioned { Family::InstructBlip } else { Family::Blip2 };
    let mut config = if args.tiny { tiny(family) } else { real(family) };
    if let Some(layers) = args.vision_layers {
        config.vision.num_hidden_layers = layers;
    }
    random::write_folder(&args.folder, &config)?;
    println!("{}: {}", args.folder.display(), config.summary());
    Ok(())
}
