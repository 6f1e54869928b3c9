//! `strand data extract`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use strand_control::ExitCode;
use strand_data_tools::encoder::{EncoderChoice, ModelOptions};
use strand_data_tools::extract::{ExtractOptions, ExtractReport, Sampling, run as make};
use strand_data_tools::patch::PatchConfig;

use crate::block_on::block_on;
use crate::failure::Failure;
use crate::launch::worker;
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

/// What the help says about annotations and the encoder.
pub const NOTES: &str = r#"Annotations are a JSON list of records; `start`, `end` (seconds), `num_frames`, `options` and `kind` may be left out:
  [{"video": "a.mp4", "QA": [{"i": "", "q": "What happens?", "a": "A ball falls.", "options": [], "kind": ""}]}]

Encoders:
  FOLDER   EVA ViT-g and Q-Former from a Hugging Face folder of InstructBLIP, BLIP-2 or MiniGPT-4 (safetensors), in
           strand-worker processes, one a GPU. With InstructBLIP features depend on the question: a row a question.
  patch    average-pooled patches through a fixed seeded projection: the demo's encoder, not a vision model.

A run that was interrupted goes on when the same command is given again, and gives the same shards.

Examples:
  strand data extract --annotations qa.json --media videos --out data/clips --encoder instructblip-vicuna-7b --dtype bf16
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
    /// `patch`, or the folder of a model
    #[arg(long, value_name = "FOLDER|patch", default_value = PATCH)]
    encoder: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    patch: PatchArgs,
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
    /// A shard ends with the row group that reaches this size [default: 256 MiB]
    #[arg(long, value_name = "BYTES")]
    shard_bytes: Option<u64>,
    /// Train a tokenizer from the annotations and write it there
    #[arg(long, value_name = "URL")]
    tokenizer: Option<String>,
    /// Most entries of that tokenizer
    #[arg(long, value_name = "N", default_value_t = defaults().vocab_size)]
    vocab_size: usize,
}

/// The encoder that is no folder.
const PATCH: &str = "patch";

/// How a model is run.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --encoder FOLDER")]
struct ModelArgs {
    /// Type of the computation: fp32, bf16 or fp16; norms and softmax are fp32 always [default: fp32]
    #[arg(long, value_parser = ["fp32", "bf16", "fp16"])]
    dtype: Option<String>,
    /// Where: auto takes GPUs if there are any [default: auto]
    #[arg(long, value_parser = ["auto", "cpu", "cuda"])]
    device: Option<String>,
    /// Frames that are computed together [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Encoder processes [default: one a GPU, or one with all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
}

/// Settings of the patch encoder.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --encoder patch")]
struct PatchArgs {
    /// Height and width that frames are brought to [default: 32]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Patches along a side; a frame has their square as tokens [default: 4]
    #[arg(long, value_name = "N")]
    grid: Option<usize>,
    /// Cells along a side of a patch [default: 4]
    #[arg(long, value_name = "N")]
    pool: Option<usize>,
    /// Values of a token [default: 64]
    #[arg(long, value_name = "F")]
    feature_size: Option<usize>,
    /// Seed of the encoder's projection [default: 0]
    #[arg(long, value_name = "N")]
    encoder_seed: Option<u64>,
}

impl ModelArgs {
    /// The first flag that was given.
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("--dtype", self.dtype.is_some()),
            ("--device", self.device.is_some()),
            ("--batch", self.batch.is_some()),
            ("--workers", self.workers.is_some()),
        ];
        given.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    fn options(&self, folder: PathBuf) -> anyhow::Result<ModelOptions> {
        let word = |given: &Option<String>, usual: &str| given.clone().unwrap_or(usual.to_owned());
        Ok(ModelOptions {
            program: worker::find()?,
            folder,
            dtype: word(&self.dtype, "fp32"),
            device: word(&self.device, "auto"),
            batch: self.batch.unwrap_or(16) as usize,
            workers: self.workers.map(|workers| workers as usize),
        })
    }
}

