#include "autograd.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include "strand-torch/src/autograd.rs.h"

namespace strand {
namespace {

// A node of the autograd graph whose backward pass is a Rust closure.
struct RustNode : torch::autograd::Node {
  explicit RustNode(rust::Box<Backward> backward) : backward_(std::move(backward)) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    // An undefined gradient means zero. The closure may hold a collective that the other ranks enter, so it runs all the same.
    at::Tensor grad = grads[0].defined() ? std::move(grads[0]) : input_metadata(0).zeros_like();
    auto result = call_backward(*backward_, std::make_unique<at::Tensor>(std::move(grad)));
    return {std::move(*result)};
  }

  rust::Box<Backward> backward_;
};

} // namespace

std::unique_ptr<at::Tensor> attach_backward(const at::Tensor& input, const at::Tensor& output, rust::Box<Backward> backward) {
  at::Tensor result = output.detach();
  if (at::GradMode::is_enabled() && input.requires_grad()) {
    auto node = std::shared_ptr<RustNode>(new RustNode(std::move(backward)), torch::autograd::deleteNode);
    node->set_next_edges(torch::autograd::collect_next_edges(input));
    torch::autograd::set_history(result, node);
  }
  return std::make_unique<at::Tensor>(std::move(result));
}

} // namespace strand
