//! Parameters side by side in one piece of memory: what is gathered, reduced and updated together.

use tch::{Kind, Tensor};

use crate::parameter::Parameter;

/// Values to which the start of each parameter is aligned. The kernels of the optimizer treat whole vectors and what is
/// left over differently; here no value depends on what lies beside it.
pub const ALIGNMENT: i64 = 64;

/// A parameter's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its global name.
    pub name: String,
    /// Its first value.
    pub start: i64,
    /// Shape of this rank's part, with padding.
    pub shape: Vec<i64>,
}

impl Member {
    /// Its values.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Its part of a tensor that is laid out as the flat one.
    pub fn view(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.start, self.numel()).view(self.shape.as_slice())
    }
}

/// Parameters of one kind in one tensor.
#[derive(Debug)]
pub struct Flat {
    /// `[values]`: a multiple of [`ALIGNMENT`] × the number of shards, zeros between and behind the members.
    pub weights: Tensor,
    /// In the order of their names.
    pub members: Vec<Member>,
}

impl Flat {
    /// Moves parameters into one tensor of `kind` that can be cut into `shards` equal parts. The parameters stay the
    /// same leaves; their memory is now the tensor's.
    ///
    /// # Errors
    /// No memory.
    pub fn of(parameters: &[&Parameter], kind: Kind, shards: i64) -> Result<Flat, tch::TchError> {
        let mut members = Vec::with_capacity(parameters.len());
        let mut end = 0;
        for parameter in parameters {
            let member =
                Member { name: parameter.name.clone(), start: end, shape: parameter.tensor.size() };
            end = up(end + member.numel(), ALIGNMENT);
            members.push(member);
        }
        let device = parameters.first().map_or(tch::Device::Cpu, |first| first.tensor.device());
        let weights = Tensor::f_zeros([up(end, ALIGNMENT * shards)], (kind, device))?;
        let flat = Flat { weights, members };
        for (parameter, member) in parameters.iter().zip(&flat.members) {
            tch::no_grad(|| member.view(&flat.weights).f_copy_(&parameter.tensor))?;
        }
        flat.lend(parameters);
        Ok(flat)
    }

    /// Takes new memory of another kind for the same values.
    ///
    /// # Errors
    /// No memory.
    pub fn recast(&mut self, parameters: &[&Parameter], kind: Kind) -> Result<(), tch::TchError> {
        self.weights = self.weights.f_to_kind(kind)?;
        self.lend(parameters);
        Ok(())
    }

    /// Makes the flat tensor the memory of its parameters.
    fn lend(&self, parameters: &[&Parameter]) {
        for (parameter, member) in parameters.iter().zip(&self.members) {
            // All handles on the parameter are one tensor: they all have the new memory.
            parameter.tensor.shallow_clone().set_data(&member.view(&self.weights));
        }
    }
}

/// The next multiple.
fn up(value: i64, multiple: i64) -> i64 {
    (value + multiple - 1) / multiple * multiple
}

/// A box of a tensor: first index and size of each dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorBox {
    /// First index of each dimension.
    pub offset: Vec<i64>,
    /// Indices of each dimension.
    pub extent: Vec<i64>,
}

/// The boxes that hold the values `start..end` of a tensor in C order, in that order: a part of a row, whole rows, a part
/// of a row, for each dimension at most.
pub fn boxes(shape: &[i64], start: i64, end: i64) -> Vec<TensorBox> {
    if start >= end {
        return Vec::new();
    }
    let Some((&rows, inner)) = shape.split_first() else {
        return vec![TensorBox { offset: Vec::new(), extent: Vec::new() }];
    };
    let size: i64 = inner.iter().product();
    let (first, last) = (start / size, (end - 1) / size);
    let in_row = |row: i64| {
        let (from, to) = ((start - row * size).max(0), (end - row * size).min(size));
        boxes(inner, from, to).into_iter().map(move |part| part.below(row))
    };
    let is_whole = |row: i64| start <= row * size && end >= (row + 1) * size;
    let mut found = Vec::new();
    let mut row = first;
    while row <= last {
        if is_whole(row) {
            let rows = (end / size).min(rows) - row;
            let offset = std::iter::once(row).chain(inner.iter().map(|_| 0)).collect();
            let extent = std::iter::once(rows).chain(inner.iter().copied()).collect();
            found.push(TensorBox { offset, extent });
            row += rows;
        } else {
            found.extend(in_row(row));
            row += 1;
        }
    }
    found
}

impl TensorBox {
    /// A box of a row as one of the whole tensor.
    fn below(self, row: i64) -> TensorBox {
        let offset = std::iter::once(row).chain(self.offset).collect();
        let extent = std::iter::once(1).chain(self.extent).collect();
        TensorBox { offset, extent }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Device;

    use super::*;
    use crate::parameter::Partition;

    #[test]
    fn parameters_stay_the_same_leaves() {
        let value = |start: i64| {
            Tensor::arange_start(start, start + 6, (Kind::Float, Device::Cpu)).view([2, 3])
        };
        let parameters = [0, 10].map(|start| {
            Parameter::cut(&format!("p{start}"), &value(start), Partition::Replicated, 0, 1)
        });
        let handle = parameters[1].tensor.shallow_clone();
        let flat =
            Flat::of(&parameters.iter().collect::<Vec<_>>(), Kind::Float, 3).expect("memory");
        assert_eq!(flat.weights.size(), [3 * ALIGNMENT]);
        assert_eq!(flat.members[1].start, ALIGNMENT);
        let _ = flat.weights.shallow_clone().g_add_scalar_(1.0);
        assert_eq!(handle, value(11));
        (&handle * 2.0).sum(Kind::Float).backward();
        assert_eq!(
            parameters[1].tensor.grad(),
            Tensor::full([2, 3], 2.0, (Kind::Float, Device::Cpu))
        );
    }

    proptest! {
        #[test]
        fn boxes_hold_the_range_in_order(
            shape in proptest::collection::vec(1_i64..5, 0..4), from in 0.0..1.0_f64, to in 0.0..1.0_f64,
        ) {
            let numel: i64 = shape.iter().product();
            let at = |share: f64| (share * (numel + 1) as f64) as i64;
            let (start, end) = (at(from).min(at(to)), at(from).max(at(to)));
            let values = Tensor::arange(numel, (Kind::Int64, Device::Cpu)).view(shape.as_slice());
            let mut found = Vec::new();
            for part in boxes(&shape, start, end) {
                let cut = part.offset.iter().zip(&part.extent).enumerate();
                let cut = cut.fold(values.shallow_clone(), |cut, (dim, (&offset, &extent))| {
                    cut.narrow(dim as i64, offset, extent)
                });
                found.extend(Vec::<i64>::try_from(cut.reshape(-1)).expect("integers"));
            }
            prop_assert_eq!(found, (start..end).collect::<Vec<_>>());
            prop_assert!(boxes(&shape, start, end).len() <= 2 * shape.len().max(1) + 1);
        }
    }
}
