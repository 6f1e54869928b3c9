//! Parameters of a unit that are gathered, reduced and updated together, and what this rank keeps of them.

use std::ops::Range;

use strand_model::{Flat, Parameter, Parameters};
use strand_torch::{AdamWStep, fused_adamw};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;

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
    /// The weights in fp32 (fp64 in a run of that precision).
    pub master: Tensor,
    /// Whether the model computes with others, narrower ones or those of a GPU: else they are the same memory.
    pub is_copy: bool,
    /// Decaying mean of the gradient.
    pub exp_avg: Tensor,
    /// Decaying mean of its square.
    pub exp_avg_sq: Tensor,
}

impl Trained {
    /// Updates these values alone.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn update(&self, gradient: &Tensor, step: AdamWStep) -> Result<(), TrainError> {
        let one = |tensor: &Tensor| [tensor.shallow_clone()];
        let [exp_avg, exp_avg_sq] = [&self.exp_avg, &self.exp_avg_sq].map(one);
        Ok(fused_adamw(&one(&self.master), &one(gradient), &exp_avg, &exp_avg_sq, step)?)
    }
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
        let shards = if zero == Zero::Zero0 { 1 } else { size };
        let mut flat = Flat::of(parameters, wide, shards)?;
        let length = flat.weights.size()[0] / shards;
        let start = if shards == 1 { 0 } else { rank * length };
        let range = start..start + length;
        let is_trained = parameters.iter().any(|parameter| parameter.tensor.requires_grad());
        let own = |flat: &Flat| flat.weights.narrow(0, start, length);
        let original = own(&flat);
        if kind != wide {
            flat.recast(parameters, kind)?;
        }
        let kept = (zero == Zero::Zero3).then(|| own(&flat).copy());
        let moves = offloaded && original.device() != Device::Cpu;
        let is_copy = kind != wide || moves;
        let trained = is_trained.then(|| {
            let master = match &kept {
                _ if moves => original.to_device(Device::Cpu),
                _ if is_copy => original.copy(),
                Some(kept) => kept.shallow_clone(),
                None => original.shallow_clone(),
            };
            let [exp_avg, exp_avg_sq] = [master.zeros_like(), master.zeros_like()];
            Trained { master, is_copy, exp_avg, exp_avg_sq }
        });
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
