//! How long a step takes, by simple formulas: docs/plan.md has them in one table.

use serde::Serialize;
use strand_recipe::Work;

use super::case::Case;
use super::state::State;

/// Share of a memory's bandwidth that elementwise kernels reach: an assumption.
const MEMORY_SHARE: f64 = 0.8;
/// Bytes a second between a device and its node's memory that is not page-locked: an assumption, a fifth of PCIe 5.0.
const HOST_LINK: f64 = 12e9;
/// Bytes a second to and from a node's memory, for all its ranks: an assumption, two sockets of eight channels DDR5.
const NODE_BANDWIDTH: f64 = 300e9;

/// Seconds of a step. An estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Time {
    /// Products of matrices.
    pub products_s: f64,
    /// Norms, rotations, gates and sums, which wait for memory.
    pub elementwise_s: f64,
    /// Collectives of tensor parallelism: nothing hides them.
    pub tensor_parallel_s: f64,
    /// Collectives of data parallelism that computing does not hide.
    pub data_parallel_s: f64,
    /// The optimizer.
    pub update_s: f64,
    /// All of it.
    pub step_s: f64,
    /// FLOPs of the model in a second ÷ the devices' peak. What is computed again does not count.
    pub mfu: f64,
    /// Samples a second, over all ranks.
    pub samples_per_s: f64,
}

/// FLOPs of a step over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flops {
    /// Of the model, the teacher counted.
    pub model: f64,
    /// Of them, the teacher's.
    pub teacher: f64,
    /// What activation checkpointing computes again.
    pub again: f64,
}

impl Flops {
    /// The FLOPs of a step.
    pub fn of(case: Case, state: &State) -> Flops {
        let (llama, work) = (&case.recipe.model.llama, work(case));
        Flops {
            model: llama.step_flops(&work, state.trained_share()),
            teacher: llama.teacher_flops(&work),
            again: if case.recomputes() { llama.student_flops(&work) } else { 0.0 },
        }
    }
}

/// What a step computes, over all ranks.
pub fn work(case: Case) -> Work {
    case.sample.work(case.batch().global)
}

impl Time {
    /// The time of a stage's step.
    pub fn of(case: Case, state: &State, flops: Flops) -> Time {
        let clock = Clock { case, state, world: case.world.world_size as f64 };
        let products_s = (flops.model + flops.again) / clock.rate();
        let elementwise_s = clock.elementwise();
        let tensor_parallel_s = clock.tensor_parallel();
        let data_parallel_s = clock.data_parallel(flops);
        let update_s = clock.update();
        let step_s = products_s + elementwise_s + tensor_parallel_s + data_parallel_s + update_s;
        let peak = clock.world * case.gpu.flops.of(case.recipe.precision);
        let samples_per_s = case.batch().global as f64 / step_s;
        let mfu = flops.model / step_s / peak;
        Time {
            products_s,
            elementwise_s,
            tensor_parallel_s,
            data_parallel_s,
            update_s,
            step_s,
            mfu,
            samples_per_s,
        }
    }
}

struct Clock<'a> {
    case: Case<'a>,
    state: &'a State<'a>,
    world: f64,
}

