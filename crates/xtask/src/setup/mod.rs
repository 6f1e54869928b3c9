//! Finds or fetches what the build and the tests need from outside cargo.

mod ffmpeg;
mod libtorch;
mod libtorch_check;
mod libtorch_view;
mod lock;
mod mpi;
mod prerequisites;
mod wheels;

use std::path::PathBuf;

use crate::failure::{ENVIRONMENT, Failure};
use crate::talk::say;
use crate::workspace::Workspace;

pub use lock::CacheLock;
pub use mpi::{Mpi, provide as mpi};
pub use prerequisites::{Needs, require};
pub use wheels::{Layout, Wheels, install};

/// What setup found or fetched.
pub struct Provided {
    /// A folder with `include` and `lib`.
    pub libtorch: PathBuf,
    /// A program that ran.
    pub ffmpeg: PathBuf,
}

/// `cargo xtask setup`.
pub fn command(workspace: &Workspace) -> anyhow::Result<()> {
    let provided = ensure(workspace)?;
    say(
        "setup",
        format!("libtorch {} in {}", libtorch_check::VERSION, provided.libtorch.display()),
    );
    say("setup", format!("ffmpeg is {}", provided.ffmpeg.display()));
    say("setup", "next: `cargo xtask demo`, `cargo xtask test` or `cargo build --release`");
    Ok(())
}

/// Makes sure that everything is there; silent and quick where it already is.
pub fn ensure(workspace: &Workspace) -> anyhow::Result<Provided> {
    platform()?;
    let libtorch = libtorch::survey(workspace)?;
    let ffmpeg = ffmpeg::survey(&workspace.cache)?;
    let fetches = libtorch.fetches() || ffmpeg.is_none();
    require(Needs { compiler: true, pip: fetches })?;
    Ok(Provided {
        libtorch: libtorch::provide(workspace, libtorch)?,
        ffmpeg: match ffmpeg {
            Some(found) => found,
            None => ffmpeg::fetch(&workspace.cache)?,
        },
    })
}

fn platform() -> Result<(), Failure> {
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        return Ok(());
    }
    Err(Failure::new(
        ENVIRONMENT,
        "this platform is not supported: libtorch's wheels and Gloo need Linux with glibc",
    ))
}
