#pragma once
#include <ATen/core/Tensor.h>
#include <memory>
#include "optim.h"
#include "rust/cxx.h"

namespace strand {
struct Backward;
struct GradientHook;
std::unique_ptr<at::Tensor> attach_backward(const TensorList& inputs, const at::Tensor& output, rust::Box<Backward> backward);
void run_backward(const at::Tensor& output, const at::Tensor& grad);
void set_grad(const at::Tensor& leaf, const at::Tensor& grad);
void clear_grad(const at::Tensor& leaf);
void on_gradient(const at::Tensor& leaf, rust::Box<GradientHook> hook);
void remove_gradient_hook(const at::Tensor& leaf);
} // namespace strand
