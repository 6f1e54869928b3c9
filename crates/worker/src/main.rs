//! One rank of a run. The launcher starts it; people start `strand launch`.

mod observer;
mod rank;
mod version;

use std::process::ExitCode;

use strand_control::{RankEnv, Reporter};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version-json") {
        println!("{}", version::json());
        return ExitCode::SUCCESS;
    }
    let env = match RankEnv::from_env() {
        Ok(env) => env,
        Err(error) => {
            eprintln!("error: {error}\nhint: strand-worker is started by `strand launch RECIPE`");
            return ExitCode::from(error.exit_code().code());
        }
    };
    if let Some(Err(error)) = env.launcher_pid.map(strand_control::die_with_parent) {
        eprintln!("error: {error}");
        return ExitCode::from(error.exit_code().code());
    }
    let reporter = Reporter::new(&env);
    reporter.catch_panics();
    ExitCode::from(rank::main(&env, &reporter))
}
