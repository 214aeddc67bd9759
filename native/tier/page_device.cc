#include "tier/page_device.h"

#include <condition_variable>
#include <mutex>

namespace farswap::tier {
namespace {

/// A store whose end a thread waits for.
class AwaitedStore final : public PendingStore {
 public:
  using PendingStore::PendingStore;

  // Notified under the lock: the store is gone as soon as it is released.
  void OnStored(IoStatus status) override {
    const std::lock_guard lock(mutex_);
    outcome_ = status;
    stored_.notify_all();
  }
  IoStatus Wait() {
    std::unique_lock lock(mutex_);
    stored_.wait(lock, [this] { return outcome_ != IoStatus::kPending; });
    return outcome_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable stored_;
  IoStatus outcome_ = IoStatus::kPending;
};

}  // namespace

IoStatus PageDevice::StoreWait(SlotIndex slot, const std::byte* page,
                               std::optional<Version> expected) {
  std::array<std::byte, kPageBytes> memory;  // not touched unless it waits
  AwaitedStore store(memory.data());
  const IoStatus status = TryStore(slot, page, expected, &store);
  return status == IoStatus::kPending ? store.Wait() : status;
}

}  // namespace farswap::tier
