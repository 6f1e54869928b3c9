#include "c10d.h"

#include <mutex>

#include <sched.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "strand-torch/src/c10d.rs.h"

namespace strand {

class Store {
 public:
  c10::intrusive_ptr<c10d::Store> inner;
};

class ProcessGroup {
 public:
  c10::intrusive_ptr<c10d::ProcessGroupGloo> inner;
};

class Work {
 public:
  c10::intrusive_ptr<c10d::Work> inner;
};

namespace {

c10d::ReduceOp reduce_op(uint8_t op) {
  switch (op) {
    case 0:
      return c10d::ReduceOp::SUM;
    case 1:
      return c10d::ReduceOp::MAX;
    case 2:
      return c10d::ReduceOp::MIN;
  }
  throw std::invalid_argument("reduce operation " + std::to_string(op) + " is unknown");
}

// Starts a collective. One at a time: c10d enters each in a flight recorder that all groups of the process share, and
// notes a group that is new there before it takes the recorder's mutex (FlightRecorderDetail.hpp of 2.11.0), so two
// groups that begin on two threads corrupt its map.
template <typename Begin>
std::shared_ptr<Work> start(Begin begin) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  auto work = std::make_shared<Work>();
  work->inner = begin();
  return work;
}

// Has the threads that are made meanwhile scheduled as a batch: they run as often, but do not push another aside when
// they wake. Gloo's receiving thread polls a socket again and again while a thread that sends on it holds its lock; on
// fewer cores than ranks it would take the core from that very thread (0.26 instead of 0.29 s for a step of the demo).
class ThreadsInBatch {
 public:
  ThreadsInBatch() {
    // Another policy than the ordinary one is somebody's choice, and stays.
    is_changed_ = sched_getscheduler(0) == SCHED_OTHER && sched_setscheduler(0, SCHED_BATCH, &priority_) == 0;
  }
  ~ThreadsInBatch() {
    if (is_changed_) {
      sched_setscheduler(0, SCHED_OTHER, &priority_);
    }
  }
  ThreadsInBatch(const ThreadsInBatch&) = delete;
  ThreadsInBatch& operator=(const ThreadsInBatch&) = delete;

 private:
  const sched_param priority_{};
  bool is_changed_;
};

} // namespace

std::shared_ptr<Store> tcp_store(rust::Str host, uint16_t port, int32_t listen_fd, bool is_server, int64_t timeout_ms) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = is_server;
  options.waitWorkers = false;
  options.timeout = std::chrono::milliseconds(timeout_ms);
  if (listen_fd >= 0) {
    options.masterListenFd = listen_fd;
  }
  auto store = std::make_shared<Store>();
  store->inner = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
  return store;
}

void store_set(const Store& store, rust::Str key, rust::Slice<const uint8_t> value) {
  store.inner->set(std::string(key), std::vector<uint8_t>(value.begin(), value.end()));
}

rust::Vec<uint8_t> store_get(const Store& store, rust::Str key) {
  rust::Vec<uint8_t> result;
  for (uint8_t byte : store.inner->get(std::string(key))) {
    result.push_back(byte);
  }
  return result;
}

bool store_has(const Store& store, rust::Str key) {
  return store.inner->check({std::string(key)});
}

std::shared_ptr<ProcessGroup> gloo_group(const Store& store, rust::Str name, rust::Str host, int32_t rank, int32_t size, int64_t timeout_ms) {
  const ThreadsInBatch in_batch;
  auto options = c10d::ProcessGroupGloo::Options::create();
  options->timeout = std::chrono::milliseconds(timeout_ms);
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(std::string(host)));
  auto prefixed = c10::make_intrusive<c10d::PrefixStore>(std::string(name), store.inner);
  auto group = std::make_shared<ProcessGroup>();
  group->inner = c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, rank, size, options);
  return group;
}

void set_timeout(const ProcessGroup& group, int64_t timeout_ms) {
  group.inner->setTimeout(std::chrono::milliseconds(timeout_ms));
}

std::shared_ptr<Work> all_reduce(const ProcessGroup& group, const at::Tensor& tensor, uint8_t op) {
  std::vector<at::Tensor> tensors{tensor};
  c10d::AllreduceOptions options;
  options.reduceOp = reduce_op(op);
  return start([&] { return group.inner->allreduce(tensors, options); });
}

std::shared_ptr<Work> all_gather(const ProcessGroup& group, const at::Tensor& output, const at::Tensor& input) {
  at::Tensor out = output;
  at::Tensor in = input;
  return start([&] { return group.inner->_allgather_base(out, in); });
}

std::shared_ptr<Work> reduce_scatter(const ProcessGroup& group, const at::Tensor& output, const at::Tensor& input, uint8_t op) {
  at::Tensor out = output;
  at::Tensor in = input;
  c10d::ReduceScatterOptions options;
  options.reduceOp = reduce_op(op);
  return start([&] { return group.inner->_reduce_scatter_base(out, in, options); });
}

std::shared_ptr<Work> broadcast(const ProcessGroup& group, const at::Tensor& tensor, int32_t root) {
  std::vector<at::Tensor> tensors{tensor};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  return start([&] { return group.inner->broadcast(tensors, options); });
}

std::shared_ptr<Work> barrier(const ProcessGroup& group) {
  return start([&] { return group.inner->barrier(); });
}

void wait(const Work& work, int64_t timeout_ms) {
  work.inner->wait(std::chrono::milliseconds(timeout_ms));
}

bool is_completed(const Work& work) {
  return work.inner->isCompleted();
}

} // namespace strand
