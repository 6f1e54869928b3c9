//! Types of values.

use strand_torch::with_backward_of;
use tch::{Device, Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::sink::Existing;

/// Values of a weight, or of its gradient, that are in a wider type at a time.
const WIDENED: i64 = 1 << 20;

/// The type in which norms, softmax and losses are computed over values of `kind`: fp32 at least.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// The type in which a device multiplies matrices of `kind`.
///
/// A CPU without bf16 instructions takes bf16 matrices one number at a time in libtorch; in fp32 it is ten times as fast,
/// and the sums are fp32 in either case.
pub fn product_kind(kind: Kind, device: Device) -> Kind {
    #[cfg(target_arch = "x86_64")]
    if kind == Kind::BFloat16
        && device == Device::Cpu
        && !std::arch::is_x86_feature_detected!("avx512bf16")
    {
        return Kind::Float;
    }
    let _ = device;
    kind
}

/// `x` `[…, in]` times `weight` `[out, in]`, in `x`'s type.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    let kind = x.kind();
    if kind == product_kind(kind, x.device()) {
        return Ok(x.linear::<Tensor>(&weight.to_kind(kind), None));
    }
    let out = tch::no_grad(|| product(x, weight));
    let asked = [x, weight].map(Tensor::requires_grad);
    // Nothing is kept in the wider type.
    let (x_kept, weight_kept) = (x.detach(), weight.detach());
    let backward = move |grad: Tensor| Ok(linear_gradients(&grad, (&x_kept, &weight_kept), asked));
    Ok(with_backward_of([x, weight], &out, backward)?)
}

/// As [`linear`], without a backward pass.
pub fn product(x: &Tensor, weight: &Tensor) -> Tensor {
    let (kind, inner) = (x.kind(), product_kind(x.kind(), x.device()));
    if inner == kind {
        return x.linear::<Tensor>(&weight.to_kind(kind), None);
    }
    let x = x.to_kind(inner);
    let parts: Vec<Tensor> = row_chunks(weight)
        .map(|(_, rows)| x.linear::<Tensor>(&rows.to_kind(inner), None).to_kind(kind))
        .collect();
    joined(parts)
}

/// A weight's rows, and the first one's index: on a CPU as many as are in another type at a time, since all of a large
/// weight would be a second one. On a GPU all: small products are slow there.
fn row_chunks(weight: &Tensor) -> impl Iterator<Item = (i64, Tensor)> {
    let (rows, columns) = (weight.size()[0], weight.size()[1]);
    let most = match weight.device() {
        Device::Cpu => (WIDENED / columns.max(1)).max(1),
        _ => rows.max(1),
    };
    let weight = weight.detach();
    (0..rows).step_by(most as usize).map(move |start| {
        let count = most.min(rows - start);
        (start, weight.narrow(0, start, count))
    })
}

/// Columns side by side.
fn joined(mut parts: Vec<Tensor>) -> Tensor {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => Tensor::cat(&parts, -1),
    }
}

/// The gradients of [`linear`]'s input and weight from that of its output; undefined where not asked for.
fn linear_gradients(
    grad: &Tensor,
    (x, weight): (&Tensor, &Tensor),
    asked: [bool; 2],
) -> [Tensor; 2] {
    let of_weight = || weight_product(grad, x).to_kind(weight.kind());
    [
        if asked[0] { input_gradient(grad, weight) } else { Tensor::new() },
        if asked[1] { of_weight() } else { Tensor::new() },
    ]
}

/// The gradient of [`linear`]'s input from that of its output, in the same type.
pub fn input_gradient(grad: &Tensor, weight: &Tensor) -> Tensor {
    let (kind, inner) = (grad.kind(), product_kind(grad.kind(), grad.device()));
    if inner == kind {
        return grad.matmul(&weight.to_kind(kind));
    }
    let flat = as_rows(grad);
    let columns = weight.size()[1];
    let mut sum = Tensor::new();
    for (start, rows) in row_chunks(weight) {
        let part = flat.narrow(1, start, rows.size()[0]).to_kind(inner);
        let rows = rows.to_kind(inner);
        match sum.defined() {
            true => drop(sum.addmm_(&part, &rows)),
            false => sum = part.mm(&rows),
        }
    }
    let mut shape = grad.size();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    sum.to_kind(kind).view(shape.as_slice())
}

