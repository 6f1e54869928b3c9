//! `strand checkpoint`: what a run could continue from.

mod export;
mod import;
mod list;
mod prune;
mod show;
mod verify;

use clap::{Args, Subcommand};
use strand_control::ExitCode;

use crate::talk::Talk;

/// The verbs on checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointVerb {
    /// List the checkpoints of a run
    #[command(after_help = "Examples:
  strand checkpoint list runs/demo
  strand checkpoint list s3://bucket/demo/checkpoints")]
    List(list::ListArgs),
    /// Show what a checkpoint holds
    #[command(after_help = "Example:
  strand checkpoint show runs/demo/checkpoints/step-00000500")]
    Show(CheckpointArgs),
    /// Read a whole checkpoint and check every byte of it
    #[command(after_help = "Example:
  strand checkpoint verify runs/demo/checkpoints/step-00000500")]
    Verify(CheckpointArgs),
    /// Remove the older checkpoints of a run that is not running
    #[command(after_help = "Examples:
  strand checkpoint prune runs/demo --keep 2
  strand checkpoint prune runs/demo --keep 1 --stage-ends")]
    Prune(prune::PruneArgs),
    /// Make a checkpoint of a LLaMA or an InstructBLIP in Hugging Face's layout, with an adapter of PEFT or without
    #[command(after_help = "Examples:
  strand checkpoint import vicuna-7b-v1.5 weights/vicuna
  strand checkpoint import vicuna-7b-v1.5 weights/vicuna --projector instructblip-vicuna-7b
  strand checkpoint import vicuna-7b-v1.5 weights/adapted --adapter s3://bucket/adapter")]
    Import(import::ImportArgs),
    /// Write a checkpoint's LLaMA as a folder that transformers loads, or LoRA's factors as one that PEFT loads, and the rest
    /// beside it
    #[command(after_help = "Examples:
  strand checkpoint export runs/demo/checkpoints/step-00000500 exported
  strand checkpoint export s3://bucket/qa/checkpoints/step-00003097 exported --dtype bf16 --merge-lora
  strand checkpoint export runs/qa/checkpoints/step-00003097 adapter --adapter")]
    Export(export::ExportArgs),
}

/// One checkpoint.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// Folder or URL of the checkpoint (…/checkpoints/step-NNNNNNNN)
    pub checkpoint: String,
}

/// Runs one of them.
pub fn run(verb: &CheckpointVerb, talk: &Talk) -> anyhow::Result<ExitCode> {
    match verb {
        CheckpointVerb::List(args) => list::run(args, talk),
        CheckpointVerb::Show(args) => show::run(args, talk),
        CheckpointVerb::Verify(args) => verify::run(args, talk),
        CheckpointVerb::Prune(args) => prune::run(args, talk),
        CheckpointVerb::Import(args) => import::run(args, talk),
        CheckpointVerb::Export(args) => export::run(args, talk),
    }
}
