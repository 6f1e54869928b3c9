//! Named parameters and the slices of them that a rank holds.

use std::collections::BTreeMap;
use std::ops::Deref;

use tch::Tensor;

use crate::error::ModelError;
use crate::sink::Sink;
use crate::slices::Slices;

/// How tensor-parallel ranks share a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// Every rank holds all of it.
    Replicated,
    /// Each rank holds an equal part of `dim`, which is padded with zeros to `padded`.
    Split {
        /// The dimension.
        dim: usize,
        /// Its padded size, a multiple of the number of ranks.
        padded: i64,
    },
}

/// The part of a global tensor that one rank holds, padding left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// First index of each dimension.
    pub offset: Vec<i64>,
    /// Indices of each dimension.
    pub extent: Vec<i64>,
}

/// One rank's part of a parameter: a leaf of the autograd graph.
#[derive(Debug)]
pub struct Parameter {
    /// Global name, as in Hugging Face's files.
    pub name: String,
    /// Global shape, without padding.
    pub shape: Vec<i64>,
    /// How ranks share it.
    pub partition: Partition,
    /// This rank's part, with padding.
    pub tensor: Tensor,
    /// What of the global tensor this part holds.
    pub slice: Slice,
    /// Where its gradient goes, if not through autograd.
    pub sink: Sink,
}

impl Parameter {
    /// Cuts `value`, the whole tensor, to the part of `tp_rank`.
    pub fn cut(
        name: &str,
        value: &Tensor,
        partition: Partition,
        tp_rank: i64,
        tp: i64,
    ) -> Parameter {
        let shape = value.size();
        let slice = slice_of(&shape, partition, tp_rank, tp);
        let mut part = value.shallow_clone();
        for (dim, (&offset, &extent)) in slice.offset.iter().zip(&slice.extent).enumerate() {
            part = part.narrow(dim as i64, offset, extent);
        }
        if let Partition::Split { dim, padded } = partition {
            part = pad_end(&part, dim, padded / tp);
        }
        let tensor = part.contiguous().copy().set_requires_grad(true);
        Parameter { name: name.into(), shape, partition, tensor, slice, sink: Sink::default() }
    }

    /// The part without its padding: a view.
    pub fn unpadded(&self, tensor: &Tensor) -> Tensor {
        match self.partition {
            Partition::Replicated => tensor.shallow_clone(),
            Partition::Split { dim, .. } => tensor.narrow(dim as i64, 0, self.slice.extent[dim]),
        }
    }

    /// Whether tensor-parallel ranks hold different parts.
    pub fn is_split(&self) -> bool {
        self.partition != Partition::Replicated
    }
}

fn slice_of(shape: &[i64], partition: Partition, tp_rank: i64, tp: i64) -> Slice {
    let mut slice = Slice { offset: vec![0; shape.len()], extent: shape.to_vec() };
    if let Partition::Split { dim, padded } = partition {
        let part = padded / tp;
        slice.offset[dim] = (tp_rank * part).min(shape[dim]);
        slice.extent[dim] = part.min(shape[dim] - slice.offset[dim]);
    }
    slice
}

fn pad_end(tensor: &Tensor, dim: usize, size: i64) -> Tensor {
    let mut shape = tensor.size();
    shape[dim] = size - shape[dim];
    if shape[dim] == 0 {
        return tensor.shallow_clone();
    }
    let zeros = Tensor::zeros(&shape, (tensor.kind(), tensor.device()));
    Tensor::cat(&[tensor, &zeros], dim as i64)
}

/// All parameters of a model, by name. The order of the names is the same on every rank.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<String, Parameter>);

impl Parameters {
    /// Adds a parameter.
    pub fn insert(&mut self, parameter: Parameter) {
        self.0.insert(parameter.name.clone(), parameter);
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.values()
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.get(name)
    }

    /// A handle on a parameter's tensor, which stays the same memory as it is trained.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn handle(&self, name: &str) -> Result<Weight, ModelError> {
        let parameter =
            self.0.get(name).ok_or_else(|| ModelError::Config(format!("no parameter {name}")))?;
        Ok(Weight { tensor: parameter.tensor.shallow_clone(), sink: parameter.sink.clone() })
    }
}

/// A tensor that parts of the model share: its clones are the same memory and the same leaf.
#[derive(Debug)]
pub(crate) struct Weight {
    tensor: Tensor,
    sink: Sink,
}

impl Weight {
    /// Where its gradient may go. With sums in a fixed order it is cut for some layouts, and goes through autograd on all.
    pub fn sink(&self, slices: &Slices) -> Option<&Sink> {
        (!slices.is_exact()).then_some(&self.sink)
    }
}

impl Clone for Weight {
    fn clone(&self) -> Weight {
        Weight { tensor: self.tensor.shallow_clone(), sink: self.sink.clone() }
    }
}

impl Deref for Weight {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn padding_lies_at_the_end_of_the_last_parts() {
        let value = Tensor::arange(7, (Kind::Float, Device::Cpu)).view([7, 1]) + 1.0;
        let partition = Partition::Split { dim: 0, padded: 8 };
        let part = Parameter::cut("x", &value, partition, 3, 4);
        assert_eq!(Vec::<f32>::try_from(part.tensor.view(-1)).unwrap(), [7.0, 0.0]);
        assert_eq!(part.slice, Slice { offset: vec![6, 0], extent: vec![1, 1] });
        assert_eq!(part.unpadded(&part.tensor).size(), [1, 1]);
    }

    #[test]
    fn a_part_may_be_padding_alone() {
        let value = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
        let partition = Partition::Split { dim: 0, padded: 4 };
        let part = Parameter::cut("x", &value, partition, 2, 4);
        assert_eq!(part.slice.extent, [0, 2]);
        assert_eq!(part.tensor.size(), [1, 2]);
    }
}
