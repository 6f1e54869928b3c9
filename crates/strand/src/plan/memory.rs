//! Bytes of one rank, moment by moment.

use std::ops::Add;

use serde::Serialize;

use super::activations::Activations;
use super::case::Case;
use super::state::State;

/// What a CPU's process holds beside a step's passing tensors, as a share of them: the C library's heap keeps freed memory
/// between blocks that live on. Measured over models of several sizes, see docs/plan.md.
const HEAP: f64 = 0.2;

/// What a rank's memory holds at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The weights that the model computes with, of this rank.
    pub weights: u64,
    /// Sums of gradients.
    pub gradients: u64,
    /// Master weights and moments.
    pub optimizer: u64,
    /// What the student's pass keeps, and what the pass that runs needs for itself.
    pub activations: u64,
    /// What the teacher's pass needs.
    pub teacher: u64,
    /// The logits and their gradient.
    pub logits: u64,
    /// Weights and gradients on their way between ranks, features, and what an update needs.
    pub buffers: u64,
    /// Freed memory that is not given back. GPUs have none here: what is filled of a device leaves room for it.
    pub heap: u64,
    /// What the process takes without a model.
    pub runtime: u64,
}

impl Bytes {
    /// The names and the bytes, in order.
    pub fn parts(&self) -> [(&'static str, u64); 9] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("teacher pass", self.teacher),
            ("logits", self.logits),
            ("buffers", self.buffers),
            ("heap", self.heap),
            ("runtime", self.runtime),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Add for Bytes {
    type Output = Bytes;

    fn add(self, other: Bytes) -> Bytes {
        Bytes {
            weights: self.weights + other.weights,
            gradients: self.gradients + other.gradients,
            optimizer: self.optimizer + other.optimizer,
            activations: self.activations + other.activations,
            teacher: self.teacher + other.teacher,
            logits: self.logits + other.logits,
            buffers: self.buffers + other.buffers,
            heap: self.heap + other.heap,
            runtime: self.runtime + other.runtime,
        }
    }
}

/// A moment of a run, and what is held then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// When.
    pub at: &'static str,
    /// All of it.
    pub total: u64,
    /// What it is made of.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// The memory of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The moment at which most is held.
    pub peak: Moment,
    /// That of a step: without what comes before the first.
    pub step: Moment,
    /// The most of each of the moments.
    pub moments: Vec<Moment>,
    /// Memory of the node, not of the GPU, that each rank needs: features read ahead, and a checkpoint while it is
    /// written. On CPUs both are the same memory.
    pub host: Host,
    /// What has to be there: the peak, on CPUs with what the host's part adds.
    pub needed: u64,
}

/// Memory of the node for one rank, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Features read ahead.
    pub features: u64,
    /// This rank's part of a checkpoint.
    pub checkpoint: u64,
    /// Masters and moments that are kept there.
    pub optimizer: u64,
}

impl Memory {
    /// The memory of a stage's ranks.
    pub fn of(case: Case, state: &State, checkpoint: u64) -> Memory {
        let moments = Moments { case, state, pass: Activations::of(case) }.all();
        // There is the setup, and there are moments of a step.
        let (peak, step) = (greatest(&moments), greatest(&moments[1..]));
        let host = Host {
            features: (case.recipe.runtime.prefetch_mib as u64) << 20,
            checkpoint: checkpoint.div_ceil(case.world.world_size as u64),
            optimizer: state.offloaded(),
        };
        let between_steps = moments.last().map_or(0, |update| update.total);
        let needed = match case.is_cpu() {
            true => peak.total.max(between_steps + host.checkpoint) + host.features,
            false => peak.total,
        };
        Memory { peak, step, moments, host, needed }
    }
}

/// The first of the moments at which most is held; there is one.
fn greatest(moments: &[Moment]) -> Moment {
    let most = |best: Moment, next: &Moment| if next.total > best.total { *next } else { best };
    moments.iter().fold(moments[0], most)
}

struct Moments<'a> {
    case: Case<'a>,
    state: &'a State<'a>,
    pass: Activations<'a>,
}

impl Moments<'_> {
    fn all(&self) -> Vec<Moment> {
        let mut moments = vec![("setup", self.setup())];
        if self.case.sample.has_teacher {
            moments.push(("teacher pass", self.teacher()));
        }
        moments.push(("head, backward", self.head()));
        let layers = self.case.recipe.model.llama.num_hidden_layers;
        // Later, gradients that are under way are no more, and activations less.
        let depths = (0..layers.min(3)).map(|depth| self.layer(layers - 1 - depth, depth));
        if let Some(layer) = depths.max_by_key(Bytes::total) {
            moments.push(("layer, backward", layer));
        }
        moments.push(("update", self.update()));
        moments.into_iter().map(|(at, bytes)| self.moment(at, bytes)).collect()
    }

    fn moment(&self, at: &'static str, mut bytes: Bytes) -> Moment {
        if self.case.is_cpu() {
            let passing = bytes.activations + bytes.teacher + bytes.logits;
            bytes.heap = (HEAP * passing as f64) as u64;
        }
        Moment { at, total: bytes.total(), bytes }
    }

    /// What is held all the time.
    fn held(&self) -> Bytes {
        Bytes {
            weights: self.state.weights(),
            gradients: self.state.gradients(),
            optimizer: self.state.optimizer(),
            buffers: if self.case.is_cpu() { self.pass.stored_features() } else { 0 },
            runtime: self.case.gpu.runtime,
            ..Bytes::default()
        }
    }

    fn setup(&self) -> Bytes {
        Bytes { weights: self.state.setup(), runtime: self.case.gpu.runtime, ..Bytes::default() }
    }

    /// The student has passed, and its head: all that they keep is there.
    fn teacher(&self) -> Bytes {
        let pass = &self.pass;
        let student = pass.layers() + pass.final_norm() + pass.hidden_states();
        self.held()
            + Bytes {
                activations: student + pass.features() + pass.source(),
                teacher: pass.teacher_pass(),
                logits: pass.logits(),
                buffers: self.state.gathered(2),
                ..Bytes::default()
            }
    }

    fn head(&self) -> Bytes {
        let pass = &self.pass;
        let losses = pass.final_norm() + pass.hidden_states() + pass.mvm();
        let kept = pass.layers() + losses + pass.features();
        self.held()
            + Bytes {
                activations: kept + pass.hidden_gradients(),
                logits: pass.logits() + pass.head_backward(),
                buffers: self.state.gathered(0) + self.state.reduced_head(),
                ..Bytes::default()
            }
    }

    /// The layer `depth` from the last. What those behind it kept is gone.
    fn layer(&self, layer: usize, depth: usize) -> Bytes {
        let pass = &self.pass;
        let done = layer + 1..=layer + depth;
        let again = self.case.recomputes();
        let done = done.map(|layer| if again { pass.layer_input() } else { pass.layer(layer) });
        let kept =
            pass.layers().saturating_sub(done.sum()) + if again { pass.layer(layer) } else { 0 };
        self.held()
            + Bytes {
                activations: kept + pass.features() + pass.layer_backward(layer),
                buffers: self.state.gathered(2) + self.state.reduced(depth),
                ..Bytes::default()
            }
    }

    fn update(&self) -> Bytes {
        self.held() + Bytes { buffers: self.state.update(), ..Bytes::default() }
    }
}
