//! Parameters of a unit that are gathered, reduced and updated together, and what this rank keeps of them.

use std::ops::Range;

use strand_model::{Flat, Parameter, Parameters};
use strand_torch::{AdamWStep, fused_adamw};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;
use crate::sharded::chunks::{at_once, chunks};
use crate::sharded::residue;

/// How much of the training state the data-parallel ranks divide among themselves (arXiv 1910.02054).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zero {
    /// Nothing.
    Zero0,
    /// Masters and moments.
    Zero1,
    /// Gradients, too.
    Zero2,
    /// Weights, too.
    Zero3,
}

/// Parameters in one flat tensor. They are of one kind, and all trained or all frozen.
pub(crate) struct Part {
    /// The weights that the model computes with.
    pub flat: Flat,
    /// This rank's values of it.
    pub range: Range<i64>,
    /// The group of the optimizer that they belong to.
    pub group: Option<usize>,
    /// Whether tensor-parallel ranks hold different values.
    pub is_split: bool,
    /// These values, where the flat tensor's memory comes and goes.
    pub kept: Option<Tensor>,
    /// Where the parameters are trained.
    pub trained: Option<Trained>,
}

/// What training keeps of a range of a part, `[values]` each.
pub(crate) struct Trained {
    /// Where the weights are in fp32 (fp64 in a run of that precision).
    pub master: Master,
    /// Decaying mean of the gradient.
    pub exp_avg: Tensor,
    /// Decaying mean of its square.
    pub exp_avg_sq: Tensor,
}

/// The weights that the optimizer updates.
pub(crate) enum Master {
    /// Those that the model computes with.
    Same(Tensor),
    /// Beside the model's, where these are bf16 on a GPU, or not in the memory where masters are.
    Apart(Tensor),
    /// The model's, in bf16 on a CPU, and how far they are from these: see [`residue`].
    Residues(Tensor),
}

impl Master {
    fn device(&self) -> Device {
        match self {
            Master::Same(values) | Master::Apart(values) | Master::Residues(values) => {
                values.device()
            }
        }
    }
}

impl Trained {
    /// Updates these values alone, a few at a time; `own` are those that the model computes with.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn update(
        &self,
        own: &Tensor,
        gradient: &Tensor,
        step: AdamWStep,
    ) -> Result<(), TrainError> {
        let (exp_avg, exp_avg_sq) = (&self.exp_avg, &self.exp_avg_sq);
        let gradient = &gradient.f_to_device(exp_avg.device())?;
        match &self.master {
            Master::Same(master) | Master::Apart(master) if master.kind() == gradient.kind() => {
                let all = [master, gradient, exp_avg, exp_avg_sq];
                adamw(all.map(Tensor::shallow_clone), step)?;
            }
            Master::Same(master) | Master::Apart(master) => {
                for [master, gradient, exp_avg, exp_avg_sq] in
                    chunks([master, gradient, exp_avg, exp_avg_sq], at_once(master.device()))
                {
                    let gradient = gradient.f_to_kind(master.kind())?;
                    adamw([master, gradient, exp_avg, exp_avg_sq], step)?;
                }
            }
            Master::Residues(residues) => {
                for [own, residues, gradient, exp_avg, exp_avg_sq] in
                    chunks([own, residues, gradient, exp_avg, exp_avg_sq], at_once(own.device()))
                {
                    let master = residue::whole(&own, &residues)?;
                    let gradient = gradient.f_to_kind(master.kind())?;
                    adamw([master.shallow_clone(), gradient, exp_avg, exp_avg_sq], step)?;
                    residue::write(&master, &own, &residues)?;
                }
            }
        }
        Ok(())
    }
}

/// Updates a weight with its gradient and moments.
fn adamw(tensors: [Tensor; 4], step: AdamWStep) -> Result<(), TrainError> {
    let [weight, gradient, exp_avg, exp_avg_sq] = tensors.map(|tensor| [tensor]);
    Ok(fused_adamw(&weight, &gradient, &exp_avg, &exp_avg_sq, step)?)
}

impl Part {
    /// Moves parameters into a flat tensor of `kind`, of which rank `rank` of `size` keeps its share, where they are
    /// trained in `wide`; on the CPU where that is `offloaded`.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        parameters: &[&Parameter],
        (wide, kind): (Kind, Kind),
        (zero, offloaded): (Zero, bool),
        (rank, size): (i64, i64),
    ) -> Result<Part, TrainError> {
        let is_trained = parameters.iter().any(|parameter| parameter.tensor.requires_grad());
        // Of what is frozen nothing but the weights could be divided, and only ZeRO-3 gathers those that it needs.
        let is_divided = if is_trained { zero != Zero::Zero0 } else { zero == Zero::Zero3 };
        let shards = if is_divided { size } else { 1 };
        let mut flat = Flat::of(parameters, wide, shards)?;
        let length = flat.weights.size()[0] / shards;
        let start = if shards == 1 { 0 } else { rank * length };
        let range = start..start + length;
        let own = |flat: &Flat| flat.weights.narrow(0, start, length);
        let original = own(&flat);
        if kind != wide {
            flat.recast(parameters, kind)?;
        }
        let kept = (zero == Zero::Zero3).then(|| own(&flat).copy());
        let trained = is_trained.then(|| -> Result<Trained, TrainError> {
            let master = match &kept {
                _ if offloaded && original.device() != Device::Cpu => {
                    Master::Apart(original.f_to_device(Device::Cpu)?)
                }
                _ if kind != wide && original.device() == Device::Cpu => {
                    Master::Residues(residue::of(&original, &own(&flat))?)
                }
                _ if kind != wide => Master::Apart(original.copy()),
                Some(kept) => Master::Same(kept.shallow_clone()),
                None => Master::Same(original.shallow_clone()),
            };
            let zeros = || Tensor::f_zeros([length], (wide, master.device()));
            let (exp_avg, exp_avg_sq) = (zeros()?, zeros()?);
            Ok(Trained { master, exp_avg, exp_avg_sq })
        });
        let trained = trained.transpose()?;
        let is_split = parameters.iter().any(|parameter| parameter.is_split());
        Ok(Part { flat, range, group: None, is_split, kept, trained })
    }

    /// This rank's values of the weights that the model computes with.
    pub fn own(&self) -> Tensor {
        let length = self.range.end - self.range.start;
        let view = || self.flat.weights.narrow(0, self.range.start, length);
        self.kept.as_ref().map_or_else(view, Tensor::shallow_clone)
    }

    /// The parameters and their parts of a tensor of all values.
    pub fn members<'a>(
        &'a self,
        parameters: &'a Parameters,
        whole: &'a Tensor,
    ) -> impl Iterator<Item = (&'a Parameter, Tensor)> {
        let members = self.flat.members.iter();
        members.filter_map(|member| Some((parameters.get(&member.name)?, member.view(whole))))
    }

    /// Whether this rank's values are all there are.
    pub fn is_whole(&self) -> bool {
        self.range.end - self.range.start == self.flat.weights.size()[0]
    }
}
