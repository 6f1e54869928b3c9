#pragma once
#include <ATen/core/Tensor.h>
#include <memory>
#include <vector>
#include "rust/cxx.h"

namespace strand {

// Tensors that one kernel takes together.
struct TensorList {
  std::vector<at::Tensor> tensors;

  void push(const at::Tensor& tensor) { tensors.push_back(tensor); }
};

struct AdamWStep;

std::unique_ptr<TensorList> tensor_list();
void fused_adamw(const TensorList& weights, const TensorList& grads, const TensorList& exp_avgs, const TensorList& exp_avg_sqs, const AdamWStep& step);
void resize_storage(const at::Tensor& tensor, int64_t bytes);

} // namespace strand
