//! What a stage trains: weights, gradients, and the optimizer's state, divided among the data-parallel ranks as far as
//! the recipe says.
//!
//! A unit is what is gathered and reduced at one time: a layer, the head, or what stands in front of the layers. In a
//! unit, parameters that are treated alike lie side by side in one flat tensor, of which each rank keeps an equal part.

mod chunks;
mod held;
mod part;
mod reducer;
mod residency;
mod residue;

use std::collections::BTreeMap;
use std::sync::Arc;

use strand_comm::{Handle, Mesh, ReduceOp};
use strand_model::{
    Direction, Parameter, Parameters, Partition, Residency, VideoLm, tree_sum, wide,
};
use strand_torch::{AdamWStep, fused_adamw, trim_heap};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;
use crate::optimizer::AdamWConfig;
use crate::sharded::chunks::{CPU_CHUNK, GPU_CHUNK, chunks};
use crate::sharded::part::{Master, Part};
use crate::sharded::reducer::{Reducer, forget};
use crate::sharded::residency::Residents;

pub use held::Held;
pub use part::Zero;

/// What names of a layer's parameters begin with.
const LAYERS: &str = "model.layers.";
/// What stands behind the layers.
const HEAD: [&str; 3] = ["lm_head.", "model.norm.", "mvm_decoder."];

/// How a stage's state is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sharding {
    /// What is divided among the data-parallel ranks.
    pub zero: Zero,
    /// The type of the matrices that the model computes with. Vectors stay in fp32.
    pub kind: Kind,
    /// Whether masters and moments are in the memory of the CPU, where there is a GPU.
    pub offload: bool,
    /// Whether a step adds gradients up, over micro-batches or in 64 bits. Where it does not, nor over ranks, those of
    /// matrices stay in `kind`.
    pub accumulates: bool,
}

/// The state of a stage that is trained, on one rank.
pub struct Sharded {
    zero: Zero,
    optimizer: AdamWConfig,
    updates: u64,
    /// The head, the layers from the last to the first, and what is in front: in the order of their reduction.
    units: Vec<Vec<Part>>,
    reducer: Reducer,
    /// With ZeRO-3.
    residents: Option<Arc<Residents>>,
    /// Weights that are being gathered after an update.
    gathers: Vec<Handle>,
    mesh: Mesh,
}

