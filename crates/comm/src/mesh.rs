//! The mesh of ranks: data-parallel × tensor-parallel.

use tch::Device;

use crate::error::CommError;
use crate::group::Group;

/// This rank's groups. Tensor-parallel ranks are neighbours: rank = dp rank · tp size + tp rank.
#[derive(Clone)]
pub struct Mesh {
    /// All ranks.
    pub world: Group,
    /// The ranks that hold the same slice of the model and other samples.
    pub dp: Group,
    /// The same ranks once more, for weights that are gathered while gradients are reduced.
    pub gather: Group,
    /// The ranks that share the samples and hold the other slices of the model.
    pub tp: Group,
    /// Where this rank computes: a GPU where [`with_nccl`](crate::with_nccl) has made the groups carry its tensors.
    pub device: Device,
}

impl Mesh {
    /// The mesh of one rank.
    pub fn single() -> Mesh {
        Mesh {
            world: Group::single("world"),
            dp: Group::single("dp"),
            gather: Group::single("gather"),
            tp: Group::single("tp"),
            device: Device::Cpu,
        }
    }

    /// Whether a collective of this rank has failed in any of its groups.
    pub fn has_failed(&self) -> bool {
        [&self.world, &self.dp, &self.gather, &self.tp].into_iter().any(Group::has_failed)
    }

    /// Makes the groups of `rank` with `join(name, rank in the group, ranks of the world in the group)`.
    ///
    /// # Errors
    /// [`CommError::Mesh`] where dp × tp does not fill the world, and whatever `join` returns.
    pub fn build(
        rank: usize,
        world: usize,
        dp: usize,
        tp: usize,
        mut join: impl FnMut(&str, usize, &[usize]) -> Result<Group, CommError>,
    ) -> Result<Mesh, CommError> {
        if dp * tp != world {
            return Err(CommError::Mesh { dp, tp, world });
        }
        let (dp_rank, tp_rank) = (rank / tp, rank % tp);
        let everyone: Vec<usize> = (0..world).collect();
        let replicas: Vec<usize> = (0..dp).map(|i| i * tp + tp_rank).collect();
        let slices: Vec<usize> = (0..tp).map(|i| dp_rank * tp + i).collect();
        Ok(Mesh {
            world: join("world", rank, &everyone)?,
            dp: join(&format!("dp/{tp_rank}"), dp_rank, &replicas)?,
            gather: join(&format!("gather/{tp_rank}"), dp_rank, &replicas)?,
            tp: join(&format!("tp/{dp_rank}"), tp_rank, &slices)?,
            device: Device::Cpu,
        })
    }
}
