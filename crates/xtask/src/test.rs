//! `cargo xtask test`: builds once in release, then runs all tests or one area.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::args::Area;
use crate::failure::{FAILED, Failure, USAGE};
use crate::process::{run as run_to_success, tee};
use crate::talk::{duration, say, timed};
use crate::{setup, workspace::Workspace};

/// What the tests' own summaries add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Sets up, builds, runs, and sums up.
pub fn run(workspace: &Workspace, area: Option<Area>) -> anyhow::Result<()> {
    let selection = selection(workspace, area)?;
    let provided = setup::ensure(workspace)?;
    let (_, built) = timed(|| build(workspace, &selection))?;
    say("test", format!("built in {}", duration(built)));
    let mut tests = tests(workspace, &provided.libtorch);
    tests.args(&selection).arg("--no-fail-fast");
    if area == Some(Area::Golden) {
        // Its tables are what one looks for.
        tests.args(["--", "--show-output"]);
    }
    let ((status, text), took) = timed(|| tee(&mut tests))?;
    let what = area.map_or("all", Area::name);
    conclude(&Summary { what, success: status.success(), text: &text, built, took })
}

/// A run of test programs.
pub struct Summary<'a> {
    /// Which tests.
    pub what: &'a str,
    /// Whether all programs ended well.
    pub success: bool,
    /// What they printed.
    pub text: &'a str,
    /// How long building took.
    pub built: Duration,
    /// How long running took.
    pub took: Duration,
}

/// Repeats what failed, adds up what passed, and fails where that is not enough.
pub fn conclude(summary: &Summary<'_>) -> anyhow::Result<()> {
    let Summary { what, success, text, built, took } = *summary;
    let counts = count(text);
    say("test", format!("build {}, tests {}", duration(built), duration(took)));
    let Counts { passed, failed, skipped } = counts;
    for line in failures(text) {
        println!("{line}");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    verdict(success, &counts, what)
}

/// The arguments that choose the tests. All of them name the whole workspace, so that cargo
/// resolves the same features, and builds every dependency once, whatever the area.
fn selection(workspace: &Workspace, area: Option<Area>) -> Result<Vec<&'static str>, Failure> {
    let Some(area) = area else {
        return Ok(vec!["--workspace"]);
    };
    if area == Area::Unit {
        return Ok(vec!["--workspace", "--lib", "--bins"]);
    }
    if area == Area::Golden {
        return Ok(vec!["--workspace", "--test", "golden", "--test", "golden_encoder"]);
    }
    let name = area.name();
    let file = workspace.root.join(format!("tests/tests/{name}.rs"));
    let folder = workspace.root.join(format!("tests/tests/{name}/main.rs"));
    if file.exists() || folder.exists() {
        return Ok(vec!["--workspace", "--test", name]);
    }
    Err(Failure::new(USAGE, format!("area {name} has no tests yet"))
        .hint(format!("they belong in tests/tests/{name}.rs")))
}

/// cargo in release, at the root.
pub fn cargo(workspace: &Workspace, verb: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&workspace.root).args([verb, "--release"]);
    cargo
}

/// `cargo test` for programs that find libtorch.
pub fn tests(workspace: &Workspace, libtorch: &Path) -> Command {
    let mut tests = cargo(workspace, "test");
    tests.env("LD_LIBRARY_PATH", library_path(&[&libtorch.join("lib")]));
    tests
}

/// The tests, and the two binaries that some of them start.
fn build(workspace: &Workspace, selection: &[&str]) -> anyhow::Result<()> {
    let mut binaries = cargo(workspace, "build");
    binaries.args(["--workspace", "--bins"]);
    run_to_success(&mut binaries, "building the binaries")?;
    let mut tests = cargo(workspace, "test");
    tests.args(selection).arg("--no-run");
    run_to_success(&mut tests, "building the tests")
}

/// A search path for libraries: these folders, then those that the caller has named.
pub fn library_path(folders: &[&Path]) -> OsString {
    let before = env::var_os("LD_LIBRARY_PATH");
    let folders = folders.iter().map(|folder| folder.as_os_str());
    folders.chain(before.as_deref()).collect::<Vec<_>>().join(OsStr::new(":"))
}

