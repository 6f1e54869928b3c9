//! A checking program: from PATH, else from a wheel in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::answer;
use crate::setup::{CacheLock, Needs, Wheels, install, require};

/// What to start for the program of this name, fetched if need be.
pub fn program(cache: &Path, name: &str, wheels: &Wheels) -> anyhow::Result<PathBuf> {
    if answer(Command::new(name).arg("--version")).is_some() {
        return Ok(name.into());
    }
    let fetched = cache.join("wheels").join(wheels.folder).join(wheels.proof);
    if !fetched.exists() {
        require(Needs { compiler: false, pip: true })?;
        let lock = CacheLock::take(cache)?;
        fs::create_dir_all(cache.join("wheels"))?;
        install(&lock, cache, wheels)?;
    }
    Ok(fetched)
}
