#include "autograd.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <optional>

#include "strand-torch/src/autograd.rs.h"

namespace strand {
namespace {

// A node of the autograd graph whose backward pass is a Rust closure.
struct RustNode : torch::autograd::Node {
  explicit RustNode(rust::Box<Backward> backward) : backward_(std::move(backward)) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    // An undefined gradient means zero. The closure may hold a collective that the other ranks enter, so it runs all the same.
    at::Tensor grad = grads[0].defined() ? std::move(grads[0]) : input_metadata(0).zeros_like();
    TensorList results;
    TORCH_CHECK(backward_.has_value(), "a backward pass ran a second time through what it had freed");
    call_backward(**backward_, std::make_unique<at::Tensor>(std::move(grad)), results);
    return std::move(results.tensors);
  }

  // As libtorch's own nodes do: the closure and the tensors that it keeps go as soon as they have been used.
  void release_variables() override {
    backward_.reset();
  }

  std::optional<rust::Box<Backward>> backward_;
};

// A call into Rust once a leaf has its gradient.
struct RustHook : torch::autograd::PostAccumulateGradHook {
  explicit RustHook(rust::Box<GradientHook> hook) : hook_(std::move(hook)) {}

  void operator()(const torch::autograd::Variable& leaf) override {
    call_gradient_hook(*hook_, std::make_unique<at::Tensor>(leaf));
  }

  rust::Box<GradientHook> hook_;
};

} // namespace

std::unique_ptr<at::Tensor> attach_backward(const TensorList& inputs, const at::Tensor& output, rust::Box<Backward> backward) {
  at::Tensor result = output.detach();
  bool is_asked = std::any_of(inputs.tensors.begin(), inputs.tensors.end(), [](const at::Tensor& input) { return input.requires_grad(); });
  if (at::GradMode::is_enabled() && is_asked) {
    auto node = std::shared_ptr<RustNode>(new RustNode(std::move(backward)), torch::autograd::deleteNode);
    node->set_next_edges(torch::autograd::collect_next_edges(inputs.tensors));
    torch::autograd::set_history(result, node);
  }
  return std::make_unique<at::Tensor>(std::move(result));
}

void run_backward(const at::Tensor& output, const at::Tensor& grad) {
  torch::autograd::backward({output}, {grad});
}

void set_grad(const at::Tensor& leaf, const at::Tensor& grad) {
  leaf.mutable_grad() = grad;
}

void clear_grad(const at::Tensor& leaf) {
  leaf.mutable_grad().reset();
}

void on_gradient(const at::Tensor& leaf, rust::Box<GradientHook> hook) {
  torch::autograd::impl::set_post_acc_grad_hooks(leaf, std::make_unique<RustHook>(std::move(hook)));
}

void remove_gradient_hook(const at::Tensor& leaf) {
  torch::autograd::impl::set_post_acc_grad_hooks(leaf, nullptr);
}

} // namespace strand
