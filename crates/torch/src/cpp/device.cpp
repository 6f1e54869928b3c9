#include "device.h"

#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "strand-torch/src/device.rs.h"

namespace strand {

std::unique_ptr<at::Tensor> page_locked(int64_t bytes) {
  return std::make_unique<at::Tensor>(at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true)));
}

uint64_t peak_device_memory(int32_t index) {
  auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
  auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return static_cast<uint64_t>(stats.allocated_bytes[all].peak);
}

void trim_heap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

} // namespace strand
