// What outlives a worker of remote_crash_test beside the state of its tier and cluster.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "written_slot.h"

namespace farswap::remote {

inline constexpr std::uint32_t kCrashShards = 4;
inline constexpr std::uint32_t kCrashPages = 768;
inline constexpr std::uint64_t kCrashSlots = std::uint64_t{kCrashShards} * tier::kShardSlots;
inline constexpr std::uint64_t kCrashPoolBytes = std::uint64_t{4} << 20;

struct CrashWorld {
  std::array<tier::WrittenSlot, kCrashPages> written;
  std::atomic<std::uint64_t> first_fetch_us;  // since the cluster was made; 0: no page was remote

  /// Each shard has as many.
  static tier::SlotIndex SlotOf(std::uint32_t page) {
    return page % kCrashShards * tier::kShardSlots + page / kCrashShards;
  }
};

}  // namespace farswap::remote
