#pragma once
#include <ATen/core/Tensor.h>
#include "rust/cxx.h"

namespace strand {
void rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& out, const at::Tensor& inverse);
void rms_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse,
                       const at::Tensor& of_x, const at::Tensor& of_weight);
void rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool back, const at::Tensor& out);
} // namespace strand
