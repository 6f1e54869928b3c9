//! SwiGLU (arXiv 2002.05202): column-parallel gate and up, row-parallel down.

use strand_torch::with_backward_of;
use tch::Tensor;

use crate::config::Config;
use crate::dropout::Masks;
use crate::error::ModelError;
use crate::parameter::Parameters;
use crate::precision::{input_gradient, product, weight_gradient_into, weight_product};
use crate::projection::{Axis, Projection};
use crate::sequence::{enter, leave};
use crate::sink::Sink;
use crate::slices::{Slices, tree_sum};

/// The feed-forward block of a layer.
#[derive(Clone)]
pub struct Mlp {
    pub gate: Projection,
    pub up: Projection,
    pub down: Projection,
    slices: Slices,
}

impl Mlp {
    pub fn new(
        config: &Config,
        parameters: &Parameters,
        name: &str,
        slices: &Slices,
    ) -> Result<Mlp, ModelError> {
        let projection = |part, axis| {
            Projection::new(config, parameters, &format!("{name}.{part}_proj"), axis, slices)
        };
        Ok(Mlp {
            gate: projection("gate", Axis::Column)?,
            up: projection("up", Axis::Column)?,
            down: projection("down", Axis::Row)?,
            slices: slices.clone(),
        })
    }

    /// `[batch, length, hidden]` → the same; `masks` say what LoRA drops. With `again` the gated values are computed again
    /// in the backward pass.
    pub fn forward(
        &self,
        x: &Tensor,
        masks: Option<&Masks>,
        again: bool,
    ) -> Result<Tensor, ModelError> {
        let inputs = self.slices.fan_out(&enter(x, &self.slices)?);
        let (gate, up) = (self.gate.parts(None)?, self.up.parts(None)?);
        let down = self.down.parts(None)?;
        let part = |(i, x): (usize, &Tensor)| {
            let (gate, up) = (gate[i].apply(x, masks)?, up[i].apply(x, masks)?);
            // The factors of LoRA need the gated values all the same.
            if again && !down[i].is_adapted() {
                return gated_product(&gate, &up, down[i].weight());
            }
            down[i].apply(&gated(&gate, &up)?, masks)
        };
        let parts = inputs.iter().enumerate().map(part).collect::<Result<_, ModelError>>()?;
        leave(&tree_sum(parts), &self.slices)
    }
}

/// silu(gate) · up, which keeps nothing but these two.
fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor, ModelError> {
    let out = tch::no_grad(|| gated_values(gate, up));
    let (gate_kept, up_kept) = (gate.detach(), up.detach());
    let backward = move |grad: Tensor| Ok(gated_gradients(grad, &gate_kept, &up_kept));
    Ok(with_backward_of([gate, up], &out, backward)?)
}

/// (silu(gate) · up) times `weight` `[out, in]`, which keeps nothing but these three. The weight's gradient goes to its
/// sink, where it has one.
fn gated_product(
    gate: &Tensor,
    up: &Tensor,
    (weight, sink): (&Tensor, Option<&Sink>),
) -> Result<Tensor, ModelError> {
    let out = tch::no_grad(|| product(&gated_values(gate, up), weight));
    let is_trained = weight.requires_grad();
    let sink = sink.and_then(Sink::get);
    let (gate_kept, up_kept, weight_kept) = (gate.detach(), up.detach(), weight.detach());
    let backward = move |grad: Tensor| {
        let values = gated_values(&gate_kept, &up_kept);
        let mut of_weight = Tensor::new();
        match &sink {
            _ if !is_trained => {}
            Some(sink) => sink.take(&|memory, existing| {
                Ok(weight_gradient_into(memory, existing, &grad, &values)?)
            })?,
            None => of_weight = weight_product(&grad, &values).to_kind(weight_kept.kind()),
        }
        drop(values);
        let inner = input_gradient(&grad, &weight_kept);
        let [of_gate, of_up] = gated_gradients(inner, &gate_kept, &up_kept);
        Ok([of_gate, of_up, of_weight])
    };
    Ok(with_backward_of([gate, up, weight], &out, backward)?)
}

fn gated_values(gate: &Tensor, up: &Tensor) -> Tensor {
    let mut values = gate.silu();
    values *= up;
    values
}

fn gated_gradients(grad: Tensor, gate: &Tensor, up: &Tensor) -> [Tensor; 2] {
    let mut of_up = gate.silu();
    of_up *= &grad;
    // Here the gradient's own memory goes back.
    let inner = grad * up;
    [gate.silu_backward(&inner), of_up]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn values_and_gradients_are_autograd_s() {
        tch::manual_seed(4);
        let drawn = |size: [i64; 2]| Tensor::randn(size, (Kind::Double, Device::Cpu));
        let drawn = [drawn([3, 5]), drawn([3, 5]), drawn([4, 5])];
        let wanted = Tensor::randn([3, 4], (Kind::Double, Device::Cpu));
        let run = |block: &dyn Fn(&[Tensor; 3]) -> Tensor| {
            let leaves = drawn.each_ref().map(|it| it.detach().copy().set_requires_grad(true));
            let out = block(&leaves);
            (&out * &wanted).sum(Kind::Double).backward();
            leaves.map(|leaf| leaf.grad())
        };
        let plain = run(&|[gate, up, weight]| (gate.silu() * up).matmul(&weight.tr()));
        let kept = run(&|[gate, up, weight]| gated(gate, up).unwrap().matmul(&weight.tr()));
        let again = run(&|[gate, up, weight]| gated_product(gate, up, (weight, None)).unwrap());
        for found in [kept, again] {
            for (plain, found) in plain.iter().zip(&found) {
                assert!((plain - found).abs().max().double_value(&[]) < 1e-12);
            }
        }
    }
}
