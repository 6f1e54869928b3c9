//! Backward passes written in Rust.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use cxx::UniquePtr;
use tch::Tensor;

use crate::optim::{TensorList, list};
use crate::{Error, tensor};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    extern "Rust" {
        type Backward;
        fn call_backward(
            backward: &Backward,
            grad: UniquePtr<Tensor>,
            results: Pin<&mut TensorList>,
        ) -> Result<()>;

        type GradientHook;
        fn call_gradient_hook(hook: &GradientHook, leaf: UniquePtr<Tensor>) -> Result<()>;
    }

    unsafe extern "C++" {
        include!("autograd.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;
        type TensorList = crate::optim::TensorList;

        fn attach_backward(
            inputs: &TensorList,
            output: &Tensor,
            backward: Box<Backward>,
        ) -> Result<UniquePtr<Tensor>>;
        fn run_backward(output: &Tensor, grad: &Tensor) -> Result<()>;
        fn set_grad(leaf: &Tensor, grad: &Tensor) -> Result<()>;
        fn clear_grad(leaf: &Tensor) -> Result<()>;
        fn on_gradient(leaf: &Tensor, hook: Box<GradientHook>) -> Result<()>;
        fn remove_gradient_hook(leaf: &Tensor) -> Result<()>;
    }
}

type Closure = dyn Fn(Tensor) -> Result<Vec<Tensor>, Error> + Send;

/// A boxed backward pass, owned by a node of the autograd graph.
struct Backward(Box<Closure>);

fn call_backward(
    backward: &Backward,
    grad: UniquePtr<tensor::CxxTensor>,
    mut results: Pin<&mut TensorList>,
) -> Result<(), Error> {
    let grad = tensor::from_cxx(grad);
    // A panic must not unwind through C++.
    let gradients = catch_unwind(AssertUnwindSafe(|| (backward.0)(grad)))
        .unwrap_or_else(|panic| Err(Error::Panic { message: panic_message(&*panic) }))?;
    for gradient in &gradients {
        results.as_mut().push(tensor::as_cxx(gradient))?;
    }
    Ok(())
}

type HookClosure = dyn Fn(Tensor) -> Result<(), Error> + Send;

/// A boxed call for a leaf whose gradient is there.
struct GradientHook(Box<HookClosure>);

