//! Child processes: started with a name, ended with an exit code.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;

use crate::failure::{ENVIRONMENT, Failure};
use crate::talk::say;
use crate::workspace::Workspace;

/// Runs a command to its end and returns its status. What it prints goes to stderr: stdout belongs
/// to our own result.
pub fn status(command: &mut Command) -> anyhow::Result<ExitStatus> {
    command.stdout(io::stderr());
    command.status().with_context(|| start_error(command))
}

/// Runs a command that has to succeed; `what` names it in the error.
pub fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    outcome(status(command)?, what)
}

/// An error where a program did not succeed; `what` names it.
pub fn outcome(status: ExitStatus, what: &str) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(exit_code(status), format!("{what}: {}", describe(status))).into())
}

/// Builds the programs of the workspace; `area` names who needs them.
pub fn build(workspace: &Workspace, area: &str) -> anyhow::Result<()> {
    say(area, "building (minutes the first time, most of them for libtorch's bindings)");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&workspace.root).args(["build", "--release", "--workspace", "--bins"]);
    run(&mut cargo, "building")
}

/// What a command prints on stdout, or `None` if it cannot start or fails.
pub fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.trim().to_owned())
}

/// Runs a command, hands what it prints on as it comes, stdout and stderr in their order, and returns status and text.
pub fn tee(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    let (mut reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| start_error(command))?;
    // The ends for writing that the command holds would keep the pipe open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = Vec::new();
    copy(&mut reader, &mut io::stdout(), &mut text)?;
    Ok((child.wait()?, String::from_utf8_lossy(&text).into_owned()))
}

fn copy(from: &mut impl Read, to: &mut impl Write, also: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        to.flush()?;
        also.extend_from_slice(&buffer[..read]);
    }
}

fn start_error(command: &Command) -> Failure {
    let program = command.get_program().display();
    Failure::new(ENVIRONMENT, format!("{program} could not be started"))
}

/// The shell's convention: 128 + n for signal n.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended without an exit code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn exit_codes_and_signals_are_handed_on() {
        let code = |script| {
            let error = run(&mut shell(script), "child").unwrap_err();
            failure::report(&error)
        };
        assert_eq!(code("exit 75"), 75);
        assert_eq!(code("kill -9 $$"), 137);
    }

    #[test]
    fn an_answer_needs_success() {
        assert_eq!(answer(&mut shell("echo ' a '")).as_deref(), Some("a"));
        assert_eq!(answer(&mut shell("echo a; exit 1")), None);
        assert_eq!(answer(&mut Command::new("no-such-program")), None);
    }

    #[test]
    fn copied_bytes_reach_both_sides() {
        let (mut to, mut also) = (Vec::new(), Vec::new());
        copy(&mut &b"one\ntwo"[..], &mut to, &mut also).unwrap();
        assert_eq!((to, also), (b"one\ntwo".to_vec(), b"one\ntwo".to_vec()));
    }
}
