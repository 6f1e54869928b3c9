//! `tch::Tensor` and `at::Tensor` are two views of one pointer: this module converts them.

use cxx::UniquePtr;
use tch::Tensor;

#[cxx::bridge]
mod ffi {
    unsafe extern "C++" {
        include!("ATen/core/Tensor.h");

        #[namespace = "at"]
        type Tensor;
    }

    impl UniquePtr<Tensor> {}
}

pub use ffi::Tensor as CxxTensor;

pub fn as_cxx(tensor: &Tensor) -> &CxxTensor {
    // Safety: `C_tensor` is declared by tch for what is an `at::Tensor`, which lives as long as `tensor`.
    unsafe { &*tensor.as_ptr().cast::<CxxTensor>() }
}

pub fn from_cxx(tensor: UniquePtr<CxxTensor>) -> Tensor {
    // Safety: tch takes what is an `at::Tensor` made with `new`; ownership moves to it.
    unsafe { Tensor::from_ptr(tensor.into_raw().cast()) }
}
