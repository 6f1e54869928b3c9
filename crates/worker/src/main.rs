//! One rank of a run or, with `bench-step`, of a measurement; with `encode` one encoder process. `strand` starts it;
//! people start `strand launch`, `strand bench step` and `strand data extract`.

mod device;
mod encode;
mod observer;
mod rank;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use rank::Job;
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
    match job() {
        Ok(job) => ExitCode::from(rank::main(&env, &reporter, &job)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(strand_control::ExitCode::Usage.code())
        }
    }
}

/// What the arguments ask for: nothing, or `bench-step OPTIONS REPORT`.
fn job() -> Result<Job, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(Job::Train),
        ["bench-step", options, report] => {
            let options = serde_json::from_str(options).map_err(|error| error.to_string())?;
            Ok(Job::Bench(options, PathBuf::from(report)))
        }
        _ => Err(format!("{words:?}: strand-worker is started by strand")),
    }
}
