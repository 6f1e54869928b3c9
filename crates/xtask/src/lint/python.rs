//! ruff over every python file: mistakes, and layout.

use std::process::Command;

use super::Outcome;
use super::program::program;
use crate::process::run;
use crate::setup::{Layout, Wheels};
use crate::workspace::Workspace;

const WHEELS: Wheels = Wheels {
    folder: "ruff-0.17.6",
    requirements: &["ruff==0.17.6"],
    proof: "bin/ruff",
    size: "about 12 MB",
    layout: Layout::Packages,
};

/// Checks all files that git does not ignore, by the settings in `.ruff.toml`.
pub fn check(workspace: &Workspace) -> anyhow::Result<Outcome> {
    let ruff = program(&workspace.cache, "ruff", &WHEELS)?;
    for arguments in [["check", "--quiet"], ["format", "--diff"]] {
        let mut command = Command::new(&ruff);
        command.current_dir(&workspace.root).args(arguments).arg("--no-cache");
        run(&mut command, arguments[0])?;
    }
    Ok(Outcome::Passed)
}
