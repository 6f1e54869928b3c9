//! `strand recipe schema`.

use strand_control::ExitCode;
use strand_recipe::schema;

use crate::talk::Talk;

pub fn run(talk: &Talk) -> anyhow::Result<ExitCode> {
    let schema = schema();
    talk.result(&format!("{schema:#}"), &schema)?;
    talk.next("let your editor check recipes against it (a YAML language server takes `$schema`)");
    Ok(ExitCode::Done)
}
