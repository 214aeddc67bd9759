// Stores and fetches whose outcome a test waits for.
#pragma once

#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "tier/page_device.h"

namespace farswap::tier {

class AwaitedStatus {
 public:
  bool done() {
    const std::lock_guard lock(mutex_);
    return outcome_.has_value();
  }
  IoStatus Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return outcome_.has_value(); });
    return *outcome_;
  }

 protected:
  ~AwaitedStatus() = default;
  // Notified under the lock: the waiter may destroy this once it has the outcome.
  void End(IoStatus status) {
    const std::lock_guard lock(mutex_);
    outcome_ = status;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<IoStatus> outcome_;
};

struct StoreMemory {
  std::array<std::byte, kPageBytes> bytes;
};

class AwaitedStore final : private StoreMemory, public PendingStore, public AwaitedStatus {
 public:
  AwaitedStore() : PendingStore(bytes.data()) {}
  void OnStored(IoStatus status) override { End(status); }
};

class AwaitedFetch final : public PageFetch, public AwaitedStatus {
 public:
  explicit AwaitedFetch(const std::vector<SlotIndex>& wanted) : pages(wanted.size()) {
    page_count = wanted.size();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      page_slots[i] = wanted[i];
      page_outputs[i] = pages[i].data();
    }
  }
  void OnFetched(IoStatus status) override { End(status); }

  std::vector<std::array<std::byte, kPageBytes>> pages;
};

/// TryStore(), and its outcome.
inline IoStatus StoreWait(PageDevice& tier, SlotIndex slot, const std::byte* page) {
  AwaitedStore store;
  const IoStatus status = tier.TryStore(slot, page, &store);
  return status == IoStatus::kPending ? store.Wait() : status;
}

/// The page, from pool or servers; zeros if it cannot be read.
inline IoStatus LoadWait(PageDevice& tier, SlotIndex slot, std::byte* out) {
  AwaitedFetch fetch({slot});
  tier.Fetch(&fetch);
  const IoStatus status = fetch.Wait();
  std::memcpy(out, fetch.pages[0].data(), kPageBytes);
  return status;
}

}  // namespace farswap::tier
