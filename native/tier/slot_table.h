// The slot table: the only truth about where each page of the device is.
//
// One 16-byte record per slot in one locked mapping, guarded by a striped lock. A record holds
// offsets and no pointers, and is replaced as a whole by one 16-byte store (a single instruction),
// after the bytes that it refers to are in place: whoever scans the mapping after the process died
// at any instruction finds each record old or new, never torn.
//
// Lock order: a slot's lock, then the LRU's, then the pool's. Nobody holds two slots' locks.
#pragma once

#include <emmintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/locked_mapping.h"
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
};
inline constexpr std::size_t kSlotStates = 5;

const char* SlotStateName(SlotState state);

struct alignas(16) SlotRecord {
  Version version = 0;
  std::uint16_t length = 0;  // of the object in bytes, for local, writing and remote
  SlotState state = SlotState::kEmpty;
  std::uint8_t codec : 2 = 0;
  std::uint8_t referenced : 1 = 0;  // read since it was stored: gets a second chance
  std::uint8_t unused : 5 = 0;
  union {
    struct {
      EntryRef entry;          // local, writing
      std::uint32_t checksum;  // local, writing, remote
    } object;
    std::uint64_t fill = 0;  // same-filled
  };

  bool InPool() const { return state == SlotState::kLocal || state == SlotState::kWriting; }
};
static_assert(sizeof(SlotRecord) == 16);

class SlotTable {
 public:
  static Result<std::unique_ptr<SlotTable>> Create(std::uint64_t slots);

  std::uint64_t slots() const { return slots_; }
  std::uint64_t bytes() const { return mapping_->bytes(); }

  /// Holds the lock of one slot's stripe for its lifetime.
  [[nodiscard]] std::unique_lock<std::mutex> Lock(SlotIndex slot) {
    return std::unique_lock(stripes_[slot % kStripes].mutex);
  }
  // Both with the slot's lock held.
  const SlotRecord& Get(SlotIndex slot) const { return records_[slot]; }
  void Set(SlotIndex slot, const SlotRecord& record) {
    _mm_store_si128(reinterpret_cast<__m128i*>(&records_[slot]),
                    _mm_load_si128(reinterpret_cast<const __m128i*>(&record)));
  }

 private:
  static constexpr std::size_t kStripes = 1024;
  struct alignas(64) Stripe {
    std::mutex mutex;
  };

  SlotTable(std::unique_ptr<LockedMapping> mapping, std::uint64_t slots);

  std::unique_ptr<LockedMapping> mapping_;
  SlotRecord* const records_;
  const std::uint64_t slots_;
  std::array<Stripe, kStripes> stripes_;
};

}  // namespace farswap::tier
