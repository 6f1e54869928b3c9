//! The environment of a rank: torchrun's variables and ours. Where mpirun or srun started it, theirs say what torchrun's
//! would (`starter.rs`).

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;

use strand_store::StoreError;

use crate::starter::Starter;
use crate::{ExitCode, RunDir};

/// Names of the variables, each in one place.
pub(crate) mod names {
    pub const RANK: &str = "RANK";
    pub const LOCAL_RANK: &str = "LOCAL_RANK";
    pub const WORLD_SIZE: &str = "WORLD_SIZE";
    pub const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
    pub const GROUP_RANK: &str = "GROUP_RANK";
    pub const MASTER_ADDR: &str = "MASTER_ADDR";
    pub const MASTER_PORT: &str = "MASTER_PORT";
    pub const RUN_DIR: &str = "STRAND_RUN_DIR";
    pub const RUN_URL: &str = "STRAND_RUN_URL";
    pub const ATTEMPT: &str = "STRAND_ATTEMPT";
    pub const MASTER_FD: &str = "STRAND_MASTER_FD";
    pub const LAUNCHER_PID: &str = "STRAND_LAUNCHER_PID";
    pub const RESUME_FROM: &str = "STRAND_RESUME_FROM";
}

/// What a rank is told by its launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankEnv {
    /// RANK: this process among all of the run.
    pub rank: usize,
    /// LOCAL_RANK: this process among those of its node.
    pub local_rank: usize,
    /// WORLD_SIZE: processes of the run.
    pub world_size: usize,
    /// LOCAL_WORLD_SIZE: processes of this node.
    pub local_world_size: usize,
    /// GROUP_RANK: this node among the nodes.
    pub group_rank: usize,
    /// MASTER_ADDR and MASTER_PORT: where rank 0 listens. Ranks of mpirun or srun may do without: they find each other
    /// over MPI.
    pub master: Option<Master>,
    /// STRAND_RUN_DIR: the run directory, or the working copy of one in storage.
    pub run_dir: PathBuf,
    /// STRAND_RUN_URL: the run directory in storage, where it lies there.
    pub run_url: Option<String>,
    /// STRAND_ATTEMPT: number of this attempt, from 1, never used twice in a run directory.
    pub attempt: u64,
    /// STRAND_MASTER_FD: descriptor of the socket that already listens on `master_port`; rank 0 only.
    pub master_fd: Option<i32>,
    /// STRAND_LAUNCHER_PID: the process that this one must not outlive.
    pub launcher_pid: Option<u32>,
    /// STRAND_RESUME_FROM: the checkpoint to start from while the run directory has none of its own.
    pub resume_from: Option<String>,
}

/// Where rank 0 listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its host.
    pub addr: String,
    /// Its port.
    pub port: u16,
}

/// An environment that does not describe a rank.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A variable is not set.
    #[error("{name} is not set")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A variable holds something else than expected.
    #[error("{name}={value}: not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A rank outside its world.
    #[error("{name}={rank}: outside {size_name}={size}")]
    Outside {
        /// The rank's variable.
        name: &'static str,
        /// The rank.
        rank: usize,
        /// The size's variable.
        size_name: &'static str,
        /// The size.
        size: usize,
    },
    /// The inherited socket cannot be used.
    #[error("STRAND_MASTER_FD: cannot take over the launcher's socket")]
    MasterFd(#[source] std::io::Error),
}

