//! Writes a model's folder with random weights: an EVA ViT-g and a Q-Former of the real shapes, or tiny ones.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use strand_vision::{Config, Family, QFormerConfig, VisionConfig, random};

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
    /// Layers of the vision transformer instead of 39
    #[arg(long)]
    vision_layers: Option<usize>,
}

fn config(args: &Args) -> Config {
    let family = if args.question_conditioned { Family::InstructBlip } else { Family::Blip2 };
    let (vision, qformer, num_query_tokens) = match args.tiny {
        false => (VisionConfig::default(), QFormerConfig::default(), 32),
        true => {
            let (vision, qformer) = tiny();
            (vision, qformer, 4)
        }
    };
    let num_hidden_layers = args.vision_layers.unwrap_or(vision.num_hidden_layers);
    let vision = VisionConfig { num_hidden_layers, ..vision };
    Config { family, vision, qformer, num_query_tokens }
}

fn tiny() -> (VisionConfig, QFormerConfig) {
    let vision = VisionConfig {
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        image_size: 56,
        ..VisionConfig::default()
    };
    let qformer = QFormerConfig {
        vocab_size: 200,
        hidden_size: 32,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 64,
        ..QFormerConfig::default()
    };
    (vision, qformer)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let config = config(&args);
    random::write_folder(&args.folder, &config)?;
    println!("{}: {}", args.folder.display(), config.summary());
    Ok(())
}
