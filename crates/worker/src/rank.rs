//! The life of a rank: environment, recipe, mesh, run.

use std::error::Error;
use std::os::fd::IntoRawFd;
use std::time::Duration;

use strand_comm::{CommError, Endpoint, Mesh, join_gloo};
use strand_control::{EnvError, ExitCode, FailureKind, RankEnv, Reporter, StopFlag};
use strand_recipe::{Recipe, RecipeError};
use strand_store::{Location, StoreError};
use strand_telemetry::logging;
use strand_train::{Outcome, Settings, TrainError};
use tokio::runtime::Runtime;

use crate::observer::RankObserver;

/// Why a rank failed.
#[derive(Debug, thiserror::Error)]
enum RankFailure {
    #[error("starting the rank's threads")]
    Threads(#[source] std::io::Error),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Comm(#[from] CommError),
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl RankFailure {
    fn exit_code(&self) -> ExitCode {
        match self {
            RankFailure::Threads(_) => ExitCode::Environment,
            RankFailure::Env(error) => error.exit_code(),
            RankFailure::Recipe(_) => ExitCode::Usage,
            RankFailure::Store(error) => error.exit_code().into(),
            RankFailure::Comm(CommError::Mesh { .. }) => ExitCode::Usage,
            RankFailure::Comm(_) => ExitCode::Failed,
            RankFailure::Train(error) => error.exit_code().into(),
        }
    }

    fn kind(&self) -> FailureKind {
        match self {
            RankFailure::Comm(CommError::Collective { .. } | CommError::Join { .. }) => {
                FailureKind::PeerLost
            }
            RankFailure::Train(error) if error.is_peer_lost() => FailureKind::PeerLost,
            _ => FailureKind::Primary,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RankFailure::Recipe(error) => error.hint(),
            RankFailure::Store(error) => error.hint(),
            RankFailure::Comm(error) => error.hint(),
            RankFailure::Train(error) => error.hint(),
            RankFailure::Env(error) => error.hint(),
            RankFailure::Threads(_) => None,
        }
    }
}

/// Runs the rank and returns its exit code; a failure is left behind for the launcher.
pub fn main(env: &RankEnv, reporter: &Reporter) -> u8 {
    logging::init(logging::Options { rank: Some(env.rank), verbosity: 0 });
    match run(env, reporter) {
        Ok(Outcome::Finished) => ExitCode::Done.code(),
        Ok(Outcome::Stopped) => ExitCode::Stopped.code(),
        Err(failure) => fail(&failure, reporter),
    }
}

fn fail(failure: &RankFailure, reporter: &Reporter) -> u8 {
    let exit_code = failure.exit_code();
    eprintln!("error: {failure}");
    let mut source = failure.source();
    while let Some(error) = source {
        eprintln!("  caused by: {error}");
        source = error.source();
    }
    if let Err(error) = reporter.report(failure, failure.kind(), exit_code, failure.hint()) {
        eprintln!("error: {error}");
    }
    exit_code.code()
}

fn run(env: &RankEnv, reporter: &Reporter) -> Result<Outcome, RankFailure> {
    let runtime = Runtime::new().map_err(RankFailure::Threads)?;
    let stop = StopFlag::listen(runtime.handle()).map_err(RankFailure::Threads)?;
    let recipe = Recipe::load(&env.run_dir()?.recipe(), &[])?;
    tch::set_num_threads(threads(&recipe, env));
    let mesh = join(env, &recipe)?;
    let settings = settings(env, recipe, &runtime)?;
    let mut observer = RankObserver { speaks: env.rank == 0, reporter: reporter.clone(), stop };
    Ok(strand_train::run(&settings, &mesh, &mut observer)?)
}

/// Compute threads of this rank: the node's cores, shared out. How a sum is cut among threads decides its bits: where all
/// layouts have to agree, there is one.
fn threads(recipe: &Recipe, env: &RankEnv) -> i32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = match recipe.parallel.exact_tp {
        Some(_) => 1,
        None => (cores / env.local_world_size).max(1),
    };
    recipe.runtime.threads_per_rank.unwrap_or(share) as i32
}

fn join(env: &RankEnv, recipe: &Recipe) -> Result<Mesh, RankFailure> {
    let (dp, tp) = recipe.world(env.world_size)?;
    let endpoint = Endpoint {
        host: env.master_addr.clone(),
        port: env.master_port,
        // The store takes the socket over and closes it.
        listen_fd: env.master_listener()?.map(IntoRawFd::into_raw_fd),
    };
    let timeout = Duration::from_secs_f64(recipe.runtime.collective_timeout_s);
    Ok(join_gloo(&endpoint, env.rank, env.world_size, dp, tp, timeout)?)
}

fn settings(env: &RankEnv, recipe: Recipe, runtime: &Runtime) -> Result<Settings, RankFailure> {
    let folder = env.run_dir()?;
    Ok(Settings {
        recipe,
        checkpoints: Location::open(&folder.checkpoints())?,
        publish_to: if folder.is_remote() { Some(folder.location()?) } else { None },
        metrics: folder.metrics(),
        evaluations: folder.evaluations(),
        skipped: folder.skipped(),
        ranks_on_node: env.local_world_size,
        resume_from: env.resume_from.clone(),
        attempt: env.attempt,
        handle: runtime.handle().clone(),
    })
}
