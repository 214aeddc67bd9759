// A Tier in memory for the tests of the NBD frontend: pages can be made remote, and stores to wait,
// in which case they complete on another thread, when the test lets them; and operations can be
// made to fail.
#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tier/page_device.h"

namespace farswap::nbd {

class FakeTier final : public tier::PageDevice {
 public:
  using Page = std::array<std::byte, tier::kPageBytes>;

  explicit FakeTier(std::uint64_t slots) : pages_(slots) {
    worker_ = std::thread([this] { CompleteRequests(); });
  }
  ~FakeTier() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    worker_.join();
  }

  // --- What a test arranges

  /// Makes reads of these slots go through Fetch(), until they are written.
  void SetRemote(tier::SlotIndex first, std::uint64_t count) {
    const std::lock_guard lock(mutex_);
    for (std::uint64_t i = first; i < first + count; ++i) pages_[i].remote = true;
  }
  /// While held, no fetch completes.
  void HoldFetches(bool hold) {
    const std::lock_guard lock(mutex_);
    hold_ = hold;
    changed_.notify_all();
  }
  /// Waits until this many fetches are held.
  void AwaitHeldFetches(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return fetches_.size() >= count; });
  }
  std::size_t HeldFetches() {
    const std::lock_guard lock(mutex_);
    return fetches_.size();
  }
  void FailLoads(tier::SlotIndex slot) {
    const std::lock_guard lock(mutex_);
    pages_[slot].fails = true;
  }
  void FailStores(tier::SlotIndex slot, tier::IoStatus status) {
    const std::lock_guard lock(mutex_);
    pages_[slot].store_status = status;
  }
  /// While held, stores of these slots wait, as they do for room in the pool.
  void HoldStores(tier::SlotIndex first, std::uint64_t count, bool hold) {
    const std::lock_guard lock(mutex_);
    for (std::uint64_t i = first; i < first + count; ++i) pages_[i].store_held = hold;
    changed_.notify_all();
  }
  /// Waits until this many stores wait.
  void AwaitHeldStores(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stores_.size() >= count; });
  }
  void AwaitNoHeldStores() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stores_.empty() && !completing_; });
  }
  /// Waits until a store that waited was refused.
  void AwaitRefusedStore() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return refused_ > 0 && !completing_; });
  }
  std::size_t HeldStores() {
    const std::lock_guard lock(mutex_);
    return stores_.size();
  }
  /// Completes fetches before Fetch() returns, on the thread that calls it.
  void FetchInline(bool on) {
    const std::lock_guard lock(mutex_);
    inline_ = on;
  }
  Page Peek(tier::SlotIndex slot) {
    const std::lock_guard lock(mutex_);
    return pages_[slot].bytes;
  }
  void Poke(tier::SlotIndex slot, const Page& page) {
    const std::lock_guard lock(mutex_);
    pages_[slot].bytes = page;
  }
  std::vector<std::pair<tier::SlotIndex, std::uint64_t>> Invalidations() {
    const std::lock_guard lock(mutex_);
    return invalidations_;
  }

  // --- Tier

  tier::IoStatus TryStore(tier::SlotIndex slot, const std::byte* page,
                          tier::PendingStore* store) override {
    const std::lock_guard lock(mutex_);
    if (!pages_[slot].store_held) return StoreLocked(slot, page);
    if (store == nullptr) return tier::IoStatus::kPending;
    WaitingStore& waiting = stores_.emplace_back(WaitingStore{store, slot, {}});
    std::memcpy(waiting.page.data(), page, tier::kPageBytes);
    changed_.notify_all();
    return tier::IoStatus::kPending;
  }
  bool CancelStore(tier::PendingStore* store) override {
    const std::lock_guard lock(mutex_);
    const auto is_it = [store](const WaitingStore& waiting) { return waiting.store == store; };
    return std::erase_if(stores_, is_it) > 0;
  }
  LoadResult Load(tier::SlotIndex slot, std::byte* out) override {
    const std::lock_guard lock(mutex_);
    if (pages_[slot].remote) return LoadResult::kRemote;
    if (pages_[slot].fails) return LoadResult::kIoError;
    std::memcpy(out, pages_[slot].bytes.data(), tier::kPageBytes);
    return LoadResult::kDone;
  }
  void Fetch(tier::PageFetch* fetch) override {
    std::unique_lock lock(mutex_);
    if (!inline_) {
      fetches_.push_back(fetch);
      changed_.notify_all();
      return;
    }
    const tier::IoStatus status = Fill(fetch);
    lock.unlock();
    fetch->OnFetched(status);
  }
  void Invalidate(tier::SlotIndex first, std::uint64_t count) override {
    const std::lock_guard lock(mutex_);
    invalidations_.emplace_back(first, count);
    for (std::uint64_t i = first; i < first + count; ++i) {
      pages_[i].bytes.fill(std::byte{0});
      pages_[i].remote = false;
    }
  }
  std::uint64_t slots() const override { return pages_.size(); }

 private:
  struct Slot {
    Page bytes{};
    bool remote = false;
    bool fails = false;
    bool store_held = false;
    tier::IoStatus store_status = tier::IoStatus::kOk;
  };

  struct WaitingStore {
    tier::PendingStore* store;
    tier::SlotIndex slot;
    Page page;
  };

  tier::IoStatus StoreLocked(tier::SlotIndex slot, const std::byte* page) {
    if (pages_[slot].store_status != tier::IoStatus::kOk) {
      pages_[slot].bytes.fill(std::byte{0});
      return pages_[slot].store_status;
    }
    std::memcpy(pages_[slot].bytes.data(), page, tier::kPageBytes);
    pages_[slot].remote = false;
    return tier::IoStatus::kOk;
  }

  tier::IoStatus Fill(tier::PageFetch* fetch) {
    tier::IoStatus status = tier::IoStatus::kOk;
    const tier::SlotIndex shard = fetch->page_slots[0] / tier::kShardSlots;
    for (std::size_t i = 0; i < fetch->page_count; ++i) {
      const Slot& slot = pages_[fetch->page_slots[i]];
      if (slot.fails || fetch->page_slots[i] / tier::kShardSlots != shard) {
        status = tier::IoStatus::kIoError;
      }
      std::memcpy(fetch->page_outputs[i], slot.bytes.data(), tier::kPageBytes);
    }
    return status;
  }

  void CompleteRequests() {
    std::unique_lock lock(mutex_);
    const auto released = [this] {
      return std::find_if(stores_.begin(), stores_.end(), [this](const WaitingStore& waiting) {
        return !pages_[waiting.slot].store_held;
      });
    };
    for (;;) {  // ends when the test does
      changed_.wait(lock, [&] {
        return stopping_ || (!hold_ && !fetches_.empty()) || released() != stores_.end();
      });
      if (const auto found = released(); found != stores_.end()) {
        const WaitingStore waiting = *found;
        stores_.erase(found);
        const tier::IoStatus status = StoreLocked(waiting.slot, waiting.page.data());
        completing_ = true;
        lock.unlock();
        waiting.store->OnStored(status);
        lock.lock();
        completing_ = false;
        if (status != tier::IoStatus::kOk) ++refused_;
        changed_.notify_all();
        continue;
      }
      if (fetches_.empty()) return;
      tier::PageFetch* const fetch = fetches_.front();
      fetches_.pop_front();
      const tier::IoStatus status = Fill(fetch);
      lock.unlock();
      fetch->OnFetched(status);
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Slot> pages_;
  std::deque<tier::PageFetch*> fetches_;
  std::deque<WaitingStore> stores_;
  std::vector<std::pair<tier::SlotIndex, std::uint64_t>> invalidations_;
  bool hold_ = false;
  bool inline_ = false;
  bool stopping_ = false;
  bool completing_ = false;  // a store
  int refused_ = 0;          // stores that waited
  std::thread worker_;
};

}  // namespace farswap::nbd
