//! `strand data inspect`.

use clap::Args;
use strand_control::ExitCode;
use strand_data_tools::inspect::inspect;

use super::DataSetArgs;
use crate::block_on::block_on;
use crate::talk::Talk;

/// What to look at.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    set: DataSetArgs,
    /// How many of the first rows are shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    rows: usize,
}

pub fn run(args: &InspectArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let url = &args.set.url;
    let found = block_on(async { Ok(inspect(url, args.rows).await?) })?;
    talk.result(&found.to_table(), &serde_json::to_value(&found)?)?;
    talk.next(format!("strand data verify {url}"));
    Ok(ExitCode::Done)
}
