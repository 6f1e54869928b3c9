//! Ranks that `mpirun` or `srun` started: their variables say what torchrun's do, under other names.

use crate::env::names;

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who started the ranks, and what it calls what a rank is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Starter {
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    local_world_size: LocalWorldSize,
    group_rank: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
enum LocalWorldSize {
    /// In a variable.
    Plain(&'static str),
    /// In a list over the nodes, as in `4(x3),2`; another variable has this node's place in it.
    Listed { sizes: &'static str, node: &'static str },
}

/// The inner before the outer: mpirun may run inside a job of Slurm's.
const STARTERS: [Starter; 3] = [
    // Open MPI's mpirun.
    Starter {
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_world_size: LocalWorldSize::Plain("OMPI_COMM_WORLD_LOCAL_SIZE"),
        group_rank: None,
    },
    // MPICH's and Intel MPI's.
    Starter {
        rank: "PMI_RANK",
        world_size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_world_size: LocalWorldSize::Plain("MPI_LOCALNRANKS"),
        group_rank: None,
    },
    // srun.
    Starter {
        rank: "SLURM_PROCID",
        world_size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_world_size: LocalWorldSize::Listed {
            sizes: "SLURM_STEP_TASKS_PER_NODE",
            node: "SLURM_NODEID",
        },
        group_rank: Some("SLURM_NODEID"),
    },
];

impl Starter {
    /// Whoever started this rank, unless a launcher told it all that torchrun would.
    pub fn find(lookup: Lookup<'_>) -> Option<&'static Starter> {
        if lookup(names::RANK).is_some() {
            return None;
        }
        // Slurm sets variables outside of steps, too: only all of them together describe a rank.
        let told = |starter: &&Starter| {
            [starter.rank, starter.world_size, starter.local_rank]
                .iter()
                .all(|name| lookup(name).is_some())
        };
        STARTERS.iter().find(told)
    }

    /// One of torchrun's variables, in the starter's words.
    pub fn value(&self, name: &str, lookup: Lookup<'_>) -> Option<String> {
        match name {
            names::RANK => lookup(self.rank),
            names::WORLD_SIZE => lookup(self.world_size),
            names::LOCAL_RANK => lookup(self.local_rank),
            names::LOCAL_WORLD_SIZE => self.local_world_size.read(lookup),
            names::GROUP_RANK => lookup(self.group_rank?),
            _ => None,
        }
    }
}

impl LocalWorldSize {
    fn read(&self, lookup: Lookup<'_>) -> Option<String> {
        match self {
            LocalWorldSize::Plain(name) => lookup(name),
            LocalWorldSize::Listed { sizes, node } => {
                let node = lookup(node)?.parse().ok()?;
                nth_size(&lookup(sizes)?, node).map(|size| size.to_string())
            }
        }
    }
}

/// The `node`th of Slurm's numbers of tasks: `4(x3),2` is 4, 4, 4, 2.
fn nth_size(sizes: &str, mut node: usize) -> Option<usize> {
    for part in sizes.split(',') {
        let (size, times) = match part.split_once("(x") {
            Some((size, times)) => (size, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        if node < times {
            return size.parse().ok();
        }
        node -= times;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)], name: &str) -> Option<String> {
        let lookup = |wanted: &str| {
            let found = vars.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        };
        Starter::find(&lookup)?.value(name, &lookup)
    }

    const OPEN_MPI: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "5"),
        ("OMPI_COMM_WORLD_SIZE", "8"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
    ];

    const SLURM: [(&str, &str); 5] = [
        ("SLURM_PROCID", "13"),
        ("SLURM_STEP_NUM_TASKS", "14"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_STEP_TASKS_PER_NODE", "4(x3),2"),
        ("SLURM_NODEID", "3"),
    ];

    #[test]
    fn each_starter_is_understood() {
        assert_eq!(read(&OPEN_MPI, "RANK").as_deref(), Some("5"));
        assert_eq!(read(&OPEN_MPI, "LOCAL_WORLD_SIZE").as_deref(), Some("4"));
        assert_eq!(read(&OPEN_MPI, "GROUP_RANK"), None);
        assert_eq!(read(&SLURM, "WORLD_SIZE").as_deref(), Some("14"));
        assert_eq!(read(&SLURM, "LOCAL_WORLD_SIZE").as_deref(), Some("2"));
        assert_eq!(read(&SLURM, "GROUP_RANK").as_deref(), Some("3"));
        assert_eq!(read(&SLURM, "STRAND_RUN_DIR"), None);
    }

    #[test]
    fn mpirun_inside_a_job_counts_and_a_launcher_more() {
        let both = [OPEN_MPI.as_slice(), SLURM.as_slice()].concat();
        assert_eq!(read(&both, "RANK").as_deref(), Some("5"));
        let launched = [both.as_slice(), &[("RANK", "0")]].concat();
        assert_eq!(read(&launched, "WORLD_SIZE"), None);
        // A batch script is no rank.
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NODEID", "0")], "RANK"), None);
    }

    #[test]
    fn sizes_of_nodes_are_counted_out() {
        assert_eq!(
            (0..5).map(|n| nth_size("4(x3),2", n)).collect::<Vec<_>>(),
            [Some(4), Some(4), Some(4), Some(2), None]
        );
        assert_eq!(nth_size("x", 0), None);
    }
}
