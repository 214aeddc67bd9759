// One volume in a running server: its owner, its epoch, its usage.
//
// Lock order: VolumeTable's open mutex, then the stripes of one volume by ascending index, then
// none. A page is read, compared and written under the stripe of its slot; the epoch and
// `garbage` change only under all stripes, so a store that passed Check() under its stripes is
// finished before OpenVolume returns a higher epoch.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "store/protocol.h"
#include "store/record.h"
#include "tier/page.h"

namespace farswap::store {

// Slots of one shard share a stripe, so that most batches take one or a few. TSan supports at most
// 64 locks per thread.
inline constexpr std::size_t kStripes = 32;

/// Bytes that are kept, or reserved by a write in progress.
class KeptBytes {
 public:
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }
  void Set(std::uint64_t bytes) { value_ = bytes; }

  /// False, without effect, if `bytes` more would exceed `limit`.
  bool Reserve(std::uint64_t bytes, std::uint64_t limit) {
    std::uint64_t current = value();
    do {
      if (current > limit || bytes > limit - current) return false;
    } while (!value_.compare_exchange_weak(current, current + bytes));
    return true;
  }
  void Release(std::uint64_t bytes) { value_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

struct Volume {
  static std::size_t StripeOf(std::uint64_t key) {
    return tier::FirstSlotOf(static_cast<tier::ObjectKey>(key)) / tier::kShardSlots % kStripes;
  }

  std::uint64_t shards() const { return (slots + tier::kShardSlots - 1) / tier::kShardSlots; }

  /// Whether the device has such a slot or bundle.
  bool Holds(std::uint64_t key) const {
    return key <= UINT32_MAX && tier::FirstSlotOf(static_cast<tier::ObjectKey>(key)) < slots;
  }

  /// Whether a call with `call_epoch` may use this volume. Final only under a stripe.
  CallStatus Check(std::uint64_t call_epoch) const {
    const std::uint64_t newest = epoch.load(std::memory_order_acquire);
    if (call_epoch < newest) return CallStatus::kFenced;
    // A higher epoch is from before the store was wiped.
    if (call_epoch > newest || garbage.load(std::memory_order_acquire)) {
      return CallStatus::kUnknownVolume;
    }
    return CallStatus::kOk;
  }

  /// Whether the quota refuses a page.
  bool AtQuota() const {
    const std::uint64_t quota = quota_bytes;
    return quota != kNoQuota && bytes.value() + RecordBytes(tier::kPageBytes) > quota;
  }

  /// Records a sign of life of the owner, at `now` of the RunningClock.
  void Hear(std::chrono::milliseconds now, const Heartbeat& heartbeat) {
    if (heartbeat.placement) {
      const std::lock_guard lock(owner_mutex);
      placement_now = heartbeat.placement;
    }
    heard_boot_ms.store(std::max(heartbeat.boot_ms, heard_boot_ms.load()));
    heard_ms.store(now.count(), std::memory_order_relaxed);
    silent_before_ms.store(0, std::memory_order_relaxed);
  }
  /// Time since it was heard or the server started.
  std::chrono::milliseconds Idle(std::chrono::milliseconds now) const {
    return now - std::chrono::milliseconds(heard_ms.load(std::memory_order_relaxed));
  }
  /// Time since it was heard, while this server or an earlier one ran on the store.
  std::chrono::milliseconds Silence(std::chrono::milliseconds now) const {
    return Idle(now) + std::chrono::milliseconds(silent_before_ms.load(std::memory_order_relaxed));
  }

  /// Notes that the copy runs. False: one of a newer generation has begun.
  bool NoteCopy(const ShardCopying& copying) {
    const std::lock_guard lock(generations_mutex);
    std::uint32_t& newest = generations[copying.shard];
    newest = std::max(newest, copying.generation);
    return copying.generation == newest;
  }

  Owner owner() const {
    const std::lock_guard lock(owner_mutex);
    return owner_now;
  }
  void SetOwner(Owner owner) {
    const std::lock_guard lock(owner_mutex);
    owner_now = std::move(owner);
  }
  /// Nothing: no heartbeat had it since the server started.
  std::optional<VolumePlacement> placement() const {
    const std::lock_guard lock(owner_mutex);
    return placement_now;
  }

  std::uint64_t id = 0;
  std::uint64_t slots = 0;
  std::string host_id;
  std::string device;
  Incarnation incarnation{};
  std::atomic<std::uint64_t> epoch{0};  // the device's newest, also raised when a successor opens
  std::atomic<bool> garbage{false};
  std::atomic<std::int64_t> pages{0};
  KeptBytes bytes;
  std::atomic<std::uint64_t> quota_bytes{kNoQuota};
  std::atomic<bool> opened{false};  // whether it was opened since the server started
  std::atomic<bool> intact{true};   // see VolumeRecord
  std::atomic<std::int64_t> heard_ms{0};
  std::atomic<std::uint64_t> heard_boot_ms{0};
  std::atomic<std::int64_t> silent_before_ms{0};
  std::array<std::mutex, kStripes> stripes;

  mutable std::mutex owner_mutex;  // a leaf
  Owner owner_now;
  std::optional<VolumePlacement> placement_now;

  std::mutex generations_mutex;                                  // a leaf
  std::unordered_map<std::uint64_t, std::uint32_t> generations;  // newest copy of each shard
};

/// Holds the stripes of `mask` (bit i: stripe i) of a volume.
class StripesLock {
 public:
  static constexpr std::uint32_t kAll = ~std::uint32_t{0};

  StripesLock(Volume* volume, std::uint32_t mask) : volume_(volume), mask_(mask) {
    for (std::size_t i = 0; i < kStripes; ++i) {
      if (mask_ >> i & 1) volume_->stripes[i].lock();
    }
  }
  ~StripesLock() {
    for (std::size_t i = 0; i < kStripes; ++i) {
      if (mask_ >> i & 1) volume_->stripes[i].unlock();
    }
  }
  StripesLock(const StripesLock&) = delete;
  StripesLock& operator=(const StripesLock&) = delete;

 private:
  Volume* volume_;
  std::uint32_t mask_;
};

}  // namespace farswap::store
