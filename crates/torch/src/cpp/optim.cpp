#include "optim.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include "strand-torch/src/optim.rs.h"

namespace strand {

std::unique_ptr<TensorList> tensor_list() {
  return std::make_unique<TensorList>();
}

void fused_adamw(const TensorList& weights, const TensorList& grads, const TensorList& exp_avgs, const TensorList& exp_avg_sqs, const AdamWStep& step) {
  if (weights.tensors.empty()) {
    return;
  }
  auto options = weights.tensors[0].options().dtype(at::kFloat);
  at::Tensor updates = at::full({}, step.updates, options);
  std::vector<at::Tensor> steps(weights.tensors.size(), updates);
  // The kernel divides gradients by this.
  at::Tensor grad_scale = at::full({}, 1.0 / step.grad_scale, options);
  at::_fused_adamw_(weights.tensors, grads.tensors, exp_avgs.tensors, exp_avg_sqs.tensors, {}, steps, step.lr, step.beta1, step.beta2,
                    step.weight_decay, step.eps, /*amsgrad=*/false, /*maximize=*/false,
                    step.grad_scale == 1.0 ? std::optional<at::Tensor>() : std::optional<at::Tensor>(grad_scale));
}

void resize_storage(const at::Tensor& tensor, int64_t bytes) {
  // The device's own allocator. A storage that may not be resized has none: then libtorch says so.
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  TORCH_CHECK(storage->resizable(), "the memory under a tensor cannot be resized");
  storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
}

} // namespace strand
