//! What a collective may be called with: the same rules for every backend.

use tch::Tensor;

/// The tensors of a call.
pub enum Arguments<'a> {
    /// None: a barrier.
    Nothing,
    /// One that is read and written.
    InPlace(&'a Tensor),
    /// Every rank's `input` becomes a part of `output`.
    Gather { output: &'a Tensor, input: &'a Tensor },
    /// Of what becomes of every rank's `input`, `output` is a part.
    Scatter { output: &'a Tensor, input: &'a Tensor },
}

impl Arguments<'_> {
    /// Bytes of this rank's input.
    pub fn bytes(&self) -> usize {
        match self {
            Arguments::Nothing => 0,
            Arguments::InPlace(input)
            | Arguments::Gather { input, .. }
            | Arguments::Scatter { input, .. } => input.numel() * input.kind().elt_size_in_bytes(),
        }
    }

    /// Whether there is nothing to be moved, on any rank: shapes are the same on all.
    pub fn is_empty(&self) -> bool {
        !matches!(self, Arguments::Nothing) && self.bytes() == 0
    }

    /// Why a group of `size` ranks cannot do it, if it cannot.
    pub fn problem(&self, size: usize) -> Option<String> {
        match *self {
            Arguments::Nothing => None,
            Arguments::InPlace(tensor) => strided("the tensor", tensor),
            Arguments::Gather { output, input } => pair(output, input).or_else(|| {
                unequal("the output", output, "the ranks' inputs", size * input.numel())
            }),
            Arguments::Scatter { output, input } => pair(output, input).or_else(|| {
                unequal("the input", input, "the ranks' outputs", size * output.numel())
            }),
        }
    }
}

fn pair(output: &Tensor, input: &Tensor) -> Option<String> {
    if output.kind() != input.kind() || output.device() != input.device() {
        let of = |tensor: &Tensor| format!("{:?} on {:?}", tensor.kind(), tensor.device());
        return Some(format!("the output is {}, the input {}", of(output), of(input)));
    }
    strided("the output", output).or_else(|| strided("the input", input))
}

fn strided(what: &str, tensor: &Tensor) -> Option<String> {
    if tensor.is_contiguous() {
        return None;
    }
    Some(format!(
        "{what} is not contiguous: shape {:?}, strides {:?}",
        tensor.size(),
        tensor.stride()
    ))
}

fn unequal(what: &str, whole: &Tensor, parts: &str, elements: usize) -> Option<String> {
    if whole.numel() == elements {
        return None;
    }
    Some(format!("{what} has {} elements, {parts} have {elements}", whole.numel()))
}