impl Clock<'_> {
    /// FLOPs a second that all devices reach together.
    fn rate(&self) -> f64 {
        let gpu = self.case.gpu;
        self.world * gpu.flops.of(self.case.recipe.precision) * gpu.share
    }

    /// How often a token passes a layer: forward, back (twice as much), again; and the teacher's.
    fn passes(&self) -> [f64; 2] {
        let again = if self.case.recomputes() { 1.0 } else { 0.0 };
        [3.0 + again, 1.0]
    }

    /// Tokens of the student and of the teacher that one rank's layers see in a step.
    fn tokens(&self) -> [f64; 2] {
        let (work, dp) = (work(self.case), self.case.world.dp as f64);
        [work.student_tokens as f64 / dp, work.teacher_tokens as f64 / dp]
    }

    /// Tokens times passes.
    fn token_passes(&self) -> f64 {
        let (tokens, passes) = (self.tokens(), self.passes());
        tokens[0] * passes[0] + tokens[1] * passes[1]
    }

    fn elementwise(&self) -> f64 {
        let llama = &self.case.recipe.model.llama;
        let traffic = self.token_passes() * llama.num_hidden_layers as f64 * self.traffic();
        traffic / (self.case.gpu.bandwidth * MEMORY_SHARE)
    }

    /// Bytes that the elementwise kernels of a layer's forward pass read and write for a token: two values of each of two
    /// norms, ten of each rotation of queries and of keys, six of residual sums, five of the gate.
    fn traffic(&self) -> f64 {
        let (case, llama) = (self.case, &self.case.recipe.model.llama);
        let narrow = case.narrow() as f64;
        let (hidden, inner) = (llama.hidden_size as f64, llama.intermediate_size as f64);
        let keys = (llama.key_value_heads() * llama.head_dim()) as f64;
        let norms = (4.0 + 6.0) * narrow * hidden;
        let parts = 10.0 * narrow * (hidden + keys) + 5.0 * narrow * inner;
        norms / case.sequence_ranks() as f64 + parts / case.world.tp as f64
    }

    /// Two collectives a layer and pass: each moves 2·(tp − 1)/tp of the hidden states.
    fn tensor_parallel(&self) -> f64 {
        let (case, llama) = (self.case, &self.case.recipe.model.llama);
        let tp = case.world.tp as f64;
        // The backward pass has as many collectives as the forward pass, though it computes twice as much.
        let [student, teacher] = self.passes();
        let tokens = self.tokens();
        let passes = tokens[0] * (student - 1.0) + tokens[1] * teacher;
        let bytes = passes * llama.hidden_size as f64 * case.narrow() as f64;
        2.0 * llama.num_hidden_layers as f64 * bytes * 2.0 * (tp - 1.0) / tp / self.tensor_link()
    }

    /// Bytes a second between tensor-parallel ranks, which are neighbours.
    fn tensor_link(&self) -> f64 {
        let world = self.case.world;
        if world.tp <= world.ranks_per_node { self.case.gpu.link } else { self.case.gpu.network }
    }

    /// Bytes a second between data-parallel ranks: a ring is as fast as its slowest link.
    fn data_link(&self) -> f64 {
        if self.case.world.nodes > 1 { self.case.gpu.network } else { self.case.gpu.link }
    }

    /// Gradients are reduced behind the backward pass, layers are gathered (ZeRO-3) behind both passes: what takes longer
    /// than the computing stays. Weights gathered after an update (ZeRO-1 and 2), the last unit's gradients, and with
    /// ZeRO-3 the head and the embedding before a step have nothing to hide behind.
    fn data_parallel(&self, flops: Flops) -> f64 {
        let (case, state) = (self.case, self.state);
        let dp = case.world.dp as f64;
        let ring = (dp - 1.0) / dp / self.data_link();
        let gradients = state.trained_values() as f64 * case.wide() as f64 * ring;
        let passes = case.micro_batches() as f64;
        let layers = state.layers_bytes() as f64 * ring;
        // Of frozen weights there is no gradient to compute.
        let share = state.trained_share();
        let forward = (flops.model - flops.teacher) / (2.0 + share);
        let seconds = |flops: f64| flops / self.rate();
        let behind = |work: f64, computing: f64| (work - computing).max(0.0);
        let back = seconds((1.0 + share) * forward + flops.again);
        let front = state.outside_bytes() as f64 * ring;
        match case.zero() {
            0 => behind(2.0 * gradients, back / passes),
            1 => behind(gradients, back / passes) + state.trained_bytes() as f64 * ring,
            2 => behind(passes * gradients, back) + state.trained_bytes() as f64 * ring,
            _ => {
                let forwards = if case.sample.has_teacher { 2.0 } else { 1.0 };
                front
                    + behind(passes * forwards * layers, seconds(forward + flops.teacher))
                    + behind(passes * (gradients + layers), back)
            }
        }
    }

    /// AdamW reads the gradient, reads and writes master and moments, and writes the weight. Where the node keeps them,
    /// gradients go there and weights back, one after the other.
    fn update(&self) -> f64 {
        let (narrow, wide) = (self.case.narrow() as f64, self.case.wide() as f64);
        let values = self.state.updated() as f64;
        let summed = self.case.summed() as f64;
        // Narrow ones are widened first.
        let gradient = if summed < wide { summed + 2.0 * wide } else { wide };
        let bytes = values * (6.0 * wide + narrow + gradient);
        if self.case.offloads() {
            let ranks = self.case.world.ranks_per_node as f64;
            return values * (summed + narrow) / HOST_LINK + bytes * ranks / NODE_BANDWIDTH;
        }
        bytes / (self.case.gpu.bandwidth * MEMORY_SHARE)
    }
}
