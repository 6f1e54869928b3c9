// Declarations of Gloo that libtorch's c10d headers name. The wheel carries the code but not these headers.
#pragma once
#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
  std::chrono::milliseconds getTimeout() const;
};
} // namespace gloo
