//! Wheels from PyPI, unpacked into the shared cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::Context;

use super::CacheLock;
use crate::failure::{ENVIRONMENT, Failure};
use crate::process::{run, status};
use crate::talk::say;

/// A folder of the cache and what goes into it.
pub struct Wheels {
    /// Name of the folder: one for each version, so that nothing is ever replaced.
    pub folder: &'static str,
    /// What pip is asked for.
    pub requirements: &'static [&'static str],
    /// A file that a whole installation has.
    pub proof: &'static str,
    /// About how much is fetched, for people.
    pub size: &'static str,
    /// What becomes of the wheels.
    pub layout: Layout,
}

/// What becomes of wheels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A folder of packages, as Python imports them. What a wheel has for other folders of a system may be missing: pip
    /// drops a `lib`.
    Packages,
    /// Everything at the place that it has in the wheel.
    Whole,
}

/// Unpacks wheels, their permissions included. Arguments: the target, the folder of the wheels.
const UNPACK: &str = "
import os, pathlib, sys, zipfile
for wheel in pathlib.Path(sys.argv[2]).glob('*.whl'):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = archive.extract(entry, sys.argv[1])
            mode = entry.external_attr >> 16 & 0o777
            if mode:
                os.chmod(path, mode)
";

/// Returns the folder with the unpacked wheels, fetched if need be.
///
/// The caller holds the lock. A folder has its name only once it is whole: what a killed setup
/// leaves has another name and is removed here.
pub fn install(_lock: &CacheLock, cache: &Path, wheels: &Wheels) -> anyhow::Result<PathBuf> {
    let parent = cache.join("wheels");
    let whole = parent.join(wheels.folder);
    if whole.join(wheels.proof).exists() {
        return Ok(whole);
    }
    fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    remove_leftovers(&parent, wheels.folder)?;
    // The pip of a killed setup may still be writing: no two of them share a folder.
    let partial = parent.join(format!("{}.partial-{}", wheels.folder, process::id()));
    fs::create_dir_all(partial.join("tmp")).with_context(|| partial.display().to_string())?;
    fetch(wheels, &partial)?;
    fs::remove_dir_all(partial.join("tmp"))?;
    if !partial.join(wheels.proof).exists() {
        anyhow::bail!("{}: the wheels hold no {}", wheels.folder, wheels.proof);
    }
    fs::rename(&partial, &whole).with_context(|| whole.display().to_string())?;
    Ok(whole)
}

/// Removes a damaged folder and the unfinished ones of the same name.
fn remove_leftovers(parent: &Path, folder: &str) -> anyhow::Result<()> {
    let unfinished = format!("{folder}.partial-");
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == folder || name.starts_with(&unfinished) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn fetch(wheels: &Wheels, target: &Path) -> anyhow::Result<()> {
    let names = wheels.requirements.join(" ");
    say("setup", format!("fetching {names} ({})", wheels.size));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]);
    match wheels.layout {
        Layout::Packages => pip.args(["install", "--no-compile", "--target"]).arg(target),
        Layout::Whole => pip.args(["download", "--dest"]).arg(target.join("tmp")),
    };
    pip.args(["--no-input", "--no-deps", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:"])
        .args(wheels.requirements)
        // pip unpacks there first: on the same disk the rest is a rename.
        .env("TMPDIR", target.join("tmp"))
        // A user's pip.conf may say `user = true`, which pip refuses beside --target.
        .env("PIP_USER", "0");
    if status(&mut pip)?.success() {
        return match wheels.layout {
            Layout::Packages => Ok(()),
            Layout::Whole => unpack(target),
        };
    }
    let hint = "pip's message is above; it needs a way to PyPI and space in the cache folder";
    Err(Failure::new(ENVIRONMENT, format!("pip could not install {names}")).hint(hint).into())
}

fn unpack(target: &Path) -> anyhow::Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", UNPACK]).arg(target).arg(target.join("tmp"));
    run(&mut python, "unpacking wheels")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_of_the_same_wheels_go() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["a-1", "a-1.partial-7", "a-10", "b-1.partial-7"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        remove_leftovers(parent.path(), "a-1").unwrap();
        let left = fs::read_dir(parent.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a-10", "b-1.partial-7"]);
    }
}
