//! Backward passes written in Rust.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cxx::UniquePtr;
use tch::Tensor;

use crate::{Error, tensor};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    extern "Rust" {
        type Backward;
        fn call_backward(backward: &Backward, grad: UniquePtr<Tensor>)
        -> Result<UniquePtr<Tensor>>;
    }

    unsafe extern "C++" {
        include!("autograd.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;

        fn attach_backward(
            input: &Tensor,
            output: &Tensor,
            backward: Box<Backward>,
        ) -> Result<UniquePtr<Tensor>>;
    }
}

type Closure = dyn Fn(Tensor) -> Result<Tensor, Error> + Send;

/// A boxed backward pass, owned by a node of the autograd graph.
struct Backward(Box<Closure>);

fn call_backward(
    backward: &Backward,
    grad: UniquePtr<tensor::CxxTensor>,
) -> Result<UniquePtr<tensor::CxxTensor>, Error> {
    let grad = tensor::from_cxx(grad);
    // A panic must not unwind through C++.
    catch_unwind(AssertUnwindSafe(|| (backward.0)(grad)))
        .unwrap_or_else(|panic| Err(Error::Panic { message: panic_message(&*panic) }))
        .map(tensor::into_cxx)
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
    let backward = Box::new(Backward(Box::new(backward)));
    let result = ffi::attach_backward(tensor::as_cxx(input), tensor::as_cxx(output), backward)?;
    Ok(tensor::from_cxx(result))
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
    fn a_panic_in_the_closure_is_an_error() {
        let x = ones();
        let y = with_backward(&x, &x, |_| panic!("boom")).unwrap();
        assert!(y.sum(Kind::Float).f_backward().unwrap_err().to_string().contains("boom"));
    }
}
