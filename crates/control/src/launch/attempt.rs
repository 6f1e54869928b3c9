//! One attempt: all ranks from their start to the end of the last one.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use super::cause::{FirstCause, observed};
use super::rank::{self, Did};
use super::signals::Signals;
use super::spec::{LaunchError, LaunchSpec, Notice, Outcome, environment};
use crate::files::{io_error, make_folder};
use crate::{Event, ExitCode, FailureKind, Master, RankEnv, RankError, timestamp};

/// Lines on their way from the ranks; a rank that prints faster than they are written has to wait.
const BACKLOG: usize = 1024;
/// A process may hang in the kernel, deaf even to SIGKILL; it is then left behind.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Why ranks that still run are about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// They are not.
    Running,
    /// One failed; others may be about to say why.
    Settling(Instant),
    /// They were asked to commit a checkpoint and to stop.
    Draining(Instant),
    /// They were told to end because one failed.
    Ending(Instant),
    /// They were killed.
    Killed(Instant),
}

#[derive(Debug)]
struct Rank {
    pid: Option<Pid>,
    log: File,
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Done,
    Stopped,
    /// Ended by the launcher's own signal, or as a consequence of it.
    Ended,
    Failed(Box<RankError>),
}

/// How an attempt ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// Whether the launcher was asked to stop meanwhile: then nothing is started again.
    pub(super) was_asked: bool,
}

pub(super) struct Attempt<'a> {
    spec: &'a LaunchSpec,
    number: u64,
    observer: &'a mut dyn FnMut(Notice),
    ranks: Vec<Rank>,
    phase: Phase,
    /// The signal that asked the launcher to stop.
    asked: Option<u8>,
    /// The step after the last one that was reported done: ranks that end without a word are in it.
    step: Option<u64>,
    unresponsive: Vec<usize>,
    log_failed: bool,
}

impl<'a> Attempt<'a> {
    /// Starts all ranks, and returns when all have ended.
    pub(super) async fn run(
        spec: &'a LaunchSpec,
        number: u64,
        resume_from: Option<String>,
        signals: &mut Signals,
        observer: &'a mut dyn FnMut(Notice),
    ) -> Result<Ended, LaunchError> {
        let mut attempt = Attempt {
            spec,
            number,
            observer,
            ranks: Vec::new(),
            phase: Phase::Running,
            asked: None,
            step: None,
            unresponsive: Vec::new(),
            log_failed: false,
        };
        let (sender, receiver) = mpsc::channel(BACKLOG);
        attempt.start(resume_from, &sender)?;
        attempt.supervise(receiver, signals).await;
        Ok(Ended { was_asked: attempt.asked.is_some(), outcome: attempt.conclude() })
    }

    fn start(
        &mut self,
        resume_from: Option<String>,
        sender: &Sender<(usize, Did)>,
    ) -> Result<(), LaunchError> {
        let logs = self.spec.run_dir.attempt_logs(self.number);
        make_folder(&logs)?;
        let socket = TcpListener::bind("127.0.0.1:0").map_err(environment("listen on a port"))?;
        let address = socket.local_addr().map_err(environment("listen on a port"))?;
        let mut master = Some(socket);
        for rank in 0..self.spec.layout.world_size {
            let path = self.spec.run_dir.rank_log(self.number, rank);
            let log = File::create(&path).map_err(io_error("write", &path))?;
            let env = self.env(rank, address.port(), resume_from.clone());
            let pid = rank::start(self.spec, &env, master.take(), sender)?;
            let end = None;
            self.ranks.push(Rank { pid, log, end });
        }
        (self.observer)(Notice::Started {
            attempt: self.number,
            world_size: self.ranks.len(),
            logs,
        });
        Ok(())
    }

    fn env(&self, rank: usize, master_port: u16, resume_from: Option<String>) -> RankEnv {
        let world_size = self.spec.layout.world_size;
        RankEnv {
            rank,
            local_rank: rank,
            world_size,
            local_world_size: world_size,
            group_rank: 0,
            master: Some(Master { addr: "127.0.0.1".into(), port: master_port }),
            run_dir: self.spec.run_dir.root().to_path_buf(),
            run_url: self.spec.run_dir.is_remote().then(|| self.spec.run_dir.url()),
            attempt: self.number,
            master_fd: (rank == 0).then_some(0),
            launcher_pid: Some(std::process::id()),
            resume_from,
        }
    }

