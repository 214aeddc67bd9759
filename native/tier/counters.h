// Counters of the tier, one per reason and group (names follow mm/zswap.c where the meaning is
// zswap's). A dropped entry that needed no I/O is not a writeback.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace farswap::tier {

enum class Counter : std::uint8_t {
#define FARSWAP_TIER_COUNTER(name, description) name,
#include "tier/counters.inc"
#undef FARSWAP_TIER_COUNTER
  kCount
};

inline constexpr std::size_t kCounterCount = static_cast<std::size_t>(Counter::kCount);

/// "stores", "loads_remote", ...: the identifier of counters.inc.
const char* CounterName(Counter counter);
/// What it counts, in words.
const char* CounterDescription(Counter counter);

using CounterValues = std::array<std::uint64_t, kCounterCount>;

/// Pages by where they are. Exact when nothing is under way.
struct PageCounts {
  std::uint64_t same_filled = 0;
  std::uint64_t local = 0;  // without the ones being written back
  std::uint64_t writing = 0;
  std::uint64_t clean = 0;   // in the pool and on servers
  std::uint64_t remote = 0;  // on servers only
  std::uint64_t raw = 0;     // in the pool, kept uncompressed

  std::uint64_t held() const { return same_filled + local + writing + clean + remote; }
};

/// What is in the tier now, and what has happened. Gauges are exact when nothing is under way;
/// the invariant held = put - overwritten - trimmed - freed early - lost then holds, in total and
/// for each group.
struct TierStats {
  std::uint64_t pool_limit_bytes;
  std::uint64_t pool_used_bytes;     // slabs in use
  std::uint64_t pool_entry_bytes;    // entries, rounded to their size classes
  std::uint64_t pool_payload_bytes;  // bytes of the objects themselves
  std::uint64_t metadata_bytes;      // slot table
  std::uint32_t accept_threshold_percent;
  PageCounts pages;
  bool shrinking;
  CounterValues counters;
};

}  // namespace farswap::tier
