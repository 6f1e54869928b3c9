#pragma once
#include <ATen/core/Tensor.h>
#include <memory>
#include "rust/cxx.h"

namespace strand {
struct Owner;
std::unique_ptr<at::Tensor> with_owner(const at::Tensor& view, rust::Box<Owner> owner);
} // namespace strand