/// The gradient of [`linear`]'s weight `[out, in]` from that of its output, as a device multiplies.
pub fn weight_product(grad: &Tensor, x: &Tensor) -> Tensor {
    let [grad, x] = factors(grad, x);
    grad.tr().mm(&x)
}

/// Writes the gradient of [`linear`]'s weight into memory of its shape, or adds it to what is there.
///
/// # Errors
/// libtorch's own.
pub fn weight_gradient_into(
    memory: &Tensor,
    existing: Existing,
    grad: &Tensor,
    x: &Tensor,
) -> Result<(), TchError> {
    let inner = product_kind(grad.kind(), grad.device());
    let (grad, x) = (as_rows(grad), as_rows(x).to_kind(inner));
    if memory.kind() == inner {
        let (mut memory, columns) = (memory.shallow_clone(), grad.to_kind(inner).tr());
        return match existing {
            Existing::Sum => memory.f_addmm_(&columns, &x).map(drop),
            Existing::Nothing => columns.f_mm_out(&memory, &x).map(drop),
        };
    }
    for (start, mut rows) in row_chunks(memory) {
        let columns = grad.narrow(1, start, rows.size()[0]).to_kind(inner).tr();
        let part = columns.f_mm(&x)?;
        match existing {
            Existing::Sum => drop(rows.f_add_(&part)?),
            Existing::Nothing => rows.f_copy_(&part)?,
        }
    }
    Ok(())
}

/// Both as rows, in the type in which a device multiplies them.
fn factors(grad: &Tensor, x: &Tensor) -> [Tensor; 2] {
    let inner = product_kind(grad.kind(), grad.device());
    [grad, x].map(|tensor| as_rows(tensor).to_kind(inner))
}

/// `[…, width]` → `[n, width]`.
fn as_rows(tensor: &Tensor) -> Tensor {
    tensor.reshape([-1, tensor.size()[tensor.dim() - 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_in_pieces_are_those_of_the_whole() {
        tch::manual_seed(2);
        // Three pieces of rows, the last a short one.
        let (columns, rows) = (600, 2 * (WIDENED / 600) + 100);
        let drawn = |size: [i64; 2], scale: f64| {
            (Tensor::randn(size, (Kind::Float, Device::Cpu)) * scale).to_kind(Kind::BFloat16)
        };
        let (x, weight) = (drawn([3, columns], 1.0), drawn([rows, columns], 0.05));
        let grad = drawn([3, rows], 0.05);
        let [wide_x, wide_weight, wide_grad] =
            [&x, &weight, &grad].map(|it| it.to_kind(Kind::Float));
        let close = |found: &Tensor, expected: &Tensor| {
            assert_eq!(found.size(), expected.size());
            let most = 0.01 * expected.abs().max().double_value(&[]);
            assert!((found - expected).abs().max().double_value(&[]) <= most);
        };
        close(&product(&x, &weight), &wide_x.matmul(&wide_weight.tr()));
        let batched = grad.unsqueeze(0);
        close(&input_gradient(&batched, &weight), &wide_grad.matmul(&wide_weight).unsqueeze(0));
        let of_weight = wide_grad.tr().matmul(&wide_x);
        for kind in [Kind::BFloat16, Kind::Float] {
            let memory = Tensor::full([rows, columns], f64::NAN, (kind, Device::Cpu));
            let into = |existing| weight_gradient_into(&memory, existing, &grad, &x).unwrap();
            into(Existing::Nothing);
            close(&memory, &of_weight);
            into(Existing::Sum);
            close(&memory, &(&of_weight * 2.0));
        }
    }
}
