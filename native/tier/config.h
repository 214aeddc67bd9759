// Configuration, settings and statistics of a tier.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "tier/codec.h"
#include "tier/counters.h"
#include "tier/page.h"
#include "tier/slot_words.h"

namespace farswap::tier {

/// Seconds of CLOCK_BOOTTIME, which no step of the wall clock changes.
std::uint32_t BootSeconds();

struct TierConfig {
  std::uint64_t slots = 0;                      // size of the device in pages, 1..2^31
  std::uint64_t pool_bytes_max = 0;             // [tier] pool_limit; at least 4 MiB
  std::uint32_t accept_threshold_percent = 90;  // 1..100
  /// How long stores may find no room, in the pool or at a group's limit, before they are refused
  /// with kNoSpace: since writeback last freed something there.
  std::chrono::milliseconds store_wait{2000};
  /// Spare an entry once that was read since it was stored. Off: a plain LRU, for comparison.
  bool second_chance = true;
  /// Clock of ages.
  std::uint32_t (*boot_seconds)() = &BootSeconds;
  /// Clock of store_wait and of back-off.
  std::chrono::steady_clock::time_point (*now)() = &std::chrono::steady_clock::now;
};

inline constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};

/// Settings of one cgroup; its limits count its descendants as well.
struct GroupSettings {
  /// Pool bytes, entries rounded to their size classes; at least kGroupLimitMin, since every page
  /// is in the pool for a while.
  std::uint64_t pool_limit_bytes = kNoLimit;
  /// Off: entries stay in the pool. Holds for descendants whatever they say.
  bool writeback = true;
  /// Pages on memory servers. At the quota entries stay in the pool.
  std::uint64_t remote_pages_max = kNoLimit;
  /// For stores from now on; none: the nearest ancestor's.
  std::optional<Compressor> compressor;
};
inline constexpr std::uint64_t kGroupLimitMin = std::uint64_t{256} << 10;

/// Loads by duration: bucket i counts those under 2^i microseconds and not under 2^(i-1), the last
/// one all others. Loads from the pool are sampled.
struct LatencyStats {
  static constexpr std::size_t kBuckets = 24;
  std::array<std::uint64_t, kBuckets> buckets{};
  std::uint64_t sum_ns = 0;
};

struct GroupStats {
  CgroupId id = kUnknownCgroup;
  CgroupId parent = kUnknownCgroup;  // kUnknownCgroup: the root group
  bool placed = false;               // by PlaceCgroup(); else known from its pages alone
  GroupSettings settings;
  PageCounts pages;
  std::uint64_t pool_bytes = 0;       // of its own entries
  std::uint64_t tree_pool_bytes = 0;  // with its descendants'
  std::uint64_t tree_remote_pages = 0;
  CounterValues counters{};
  LatencyStats local_latency;  // of pages in the pool, same-filled or empty
  LatencyStats remote_latency;
};

/// A writeback that an operator starts.
struct WritebackJob {
  std::uint64_t bytes = 0;           // of pages, uncompressed
  CgroupId cgroup = kUnknownCgroup;  // with its descendants; kUnknownCgroup: all
  std::uint32_t older_than_s = 0;    // only pages stored at least so long ago
};

struct ManualWriteback {
  std::uint64_t target_bytes;
  std::uint64_t written_bytes;  // of pages, acknowledged
  std::uint64_t sent_bytes;     // the same as compressed
  bool finished;
  const char* stopped_because;  // "" when the target was reached
};

/// Where a slot's page is, for `slot explain`.
struct Explanation {
  const char* state;  // "empty", "same_filled", "local", "writing", "clean", "remote"
  Version version;
  Codec codec;
  std::uint32_t size_bytes;  // 0: unknown, the page is in a bundle
  std::uint64_t fill;
  std::uint32_t stored_boot_s;  // 0: unknown
  CgroupId cgroup;              // kUnknownCgroup: the root group
  bool referenced;
  bool verified;
  std::string problem;  // why not verified
};

}  // namespace farswap::tier
