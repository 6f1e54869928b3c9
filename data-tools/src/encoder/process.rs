//! One encoder process and the talk with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use strand_data::Dtype;
use strand_data::encoding::{LENGTH_BYTES, Ready, Reply, Request, head, head_length, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::ModelOptions;
use crate::ToolsError;

/// Exit code of a command whose encoder died without a word.
const FAILED: u8 = 1;

/// A running `strand-worker encode`. It is killed when this is dropped, and ends by itself when this process does.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    ready: Ready,
}

impl Process {
    /// Starts one on `device` with so many threads, and waits until it has read its weights.
    pub async fn start(
        options: &ModelOptions,
        device: &str,
        threads: Option<usize>,
    ) -> Result<Process, ToolsError> {
        let unfit =
            |source| ToolsError::EncoderProcess { program: options.program.clone(), source };
        let mut command = command(&options.program, &arguments(options, device, threads));
        let mut child = command.spawn().map_err(unfit)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(unfit(std::io::Error::other("its pipes are missing")));
        };
        let mut stdout = BufReader::with_capacity(1 << 18, stdout);
        let ready = match read_reply(&mut stdout).await {
            Ok(Reply::Ready(ready)) => ready,
            Ok(reply) => return Err(refusal(reply, None)),
            Err(error) => return Err(ended(&mut child, error, None).await),
        };
        Ok(Process { program: options.program.clone(), child, stdin, stdout, ready })
    }

    /// What it said of itself.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Has it encode a clip: pixels of each frame in, features of each row out.
    pub async fn encode(
        &mut self,
        clip: &str,
        frames: &[Vec<u8>],
        questions: &[String],
    ) -> Result<Vec<Vec<u8>>, ToolsError> {
        let request = Request { frames: frames.len(), questions: questions.to_vec() };
        let unfit = |source| ToolsError::EncoderProcess { program: self.program.clone(), source };
        let head = head(&request).map_err(unfit)?;
        // A process that gives up before it has read all says why: the reply counts, not the broken pipe.
        let written = write_all(&mut self.stdin, &head, frames).await;
        match read_reply(&mut self.stdout).await {
            Ok(Reply::Features) => {}
            Ok(reply) => return Err(refusal(reply, Some(clip))),
            Err(error) => {
                let error = written.err().unwrap_or(error);
                return Err(ended(&mut self.child, error, Some(clip)).await);
            }
        }
        let row = frames.len() * self.ready.tokens * self.ready.dim * Dtype::BYTES;
        let mut rows = Vec::new();
        for _ in 0..questions.len().max(1) {
            let mut bytes = vec![0; row];
            if let Err(error) = self.stdout.read_exact(&mut bytes).await {
                return Err(ended(&mut self.child, error, Some(clip)).await);
            }
            rows.push(bytes);
        }
        Ok(rows)
    }
}

fn arguments(options: &ModelOptions, device: &str, threads: Option<usize>) -> Vec<OsString> {
    let batch = options.batch.to_string();
    let mut words: Vec<OsString> = vec!["encode".into(), options.folder.clone().into()];
    let flags = ["--dtype", &options.dtype, "--device", device, "--batch", &batch];
    words.extend(flags.map(OsString::from));
    if let Some(threads) = threads {
        words.extend(["--threads".into(), threads.to_string().into()]);
    }
    words
}

fn command(program: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C is for the parent: the process ends with its stdin.
        .process_group(0)
        .kill_on_drop(true);
    command
}

async fn write_all(stdin: &mut ChildStdin, head: &[u8], frames: &[Vec<u8>]) -> std::io::Result<()> {
    stdin.write_all(head).await?;
    for frame in frames {
        stdin.write_all(frame).await?;
    }
    stdin.flush().await
}

async fn read_reply(stdout: &mut BufReader<ChildStdout>) -> std::io::Result<Reply> {
    let mut length = [0; LENGTH_BYTES];
    stdout.read_exact(&mut length).await?;
    let mut json = vec![0; head_length(length)?];
    stdout.read_exact(&mut json).await?;
    parse(&json)
}

/// What a process said instead of features.
fn refusal(reply: Reply, clip: Option<&str>) -> ToolsError {
    let doing = clip.map(str::to_owned);
    match reply {
        Reply::Failed { message, hint, exit_code } => {
            ToolsError::Encoder { doing, message, hint, exit_code }
        }
        Reply::Ready(_) | Reply::Features => ToolsError::Encoder {
            doing,
            message: "the encoder process spoke out of turn".to_owned(),
            hint: Some("strand and strand-worker have to be of one version".to_owned()),
            exit_code: FAILED,
        },
    }
}

/// A process that closed its pipe: how it ended says more than the pipe.
async fn ended(child: &mut Child, error: std::io::Error, clip: Option<&str>) -> ToolsError {
    let grace = std::time::Duration::from_secs(2);
    let status = tokio::time::timeout(grace, child.wait()).await;
    let message = match status {
        Ok(Ok(status)) => format!("the encoder process ended without a reply: {status}"),
        _ => format!("the talk with the encoder process broke: {error}"),
    };
    let hint = "what it wrote to stderr stands above; a kill may mean that memory ran out: try a smaller --batch, fewer --workers or --dtype bf16";
    ToolsError::Encoder {
        doing: clip.map(str::to_owned),
        message,
        hint: Some(hint.to_owned()),
        exit_code: FAILED,
    }
}
