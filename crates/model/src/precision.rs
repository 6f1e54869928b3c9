//! Types of values.

use strand_torch::with_backward_of;
use tch::{Device, Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::sink::Existing;

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
    x.to_kind(inner).linear::<Tensor>(&weight.to_kind(inner), None).to_kind(kind)
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
    let inner = product_kind(grad.kind(), grad.device());
    grad.to_kind(inner).matmul(&weight.to_kind(inner)).to_kind(grad.kind())
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
    let mut memory = memory.shallow_clone();
    let [grad, x] = factors(grad, x);
    let is_direct = memory.kind() == grad.kind();
    match existing {
        Existing::Sum if is_direct => memory.f_addmm_(&grad.tr(), &x).map(drop),
        Existing::Nothing if is_direct => grad.tr().f_mm_out(&memory, &x).map(drop),
        Existing::Sum => memory.f_add_(&grad.tr().f_mm(&x)?).map(drop),
        Existing::Nothing => memory.f_copy_(&grad.tr().f_mm(&x)?),
    }
}

/// Both as rows, in the type in which a device multiplies them.
fn factors(grad: &Tensor, x: &Tensor) -> [Tensor; 2] {
    let inner = product_kind(grad.kind(), grad.device());
    let rows = |tensor: &Tensor| tensor.reshape([-1, tensor.size()[tensor.dim() - 1]]);
    [rows(grad).to_kind(inner), rows(x).to_kind(inner)]
}
