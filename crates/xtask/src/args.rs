//! The command line.

use crate::failure::{Failure, USAGE as USAGE_CODE};

/// What `cargo xtask --help` prints.
pub const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                 find or fetch what the build needs: libtorch, ffmpeg
  demo                  make data, train four stages on four ranks, print the accuracies
      --json            one JSON document on stdout, nothing else there
      --quick           a short form, for tests of the demo itself
      --fresh           start over instead of continuing an interrupted run
      --data            only make the data
  test [AREA]           run all tests, or those of golden, parity, resume, faults, cli, unit
      --mpi             instead what ranks test under `mpirun -n 4`; fetches Open MPI where there is no MPI
  bench data [OPTION]…  strand's reader against the loaders people use: `cargo xtask bench data --help`
  bench step [OPTION]…  a training step against the same in PyTorch: `cargo xtask bench step --help`
  bench plan            the memory that `strand plan` says beside what a step takes, ten models
  bench order           what the order of 50 million samples costs: time to the first, memory
  gpu-check [OPTION]…   what needs an NVIDIA GPU: NCCL, the golden cases, a step of 7B: `cargo xtask gpu-check --help`
      --gather FOLDER   instead put all that it needs into a folder, for a machine without cargo
  lint                  rustfmt, clippy, cargo-deny, shellcheck, ruff, sizes of files";

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Setup,
    Lint,
    Test(Option<Area>),
    TestMpi,
    Demo(DemoOptions),
    /// With the arguments of the benchmark.
    BenchData(Vec<String>),
    /// With the arguments of the benchmark.
    BenchStep(Vec<String>),
    BenchOrder,
    BenchPlan,
    GpuCheck(GpuCheck),
}

/// Where the GPU's checks run.
#[derive(Debug, PartialEq, Eq)]
pub enum GpuCheck {
    /// Here, with the arguments of the script.
    Run(Vec<String>),
    /// On a machine that is given this folder.
    Gather(String),
}

/// The options of `cargo xtask demo`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DemoOptions {
    /// One JSON document on stdout.
    pub json: bool,
    /// The short form.
    pub quick: bool,
    /// Start over.
    pub fresh: bool,
    /// Only make the data.
    pub data: bool,
}

/// A group of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    Golden,
    Parity,
    Resume,
    Faults,
    Cli,
    Unit,
}

impl Area {
    const ALL: [Area; 6] =
        [Area::Golden, Area::Parity, Area::Resume, Area::Faults, Area::Cli, Area::Unit];

    /// The word people type; for all but `unit` also the file in `tests/tests`.
    pub fn name(self) -> &'static str {
        match self {
            Area::Golden => "golden",
            Area::Parity => "parity",
            Area::Resume => "resume",
            Area::Faults => "faults",
            Area::Cli => "cli",
            Area::Unit => "unit",
        }
    }
}

/// Parses the arguments after `cargo xtask`.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, Failure> {
    let mut arguments = arguments.into_iter();
    let Some(command) = arguments.next() else {
        return Err(usage("a command is missing"));
    };
    let rest: Vec<String> = arguments.collect();
    match command.as_str() {
        "bench" => return bench(&rest),
        "gpu-check" => return gpu_check(rest).map(Command::GpuCheck),
        _ => {}
    }
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        return Ok(Command::Help);
    }
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help),
        "setup" => no_more(&rest).map(|()| Command::Setup),
        "lint" => no_more(&rest).map(|()| Command::Lint),
        "test" if rest == ["--mpi"] => Ok(Command::TestMpi),
        "test" => area(&rest).map(Command::Test),
        "demo" => demo(&rest).map(Command::Demo),
        other => Err(usage(format!("unknown command `{other}`"))),
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(USAGE_CODE, message).hint("`cargo xtask --help` lists the commands")
}

fn no_more(rest: &[String]) -> Result<(), Failure> {
    match rest.first() {
        None => Ok(()),
        Some(word) => Err(usage(format!("unexpected argument `{word}`"))),
    }
}

