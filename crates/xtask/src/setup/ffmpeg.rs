//! ffmpeg: the machine's own, else the one inside a PyPI wheel.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{CacheLock, Layout, Wheels, install};
use crate::failure::{ENVIRONMENT, Failure};
use crate::process::answer;

/// Names a program instead of the one on PATH; `strand data` reads it too.
const OVERRIDE: &str = "STRAND_FFMPEG";

const WHEELS: Wheels = Wheels {
    folder: "imageio-ffmpeg-0.6.0",
    requirements: &["imageio-ffmpeg==0.6.0"],
    proof: "imageio_ffmpeg/binaries",
    size: "about 30 MB",
    layout: Layout::Packages,
};

/// The ffmpeg that `strand data` would take, or `None` if there is none yet.
pub fn survey(cache: &Path) -> Result<Option<PathBuf>, Failure> {
    if let Some(named) = env::var_os(OVERRIDE) {
        let named = PathBuf::from(named);
        if runs(&named) {
            return Ok(Some(named));
        }
        let message = format!("{OVERRIDE}={} does not run", named.display());
        return Err(Failure::new(ENVIRONMENT, message).hint("name an ffmpeg there, or unset it"));
    }
    let places = [PathBuf::from("ffmpeg"), linked(cache)];
    Ok(places.into_iter().find(|program| runs(program)))
}

/// Fetches the wheel and links its program as `bin/ffmpeg` of the cache.
pub fn fetch(cache: &Path) -> anyhow::Result<PathBuf> {
    let lock = CacheLock::take(cache)?;
    let link = linked(cache);
    if runs(&link) {
        return Ok(link);
    }
    let folder = install(&lock, cache, &WHEELS)?;
    let program = program_in(&folder.join(WHEELS.proof))?;
    fs::create_dir_all(cache.join("bin"))?;
    let fresh = cache.join("bin/ffmpeg.partial");
    if fresh.is_symlink() {
        fs::remove_file(&fresh)?;
    }
    symlink(&program, &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .with_context(|| format!("{} cannot be linked", link.display()))?;
    if runs(&link) {
        return Ok(link);
    }
    Err(Failure::new(ENVIRONMENT, format!("{} does not run", program.display()))
        .hint(format!("install ffmpeg, or name one in {OVERRIDE}"))
        .into())
}

fn linked(cache: &Path) -> PathBuf {
    cache.join("bin/ffmpeg")
}

fn runs(program: &Path) -> bool {
    answer(Command::new(program).arg("-version"))
        .is_some_and(|text| text.starts_with("ffmpeg version"))
}

fn program_in(folder: &Path) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ffmpeg-") {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("{} holds no ffmpeg", folder.display())
}