    async fn supervise(&mut self, mut receiver: Receiver<(usize, Did)>, signals: &mut Signals) {
        while self.ranks.iter().any(|rank| rank.end.is_none()) {
            let deadline = self.deadline();
            tokio::select! {
                Some((rank, did)) = receiver.recv() => self.on(rank, did),
                signal = signals.next() => self.on_signal(signal),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.on_deadline();
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::Settling(at) | Phase::Draining(at) | Phase::Ending(at) | Phase::Killed(at) => {
                Some(at)
            }
        }
    }

    fn on(&mut self, rank: usize, did: Did) {
        match did {
            Did::Out(line) => match Event::parse(&line) {
                Some(event) => self.on_event(rank, event),
                None => self.on_line(rank, line),
            },
            Did::Err(line) => self.on_line(rank, line),
            Did::Exit(status) => {
                let end = self.judge(rank, status);
                self.on_end(rank, end);
            }
            Did::Lost(error) => {
                let failed = ExitStatus::from_raw(1 << 8);
                let mut seen = observed(rank, failed, self.step, timestamp());
                seen.cause = vec!["the launcher cannot wait for it".into(), error.to_string()];
                self.on_end(rank, End::Failed(Box::new(seen)));
            }
        }
    }

    fn on_event(&mut self, rank: usize, event: Event) {
        if let Event::Step { step, .. } = event {
            self.step = Some(step + 1);
        }
        (self.observer)(Notice::Event { rank, event });
    }

    fn on_line(&mut self, rank: usize, text: String) {
        let written = writeln!(self.ranks[rank].log, "{text}");
        if let Err(error) = written
            && !std::mem::replace(&mut self.log_failed, true)
        {
            self.warn(format!("rank {rank}: cannot write its log: {error}"));
        }
        (self.observer)(Notice::Line { rank, text });
    }

    /// What the end of a rank means.
    fn judge(&mut self, rank: usize, status: ExitStatus) -> End {
        match status.code() {
            Some(0) => return End::Done,
            Some(code) if code == i32::from(ExitCode::Stopped.code()) => return End::Stopped,
            _ => {}
        }
        match RankError::load(&self.spec.run_dir, self.number, rank) {
            Ok(Some(error)) => return End::Failed(Box::new(error)),
            Ok(None) => {}
            Err(error) => self.warn(format!("rank {rank}: cannot read its error: {error}")),
        }
        if self.is_our_doing(status) {
            return End::Ended;
        }
        End::Failed(Box::new(observed(rank, status, self.step, timestamp())))
    }

    fn is_our_doing(&self, status: ExitStatus) -> bool {
        match self.phase {
            Phase::Running | Phase::Settling(_) => false,
            Phase::Draining(_) => status.signal() == Some(Signal::TERM.as_raw()),
            Phase::Ending(_) | Phase::Killed(_) => true,
        }
    }

    fn on_end(&mut self, rank: usize, end: End) {
        let after = |duration| Instant::now() + duration;
        match (&end, self.phase) {
            (End::Failed(_), Phase::Running) => {
                self.phase = Phase::Settling(after(self.spec.timing.settle));
            }
            (End::Failed(_), Phase::Draining(_)) => {
                self.phase = Phase::Ending(after(self.spec.timing.grace));
            }
            (End::Stopped, Phase::Running) => self.drain(format!("rank {rank} stopped")),
            _ => {}
        }
        self.ranks[rank].end = Some(end);
    }

    fn on_signal(&mut self, signal: u8) {
        let repeated = self.asked.replace(signal).is_some();
        match self.phase {
            _ if repeated => self.kill("asked again"),
            Phase::Running => self.drain(format!("signal {signal}; again to kill")),
            _ => {}
        }
    }

    fn on_deadline(&mut self) {
        match self.phase {
            Phase::Running => {}
            Phase::Settling(_) => {
                self.phase = Phase::Ending(Instant::now() + self.spec.timing.grace);
                self.alive_pids().for_each(|pid| rank::signal(pid, Signal::TERM));
                self.stopping("a rank failed".into());
            }
            Phase::Draining(_) => self.kill("no checkpoint in time"),
            Phase::Ending(_) => self.kill("no reaction to SIGTERM"),
            Phase::Killed(_) => self.leave_behind(),
        }
    }

    fn drain(&mut self, reason: String) {
        self.phase = Phase::Draining(Instant::now() + self.spec.timing.drain);
        self.alive_pids().for_each(rank::ask);
        self.stopping(reason);
    }

    fn kill(&mut self, reason: &str) {
        self.unresponsive = self.alive().collect();
        self.phase = Phase::Killed(Instant::now() + GIVE_UP);
        self.alive_pids().for_each(|pid| rank::signal(pid, Signal::KILL));
        self.stopping(format!("{reason}: killing ranks {:?}", self.unresponsive));
    }

    fn leave_behind(&mut self) {
        for rank in self.alive().collect::<Vec<_>>() {
            self.warn(format!("rank {rank}: still there after SIGKILL, left behind"));
            self.ranks[rank].end = Some(End::Ended);
        }
    }

    fn alive(&self) -> impl Iterator<Item = usize> {
        let alive = |(rank, state): (usize, &Rank)| state.end.is_none().then_some(rank);
        self.ranks.iter().enumerate().filter_map(alive)
    }

    fn alive_pids(&self) -> impl Iterator<Item = Pid> {
        self.alive().filter_map(|rank| self.ranks[rank].pid)
    }

    fn stopping(&mut self, reason: String) {
        (self.observer)(Notice::Stopping { reason });
    }

    fn warn(&mut self, text: String) {
        (self.observer)(Notice::Warning { text });
    }

    fn conclude(self) -> Outcome {
        let ends: Vec<End> = self.ranks.into_iter().filter_map(|rank| rank.end).collect();
        let all_done = ends.iter().all(|end| matches!(end, End::Done));
        let any_ended = ends.iter().any(|end| matches!(end, End::Ended));
        let errors: Vec<RankError> = ends
            .into_iter()
            .filter_map(|end| match end {
                End::Failed(error) => Some(*error),
                _ => None,
            })
            .collect();
        // Ranks that lose a peer to a requested stop fail as a consequence of the request.
        let consequences = errors.iter().all(|error| error.kind == FailureKind::PeerLost);
        let interrupted = Outcome::Interrupted { signal: self.asked.unwrap_or(15) };
        if self.asked.is_some() && any_ended && consequences {
            return interrupted;
        }
        let (dir, unresponsive) = (&self.spec.run_dir, self.unresponsive);
        match FirstCause::choose(dir, self.number, errors, unresponsive) {
            Some(cause) => Outcome::Failed(Box::new(cause)),
            None if all_done => Outcome::Done,
            None if any_ended => interrupted,
            None => Outcome::Stopped,
        }
    }
}
