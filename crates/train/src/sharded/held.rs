//! What a rank keeps, as boxes of the global tensors: what it writes into a checkpoint and reads from one.

use std::collections::BTreeMap;

use strand_checkpoint::Kind;
use strand_comm::Mesh;
use strand_model::{Member, Parameter, Parameters, Partition, TensorBox, boxes};
use tch::Tensor;

use crate::error::TrainError;
use crate::sharded::part::{Master, Part};
use crate::sharded::{Sharded, residue};

/// A box of a parameter, and what this rank keeps of it.
pub struct Held<'a> {
    /// The parameter.
    pub parameter: &'a Parameter,
    /// First index of each dimension in the global tensor.
    pub offset: Vec<i64>,
    /// Indices of each dimension.
    pub extent: Vec<i64>,
    /// Whether this rank writes it, of all that keep the same.
    pub is_written: bool,
    part: &'a Part,
    /// Of all of this rank's values of the part.
    gradient: Option<Tensor>,
    /// Its first value in this rank's values of the part.
    start: i64,
    /// Its extent with the padding that the global tensor lacks.
    padded: Vec<i64>,
}

impl Held<'_> {
    /// The values: a view, or a copy where the weights are kept as halves. None where there are no such: frozen
    /// parameters have no moments.
    ///
    /// # Errors
    /// No memory.
    pub fn values(&self, kind: Kind) -> Result<Option<Tensor>, TrainError> {
        Ok(match self.store(kind) {
            None => None,
            Some((values, None)) => Some(values),
            Some((values, Some(residues))) => Some(residue::whole(&values, &residues)?),
        })
    }

    /// Sets the values, where there are such, or those of as many rows as there are in `values`.
    ///
    /// # Errors
    /// No memory, or another shape.
    pub fn set(&self, kind: Kind, values: &Tensor) -> Result<(), TrainError> {
        let Some((store, residues)) = self.store(kind) else { return Ok(()) };
        let first = |tensor: &Tensor| match values.size().first() {
            Some(&rows) => tensor.narrow(0, 0, rows),
            None => tensor.shallow_clone(),
        };
        let mut store = first(&store);
        tch::no_grad(|| match residues {
            None => store.f_copy_(values),
            Some(residues) => {
                let values = values.f_to_device(store.device())?.f_to_kind(tch::Kind::Float)?;
                residue::write(&values, &store, &first(&residues))
            }
        })?;
        Ok(())
    }

    /// Whether there are such values.
    pub fn has(&self, kind: Kind) -> bool {
        self.store(kind).is_some()
    }

    /// Where the values are: a view, and one of what they lack.
    fn store(&self, kind: Kind) -> Option<(Tensor, Option<Tensor>)> {
        let (values, residues) = match (&self.part.trained, kind) {
            (Some(trained), Kind::Parameter) => match &trained.master {
                Master::Same(master) | Master::Apart(master) => (master.shallow_clone(), None),
                Master::Residues(residues) => (self.part.own(), Some(residues)),
            },
            (Some(trained), Kind::ExpAvg) => (trained.exp_avg.shallow_clone(), None),
            (Some(trained), Kind::ExpAvgSq) => (trained.exp_avg_sq.shallow_clone(), None),
            (None, Kind::Parameter) => (self.part.own(), None),
            _ => return None,
        };
        Some((self.view(&values), residues.map(|residues| self.view(residues))))
    }

    /// The gradient after a step's reductions: a view. None where the parameter is frozen.
    pub fn gradient(&self) -> Option<Tensor> {
        self.gradient.as_ref().map(|gradient| self.view(gradient))
    }

    /// The box in a tensor of this rank's values of the part.
    fn view(&self, values: &Tensor) -> Tensor {
        let count: i64 = self.padded.iter().product();
        let mut values = values.narrow(0, self.start, count).view(self.padded.as_slice());
        for (dim, &extent) in self.extent.iter().enumerate() {
            values = values.narrow(dim as i64, 0, extent);
        }
        values
    }
}

impl Sharded {
    /// All that this rank keeps.
    pub fn held<'a>(&'a self, parameters: &'a Parameters) -> Vec<Held<'a>> {
        let mut held = Vec::new();
        let mut gradients = self.own_gradients().into_iter();
        for part in self.units.iter().flatten() {
            let gradient = part.trained.as_ref().and_then(|_| gradients.next());
            for member in &part.flat.members {
                if let Some(parameter) = parameters.get(&member.name) {
                    held.extend(of_member(part, member, parameter));
                }
            }
            let defined = gradient.filter(Tensor::defined);
            held.iter_mut().rev().take_while(|held| std::ptr::eq(held.part, part)).for_each(
                |held: &mut Held| held.gradient = defined.as_ref().map(Tensor::shallow_clone),
            );
        }
        // Ranks that keep the same share the writing: by parameters, which all count alike.
        let indices: BTreeMap<&str, usize> =
            parameters.iter().enumerate().map(|(i, parameter)| (&*parameter.name, i)).collect();
        for held in &mut held {
            held.is_written = is_writer(indices[&*held.parameter.name], held, &self.mesh);
        }
        held
    }
}

fn of_member<'a>(part: &'a Part, member: &Member, parameter: &'a Parameter) -> Vec<Held<'a>> {
    let first = member.start.max(part.range.start);
    let last = (member.start + member.numel()).min(part.range.end);
    let found = boxes(&member.shape, first - member.start, last - member.start);
    let mut start = first - part.range.start;
    let held = found.into_iter().filter_map(|found| {
        let count: i64 = found.extent.iter().product();
        let held = without_padding(part, parameter, found, start);
        start += count;
        held
    });
    held.collect()
}

/// A box of this rank's part as one of the global tensor.
fn without_padding<'a>(
    part: &'a Part,
    parameter: &'a Parameter,
    TensorBox { mut offset, extent: padded }: TensorBox,
    start: i64,
) -> Option<Held<'a>> {
    let mut extent = padded.clone();
    if let Partition::Split { dim, .. } = parameter.partition {
        extent[dim] = extent[dim].min(parameter.slice.extent[dim] - offset[dim]);
    }
    if extent.iter().any(|&extent| extent <= 0) {
        return None;
    }
    for (offset, first) in offset.iter_mut().zip(&parameter.slice.offset) {
        *offset += first;
    }
    let (is_written, gradient) = (false, None);
    Some(Held { parameter, offset, extent, is_written, part, gradient, start, padded })
}

fn is_writer(index: usize, held: &Held, mesh: &Mesh) -> bool {
    let holders = match (held.part.is_whole(), held.parameter.is_split()) {
        (true, true) => &mesh.dp,
        (true, false) => &mesh.world,
        (false, true) => return true,
        (false, false) => &mesh.tp,
    };
    index % holders.size() == holders.rank()
}
