#include "kernels.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

#include "strand-torch/src/kernels.rs.h"

// Rows of hidden states are short: each loop below passes over memory that the first one has brought into the cache.
// Compiled for the vector registers that the processor has.
#if defined(__x86_64__)
#define STRAND_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STRAND_VECTORS
#endif

namespace strand {
namespace {

// Values that are worth a thread.
constexpr int64_t GRAIN = 1 << 14;

void check(const at::Tensor& tensor, int64_t numel) {
  TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous() && tensor.numel() == numel,
              "a kernel takes contiguous fp32 tensors of the CPU that fit each other");
}

STRAND_VECTORS float sum_of_squares(const float* x, int64_t columns) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < columns; ++i) {
    sum += x[i] * x[i];
  }
  return sum;
}

STRAND_VECTORS void scale(const float* x, const float* weight, float inverse, int64_t columns, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    out[i] = x[i] * inverse * weight[i];
  }
}

// Adds to the weight's gradient, and returns the mean that the input's gradient needs.
STRAND_VECTORS float norm_sums(const float* grad, const float* x, const float* weight, float inverse, int64_t columns, float* of_weight) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < columns; ++i) {
    float product = grad[i] * x[i] * inverse;
    of_weight[i] += product;
    sum += product * weight[i];
  }
  return sum / static_cast<float>(columns);
}

STRAND_VECTORS void norm_input(const float* grad, const float* x, const float* weight, float inverse, float mean, int64_t columns, float* of_x) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    of_x[i] = (grad[i] * weight[i] - x[i] * inverse * mean) * inverse;
  }
}

STRAND_VECTORS void rotate_head(const float* x, const float* cos, const float* sin, float sign, int64_t half, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    float first = x[i], second = x[i + half];
    out[i] = first * cos[i] - sign * second * sin[i];
    out[i + half] = second * cos[i] + sign * first * sin[i];
  }
}

} // namespace

void rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& out, const at::Tensor& inverse) {
  int64_t columns = weight.numel(), rows = inverse.numel();
  check(x, rows * columns);
  check(out, rows * columns);
  check(weight, columns);
  check(inverse, rows);
  const float *from = x.const_data_ptr<float>(), *weights = weight.const_data_ptr<float>();
  float *to = out.data_ptr<float>(), *inverses = inverse.data_ptr<float>();
  at::parallel_for(0, rows, std::max<int64_t>(1, GRAIN / columns), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float mean = sum_of_squares(from + row * columns, columns) / static_cast<float>(columns);
      inverses[row] = 1.0f / std::sqrt(mean + static_cast<float>(eps));
      scale(from + row * columns, weights, inverses[row], columns, to + row * columns);
    }
  });
}

void rms_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse,
                       const at::Tensor& of_x, const at::Tensor& of_weight) {
  int64_t columns = weight.numel(), rows = inverse.numel();
  for (const at::Tensor* tensor : {&grad, &x, &of_x}) {
    check(*tensor, rows * columns);
  }
  check(weight, columns);
  check(inverse, rows);
  // A row of sums for each part of the rows: how many parts there are does not depend on the threads.
  int64_t parts = std::max<int64_t>(1, std::min<int64_t>(64, rows * columns / GRAIN));
  check(of_weight, parts * columns);
  const float *grads = grad.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
  const float *weights = weight.const_data_ptr<float>(), *inverses = inverse.const_data_ptr<float>();
  float *to = of_x.data_ptr<float>(), *sums = of_weight.data_ptr<float>();
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      float* sum = sums + part * columns;
      std::fill(sum, sum + columns, 0.0f);
      for (int64_t row = part * rows / parts; row < (part + 1) * rows / parts; ++row) {
        const float *g = grads + row * columns, *r = from + row * columns;
        float mean = norm_sums(g, r, weights, inverses[row], columns, sum);
        norm_input(g, r, weights, inverses[row], mean, columns, to + row * columns);
      }
    }
  });
}

void rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool back, const at::Tensor& out) {
  TORCH_CHECK(x.dim() == 4, "rotate takes [batch, length, heads, head_dim]");
  int64_t length = x.size(1), heads = x.size(2), dim = x.size(3);
  check(x, x.numel());
  check(out, x.numel());
  check(cos, length * dim);
  check(sin, length * dim);
  const float *from = x.const_data_ptr<float>(), *cosines = cos.const_data_ptr<float>(), *sines = sin.const_data_ptr<float>();
  float *to = out.data_ptr<float>(), sign = back ? -1.0f : 1.0f;
  at::parallel_for(0, x.size(0) * length, std::max<int64_t>(1, GRAIN / (heads * dim)), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      int64_t place = token % length * dim;
      for (int64_t head = 0; head < heads; ++head) {
        int64_t at = (token * heads + head) * dim;
        rotate_head(from + at, cosines + place, sines + place, sign, dim / 2, to + at);
      }
    }
  });
}

} // namespace strand
