//! The life of a rank: environment, recipe, mesh, run.

use std::error::Error;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::time::Duration;

use strand_comm::{CommError, Endpoint, Mesh, join_gloo};
use strand_control::{EnvError, ExitCode, FailureKind, Master, RankEnv, Reporter, StopFlag};
use strand_recipe::{Recipe, RecipeError};
use strand_store::{Location, StoreError};
use strand_telemetry::logging;
use strand_train::{BenchOptions, Outcome, Settings, TrainError, bench};
use tokio::runtime::Runtime;

use crate::device::{self, DeviceError};
use crate::observer::RankObserver;

/// Why a rank failed.
#[derive(Debug, thiserror::Error)]
enum RankFailure {
    #[error("starting the rank's threads")]
    Threads(#[source] std::io::Error),
    #[error("writing the report")]
    Report(#[source] std::io::Error),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Comm(#[from] CommError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl RankFailure {
    fn exit_code(&self) -> ExitCode {
        match self {
            RankFailure::Threads(_) => ExitCode::Environment,
            RankFailure::Device(DeviceError::Comm(_)) => ExitCode::Failed,
            RankFailure::Device(_) => ExitCode::Environment,
            RankFailure::Report(_) => ExitCode::Storage,
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
            RankFailure::Comm(CommError::Collective { .. } | CommError::Join { .. })
            | RankFailure::Device(DeviceError::Comm(_)) => FailureKind::PeerLost,
            RankFailure::Train(error) if error.is_peer_lost() => FailureKind::PeerLost,
            _ => FailureKind::Primary,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RankFailure::Recipe(error) => error.hint(),
            RankFailure::Store(error) => error.hint(),
            RankFailure::Comm(error) => error.hint(),
            RankFailure::Device(error) => error.hint(),
            RankFailure::Train(error) => error.hint(),
            RankFailure::Env(error) => error.hint(),
            RankFailure::Threads(_) | RankFailure::Report(_) => None,
        }
    }
}

/// What a rank is for.
#[derive(Debug, Clone)]
pub enum Job {
    /// The stages of the run.
    Train,
    /// A measurement, whose report rank 0 leaves in a file.
    Bench(BenchOptions, PathBuf),
}

/// Runs the rank and returns its exit code; a failure is left behind for the launcher.
pub fn main(env: &RankEnv, reporter: &Reporter, job: &Job) -> u8 {
    logging::init(logging::Options { rank: Some(env.rank), verbosity: 0 });
    match run(env, reporter, job) {
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

fn run(env: &RankEnv, reporter: &Reporter, job: &Job) -> Result<Outcome, RankFailure> {
    let runtime = Runtime::new().map_err(RankFailure::Threads)?;
    let stop = StopFlag::listen(runtime.handle()).map_err(RankFailure::Threads)?;
    let recipe = Recipe::load(&env.run_dir()?.recipe(), &[])?;
    tch::set_num_threads(threads(&recipe, env));
    let mesh = device::place(join(env, &recipe)?, &recipe, env)?;
    let peak_flops = device::peak_flops(&mesh, &recipe);
    if let Job::Bench(options, report) = job {
        let measured = bench(&recipe, &mesh, options, peak_flops)?;
        if env.rank == 0 {
            let json = serde_json::to_vec_pretty(&measured).map_err(TrainError::from)?;
            std::fs::write(report, json).map_err(RankFailure::Report)?;
        }
        return Ok(Outcome::Finished);
    }
    let settings = settings(env, recipe, peak_flops, &runtime)?;
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

/// Ranks that know where rank 0 listens meet there; those of mpirun or srun meet over MPI.
fn join(env: &RankEnv, recipe: &Recipe) -> Result<Mesh, RankFailure> {
    let (dp, tp) = recipe.world(env.world_size)?;
    let timeout = Duration::from_secs_f64(recipe.runtime.collective_timeout_s);
    #[cfg(feature = "mpi")]
    if env.master.is_none() {
        return Ok(strand_comm::MpiWorld::init()?.mesh(dp, tp, timeout)?);
    }
    let Master { addr, port } = env.master()?;
    let endpoint = Endpoint {
        host: addr.clone(),
        port: *port,
        // The store takes the socket over and closes it.
        listen_fd: env.master_listener()?.map(IntoRawFd::into_raw_fd),
    };
    Ok(join_gloo(&endpoint, env.rank, env.world_size, dp, tp, timeout)?)
}

fn settings(
    env: &RankEnv,
    recipe: Recipe,
    peak_flops: Option<f64>,
    runtime: &Runtime,
) -> Result<Settings, RankFailure> {
    let folder = env.run_dir()?;
    Ok(Settings {
        recipe,
        checkpoints: Location::open(&folder.checkpoints())?,
        publish_to: if folder.is_remote() { Some(folder.location()?) } else { None },
        metrics: folder.metrics(),
        evaluations: folder.evaluations(),
        skipped: folder.skipped(),
        bad_steps: folder.bad_steps(),
        ranks_on_node: env.local_world_size,
        resume_from: env.resume_from.clone(),
        attempt: env.attempt,
        peak_flops,
        handle: runtime.handle().clone(),
    })
}