fn call_gradient_hook(
    hook: &GradientHook,
    leaf: UniquePtr<tensor::CxxTensor>,
) -> Result<(), Error> {
    let leaf = tensor::from_cxx(leaf);
    catch_unwind(AssertUnwindSafe(|| (hook.0)(leaf)))
        .unwrap_or_else(|panic| Err(Error::Panic { message: panic_message(&*panic) }))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

/// Gives `output`, computed from `input`, a backward pass of its own.
///
/// The result holds `output`'s values. When autograd reaches it, `backward` turns the gradient of `output` into the
/// gradient of `input`. Where no gradient is asked for, the result is just `output`, detached.
///
/// # Errors
/// libtorch's own errors. What `backward` returns as an error comes out of the call to `f_backward`.
pub fn with_backward(
    input: &Tensor,
    output: &Tensor,
    backward: impl Fn(Tensor) -> Result<Tensor, Error> + Send + 'static,
) -> Result<Tensor, Error> {
    with_backward_of([input], output, move |grad| Ok([backward(grad)?]))
}

/// As [`with_backward`], for what is computed from several tensors: `backward` turns the gradient of `output` into those
/// of `inputs`. An undefined one stands for zeros, or for what nobody asks for.
///
/// # Errors
/// As [`with_backward`].
pub fn with_backward_of<const N: usize>(
    inputs: [&Tensor; N],
    output: &Tensor,
    backward: impl Fn(Tensor) -> Result<[Tensor; N], Error> + Send + 'static,
) -> Result<Tensor, Error> {
    let backward = move |grad| Ok(backward(grad)?.into_iter().collect());
    let backward = Box::new(Backward(Box::new(backward)));
    let inputs = list(inputs)?;
    let result = ffi::attach_backward(&inputs, tensor::as_cxx(output), backward)?;
    Ok(tensor::from_cxx(result))
}

/// Runs the backward pass of `output`, whose gradient is `grad`.
///
/// # Errors
/// libtorch's own, and what a backward pass written in Rust returns.
pub fn backward(output: &Tensor, grad: &Tensor) -> Result<(), Error> {
    Ok(ffi::run_backward(tensor::as_cxx(output), tensor::as_cxx(grad))?)
}

/// Makes `grad` the gradient of a leaf: the tensor itself, not a copy. None takes the gradient away.
///
/// # Errors
/// libtorch's own: another shape, type or device.
pub fn set_grad(leaf: &Tensor, grad: Option<&Tensor>) -> Result<(), Error> {
    match grad {
        Some(grad) => ffi::set_grad(tensor::as_cxx(leaf), tensor::as_cxx(grad))?,
        None => ffi::clear_grad(tensor::as_cxx(leaf))?,
    }
    Ok(())
}

/// Has `hook` called with the leaf each time that a backward pass has added to its gradient. It stands in the place of
/// an earlier one.
///
/// # Errors
/// libtorch's own. What `hook` returns as an error comes out of the backward pass.
pub fn on_gradient(
    leaf: &Tensor,
    hook: impl Fn(Tensor) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let hook = Box::new(GradientHook(Box::new(hook)));
    Ok(ffi::on_gradient(tensor::as_cxx(leaf), hook)?)
}

/// Takes the hook of [`on_gradient`] away.
///
/// # Errors
/// libtorch's own.
pub fn remove_gradient_hook(leaf: &Tensor) -> Result<(), Error> {
    Ok(ffi::remove_gradient_hook(tensor::as_cxx(leaf))?)
}

/// `compute(x)`, without keeping what its backward pass needs: it is computed again there (activation checkpointing,
/// arXiv 1604.06174). Gradients are the same to the bit where `compute` gives the same bits again.
///
/// Where `x` needs no gradient but what `compute` holds does, the caller passes an `x` that asks for one.
///
/// # Errors
/// What `compute` returns, now or out of the backward pass, and libtorch's own.
pub fn checkpoint<E>(
    x: &Tensor,
    compute: impl Fn(&Tensor) -> Result<Tensor, E> + Send + 'static,
) -> Result<Tensor, E>
where
    E: From<Error> + std::error::Error + Send + Sync + 'static,
{
    let output = tch::no_grad(|| compute(&x.detach()))?;
    let input = x.detach();
    let again = move |grad: Tensor| {
        let x = input.detach().set_requires_grad(true);
        let output = tch::with_grad(|| compute(&x)).map_err(|e| Error::Backward(Box::new(e)))?;
        backward(&output, &grad)?;
        Ok(x.grad())
    };
    Ok(with_backward(x, &output, again)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn ones() -> Tensor {
        Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    #[test]
    fn the_closure_is_the_backward_pass() {
        let x = ones();
        let y = with_backward(&x, &(&x * 2.0), |grad| Ok(grad * 5.0)).unwrap();
        (y * 3.0).sum(Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [15.0; 3]);
    }

    #[test]
    fn what_a_backward_pass_keeps_goes_once_it_was_used() {
        let kept = std::sync::Arc::new(());
        let (x, held) = (ones(), kept.clone());
        let backward = move |grad: Tensor| {
            assert!(std::sync::Arc::strong_count(&held) > 0);
            Ok(grad)
        };
        let y = with_backward(&x, &x, backward).unwrap().sum(Kind::Float);
        assert_eq!(std::sync::Arc::strong_count(&kept), 2);
        y.backward();
        assert_eq!(std::sync::Arc::strong_count(&kept), 1);
        let error = y.f_backward().unwrap_err().to_string();
        assert!(error.contains("second time"), "{error}");
    }

    #[test]
    fn several_inputs_have_gradients_of_their_own() {
        let (x, y, z) = (ones(), ones(), Tensor::ones([3], (Kind::Float, Device::Cpu)));
        let product = with_backward_of([&x, &y, &z], &(&x * &y), |grad| {
            Ok([&grad * 2.0, &grad * 3.0, Tensor::new()])
        });
        product.unwrap().sum(Kind::Float).backward();
        for (leaf, expected) in [(x, 2.0), (y, 3.0)] {
            assert_eq!(Vec::<f32>::try_from(leaf.grad()).unwrap(), [expected; 3]);
        }
    }

    #[test]
    fn without_gradient_the_output_is_plain() {
        let x = ones();
        let y = tch::no_grad(|| with_backward(&x, &(&x * 2.0), Ok).unwrap());
        assert!(!y.requires_grad());
    }

    #[test]
    fn an_error_in_the_closure_comes_out_of_backward() {
        let x = ones();
        let y = with_backward(&x, &x, |_| Err(Error::Panic { message: "rank 3 is gone".into() }));
        let error = y.unwrap().sum(Kind::Float).f_backward().unwrap_err();
        assert!(error.to_string().contains("rank 3 is gone"), "{error}");
    }

    #[test]
    fn a_checkpoint_gives_the_same_gradients() {
        let weights: Vec<Tensor> = (1..4).map(|i| ones() * f64::from(i) * 0.1).collect();
        let run = |checkpointed: bool| {
            let leaves: Vec<Tensor> =
                weights.iter().map(|w| w.detach().copy().set_requires_grad(true)).collect();
            let x = ones();
            let mut y = x.shallow_clone();
            for leaf in &leaves {
                let weight = leaf.shallow_clone();
                let layer = move |x: &Tensor| Ok::<_, Error>((x * &weight).exp() + x);
                y = if checkpointed { checkpoint(&y, layer).unwrap() } else { layer(&y).unwrap() };
            }
            backward(&y, &(ones() * 2.0)).unwrap();
            let mut gradients = vec![x.grad()];
            gradients.extend(leaves.iter().map(Tensor::grad));
            gradients
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    fn a_hook_is_called_once_the_gradient_is_there() {
        let (sender, calls) = std::sync::mpsc::channel();
        let x = ones();
        on_gradient(&x, move |leaf| {
            sender.send(Vec::<f32>::try_from(leaf.grad()).unwrap()).unwrap();
            Ok(())
        })
        .unwrap();
        let y = &x * 2.0 + &x * 3.0;
        y.sum(Kind::Float).backward();
        remove_gradient_hook(&x).unwrap();
        (&x * 1.0).sum(Kind::Float).backward();
        assert_eq!(calls.iter().collect::<Vec<_>>(), [[5.0; 3]]);
    }

    #[test]
    fn an_error_in_a_hook_comes_out_of_backward() {
        let x = ones();
        on_gradient(&x, |_| Err(Error::Panic { message: "no room".into() })).unwrap();
        assert!(x.sum(Kind::Float).f_backward().unwrap_err().to_string().contains("no room"));
    }

    #[test]
    fn a_gradient_can_be_given_and_taken_away() {
        let x = ones();
        set_grad(&x, Some(&(x.detach() * 7.0))).unwrap();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [7.0; 3]);
        set_grad(&x, None).unwrap();
        assert!(!x.grad().defined());
    }

    #[test]
    fn a_panic_in_the_closure_is_an_error() {
        let x = ones();
        let y = with_backward(&x, &x, |_| panic!("boom")).unwrap();
        assert!(y.sum(Kind::Float).f_backward().unwrap_err().to_string().contains("boom"));
    }
}
