//! Products with a weight, and what low-rank adaptation (LoRA, arXiv 2106.09685) adds to them.

use tch::Tensor;

use crate::config::Config;
use crate::dropout::{Masks, product_word};
use crate::error::ModelError;
use crate::parallel::copy_to_ranks;
use crate::parameter::{Parameters, Weight};
use crate::precision::linear;
use crate::sink::{Sink, linear_into};
use crate::slices::Slices;

/// How tensor-parallel ranks divide a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Each rank makes a part of the output.
    Column,
    /// Each rank brings a part of the input; what it makes is a part of a sum.
    Row,
}

impl Axis {
    /// The dimension of a weight `[out, in]` that is divided.
    fn dim(self) -> usize {
        match self {
            Axis::Column => 0,
            Axis::Row => 1,
        }
    }
}

/// A weight `[out, in]` and, where the model adapts it, its two narrow factors.
#[derive(Clone)]
pub struct Projection {
    weight: Weight,
    lora: Option<Lora>,
    axis: Axis,
    slices: Slices,
}

/// `scale · B A`: A `[rank, in]`, B `[out, rank]`.
#[derive(Clone)]
struct Lora {
    a: Weight,
    b: Weight,
    scale: f64,
    /// What tells the product's dropout from that of others.
    product: u64,
}

impl Projection {
    pub fn new(
        config: &Config,
        parameters: &Parameters,
        name: &str,
        axis: Axis,
        slices: &Slices,
    ) -> Result<Projection, ModelError> {
        let weight = parameters.handle(&format!("{name}.weight"))?;
        let lora = config.lora_of(name).map(|lora| {
            let factor = |part: &str| parameters.handle(&format!("{name}.{part}.weight"));
            let (a, b) = (factor("lora_A")?, factor("lora_B")?);
            Ok::<_, ModelError>(Lora { a, b, scale: lora.scale(), product: product_word(name) })
        });
        Ok(Projection { weight, lora: lora.transpose()?, axis, slices: slices.clone() })
    }

    /// What each slice of this rank multiplies with: all rows, or those of a head that ranks share.
    pub fn parts(&self, rows: Option<(i64, i64)>) -> Result<Vec<Part>, ModelError> {
        let weights = self.slices.cut(&self.rows(&self.weight, rows)?, self.axis.dim());
        let sink = self.weight.sink(&self.slices).filter(|_| rows.is_none());
        let part = |weight| Part { weight, sink: sink.cloned(), lora: None };
        let mut parts: Vec<Part> = weights.into_iter().map(part).collect();
        if let Some(lora) = &self.lora {
            for (part, lora) in parts.iter_mut().zip(self.lora_parts(lora, rows)?) {
                part.lora = Some(lora);
            }
        }
        Ok(parts)
    }

    fn lora_parts(
        &self,
        lora: &Lora,
        rows: Option<(i64, i64)>,
    ) -> Result<Vec<LoraPart>, ModelError> {
        let slices = &self.slices;
        // The factor that all ranks hold whole sees a part of its gradient on each, and in each slice.
        let whole =
            |factor: &Tensor| Ok::<_, ModelError>(slices.fan_out(&copy_to_ranks(factor, slices)?));
        let (a, b) = match self.axis {
            Axis::Column => (whole(&lora.a)?, slices.cut(&self.rows(&lora.b, rows)?, 0)),
            Axis::Row => (slices.cut(&lora.a, 1), whole(&lora.b)?),
        };
        let part = |(slice, (a, b)): (i64, (Tensor, Tensor))| {
            let first_column = if self.axis == Axis::Row { slice * a.size()[1] } else { 0 };
            LoraPart { a, b, scale: lora.scale, product: lora.product, first_column }
        };
        Ok((slices.first()..).zip(a.into_iter().zip(b)).map(part).collect())
    }

    /// The gradient of rows that ranks share is the sum over all ranks.
    fn rows(&self, tensor: &Tensor, rows: Option<(i64, i64)>) -> Result<Tensor, ModelError> {
        match rows {
            None => Ok(tensor.shallow_clone()),
            Some((first, count)) => {
                Ok(copy_to_ranks(tensor, &self.slices)?.narrow(0, first, count))
            }
        }
    }

    /// The tensors that training may change.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        let factors = self.lora.iter().flat_map(|lora| [&lora.a, &lora.b]);
        std::iter::once(&self.weight).chain(factors)
    }
}

/// A slice of a projection.
pub struct Part {
    weight: Tensor,
    sink: Option<Sink>,
    lora: Option<LoraPart>,
}

struct LoraPart {
    a: Tensor,
    b: Tensor,
    scale: f64,
    product: u64,
    /// The place of this slice's first column among those of all ranks.
    first_column: i64,
}

impl Part {
    /// The weight and, where its gradient may go there, its sink.
    pub fn weight(&self) -> (&Tensor, Option<&Sink>) {
        (&self.weight, self.sink.as_ref())
    }

    /// Whether there are factors beside the weight.
    pub fn is_adapted(&self) -> bool {
        self.lora.is_some()
    }

    /// `x` `[batch, length, in]` → `[batch, length, out]`, in `x`'s type. With `masks`, what LoRA adds is
    /// `scale · B A dropout(x)`.
    pub fn apply(&self, x: &Tensor, masks: Option<&Masks>) -> Result<Tensor, ModelError> {
        let out = linear_into(x, &self.weight, self.sink.as_ref())?;
        match &self.lora {
            Some(lora) => Ok(out + lora.apply(x, masks)?),
            None => Ok(out),
        }
    }
}

impl LoraPart {
    fn apply(&self, x: &Tensor, masks: Option<&Masks>) -> Result<Tensor, ModelError> {
        let Some(masks) = masks else { return self.product_of(x, self.scale) };
        // The gain goes where the tensor is narrow or there already is a factor.
        let dropped = masks.apply(x, self.product, self.first_column);
        self.product_of(&dropped, self.scale * masks.gain())
    }

    fn product_of(&self, x: &Tensor, scale: f64) -> Result<Tensor, ModelError> {
        Ok(linear(&linear(x, &self.a)?, &self.b)? * scale)
    }
}
