#include "blob.h"

#include <ATen/ops/from_blob.h>

#include "strand-torch/src/blob.rs.h"

namespace strand {

std::unique_ptr<at::Tensor> with_owner(const at::Tensor& view, rust::Box<Owner> owner) {
  // libtorch copies the deleter, which a box does not allow.
  auto kept = std::make_shared<rust::Box<Owner>>(std::move(owner));
  auto deleter = [kept](void*) mutable { kept.reset(); };
  return std::make_unique<at::Tensor>(at::from_blob(view.data_ptr(), view.sizes(), deleter, view.options()));
}

} // namespace strand