impl EnvError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            EnvError::Missing { name: names::MASTER_ADDR } => {
                "build strand-worker with `--features mpi` to have ranks meet over MPI, or set \
                 MASTER_ADDR and MASTER_PORT"
                    .into()
            }
            _ => "start ranks with `strand launch`, which sets the environment of each".into(),
        })
    }

    /// Always [`ExitCode::Environment`].
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::Environment
    }
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl RankEnv {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// A variable is missing or malformed, or a rank lies outside its world.
    pub fn from_env() -> Result<RankEnv, EnvError> {
        Self::from_lookup(&|name| std::env::var(name).ok())
    }

    /// Reads the variables through `lookup`.
    ///
    /// # Errors
    /// As [`RankEnv::from_env`].
    pub fn from_lookup(lookup: Lookup<'_>) -> Result<RankEnv, EnvError> {
        let starter = Starter::find(lookup);
        let told = |name: &str| lookup(name).or_else(|| starter?.value(name, lookup));
        let lookup: Lookup<'_> = &told;
        let env = RankEnv {
            rank: required(lookup, names::RANK)?,
            local_rank: required(lookup, names::LOCAL_RANK)?,
            world_size: required(lookup, names::WORLD_SIZE)?,
            local_world_size: required(lookup, names::LOCAL_WORLD_SIZE)?,
            group_rank: optional(lookup, names::GROUP_RANK)?.unwrap_or(0),
            master: master(lookup, starter.is_some())?,
            run_dir: required(lookup, names::RUN_DIR)?,
            run_url: optional(lookup, names::RUN_URL)?,
            attempt: required(lookup, names::ATTEMPT)?,
            master_fd: optional(lookup, names::MASTER_FD)?,
            launcher_pid: optional(lookup, names::LAUNCHER_PID)?,
            resume_from: optional(lookup, names::RESUME_FROM)?,
        };
        env.check()
    }

    fn check(self) -> Result<RankEnv, EnvError> {
        inside(names::RANK, self.rank, names::WORLD_SIZE, self.world_size)?;
        inside(names::LOCAL_RANK, self.local_rank, names::LOCAL_WORLD_SIZE, self.local_world_size)?;
        Ok(self)
    }

    /// The variables as the launcher sets them; [`RankEnv::from_env`] reads them back.
    pub fn to_vars(&self) -> Vec<(&'static str, String)> {
        let mut vars = vec![
            (names::RANK, self.rank.to_string()),
            (names::LOCAL_RANK, self.local_rank.to_string()),
            (names::WORLD_SIZE, self.world_size.to_string()),
            (names::LOCAL_WORLD_SIZE, self.local_world_size.to_string()),
            (names::GROUP_RANK, self.group_rank.to_string()),
            (names::RUN_DIR, self.run_dir.display().to_string()),
            (names::ATTEMPT, self.attempt.to_string()),
        ];
        if let Some(Master { addr, port }) = &self.master {
            vars.push((names::MASTER_ADDR, addr.clone()));
            vars.push((names::MASTER_PORT, port.to_string()));
        }
        let fd = self.master_fd.map(|fd| fd.to_string());
        let pid = self.launcher_pid.map(|pid| pid.to_string());
        vars.extend(self.run_url.clone().map(|url| (names::RUN_URL, url)));
        vars.extend(fd.map(|fd| (names::MASTER_FD, fd)));
        vars.extend(pid.map(|pid| (names::LAUNCHER_PID, pid)));
        vars.extend(self.resume_from.clone().map(|from| (names::RESUME_FROM, from)));
        vars
    }

    /// The run directory's layout.
    ///
    /// # Errors
    /// STRAND_RUN_URL names no storage.
    pub fn run_dir(&self) -> Result<RunDir, StoreError> {
        match &self.run_url {
            Some(url) => RunDir::in_storage(url, &self.run_dir),
            None => Ok(RunDir::new(&self.run_dir)),
        }
    }

    /// Where rank 0 listens.
    ///
    /// # Errors
    /// Nobody has said.
    pub fn master(&self) -> Result<&Master, EnvError> {
        self.master.as_ref().ok_or(EnvError::Missing { name: names::MASTER_ADDR })
    }

    /// The listening master socket, where the launcher handed one down (to rank 0).
    ///
    /// The launcher passes it as standard input, which no other process inherits; this is a
    /// duplicate under a descriptor of its own that the caller owns.
    ///
    /// # Errors
    /// The descriptor is not standard input, or it cannot be duplicated.
    pub fn master_listener(&self) -> Result<Option<TcpListener>, EnvError> {
        let Some(fd) = self.master_fd else {
            return Ok(None);
        };
        if fd != 0 {
            return Err(EnvError::Invalid {
                name: names::MASTER_FD,
                value: fd.to_string(),
                expected: "0 (the launcher hands the socket down as standard input)",
            });
        }
        let owned: OwnedFd =
            std::io::stdin().as_fd().try_clone_to_owned().map_err(EnvError::MasterFd)?;
        Ok(Some(TcpListener::from(owned)))
    }
}

