//! Starting the ranks of a run, watching them, and starting them again.

mod attempt;
mod cause;
mod lock;
mod rank;
mod resume;
mod signals;
mod spec;

use std::path::PathBuf;
use std::time::Duration;

pub use cause::FirstCause;
pub use lock::RunLock;
pub use spec::{LaunchError, LaunchSpec, Notice, Outcome, Resume, Timing};

use crate::files::{io_error, write_atomic};
use crate::{FileError, RunRecord};
use attempt::{Attempt, Ended};
use signals::Signals;
use spec::environment;

const WORKER: &str = "strand-worker";
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The worker beside this program.
///
/// # Errors
/// There is none.
pub fn worker_path() -> Result<PathBuf, LaunchError> {
    let own = std::env::current_exe().map_err(environment("find this program"))?;
    let worker = own.with_file_name(WORKER);
    match worker.is_file() {
        true => Ok(worker),
        false => Err(LaunchError::NoWorker { worker }),
    }
}

/// Runs all ranks to their end, again after a failure if restarts are left, and keeps run.json,
/// error.json and the logs. SIGTERM and SIGINT ask the ranks for a checkpoint and stop them.
///
/// Blocks, with a runtime of its own on this thread: call it on a thread that lives as long as the
/// ranks (the kernel ties them to the thread that started them) and not from within a runtime.
///
/// # Errors
/// The run directory is in use or cannot be written, or a rank cannot be started.
pub fn launch(spec: &LaunchSpec, observer: &mut dyn FnMut(Notice)) -> Result<Outcome, LaunchError> {
    if spec.layout.world_size == 0 {
        return Err(LaunchError::NoRanks);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(environment("start a runtime"))?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let _lock = RunLock::acquire(&spec.run_dir)?;
        Launch::prepare(spec).await?.run(&mut signals, observer).await
    })
}

struct Launch<'a> {
    spec: &'a LaunchSpec,
    record: RunRecord,
    next_attempt: u64,
}

impl<'a> Launch<'a> {
    async fn prepare(spec: &'a LaunchSpec) -> Result<Launch<'a>, LaunchError> {
        let dir = &spec.run_dir;
        dir.pull().await?;
        let new = || RunRecord::new(&spec.name, &spec.recipe_hash, spec.layout);
        let mut record = RunRecord::load(dir)?.unwrap_or_else(new);
        record.name.clone_from(&spec.name);
        record.recipe_hash.clone_from(&spec.recipe_hash);
        let recorded = record.attempts.last().map_or(0, |attempt| attempt.number);
        let next_attempt = recorded.max(dir.last_attempt()?) + 1;
        resume::prepare(dir, &spec.resume, &mut record.resumed_from, next_attempt).await?;
        if spec.resume != Resume::Auto {
            dir.pull().await?;
        }
        write_atomic(&dir.recipe(), spec.recipe.as_bytes())?;
        Ok(Launch { spec, record, next_attempt })
    }

    async fn run(
        mut self,
        signals: &mut Signals,
        observer: &mut dyn FnMut(Notice),
    ) -> Result<Outcome, LaunchError> {
        let mut restart = 0;
        loop {
            let ended = self.attempt(signals, observer).await?;
            let cause = match &ended.outcome {
                Outcome::Failed(cause) if self.may_restart(restart, &ended, cause) => cause.clone(),
                _ => return Ok(ended.outcome),
            };
            let delay = delay(self.spec.timing.restart_delay, restart);
            restart += 1;
            observer(Notice::Restarting {
                cause,
                restart,
                max_restarts: self.spec.max_restarts,
                delay,
            });
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = signals.next() => return Ok(ended.outcome),
            }
        }
    }

    fn may_restart(&self, restarts: u32, ended: &Ended, cause: &FirstCause) -> bool {
        restarts < self.spec.max_restarts
            && !ended.was_asked
            && cause.error.exit_code.is_restartable()
    }

    async fn attempt(
        &mut self,
        signals: &mut Signals,
        observer: &mut dyn FnMut(Notice),
    ) -> Result<Ended, LaunchError> {
        let (dir, number) = (&self.spec.run_dir, self.next_attempt);
        self.next_attempt += 1;
        self.record.begin(number, self.spec.layout);
        self.record.save(dir)?;
        forget_error(&dir.error())?;
        dir.announce().await?;
        let resume_from = self.record.resumed_from.clone();
        let ended = Attempt::run(self.spec, number, resume_from, signals, observer).await;
        let (exit_code, summary) = match ended.as_ref().map(|ended| &ended.outcome) {
            Ok(Outcome::Failed(cause)) => {
                cause.save(dir)?;
                (cause.error.exit_code, Some(cause.summary()))
            }
            Ok(outcome @ Outcome::Interrupted { signal }) => {
                let cause = format!("signal {signal} before a checkpoint was committed");
                (outcome.exit_code(), Some(cause))
            }
            Ok(outcome) => (outcome.exit_code(), None),
            Err(error) => (error.exit_code(), Some(error.to_string())),
        };
        self.record.end(exit_code, summary);
        self.record.save(dir)?;
        match (dir.push().await, &ended) {
            (Err(error), Ok(Ended { outcome: Outcome::Done, .. })) => return Err(error.into()),
            // The failure or the wish to stop is what people have to know first.
            (Err(error), _) => observer(Notice::Warning {
                text: format!(
                    "{}: files are not uploaded, and stay in {}: {error}",
                    dir.url(),
                    dir.root().display()
                ),
            }),
            (Ok(()), _) => {}
        }
        ended
    }
}

fn delay(first: Duration, restart: u32) -> Duration {
    first.saturating_mul(2u32.saturating_pow(restart)).min(LONGEST_DELAY)
}

/// error.json tells of the last attempt only.
fn forget_error(path: &std::path::Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}
