// A store of a test's, whose end can be waited for.
#pragma once

#include <array>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "tier/page_device.h"

namespace farswap::tier {

struct StoreMemory {
  std::array<std::byte, kPageBytes> bytes;
};

class AwaitedStore final : private StoreMemory, public PendingStore {
 public:
  AwaitedStore() : PendingStore(bytes.data()) {}

  void OnStored(IoStatus status) override {
    const std::lock_guard lock(mutex_);
    outcome_ = status;
    stored_.notify_all();
  }
  bool done() {
    const std::lock_guard lock(mutex_);
    return outcome_.has_value();
  }
  IoStatus Wait() {
    std::unique_lock lock(mutex_);
    stored_.wait(lock, [this] { return outcome_.has_value(); });
    return *outcome_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable stored_;
  std::optional<IoStatus> outcome_;
};

}  // namespace farswap::tier