fn area(rest: &[String]) -> Result<Option<Area>, Failure> {
    let Some((word, more)) = rest.split_first() else {
        return Ok(None);
    };
    no_more(more)?;
    let found = Area::ALL.into_iter().find(|area| area.name() == word);
    found.map(Some).ok_or_else(|| {
        let names: Vec<_> = Area::ALL.iter().map(|area| area.name()).collect();
        Failure::new(USAGE_CODE, format!("unknown test area `{word}`"))
            .hint(format!("the areas are {}", names.join(", ")))
    })
}

/// A benchmark knows its own options, `--help` among them.
fn bench(rest: &[String]) -> Result<Command, Failure> {
    match rest.split_first() {
        Some((name, options)) if name == "data" => Ok(Command::BenchData(options.to_vec())),
        Some((name, options)) if name == "step" => Ok(Command::BenchStep(options.to_vec())),
        Some((name, rest)) if name == "order" => plain(rest, Command::BenchOrder),
        Some((name, rest)) if name == "plan" => plain(rest, Command::BenchPlan),
        Some((name, _)) if name == "--help" || name == "-h" => Ok(Command::Help),
        Some((name, _)) => Err(usage(format!("unknown benchmark `{name}`"))),
        None => Err(usage("a benchmark is missing: there are `data`, `step`, `order` and `plan`")),
    }
}

/// The script knows its own options, `--help` among them.
fn gpu_check(options: Vec<String>) -> Result<GpuCheck, Failure> {
    match &options[..] {
        [gather, folder] if gather == "--gather" => Ok(GpuCheck::Gather(folder.clone())),
        all if all.iter().any(|word| word == "--gather") => {
            Err(usage("`--gather` takes a folder and stands alone"))
        }
        _ => Ok(GpuCheck::Run(options)),
    }
}

/// A benchmark without options.
fn plain(rest: &[String], command: Command) -> Result<Command, Failure> {
    match rest.first().map(String::as_str) {
        Some("--help" | "-h") => Ok(Command::Help),
        _ => no_more(rest).map(|()| command),
    }
}

fn demo(rest: &[String]) -> Result<DemoOptions, Failure> {
    let mut options = DemoOptions::default();
    for word in rest {
        match word.as_str() {
            "--json" => options.json = true,
            "--quick" => options.quick = true,
            "--fresh" => options.fresh = true,
            "--data" => options.data = true,
            other => return Err(usage(format!("unexpected argument `{other}`"))),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Failure> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn commands_and_options_parse() {
        assert_eq!(parsed("setup").unwrap(), Command::Setup);
        assert_eq!(parsed("test").unwrap(), Command::Test(None));
        assert_eq!(parsed("test faults").unwrap(), Command::Test(Some(Area::Faults)));
        assert_eq!(parsed("test --mpi").unwrap(), Command::TestMpi);
        let expected = DemoOptions { json: true, quick: true, ..DemoOptions::default() };
        assert_eq!(parsed("demo --json --quick").unwrap(), Command::Demo(expected));
        assert_eq!(parsed("demo --help").unwrap(), Command::Help);
        let options = vec!["--quick".to_owned(), "--help".to_owned()];
        assert_eq!(parsed("bench data --quick --help").unwrap(), Command::BenchData(options));
        assert_eq!(parsed("bench order").unwrap(), Command::BenchOrder);
        assert_eq!(parsed("bench plan").unwrap(), Command::BenchPlan);
        assert_eq!(parsed("bench order --help").unwrap(), Command::Help);
        assert_eq!(parsed("bench --help").unwrap(), Command::Help);
        let options = vec!["--steps".to_owned(), "9".to_owned()];
        let expected = Command::GpuCheck(GpuCheck::Run(options));
        assert_eq!(parsed("gpu-check --steps 9").unwrap(), expected);
        let expected = Command::GpuCheck(GpuCheck::Gather("out".to_owned()));
        assert_eq!(parsed("gpu-check --gather out").unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "missing"),
            ("tset", "tset"),
            ("lint now", "now"),
            ("test gold", "gold"),
            ("test cli unit", "unit"),
            ("test --mpi now", "now"),
            ("test cli --mpi", "--mpi"),
            ("demo --jsn", "--jsn"),
            ("bench", "data"),
            ("bench dta", "dta"),
            ("bench order now", "now"),
            ("gpu-check --gather", "--gather"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }
}
