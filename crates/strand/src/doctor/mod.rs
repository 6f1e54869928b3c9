//! `strand doctor`: does this machine have what training needs?

mod machine;
mod programs;

pub use machine::available_memory;

use serde::Serialize;
use serde_json::json;
use strand_control::ExitCode;

use crate::failure::Failure;
use crate::table::table;
use crate::talk::Talk;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Some commands will not work, or work slowly.
    Warning,
    /// Training will not work.
    Missing,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding { name, state: State::Ok, detail: detail.into(), hint: None }
    }

    fn bad(name: &'static str, state: State, detail: impl Into<String>, hint: &str) -> Finding {
        Finding { name, state, detail: detail.into(), hint: Some(hint.to_owned()) }
    }
}

pub fn run(talk: &Talk) -> anyhow::Result<ExitCode> {
    let findings = [
        programs::strand(),
        programs::worker(),
        programs::ffmpeg(),
        machine::cores(),
        machine::gpus(),
        machine::memory(),
        machine::shared_memory(),
        machine::disk(),
        machine::open_files(),
        machine::ports(),
        machine::object_storage(),
    ];
    let missing: Vec<&Finding> = findings.iter().filter(|f| f.state == State::Missing).collect();
    if !missing.is_empty() {
        talk.say(render(&findings).trim_end());
        let names: Vec<&str> = missing.iter().map(|finding| finding.name).collect();
        let failure = Failure::environment(format!("missing: {}", names.join(", ")))
            .hint(missing.iter().filter_map(|f| f.hint.clone()).collect::<Vec<_>>().join("; "))
            .details(json!({"ok": false, "checks": findings}));
        return Err(failure.into());
    }
    talk.result(&render(&findings), &json!({"ok": true, "checks": findings}))?;
    talk.next("strand recipe check RECIPE");
    Ok(ExitCode::Done)
}

fn render(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Missing => "MISSING",
        };
        let hint = finding.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        vec![state.to_owned(), finding.name.to_owned(), format!("{}{hint}", finding.detail)]
    };
    table(&["state", "what", "found"], &findings.iter().map(row).collect::<Vec<_>>())
}
