//! Test programs: where cargo has put them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use crate::failure::{FAILED, Failure};
use crate::process::outcome;

/// Builds test programs with `cargo`, a `cargo test` that has all its options but these, and finds them.
pub fn test_programs(cargo: &mut Command, names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    cargo.arg("--no-run").args(names.iter().flat_map(|name| ["--test", name]));
    // Messages for people go to stderr all the same.
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let built = cargo.output().context("cargo could not be started")?;
    outcome(built.status, "building the test programs")?;
    let messages = String::from_utf8_lossy(&built.stdout);
    names.iter().map(|name| Ok(executable(&messages, name)?)).collect()
}

/// Where cargo says that a test program lies.
fn executable(messages: &str, program: &str) -> Result<PathBuf, Failure> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut paths = messages.filter_map(|message| {
        let is_it = message["target"]["name"] == program && message["profile"]["test"] == true;
        let path = message["executable"].as_str().filter(|_| is_it)?;
        Some(PathBuf::from(path))
    });
    paths.next().ok_or_else(|| Failure::new(FAILED, format!("cargo has built no {program}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"a"},"profile":{"test":true},"executable":"/t/a-1"}
noise
{"reason":"compiler-artifact","target":{"name":"b"},"profile":{"test":false},"executable":"/t/b-0"}
{"reason":"compiler-artifact","target":{"name":"b"},"profile":{"test":true},"executable":"/t/b-1"}"#;
        assert_eq!(executable(messages, "b").unwrap(), PathBuf::from("/t/b-1"));
        assert!(executable(messages, "c").unwrap_err().to_string().contains("no c"));
    }
}
