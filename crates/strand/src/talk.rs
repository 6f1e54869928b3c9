//! What is said, and where: results on stdout, everything else on stderr.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;
use strand_control::ExitCode;
use strand_telemetry::{Progress, say};

use crate::cli::TalkArgs;
use crate::failure::{self, Failure};

/// How much is said, and how.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    json: bool,
    /// 0 is the usual; below it is quieter, above it tells more.
    verbosity: i8,
}

impl Talk {
    pub fn new(args: &TalkArgs) -> Talk {
        let count = |count: u8| i8::try_from(count).unwrap_or(i8::MAX);
        Talk { json: args.json, verbosity: count(args.verbose).saturating_sub(count(args.quiet)) }
    }

    pub fn verbosity(&self) -> i8 {
        self.verbosity
    }

    pub fn is_quiet(&self) -> bool {
        self.verbosity < 0
    }

    /// A line of talk.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.is_quiet() {
            say(line.as_ref());
        }
    }

    /// Something that may be wrong.
    pub fn warn(&self, line: impl AsRef<str>) {
        if self.verbosity > -2 {
            say(&format!("{} {}", paint(YELLOW, "warning:"), line.as_ref()));
        }
    }

    /// How far something has come; not shown with `-q`.
    pub fn progress(&self, total: u64, unit: &str, label: &str) -> Option<Progress> {
        (!self.is_quiet()).then(|| Progress::new(total, unit, label))
    }

    /// What to type next.
    pub fn next(&self, command: impl AsRef<str>) {
        self.say(format!("{} {}", paint(CYAN, "next:"), command.as_ref()));
    }

    /// The result of the command: `text` for people, `document` with `--json`.
    pub fn result(&self, text: &str, document: &Value) -> anyhow::Result<()> {
        match self.json {
            true => print(&format!("{document:#}")),
            false => print(text.trim_end_matches('\n')),
        }
    }

    /// Tells an error, its causes and what to do; returns what to exit with.
    pub fn fail(&self, error: &anyhow::Error) -> ExitCode {
        let verdict = failure::verdict(error);
        let messages = failure::messages(error);
        let mut lines = messages.iter();
        if let Some(first) = lines.next() {
            say(&format!("{} {first}", paint(RED, "error:")));
        }
        for cause in lines {
            say(&format!("  {} {cause}", paint(RED, "caused by:")));
        }
        if let Some(hint) = &verdict.hint {
            say(&format!("{} {hint}", paint(CYAN, "hint:")));
        }
        if self.json {
            // The exit code tells of the failure even where stdout is closed.
            let _ = print(&format!("{:#}", failure::document(error, &verdict)));
        }
        verdict.exit
    }
}

/// Runs `work`, which reports what is done and what there is, with a progress bar.
pub fn with_progress<T>(
    talk: &Talk,
    unit: &str,
    label: &str,
    work: impl FnOnce(&mut (dyn FnMut(u64, u64) + Send)) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut progress = None;
    let result = work(&mut |done, total| {
        if progress.is_none() {
            progress = talk.progress(total, unit, label);
        }
        if let Some(progress) = &mut progress {
            progress.set(done);
        }
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(result)
}

/// Shows help, the version or what is wrong with the command line.
pub fn refuse(refused: &clap::Error) -> std::process::ExitCode {
    // Where stderr is closed, the exit code still tells.
    let _ = refused.print();
    if !refused.use_stderr() {
        return ExitCode::Done.into();
    }
    if std::env::args_os().any(|word| word == "--json") {
        let error = anyhow::Error::new(Failure::usage(what_is_wrong(&refused.to_string())));
        let _ = print(&format!("{:#}", failure::document(&error, &failure::verdict(&error))));
    }
    ExitCode::Usage.into()
}

/// The message without the usage behind it.
fn what_is_wrong(text: &str) -> String {
    let message = text.split("\n\nUsage:").next().unwrap_or(text);
    let words: Vec<&str> = message.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| {
            Failure::new(ExitCode::Storage, "cannot write to stdout").because(error).into()
        }),
    }
}

const RED: u8 = 31;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;

/// Coloured on a terminal, unless NO_COLOR asks otherwise.
fn paint(colour: u8, word: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !io::stderr().is_terminal() {
        return word.to_owned();
    }
    format!("\x1b[1;{colour}m{word}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_counts_both_ways() {
        let talk = |quiet, verbose| Talk::new(&TalkArgs { json: false, quiet, verbose });
        assert_eq!(talk(0, 2).verbosity(), 2);
        assert_eq!(talk(2, 0).verbosity(), -2);
        assert!(talk(1, 0).is_quiet() && !talk(0, 0).is_quiet());
    }

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let text = "error: unrecognized subcommand 'lanch'\n\n  tip: a similar subcommand exists: 'launch'\n\nUsage: strand";
        let expected = "unrecognized subcommand 'lanch' tip: a similar subcommand exists: 'launch'";
        assert_eq!(what_is_wrong(text), expected);
    }
}
