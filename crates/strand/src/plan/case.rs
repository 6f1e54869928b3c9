//! A stage on a mesh of devices: what everything else is computed from.

use serde::Serialize;
use strand_recipe::{ActivationCheckpointing, Batch, Gpu, Precision, Recipe, Stage};

use super::shapes::SampleShape;

/// The ranks: world = dp × tp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct World {
    /// All ranks.
    pub world_size: usize,
    /// Data-parallel ranks.
    pub dp: usize,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Ranks of a node.
    pub ranks_per_node: usize,
    /// Nodes.
    pub nodes: usize,
}

impl World {
    /// The mesh of a recipe in a world of `world_size` ranks.
    ///
    /// # Errors
    /// The recipe does not fill it.
    pub fn of(
        recipe: &Recipe,
        world_size: usize,
        ranks_per_node: usize,
    ) -> Result<World, strand_recipe::RecipeError> {
        let (dp, tp) = recipe.world(world_size)?;
        let ranks_per_node = ranks_per_node.clamp(1, world_size);
        let nodes = world_size.div_ceil(ranks_per_node);
        Ok(World { world_size, dp, tp, ranks_per_node, nodes })
    }
}

/// A stage on a mesh of devices.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub recipe: &'a Recipe,
    pub stage: &'a Stage,
    pub sample: SampleShape,
    pub world: World,
    pub gpu: &'a Gpu,
}

impl Case<'_> {
    /// Samples of a step, and how they come.
    pub fn batch(&self) -> Batch {
        self.stage.batch.unwrap_or(self.recipe.batch)
    }

    /// Samples of a step of the rank that has most.
    pub fn share(&self) -> usize {
        self.batch().global.div_ceil(self.world.dp)
    }

    /// Samples that go through the model at once.
    pub fn micro_batch(&self) -> usize {
        self.batch().micro.unwrap_or(usize::MAX).clamp(1, self.share())
    }

    /// Passes of a step.
    pub fn micro_batches(&self) -> usize {
        self.share().div_ceil(self.micro_batch())
    }

    /// Bytes of a value that the model computes with.
    pub fn narrow(&self) -> u64 {
        match self.recipe.precision {
            Precision::Bf16 => 2,
            Precision::Fp32 => 4,
            Precision::Fp64 => 8,
        }
    }

    /// Bytes of a value of a master weight, a moment, a gradient's sum or a norm.
    pub fn wide(&self) -> u64 {
        self.narrow().max(4)
    }

    /// Bytes of a gradient's value of a matrix: wide where others are added to it.
    pub fn summed(&self) -> u64 {
        let is_alone = self.world.dp == 1 && self.micro_batches() == 1;
        let adds = !is_alone || self.recipe.parallel.exact_tp.is_some();
        if adds { self.wide() } else { self.narrow() }
    }

    /// Stage of ZeRO.
    pub fn zero(&self) -> u8 {
        self.recipe.memory.zero
    }

    /// Whether layers are computed again in the backward pass.
    pub fn recomputes(&self) -> bool {
        self.recipe.memory.activation_checkpointing == ActivationCheckpointing::Full
    }

    /// Whether the gated values of MLPs are computed again in the backward pass: factors of LoRA would keep them.
    pub fn recomputes_gates(&self) -> bool {
        let is_down = |target: &String| target == "down_proj";
        let lora = self.recipe.model.lora.as_ref().filter(|lora| lora.rank > 0);
        self.recipe.memory.activation_checkpointing == ActivationCheckpointing::Selective
            && !lora.is_some_and(|lora| lora.targets.iter().any(is_down))
    }

    /// Whether masters and moments are in the node's memory and not in the device's.
    pub fn offloads(&self) -> bool {
        self.recipe.memory.offload_optimizer && !self.is_cpu()
    }

    /// Ranks that divide what stands between tensor-parallel products.
    pub fn sequence_ranks(&self) -> u64 {
        if self.recipe.parallel.sequence_parallel { self.world.tp as u64 } else { 1 }
    }

    /// Whether products of bf16 matrices run in fp32, as on CPUs without the instructions (`strand-model`'s
    /// `product_kind`).
    pub fn widens_products(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.is_cpu() && self.recipe.precision == Precision::Bf16 {
            return !std::arch::is_x86_feature_detected!("avx512bf16");
        }
        false
    }

    /// Whether ranks run on CPUs, where the node's memory is the device's.
    pub fn is_cpu(&self) -> bool {
        self.gpu.name == super::gpu::CPU
    }
}
