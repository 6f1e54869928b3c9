//! What of a recipe leaves the result as it is: checkpoints, traces, processes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// When checkpoints are written and how many stay. The last one of each stage is always written and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Steps between two checkpoints.
    pub every_steps: u64,
    /// How many of them stay, beside the stages' last ones.
    pub keep: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint { every_steps: 500, keep: 2 }
    }
}

/// What metrics.jsonl records beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The ids of each step's samples, in global order.
    #[serde(default)]
    pub samples: bool,
}

/// Settings of the processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Where the ranks compute.
    #[serde(skip_serializing_if = "Device::is_auto")]
    pub device: Device,
    /// Compute threads of each rank on CPUs; cores ÷ ranks on the node where unset.
    pub threads_per_rank: Option<usize>,
    /// A collective that takes longer fails the run, in seconds.
    pub collective_timeout_s: f64,
    /// Bytes of features read ahead by each rank, in MiB.
    pub prefetch_mib: usize,
    /// Damaged samples that a whole run may leave out, over all ranks and restarts; one more fails it. Those left out
    /// are listed in skipped.jsonl.
    pub skip_budget: u64,
    /// What is done about steps whose loss or gradient is of no use.
    pub bad_steps: BadSteps,
    /// Row groups from object storage kept on the node's disk, for all its ranks.
    pub cache: Cache,
}

/// Where the ranks compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// On GPUs where the node has some, each rank on its own; else on CPUs.
    #[default]
    Auto,
    /// On CPUs.
    Cpu,
    /// Each rank on the GPU whose index is its local rank; without one the run fails.
    Cuda,
}

impl Device {
    fn is_auto(&self) -> bool {
        *self == Device::Auto
    }
}

/// What is done about a step whose loss or gradient is of no use, on all ranks together, before its update: the update
/// is left out, then the run goes back to its last checkpoint and leaves the step out when it comes again, then it stops
/// with code 6. bad-steps.jsonl lists such steps and their samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BadSteps {
    /// Steps that may be left out since the run began or last went back.
    pub budget: u64,
    /// How often the run may go back.
    pub roll_backs: u64,
    /// A loss or gradient norm this many times the median of the stage's last 64 good steps is bad, too. Where unset,
    /// only numbers that are not finite are.
    pub spike_factor: Option<f64>,
}

/// Row groups on a node's disk: with it the ranks of a node fetch each of them once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// When there is one.
    pub mode: CacheMode,
    /// Its folder on each node; `strand/row-groups` in the user's cache folder where unset.
    pub folder: Option<String>,
    /// Most bytes on disk, as in `20GiB`; 20GiB or a tenth of the free disk, whichever is smaller, where unset.
    #[schemars(with = "Option<String>")]
    pub limit: Option<ByteSize>,
}

/// When there is a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// For data sets in object storage, where a node has several ranks.
    #[default]
    Auto,
    /// For all data sets in object storage.
    On,
    /// Never.
    Off,
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime {
            device: Device::default(),
            threads_per_rank: None,
            collective_timeout_s: 600.0,
            prefetch_mib: 256,
            skip_budget: 0,
            bad_steps: BadSteps::default(),
            cache: Cache::default(),
        }
    }
}