impl Sharded {
    /// Moves a model's parameters into flat tensors and divides them. The parameters that ask for gradients are trained.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        model: &mut VideoLm,
        mesh: &Mesh,
        sharding: Sharding,
        optimizer: AdamWConfig,
    ) -> Result<Sharded, TrainError> {
        model.set_residency(None);
        let parameters = model.parameters();
        forget(parameters)?;
        let units = units(parameters, mesh, (sharding, &optimizer))?;
        // The heap would keep as much as all weights that lay there before.
        trim_heap();
        let reducer = Reducer::new(&units, parameters, &mesh.dp, sharding)?;
        let residents = (sharding.zero == Zero::Zero3)
            .then(|| {
                // The layers in their own order, then the rest.
                let layers = units[1..units.len() - 1].iter().rev();
                let count = layers.len();
                let rest = [&units[0], &units[units.len() - 1]];
                Residents::new(layers.chain(rest).map(Vec::as_slice), count, &mesh.gather)
            })
            .transpose()?;
        model.set_residency(residents.clone().map(|residents| residents as Arc<dyn Residency>));
        let (zero, mesh) = (sharding.zero, mesh.clone());
        Ok(Sharded {
            zero,
            optimizer,
            updates: 0,
            units,
            reducer,
            residents,
            gathers: Vec::new(),
            mesh,
        })
    }

    /// Updates done so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Continues after `updates` updates.
    pub fn resume_at(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// How much is divided among the ranks.
    pub(crate) fn zero(&self) -> Zero {
        self.zero
    }

    /// Begins a step: gradients are zero, the weights are the last update's.
    ///
    /// # Errors
    /// A collective failed.
    pub(crate) fn begin(&mut self) -> Result<(), TrainError> {
        self.settle()?;
        self.reducer.begin()?;
        if let Some(residents) = &self.residents {
            residents.begin()?;
        }
        Ok(())
    }

    /// Begins a forward and backward pass, the step's `last` or one before it.
    pub(crate) fn begin_pass(&self, last: bool) {
        self.reducer.begin_pass(last);
    }

    /// The collectives of a pass in one direction, without samples.
    ///
    /// # Errors
    /// A collective failed.
    pub(crate) fn walk(&self, direction: Direction) -> Result<(), TrainError> {
        match &self.residents {
            Some(residents) => Ok(residents.walk(direction)?),
            None => Ok(()),
        }
    }

    /// Ends a backward pass.
    ///
    /// # Errors
    /// A collective failed.
    pub(crate) fn end_pass(&self) -> Result<(), TrainError> {
        if let Some(residents) = &self.residents {
            residents.end_pass()?;
        }
        self.reducer.end_pass()
    }

    /// Waits for the weights.
    ///
    /// # Errors
    /// A collective failed.
    pub fn settle(&mut self) -> Result<(), TrainError> {
        self.gathers.drain(..).try_for_each(|handle| Ok(handle.wait()?))
    }

    /// Ends the stage: the model has all of its weights again.
    ///
    /// # Errors
    /// A collective failed.
    pub fn dissolve(mut self, model: &mut VideoLm) -> Result<(), TrainError> {
        self.settle()?;
        if let Some(residents) = &self.residents {
            residents.gather_all()?;
        }
        model.set_residency(None);
        forget(model.parameters())
    }

    /// Norm of the whole gradient, the same on every rank.
    ///
    /// # Errors
    /// A collective failed.
    pub fn norm(&self, model: &VideoLm) -> Result<f64, TrainError> {
        let slices = model.slices();
        let mut replicated = Tensor::zeros([1], (Kind::Double, self.mesh.device));
        let mut split: Vec<Tensor> = (0..slices.count).map(|_| replicated.zeros_like()).collect();
        for (part, gradient) in self.gradients() {
            match part.is_split {
                false => replicated += square(&gradient),
                true if self.zero != Zero::Zero0 => split[0] += square(&gradient),
                // Summed as it would be wherever it lay.
                true => {
                    for (parameter, gradient) in part.members(model.parameters(), &gradient) {
                        let Partition::Split { dim, .. } = parameter.partition else { continue };
                        for (sum, gradient) in split.iter_mut().zip(slices.cut(&gradient, dim)) {
                            *sum += square(&gradient);
                        }
                    }
                }
            }
        }
        let sums = Tensor::cat(&[replicated, tree_sum(split)], 0);
        if self.zero != Zero::Zero0 {
            self.mesh.dp.all_reduce(&sums, ReduceOp::Sum)?.wait()?;
        }
        let split = slices.all_reduce(sums.narrow(0, 1, 1).copy())?;
        Ok((sums.narrow(0, 0, 1) + split).sqrt().double_value(&[0]))
    }

    /// This rank's gradients of the trained parts.
    pub(crate) fn own_gradients(&self) -> Vec<Tensor> {
        self.reducer.own()
    }

    /// The trained parts and this rank's gradients of them.
    fn gradients(&self) -> impl Iterator<Item = (&Part, Tensor)> {
        let trained = self.units.iter().flatten().filter(|part| part.trained.is_some());
        trained.zip(self.reducer.own())
    }

    /// Clips the gradient to `max_norm` as `torch.nn.utils.clip_grad_norm_` does, updates what this rank keeps, and
    /// starts to gather the weights.
    ///
    /// # Errors
    /// libtorch's own, or a collective failed.
    pub fn update(&mut self, lr: f64, norm: f64, max_norm: Option<f64>) -> Result<(), TrainError> {
        let grad_scale = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.updates += 1;
        if let Some(residents) = &self.residents {
            residents.release_all()?;
        }
        let groups = (0..self.optimizer.groups.len()).map(Some);
        for group in std::iter::once(None).chain(groups) {
            self.update_group(group, lr, grad_scale)?;
        }
        self.publish()
    }

    /// Updates the parameters of a group.
    fn update_group(
        &self,
        group: Option<usize>,
        lr: f64,
        grad_scale: f64,
    ) -> Result<(), TrainError> {
        let (lr_scale, weight_decay) = self.optimizer.rates(group);
        let AdamWConfig { betas, eps, .. } = self.optimizer;
        let (updates, lr) = (self.updates, lr * lr_scale);
        let step = AdamWStep { updates, lr, betas, eps, weight_decay, grad_scale };
        let [mut masters, mut gradients, mut exp_avgs, mut exp_avg_sqs] = [const { Vec::new() }; 4];
        for (part, gradient) in self.gradients().filter(|(part, _)| part.group == group) {
            let Some(trained) = &part.trained else { continue };
            let is_like = |master: &&Tensor| {
                (master.device(), master.kind()) == (gradient.device(), gradient.kind())
            };
            let master = match &trained.master {
                Master::Same(master) | Master::Apart(master) => Some(master).filter(is_like),
                Master::Residues(_) => None,
            };
            let Some(master) = master else {
                // One by one: there is no room for all gradients in the memory and the type of the masters.
                trained.update(&part.own(), &gradient, step)?;
                continue;
            };
            masters.push(master.shallow_clone());
            gradients.push(gradient);
            exp_avgs.push(trained.exp_avg.shallow_clone());
            exp_avg_sqs.push(trained.exp_avg_sq.shallow_clone());
        }
        Ok(fused_adamw(&masters, &gradients, &exp_avgs, &exp_avg_sqs, step)?)
    }

    /// Lets a step pass without its update.
    ///
    /// # Errors
    /// A collective failed.
    pub fn leave_out(&mut self) -> Result<(), TrainError> {
        self.updates += 1;
        match &self.residents {
            Some(residents) => Ok(residents.release_all()?),
            None => Ok(()),
        }
    }

    /// Makes the masters the weights that the model computes with.
    ///
    /// # Errors
    /// libtorch's own, or a collective failed.
    pub fn publish(&mut self) -> Result<(), TrainError> {
        for part in self.units.iter().flatten() {
            let Some(trained) = &part.trained else { continue };
            let mut own = part.own();
            if let Master::Apart(master) = &trained.master {
                tch::no_grad(|| own.f_copy_(master))?;
            }
            if self.residents.is_none() && !part.is_whole() {
                let gather = &self.mesh.gather;
                self.gathers.push(gather.all_gather_into(&part.flat.weights, &own.copy())?);
            }
        }
        Ok(())
    }
}

