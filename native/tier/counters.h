// Counters of the tier, one per reason (names follow mm/zswap.c where the meaning is zswap's).
// A dropped entry that needed no I/O is not a writeback.
#pragma once

#include <array>
#include <atomic>
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

/// What is in the tier now, and what has happened. Gauges are exact when nothing is under way;
/// the invariant stored = put - overwritten - trimmed - lost then holds.
struct TierStats {
  std::uint64_t pool_limit_bytes;
  std::uint64_t pool_used_bytes;     // slabs in use
  std::uint64_t pool_entry_bytes;    // entries, rounded to their size classes
  std::uint64_t pool_payload_bytes;  // bytes of the objects themselves
  std::uint64_t metadata_bytes;      // slot table
  std::uint64_t pages_same_filled;
  std::uint64_t pages_local;  // without the ones being written back
  std::uint64_t pages_writing;
  std::uint64_t pages_remote;
  std::uint64_t pages_raw;  // local or writing, kept uncompressed
  bool shrinking;
  std::array<std::uint64_t, kCounterCount> counters;
};

}  // namespace farswap::tier
