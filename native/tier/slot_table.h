// The slot table: the only truth about where each page of the device is.
//
// One 16-byte record per slot in the state's memory, guarded by a striped lock. A record holds
// offsets, no pointers. One 16-byte store, a single instruction, replaces it after the bytes that
// it refers to are in place: a scan of the mapping after the process died at any instruction finds
// each record old or new, never torn.
//
// Lock order: a slot's lock, then that of the tree of groups, a group's, the pool's. No thread
// holds two slots' locks.
#pragma once

#ifndef __x86_64__
#error "x86-64 only: SlotTable::Set() needs a 16-byte store in one instruction"
#endif
#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "base/result.h"
#include "tier/page.h"
#include "tier/pool.h"

namespace farswap::tier {

enum class SlotState : std::uint8_t {
  kEmpty,       // reads as zeros
  kSameFilled,  // one repeated word, no pool memory
  kLocal,       // in the pool and on the LRU
  kWriting,     // in the pool, off the LRU: a Put of this version is in flight
  kRemote,      // on a memory server only
  kClean,       // in the pool and on the LRU, and on a memory server as well: dropped without I/O
};
inline constexpr std::size_t kSlotStates = 6;

const char* SlotStateName(SlotState state);

/// Index of a group (groups.h). Pages of no known cgroup belong to kRootGroup.
using GroupIndex = std::uint16_t;
inline constexpr GroupIndex kRootGroup = 0;

struct alignas(16) SlotRecord {
  Version version = 0;
  GroupIndex group = kRootGroup;
  /// Low bits of the slot word's sequence at the last store or free (owner.h). With 8 bits one free
  /// in 256 is missed, and its page kept.
  std::uint8_t sequence = 0;
  SlotState state : 3 = SlotState::kEmpty;
  std::uint8_t codec : 2 = 0;
  std::uint8_t referenced : 1 = 0;  // read since it was stored: has a second chance
  /// Servers may hold an older page, to be discarded (stale.h).
  std::uint8_t stale_remote : 1 = 0;
  /// The page is in a bundle (bundle.h) that servers have or are being sent: writing, remote, and
  /// always if clean. No other bundle of these slots is made while one of them has this.
  std::uint8_t in_bundle : 1 = 0;
  union {
    struct {
      EntryRef entry;  // its header has the length
      std::uint32_t checksum;
    } object;  // local, writing, clean
    struct {
      std::uint32_t length;
      std::uint32_t unused;
    } away;                  // remote; 0 in a bundle
    std::uint64_t fill = 0;  // same-filled
  };

  /// In the pool or on servers.
  bool HasObject() const { return state > SlotState::kSameFilled; }
  bool OnLru() const { return state == SlotState::kLocal || state == SlotState::kClean; }
  bool InPool() const { return OnLru() || state == SlotState::kWriting; }
};
static_assert(sizeof(SlotRecord) == 16);

class SlotTable {
 public:
  /// Fails if a device cannot have so many slots.
  static Outcome CheckSize(std::uint64_t slots);
  /// Records of zeros are empty slots of version 0.
  explicit SlotTable(std::span<SlotRecord> records)
      : records_(records.data()), slots_(records.size()) {}

  std::uint64_t slots() const { return slots_; }
  std::uint64_t bytes() const { return slots_ * sizeof(SlotRecord); }

  /// Neighbours that share a lock: the slots of a bundle.
  static constexpr SlotIndex kLockSlots = kBundleSlots;

  /// Holds the lock of one slot's stripe for its lifetime.
  [[nodiscard]] std::unique_lock<std::mutex> Lock(SlotIndex slot) {
    return std::unique_lock(stripes_[slot / kLockSlots % kStripes].mutex);
  }
  /// Calls f(slot) for the slots [first, end), each with its lock held.
  template <typename F>
  void ForEach(std::uint64_t first, std::uint64_t end, F f) {
    while (first < end) {
      const auto slot = static_cast<SlotIndex>(first);
      const auto lock = Lock(slot);
      for (const auto stop = std::min(end, BundleEnd(slot)); first < stop; ++first) {
        f(static_cast<SlotIndex>(first));
      }
    }
  }
  /// Returns when every lock that was held at the call was released.
  void WaitForHolders() {
    for (Stripe& stripe : stripes_) std::lock_guard lock(stripe.mutex);
  }
  // With the slot's lock held:

  const SlotRecord& Get(SlotIndex slot) const { return records_[slot]; }
  /// Earlier writes, such as the bytes that the record refers to, are in place before the record.
  void Set(SlotIndex slot, const SlotRecord& record) {
    std::atomic_thread_fence(std::memory_order_release);
    _mm_store_si128(reinterpret_cast<__m128i*>(&records_[slot]),
                    _mm_load_si128(reinterpret_cast<const __m128i*>(&record)));
  }
  /// Whether any slot of the slot's bundle slots has its page in a bundle.
  bool AnyInBundle(SlotIndex slot) const {
    const SlotIndex first = slot / kBundleSlots * kBundleSlots;
    for (std::uint64_t s = first; s < BundleEnd(slot); ++s) {
      if (records_[s].in_bundle) return true;
    }
    return false;
  }
  /// End of the slots that one bundle covers; the device's last bundle may be shorter.
  std::uint64_t BundleEnd(SlotIndex slot) const {
    return std::min<std::uint64_t>(std::uint64_t{slot} / kBundleSlots * kBundleSlots + kBundleSlots,
                                   slots_);
  }

 private:
  static constexpr std::size_t kStripes = 1024;
  struct alignas(64) Stripe {
    std::mutex mutex;
  };

  SlotRecord* const records_;
  const std::uint64_t slots_;
  std::array<Stripe, kStripes> stripes_;
};

}  // namespace farswap::tier
