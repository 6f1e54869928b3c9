//! A CPU view of a Python torch: one folder of links that `tch` takes for a libtorch.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::libtorch_check::{self, VERSION};
use super::prerequisites::compiler;
use super::{CacheLock, Layout, Wheels};
use crate::failure::{ENVIRONMENT, Failure};
use crate::process::run;

/// torch, and the two CUDA libraries that its libtorch_cpu.so asks for even without a GPU.
pub const WHEELS: Wheels = Wheels {
    folder: "torch-2.11.0",
    requirements: &["torch==2.11.0", "nvidia-cuda-cupti==13.0.*", "nvidia-cuda-runtime==13.0.*"],
    proof: "torch/lib/libtorch_cpu.so",
    size: "about 550 MB, once for all checkouts",
    layout: Layout::Packages,
};

/// What the CPU side is made of, by the beginning of its name. Leaving libtorch_cuda.so out is what
/// makes tch build for the CPU.
const LINKED: [&str; 8] = [
    "libc10.so",
    "libtorch_cpu.so",
    "libgomp",
    "libarm_compute",
    "libgfortran",
    "libopenblas",
    "libcudart.so",
    "libcupti.so",
];

const HINT: &str = "reinstall that torch, or set LIBTORCH to another libtorch 2.11.0";

/// Where the view stands in the cache.
pub fn place(cache: &Path) -> PathBuf {
    cache.join(format!("libtorch-{VERSION}"))
}

/// Makes the view of the torch package in `site`, replacing what is there.
pub fn make(_lock: &CacheLock, cache: &Path, site: &Path) -> anyhow::Result<PathBuf> {
    let whole = place(cache);
    let partial = whole.with_file_name(format!("libtorch-{VERSION}.partial"));
    for leftover in [&whole, &partial] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).with_context(|| leftover.display().to_string())?;
        }
    }
    fill(&partial, site).with_context(|| format!("{} cannot be filled", partial.display()))?;
    libtorch_check::check(&partial).map_err(|why| {
        let message = format!("{} will not do: {why}", site.join("torch").display());
        Failure::new(ENVIRONMENT, message).hint(HINT)
    })?;
    loads(&partial)?;
    fs::rename(&partial, &whole).with_context(|| whole.display().to_string())?;
    Ok(whole)
}

fn fill(view: &Path, site: &Path) -> anyhow::Result<()> {
    let lib = view.join("lib");
    fs::create_dir_all(&lib)?;
    symlink(site.join("torch/include"), view.join("include"))?;
    for folder in library_folders(site) {
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            if is_linked(&name.to_string_lossy()) && !lib.join(&name).exists() {
                symlink(folder.join(&name), lib.join(&name))?;
            }
        }
    }
    empty_libtorch(&lib)?;
    Ok(fs::write(view.join("build-version"), format!("{VERSION}\n"))?)
}

fn is_linked(name: &str) -> bool {
    name.contains(".so") && LINKED.iter().any(|start| name.starts_with(start))
}

/// `torch/lib`, and the `lib` folders of NVIDIA's wheels beside it.
fn library_folders(site: &Path) -> Vec<PathBuf> {
    let mut folders = vec![site.join("torch/lib")];
    let nvidia = fs::read_dir(site.join("nvidia")).into_iter().flatten().flatten();
    folders.extend(nvidia.map(|entry| entry.path().join("lib")).filter(|lib| lib.is_dir()));
    folders
}

/// tch links to libtorch.so; the wheel's own would pull in libtorch_cuda.so.
fn empty_libtorch(lib: &Path) -> anyhow::Result<()> {
    let mut link = Command::new(compiler());
    link.args(["-shared", "-nostdlib", "-x", "c++", "/dev/null", "-o"])
        .arg(lib.join("libtorch.so"))
        .args(["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"])
        .arg("-L")
        .arg(lib)
        .arg("-ltorch_cpu");
    run(&mut link, "linking libtorch.so")
}

/// Loads the libraries once, so that a missing dependency shows here and not in a training.
fn loads(view: &Path) -> anyhow::Result<()> {
    let lib = view.join("lib");
    let mut python = Command::new("python3");
    python
        .args(["-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])"])
        .arg(lib.join("libtorch.so"))
        .env("LD_LIBRARY_PATH", &lib);
    run(&mut python, "loading libtorch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_takes_the_cpu_side_only() {
        for name in ["libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcudart.so.13"] {
            assert!(is_linked(name), "{name}");
        }
        for name in ["libc10_cuda.so", "libtorch_cuda.so", "libtorch.so", "libtorch_python.so"] {
            assert!(!is_linked(name), "{name}");
        }
    }
}