/// Adds up the `test result:` lines, one a test binary.
fn count(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines() {
        let Some((_, result)) = line.split_once("test result: ") else {
            continue;
        };
        counts.passed += number_before(result, "passed");
        counts.failed += number_before(result, "failed");
        counts.skipped += number_before(result, "ignored");
    }
    counts
}

fn number_before(line: &str, word: &str) -> u64 {
    let mut words = line.split([' ', ';', '.']).filter(|word| !word.is_empty());
    let mut last = words.next();
    for next in words {
        if next == word {
            return last.and_then(|number| number.parse().ok()).unwrap_or(0);
        }
        last = Some(next);
    }
    0
}

/// Lines of a failed test's own words that are repeated at the end.
const WORDS: usize = 8;

/// Every failed test with its program and its first words, and every program that crashed: what counts must not scroll
/// away.
fn failures(text: &str) -> Vec<String> {
    let (mut found, mut program, mut words) = (Vec::new(), "", 0);
    // With --show-output what passed has its words listed alike, before what failed.
    let mut has_passed = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("Running ") || trimmed.starts_with("Doc-tests ") {
            (program, has_passed) = (trimmed, false);
        } else if line == "successes:" || line == "failures:" {
            (has_passed, words) = (line == "successes:", 0);
        } else if line.starts_with("---- ") && !has_passed {
            found.push(format!("FAILED {}, {program}", line.trim_matches(['-', ' '])));
            words = WORDS;
        } else if line.starts_with("stack backtrace:") || line.starts_with("Stack backtrace:") {
            words = 0;
        } else if let Some((_, how)) = line.split_once("process didn't exit successfully: ")
            && how.contains("(signal: ")
        {
            found.push(format!("CRASHED {how}, {program}"));
        } else if words > 0 && !trimmed.is_empty() {
            words -= 1;
            found.push(format!("    {line}"));
        }
    }
    found
}

/// Success of cargo is not enough: a filter that matches nothing succeeds too.
fn verdict(success: bool, counts: &Counts, area: &str) -> anyhow::Result<()> {
    if !success || counts.failed > 0 {
        let hint = "the failures are listed above, with the program of each";
        return Err(Failure::new(FAILED, format!("tests failed ({area})")).hint(hint).into());
    }
    if counts.passed == 0 {
        return Err(Failure::new(FAILED, format!("no test ran ({area})")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
noise
test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.00s
";

    #[test]
    fn results_of_all_binaries_add_up() {
        let expected = Counts { passed: 12, failed: 3, skipped: 1 };
        assert_eq!(count(OUTPUT), expected);
        assert_eq!(count("nothing"), Counts::default());
    }

    #[test]
    fn words_of_what_passed_are_no_failure() {
        let output = "\
     Running tests/a.rs (target/a-1)
successes:
---- good stdout ----
a table
successes:
    good
failures:
---- bad stdout ----
why
failures:
    bad
";
        let expected = ["FAILED bad stdout, Running tests/a.rs (target/a-1)", "    why"];
        assert_eq!(failures(output), expected);
    }

    #[test]
    fn failures_are_repeated_with_their_program() {
        let output = "\
     Running unittests src/lib.rs (target/a-1)
test x ... FAILED
---- x stdout ----

thread 'x' panicked at a.rs:1:2:
left is not right
stack backtrace:
   0: long
     Running tests/b.rs (target/b-2)
error: test failed, to rerun pass `-p b`
  process didn't exit successfully: `target/b-2` (signal: 11, SIGSEGV: invalid memory reference)
";
        let expected = [
            "FAILED x stdout, Running unittests src/lib.rs (target/a-1)",
            "    thread 'x' panicked at a.rs:1:2:",
            "    left is not right",
            "CRASHED `target/b-2` (signal: 11, SIGSEGV: invalid memory reference), Running tests/b.rs (target/b-2)",
        ];
        assert_eq!(failures(output), expected);
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        let one = Counts { passed: 1, ..Counts::default() };
        assert!(verdict(true, &one, "all").is_ok());
        assert!(verdict(false, &one, "all").is_err());
        assert!(verdict(true, &Counts::default(), "golden").is_err());
    }
}
