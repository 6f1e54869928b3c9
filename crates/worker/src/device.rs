//! Where the ranks of a run compute.

use strand_comm::{CommError, Mesh, gpu_name, num_gpus, with_nccl};
use strand_control::{RankEnv, visible_gpus};
use strand_recipe::{Device, Gpu, Recipe};

/// Why the ranks have no place to compute.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A rank cannot use its GPU.
    #[error("rank {rank}: {reason}")]
    Unusable {
        /// The rank.
        rank: usize,
        /// What it found.
        reason: String,
    },
    /// Some ranks have a GPU and some none.
    #[error("rank {without} has no GPU, and rank {with} has one")]
    Mixed {
        /// The first of the ones.
        with: usize,
        /// The first of the others.
        without: usize,
    },
    /// They could not tell each other, or their GPUs cannot.
    #[error(transparent)]
    Comm(#[from] CommError),
}

impl DeviceError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            DeviceError::Comm(error) => error.hint(),
            _ => Some("give every rank of a node a GPU, or set runtime.device to cpu".into()),
        }
    }
}

/// The mesh with each rank on its device. All ranks call this.
///
/// # Errors
/// See [`DeviceError`]; it is the same on all ranks.
pub fn place(mesh: Mesh, recipe: &Recipe, env: &RankEnv) -> Result<Mesh, DeviceError> {
    if recipe.runtime.device == Device::Cpu {
        return Ok(mesh);
    }
    let found = find(recipe.runtime.device, env);
    let word = match &found {
        Ok(gpu) => if gpu.is_some() { "gpu" } else { "cpu" }.to_owned(),
        Err(reason) => format!("!{reason}"),
    };
    let words = mesh.world.all_gather_bytes(word.as_bytes())?;
    agree(&words)?;
    match found {
        Ok(Some(gpu)) => Ok(with_nccl(&mesh, gpu)?),
        _ => Ok(mesh),
    }
}

/// FLOPs a second that a rank's device reaches in the recipe's precision, where its data sheet is known.
pub fn peak_flops(mesh: &Mesh, recipe: &Recipe) -> Option<f64> {
    let tch::Device::Cuda(index) = mesh.device else { return None };
    let name = gpu_name(index).ok()?;
    let gpu = Gpu::of_driver(&name);
    if gpu.is_none() && mesh.world.rank() == 0 {
        tracing::info!("the peak of {name:?} is not known: there is no mfu");
    }
    gpu.map(|gpu| gpu.flops.of(recipe.precision))
}

/// This rank's GPU, by its index among those that it sees; none where it is to run on CPUs.
fn find(wanted: Device, env: &RankEnv) -> Result<Option<usize>, String> {
    let seen = visible_gpus();
    if seen == 0 && wanted == Device::Auto {
        return Ok(None);
    }
    // The driver knows best: there may be GPUs without a node in /dev.
    match num_gpus() {
        Ok(count) if count > 0 || seen > 0 => choose(count, env.local_rank),
        Err(error) if seen > 0 => Err(format!("there are GPUs, but {error}")),
        Ok(_) => Err("there is no GPU, and runtime.device is cuda".into()),
        Err(error) => Err(format!("there is no GPU, and runtime.device is cuda: {error}")),
    }
}

fn choose(count: usize, local_rank: usize) -> Result<Option<usize>, String> {
    if local_rank < count {
        return Ok(Some(local_rank));
    }
    Err(format!("its node has {count} GPUs, and it is the one with local rank {local_rank}"))
}

/// What all ranks find is either a GPU or none.
fn agree(words: &[Vec<u8>]) -> Result<(), DeviceError> {
    for (rank, word) in words.iter().enumerate() {
        if let Some((b'!', reason)) = word.split_first() {
            let reason = String::from_utf8_lossy(reason).into_owned();
            return Err(DeviceError::Unusable { rank, reason });
        }
    }
    let first = |wanted: &[u8]| words.iter().position(|word| word == wanted);
    match (first(b"gpu"), first(b"cpu")) {
        (Some(with), Some(without)) => Err(DeviceError::Mixed { with, without }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(words: &[&str]) -> Result<(), String> {
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        agree(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn all_ranks_compute_on_the_same_sort_of_device() {
        assert_eq!(verdict(&["gpu", "gpu"]), Ok(()));
        assert_eq!(verdict(&["cpu"]), Ok(()));
        let mixed = "rank 1 has no GPU, and rank 0 has one";
        assert_eq!(verdict(&["gpu", "cpu", "cpu"]), Err(mixed.to_owned()));
        assert_eq!(verdict(&["cpu", "!no driver"]), Err("rank 1: no driver".to_owned()));
    }

    #[test]
    fn a_rank_has_the_gpu_of_its_local_rank() {
        assert_eq!(choose(2, 1), Ok(Some(1)));
        assert!(choose(2, 2).unwrap_err().contains("local rank 2"));
    }
}
