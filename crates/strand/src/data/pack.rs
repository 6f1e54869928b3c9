//! `strand data pack`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use strand_control::ExitCode;
use strand_data::{Dtype, Encoder, Manifest, adopt};
use strand_data_tools::Budget;
use strand_data_tools::pack::{PackOptions, PackReport, run as make};
use strand_store::Location;

use super::sizes::SizeArgs;
use crate::block_on::block_on;
use crate::failure::Failure;
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

/// What the help says about formats.
pub const NOTES: &str = r#"Features of a sample are an array [frames, tokens, values] (with --tokens also [frames·tokens, values], without it
[tokens, values], one frame) of float16, bfloat16 or float32. They lie in
  a folder      VIDEO.npy or VIDEO.safetensors, with or without the video's own extension: a/b.mp4 is a/b.npy
  a .tar file   as WebDataset writes it: KEY.npy or KEY.safetensors, with KEY.json for the annotations
  .safetensors  of many tensors, each named as a video
A file of tensors may hold the time of each frame as `seconds`.

Annotations end with .jsonl, one object a line (`qa` may hold several pairs in place of question and answer),
  {"id": "x1", "video": "a/b.mp4", "question": "What happens?", "answer": "A ball falls.", "options": [], "kind": ""}
or are a JSON list in the form of VideoChat2-IT,
  [{"video": "a/b.mp4", "QA": [{"i": "", "q": "What happens?", "a": "A ball falls."}], "start": 0, "end": 4.5}]

The encoder's file says what made the features; training refuses a mix:
  {"kind": "qformer", "hash": "sha256 of its weights", "image_size": 224, "sampling": "middle:16", "question_conditioned": false}

Examples:
  strand data pack --features features --annotations qa.json --encoder encoder.json --out s3://bucket/qa
  strand data pack --features train-*.tar --encoder encoder.json --out data/train --skip-missing 20
  strand data pack --adopt s3://bucket/written-by-spark --encoder encoder.json"#;

/// What to read, and where it goes.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// Folders, .tar or .safetensors files of the features
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "adopt")]
    features: Vec<PathBuf>,
    /// File of the questions and answers [default: the .json beside the features of each sample]
    #[arg(long, value_name = "FILE")]
    annotations: Option<PathBuf>,
    /// Folder or URL of the data set
    #[arg(long, value_name = "URL", required_unless_present = "adopt")]
    out: Option<String>,
    /// Instead: write the manifest of a folder of parquet files in the schema of shards, all of them checked
    #[arg(long, value_name = "URL", conflicts_with_all = ["features", "annotations", "out", "tokens", "tensor",
        "feature_fps", "skip_missing", "jobs", "shard_mb", "row_group_mb", "rows_per_group"])]
    adopt: Option<String>,
    /// JSON file that says what made the features
    #[arg(long, value_name = "FILE")]
    encoder: PathBuf,
    /// Type in which features are stored: f16 or bf16
    #[arg(long, value_name = "TYPE", default_value_t = Dtype::F16)]
    dtype: Dtype,
    /// Tokens of a frame, where arrays are [frames·tokens, values]
    #[arg(long, value_name = "K")]
    tokens: Option<usize>,
    /// Name of the tensor of features, where .safetensors files hold several
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
    /// Frames a second of the features, where their times are not in the files: needed for start and end
    #[arg(long, value_name = "RATE")]
    feature_fps: Option<f64>,
    /// Records without features that are passed over and listed: a number or `all`
    #[arg(long, value_name = "N", default_value_t = Budget::NONE)]
    skip_missing: Budget,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Files read at the same time [default: the cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

impl PackArgs {
    fn options(&self) -> anyhow::Result<PackOptions> {
        let encoder = encoder(&self.encoder)?;
        Ok(PackOptions {
            annotations: self.annotations.clone(),
            dtype: self.dtype,
            tokens: self.tokens,
            tensor: self.tensor.clone(),
            feature_fps: self.feature_fps,
            skip_missing: self.skip_missing,
            sizes: self.sizes.sizes(),
            jobs: self.jobs,
            ..PackOptions::new(self.features.clone(), self.out.clone().unwrap_or_default(), encoder)
        })
    }
}

/// Reads the file that says what made the features.
fn encoder(path: &Path) -> anyhow::Result<Encoder> {
    let named = |reason: String| {
        let hint = "write it as `strand data pack --help` shows";
        Failure::usage(format!("{}: {reason}", path.display())).hint(hint)
    };
    let text = std::fs::read(path).map_err(|error| named(error.to_string()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| named(format!("no encoder: {error}")))?)
}

pub fn run(args: &PackArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    if let Some(url) = &args.adopt {
        return adopt_folder(url, args, talk);
    }
    let options = args.options()?;
    let report = with_progress(talk, "records", "pack", |progress| {
        block_on(async { Ok(make(&options, progress).await?) })
    })?;
    for missing in &report.missing {
        talk.warn(format!(
            "passed over record {}: no features of {}",
            missing.record, missing.name
        ));
    }
    if report.unused > 0 {
        talk.warn(format!("{} features that no record asks for", report.unused));
    }
    talk.result(&render(&report), &serde_json::to_value(&report)?)?;
    talk.next(format!("strand data verify {}", report.out));
    Ok(ExitCode::Done)
}

fn adopt_folder(url: &str, args: &PackArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let (encoder, folder) = (encoder(&args.encoder)?, Location::open(url)?);
    let manifest = with_progress(talk, "rows", "adopt", |progress| {
        block_on(async { Ok(adopt(&folder, encoder, args.dtype, progress).await?) })
    })?;
    let Manifest { id, tokens, dim, shards, .. } = &manifest;
    let (rows, size) = (manifest.num_rows(), manifest.num_bytes());
    let document = json!({"out": folder.url(), "id": id, "rows": rows, "shards": shards.len(),
        "bytes": size, "tokens": tokens, "dim": dim});
    let text = format!(
        "{}: {rows} rows in {} shards, {}\n{tokens} tokens a frame, {dim} values a token",
        folder.url(),
        shards.len(),
        bytes(size)
    );
    talk.result(&text, &document)?;
    talk.next(format!("strand data inspect {url}"));
    Ok(ExitCode::Done)
}

fn render(report: &PackReport) -> String {
    let PackReport { out, rows, shards, tokens, dim, frames: [least, most], .. } = report;
    let mut text = format!(
        "{out}: {rows} rows in {shards} shards, {}\n{least} to {most} frames × {tokens} tokens × {dim} values",
        bytes(report.bytes)
    );
    if !report.missing.is_empty() {
        text.push_str(&format!("\n{} records passed over", report.missing.len()));
    }
    text
}
