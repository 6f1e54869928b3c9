//! One rank of a run, or with `encode` one encoder process. `strand` starts it; people start `strand launch` and
//! `strand data extract`.

mod encode;
mod observer;
mod rank;
mod version;

use std::process::ExitCode;

use strand_control::{RankEnv, Reporter};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--version-json") => {
            println!("{}", version::json());
            return ExitCode::SUCCESS;
        }
        Some("encode") => return ExitCode::from(encode::main(std::env::args_os().skip(2))),
        _ => {}
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