fn master(lookup: Lookup<'_>, may_be_missing: bool) -> Result<Option<Master>, EnvError> {
    if may_be_missing && lookup(names::MASTER_ADDR).is_none() {
        return Ok(None);
    }
    let addr = required(lookup, names::MASTER_ADDR)?;
    Ok(Some(Master { addr, port: required(lookup, names::MASTER_PORT)? }))
}

fn required<T: FromStr>(lookup: Lookup<'_>, name: &'static str) -> Result<T, EnvError> {
    optional(lookup, name)?.ok_or(EnvError::Missing { name })
}

fn optional<T: FromStr>(lookup: Lookup<'_>, name: &'static str) -> Result<Option<T>, EnvError> {
    let parse = |value: String| {
        value.parse().map_err(|_| EnvError::Invalid { name, value, expected: "a number in range" })
    };
    lookup(name).map(parse).transpose()
}

fn inside(
    name: &'static str,
    rank: usize,
    size_name: &'static str,
    size: usize,
) -> Result<(), EnvError> {
    if rank < size {
        return Ok(());
    }
    Err(EnvError::Outside { name, rank, size_name, size })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn example() -> RankEnv {
        RankEnv {
            rank: 3,
            local_rank: 3,
            world_size: 4,
            local_world_size: 4,
            group_rank: 0,
            master: Some(Master { addr: "127.0.0.1".into(), port: 29_500 }),
            run_dir: "runs/demo".into(),
            run_url: Some("s3://bucket/run".into()),
            attempt: 2,
            master_fd: None,
            launcher_pid: Some(77),
            resume_from: Some("s3://bucket/run/checkpoints/step-00000500".into()),
        }
    }

    fn read(vars: Vec<(&'static str, String)>) -> Result<RankEnv, EnvError> {
        let vars: HashMap<_, _> = vars.into_iter().collect();
        RankEnv::from_lookup(&|name| vars.get(name).cloned())
    }

    #[test]
    fn variables_read_back_equal() {
        assert_eq!(read(example().to_vars()).unwrap(), example());
    }

    #[test]
    fn a_missing_variable_is_named() {
        let mut vars = example().to_vars();
        vars.retain(|(name, _)| *name != "WORLD_SIZE");
        assert_eq!(read(vars).unwrap_err().to_string(), "WORLD_SIZE is not set");
    }

    #[test]
    fn ranks_of_mpirun_need_no_master() {
        let mut vars = example().to_vars();
        vars.retain(|(name, _)| name.starts_with("STRAND_"));
        let ours = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "3"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ];
        vars.extend(ours.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(read(vars.clone()).unwrap(), RankEnv { master: None, ..example() });
        vars.push(("MASTER_ADDR", "node-1".into()));
        assert_eq!(read(vars).unwrap_err().to_string(), "MASTER_PORT is not set");
    }

    #[test]
    fn a_malformed_or_impossible_rank_is_named() {
        let with_rank = |value: &str| {
            let mut vars = example().to_vars();
            vars[0].1 = value.into();
            read(vars).unwrap_err().to_string()
        };
        assert_eq!(with_rank("-1"), "RANK=-1: not a number in range");
        assert_eq!(with_rank("4"), "RANK=4: outside WORLD_SIZE=4");
    }

    #[test]
    fn a_socket_on_another_descriptor_is_refused() {
        let env = RankEnv { master_fd: Some(5), ..example() };
        assert!(env.master_listener().unwrap_err().to_string().contains("=5"));
    }
}
