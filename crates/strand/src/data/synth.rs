//! `strand data synth`.

use clap::Args;
use strand_control::ExitCode;
use strand_data_tools::synth::{Mix, SynthOptions, SynthReport, run as make};

use crate::block_on::block_on;
use crate::table::bytes;
use crate::talk::{Talk, with_progress};

/// What to make. The defaults are the library's.
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Folder or URL that gets train, held_out and tokenizer.json
    #[arg(long, value_name = "URL", default_value_t = SynthOptions::default().out)]
    out: String,
    /// Rows of the training set
    #[arg(long, value_name = "N", default_value_t = SynthOptions::default().train_rows)]
    train_rows: u64,
    /// Rows of the held-out set
    #[arg(long, value_name = "N", default_value_t = SynthOptions::default().held_out_rows)]
    held_out_rows: u64,
    /// Frames of a clip
    #[arg(long, value_name = "T", default_value_t = SynthOptions::default().frames)]
    frames: usize,
    /// Frames for which a step lasts; a divisor of --frames
    #[arg(long, value_name = "N", default_value_t = SynthOptions::default().hold)]
    hold: usize,
    /// Height and width of the canvas in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = SynthOptions::default().size)]
    size: usize,
    /// Patches of a frame: a square number from 9 on
    #[arg(long, value_name = "K", default_value_t = SynthOptions::default().patches)]
    patches: usize,
    /// Values of a token
    #[arg(long, value_name = "F", default_value_t = SynthOptions::default().feature_size)]
    feature_size: usize,
    /// Seed of the rows
    #[arg(long, value_name = "N", default_value_t = SynthOptions::default().seed)]
    seed: u64,
    /// Kinds of questions and their weights
    #[arg(long, value_name = "KIND=WEIGHT,…", default_value_t = SynthOptions::default().kinds)]
    kinds: Mix,
    /// Rows of a row group [default: as many as make 6 to 16 MB]
    #[arg(long, value_name = "N")]
    rows_per_group: Option<usize>,
}

impl SynthArgs {
    fn options(&self) -> SynthOptions {
        SynthOptions {
            out: self.out.clone(),
            train_rows: self.train_rows,
            held_out_rows: self.held_out_rows,
            frames: self.frames,
            hold: self.hold,
            size: self.size,
            patches: self.patches,
            feature_size: self.feature_size,
            seed: self.seed,
            kinds: self.kinds.clone(),
            rows_per_group: self.rows_per_group,
        }
    }
}

pub fn run(args: &SynthArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let report = with_progress(talk, "rows", "synth", |progress| {
        block_on(async { Ok(make(&args.options(), progress).await?) })
    })?;
    talk.result(&render(&report), &serde_json::to_value(&report)?)?;
    talk.next(format!(
        "strand launch RECIPE --set data.train.url={} --set data.held_out.url={} --set tokenizer={}",
        report.train, report.held_out, report.tokenizer
    ));
    Ok(ExitCode::Done)
}

fn render(report: &SynthReport) -> String {
    format!(
        "{}: {} rows\n{}: {} rows\n{}: {} entries\n{} tokens a frame, {} values a token, {}",
        report.train,
        report.train_rows,
        report.held_out,
        report.held_out_rows,
        report.tokenizer,
        report.vocab_size,
        report.tokens,
        report.dim,
        bytes(report.bytes)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use strand_data_tools::synth::SynthOptions;

    use crate::cli::{Cli, Verb};
    use crate::data::DataVerb;

    #[test]
    fn defaults_are_the_library_s() {
        let cli = Cli::try_parse_from(["strand", "data", "synth"]).unwrap();
        let Verb::Data { verb: DataVerb::Synth(args) } = cli.verb else {
            panic!("another verb");
        };
        let (ours, theirs) = (args.options(), SynthOptions::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}
