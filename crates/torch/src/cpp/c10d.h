#pragma once
#include <ATen/core/Tensor.h>
#include <cstdint>
#include <memory>
#include "rust/cxx.h"

namespace strand {
class Store;
class ProcessGroup;
class Work;

std::shared_ptr<Store> tcp_store(rust::Str host, uint16_t port, int32_t listen_fd, bool is_server, int64_t timeout_ms);
void store_set(const Store& store, rust::Str key, rust::Slice<const uint8_t> value);
rust::Vec<uint8_t> store_get(const Store& store, rust::Str key);
bool store_has(const Store& store, rust::Str key);

std::shared_ptr<ProcessGroup> gloo_group(const Store& store, rust::Str name, rust::Str host, int32_t rank, int32_t size, int64_t timeout_ms);
void set_timeout(const ProcessGroup& group, int64_t timeout_ms);

std::shared_ptr<Work> all_reduce(const ProcessGroup& group, const at::Tensor& tensor, uint8_t op);
std::shared_ptr<Work> all_gather(const ProcessGroup& group, const at::Tensor& output, const at::Tensor& input);
std::shared_ptr<Work> reduce_scatter(const ProcessGroup& group, const at::Tensor& output, const at::Tensor& input, uint8_t op);
std::shared_ptr<Work> broadcast(const ProcessGroup& group, const at::Tensor& tensor, int32_t root);
std::shared_ptr<Work> barrier(const ProcessGroup& group);

void wait(const Work& work, int64_t timeout_ms);
bool is_completed(const Work& work);
} // namespace strand
