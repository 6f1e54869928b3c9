#pragma once
#include <ATen/core/Tensor.h>
#include <memory>
#include "rust/cxx.h"

namespace strand {
std::unique_ptr<at::Tensor> page_locked(int64_t bytes);
uint64_t peak_device_memory(int32_t index);
void trim_heap();
} // namespace strand