/// Sum of the squares, a few values at a time, in fp64 from one part to the next. A CPU reads them once and writes nothing;
/// the sum does not depend on its threads.
fn square(gradient: &Tensor) -> Tensor {
    let values = gradient.reshape(-1);
    let most = if values.device() == Device::Cpu { CPU_CHUNK } else { GPU_CHUNK };
    let squares = chunks([&values], most).map(|[part]| {
        let part = part.to_kind(wide(part.kind()));
        match part.device() {
            Device::Cpu => part.dot(&part),
            _ => part.square().sum(Kind::Double),
        }
    });
    Tensor::stack(&squares.collect::<Vec<_>>(), 0).sum(Kind::Double)
}

/// The units in the order of their reduction.
fn units(
    parameters: &Parameters,
    mesh: &Mesh,
    rules: (Sharding, &AdamWConfig),
) -> Result<Vec<Vec<Part>>, TrainError> {
    let mut layers: BTreeMap<usize, Vec<&Parameter>> = BTreeMap::new();
    let [mut head, mut front] = [const { Vec::new() }; 2];
    for parameter in parameters.iter() {
        match layer_of(&parameter.name) {
            Some(layer) => layers.entry(layer).or_default().push(parameter),
            None if HEAD.iter().any(|part| parameter.name.starts_with(part)) => {
                head.push(parameter)
            }
            None => front.push(parameter),
        }
    }
    let units = std::iter::once(head).chain(layers.into_values().rev()).chain([front]);
    units.map(|unit| parts(&unit, mesh, rules)).collect()
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix(LAYERS)?.split('.').next()?.parse().ok()
}

/// What is treated alike in a unit.
fn parts(
    unit: &[&Parameter],
    mesh: &Mesh,
    (sharding, optimizer): (Sharding, &AdamWConfig),
) -> Result<Vec<Part>, TrainError> {
    type Key = (Option<usize>, bool, bool, bool);
    let mut alike: BTreeMap<Key, Vec<&Parameter>> = BTreeMap::new();
    for &parameter in unit {
        let is_matrix = parameter.shape.len() > 1;
        let group = optimizer.group_of(&parameter.name);
        let key = (group, parameter.tensor.requires_grad(), is_matrix, parameter.is_split());
        alike.entry(key).or_default().push(parameter);
    }
    let rank = (mesh.dp.rank() as i64, mesh.dp.size() as i64);
    let part = |((group, _, is_matrix, _), parameters): (Key, Vec<&Parameter>)| {
        let wide = wide(sharding.kind);
        let kind = if is_matrix { sharding.kind } else { wide };
        let Sharding { zero, offload, .. } = sharding;
        Ok(Part { group, ..Part::new(&parameters, (wide, kind), (zero, offload), rank)? })
    };
    alike.into_iter().map(part).collect()
}
