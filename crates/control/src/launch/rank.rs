//! Starting one rank, and reading what it prints.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use super::spec::{LaunchError, LaunchSpec};
use crate::RankEnv;
use crate::env::names;

/// Longer lines are cut into pieces, so that a rank that prints no newline cannot fill the memory.
const MAX_LINE: u64 = 64 * 1024;
/// A process that a rank left behind may hold its pipes open for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Something that a rank did.
#[derive(Debug)]
pub(super) enum Did {
    /// It printed a line to stdout.
    Out(String),
    /// It printed a line to stderr.
    Err(String),
    /// It ended, and all its lines have been delivered.
    Exit(ExitStatus),
    /// The launcher cannot wait for it.
    Lost(std::io::Error),
}

/// How OpenMP's threads wait for one another.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Starts a rank in a process group of its own; what it does arrives in `sender`. Rank 0 gets the
/// master socket as standard input: no descriptor that another process could inherit as well.
pub(super) fn start(
    spec: &LaunchSpec,
    env: &RankEnv,
    master: Option<TcpListener>,
    sender: &Sender<(usize, Did)>,
) -> Result<Option<Pid>, LaunchError> {
    let stdin = master.map_or_else(Stdio::null, |socket| Stdio::from(OwnedFd::from(socket)));
    let mut command = Command::new(&spec.worker);
    command
        .args(&spec.worker_args)
        .envs(spec.env.iter().cloned())
        .env_remove(names::MASTER_FD)
        .env_remove(names::RESUME_FROM)
        .envs(env.to_vars())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // Compute threads that spin at barriers cost ranks that share cores more than they gain; a rank alone gains a tenth.
    if env.local_world_size > 1 && std::env::var_os(WAIT_POLICY).is_none() {
        command.env(WAIT_POLICY, "PASSIVE");
    }
    let child = command.spawn().map_err(|source| LaunchError::Spawn {
        rank: env.rank,
        worker: spec.worker.clone(),
        source,
    })?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    tokio::spawn(follow(env.rank, child, sender.clone()));
    Ok(pid)
}

/// Asks a rank to stop. What it started is left to it: it may need it for its checkpoint.
pub(super) fn ask(pid: Pid) {
    // A rank that is gone already needs no signal.
    let _ = kill_process(pid, Signal::TERM);
}

/// Signals a rank and what it started.
pub(super) fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process_group(pid, signal);
}

async fn follow(rank: usize, mut child: Child, sender: Sender<(usize, Did)>) {
    let pumps = [
        child.stdout.take().map(|pipe| pump(rank, pipe, Did::Out, &sender)),
        child.stderr.take().map(|pipe| pump(rank, pipe, Did::Err, &sender)),
    ];
    let status = child.wait().await;
    let drained = async {
        for pump in pumps.into_iter().flatten() {
            // A pump ends at the end of its pipe; it has nothing to report.
            let _ = pump.await;
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, drained).await;
    let last = status.map_or_else(Did::Lost, Did::Exit);
    // Nobody listens any more only where the launch is over.
    let _ = sender.send((rank, last)).await;
}

fn pump(
    rank: usize,
    pipe: impl AsyncRead + Unpin + Send + 'static,
    did: fn(String) -> Did,
    sender: &Sender<(usize, Did)>,
) -> JoinHandle<()> {
    let sender = sender.clone();
    tokio::spawn(async move {
        let mut reader = BufReader::new(pipe);
        while let Some(line) = next_line(&mut reader).await {
            if sender.send((rank, did(line))).await.is_err() {
                return;
            }
        }
    })
}

/// The next line or piece of one; `None` at the end of the pipe.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_LINE).read_until(b'\n', &mut bytes).await;
    if !matches!(read, Ok(1..)) {
        return None;
    }
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_need_not_be_text() {
        let mut bytes = vec![b'x'; MAX_LINE as usize + 1];
        bytes.extend(b"\nb\xffd\r\nlast");
        let mut reader = BufReader::new(bytes.as_slice());
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut reader).await {
            lines.push(line);
        }
        assert_eq!(lines[0].len(), MAX_LINE as usize);
        assert_eq!(lines[1..], ["x", "b\u{fffd}d", "last"]);
    }
}