impl PatchArgs {
    /// The first flag that was given.
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("--image-size", self.image_size.is_some()),
            ("--grid", self.grid.is_some()),
            ("--pool", self.pool.is_some()),
            ("--feature-size", self.feature_size.is_some()),
            ("--encoder-seed", self.encoder_seed.is_some()),
        ];
        given.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    fn config(&self) -> PatchConfig {
        let usual = PatchConfig::default();
        PatchConfig {
            image_size: self.image_size.unwrap_or(usual.image_size),
            grid: self.grid.unwrap_or(usual.grid),
            pool: self.pool.unwrap_or(usual.pool),
            dim: self.feature_size.unwrap_or(usual.dim),
            seed: self.encoder_seed.unwrap_or(usual.seed),
        }
    }
}

fn defaults() -> ExtractOptions {
    ExtractOptions::new(PathBuf::new(), PathBuf::new(), String::new())
}

impl ExtractArgs {
    /// Flags that the encoder does not have are refused: it would look as if they counted.
    fn encoder(&self) -> anyhow::Result<EncoderChoice> {
        let is_patch = self.encoder.as_os_str() == PATCH;
        let stray = if is_patch { self.model.given() } else { self.patch.given() };
        if let Some(flag) = stray {
            let name = self.encoder.display();
            let hint = if is_patch { "name a model's folder in --encoder" } else { "leave it out" };
            let message = format!("{flag} has no meaning with --encoder {name}");
            return Err(Failure::usage(message).hint(hint).into());
        }
        match is_patch {
            true => Ok(EncoderChoice::Patch(self.patch.config())),
            false => Ok(EncoderChoice::Model(self.model.options(self.encoder.clone())?)),
        }
    }

    fn options(&self) -> anyhow::Result<ExtractOptions> {
        Ok(ExtractOptions {
            videos: self.media.clone(),
            annotations: self.annotations.clone(),
            out: self.out.clone(),
            frames: self.frames,
            sampling: self.sampling,
            seed: self.seed,
            encoder: self.encoder()?,
            skip_bad: self.skip_bad,
            time_limit: Duration::from_secs(self.time_limit),
            jobs: self.jobs,
            rows_per_group: self.rows_per_group,
            shard_bytes: self.shard_bytes,
            tokenizer: self.tokenizer.clone(),
            vocab_size: self.vocab_size,
        })
    }
}

pub fn run(args: &ExtractArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let options = args.options()?;
    let report = with_progress(talk, "records", "extract", |progress| {
        block_on(async { Ok(make(&options, progress).await?) })
    })?;
    if report.complete {
        talk.say(format!("{}: an earlier run with the same options had finished", report.out));
    } else if report.resumed > 0 {
        talk.say(format!("{} videos had been read by an earlier run", report.resumed));
    }
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
        assert_eq!(format!("{:?}", args.options().unwrap()), format!("{theirs:?}"));
    }

    #[test]
    fn flags_of_the_other_encoder_are_refused() {
        let extract = |rest: &[&str]| {
            let words = "strand data extract --annotations a --media m --out o".split(' ');
            let cli = Cli::try_parse_from(words.chain(rest.iter().copied())).unwrap();
            let Verb::Data { verb: DataVerb::Extract(args) } = cli.verb else {
                panic!("another verb");
            };
            args.encoder().map_err(|error| error.to_string())
        };
        assert!(
            matches!(extract(&["--grid", "8"]), Ok(EncoderChoice::Patch(config)) if config.grid == 8)
        );
        for (rest, named) in [
            (&["--dtype", "bf16"][..], "--dtype has no meaning with --encoder patch"),
            (&["--encoder", "m", "--grid", "8"], "--grid has no meaning with --encoder m"),
        ] {
            assert!(extract(rest).is_err_and(|error| error == named));
        }
    }
}
