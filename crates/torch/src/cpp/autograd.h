#pragma once
#include <ATen/core/Tensor.h>
#include <memory>
#include "rust/cxx.h"

namespace strand {
struct Backward;
std::unique_ptr<at::Tensor> attach_backward(const at::Tensor& input, const at::Tensor& output, rust::Box<Backward> backward);
} // namespace strand
