// The local tier: a userspace zswap. TryStore() compresses a page into a locked pool, Load() and
// Fetch() read it, Invalidate() drops it; the shrinker moves the coldest pages to the RemoteStore.
//
// Every page belongs to a group: that of the cgroup that it was charged to, if known, else the root
// group. A group has an LRU, limits and counters of its own.
//
// No method of the store path allocates memory, blocks in a system call under a lock, or logs.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tier/codec.h"
#include "tier/counters.h"
#include "tier/page.h"
#include "tier/page_device.h"
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

class Tier : public PageDevice {
 public:
  /// `remote` must outlive the tier. Fails if memory is short or the config is out of range.
  static Result<std::unique_ptr<Tier>> Create(const TierConfig& config, RemoteStore* remote);

  // --- Attribution and slot frees

  /// Attributes pages by these words from now on, one a slot; nullptr: not any more. Pages stored
  /// before this call are dropped only if freed after it. Returns when no thread reads the earlier
  /// array.
  virtual void UseSlotWords(const std::atomic<SlotWord>* words) = 0;

  /// Notice of a slot that the kernel freed: drops its page if the slot's word is FREE now and has
  /// changed since the page was stored. True: a page was dropped.
  virtual bool OnSlotFree(SlotIndex slot) = 0;

  /// The cgroup of pages that no slot word attributes; kUnknownCgroup: the root group.
  virtual void SetLabel(CgroupId id) = 0;

  /// The cgroup's id of each slot's page; kUnknownCgroup for empty slots and the root group.
  virtual void OwnersOf(SlotIndex first, std::span<CgroupId> owners) = 0;

  /// Places a cgroup below a placed one; parent kUnknownCgroup: below the root group. False: the
  /// parent was not placed, the cgroup is elsewhere already, or there is no room for another group.
  virtual bool PlaceCgroup(CgroupId id, CgroupId parent) = 0;

  /// The cgroup was removed: its pages, and those still to come, belong to its parent.
  virtual void RemoveCgroup(CgroupId id) = 0;

  /// False: there is no room for another group.
  virtual bool ConfigureCgroup(CgroupId id, const GroupSettings& settings) = 0;

  /// Every group that has pages or was placed or configured, the root group first.
  virtual std::vector<GroupStats> CgroupStats() const = 0;

  // --- Settings that change at run time

  /// Of later stores, unless a cgroup has its own.
  virtual void SetCompressor(const Compressor& compressor) = 0;
  /// Compressor of entries that are sent; none: they are sent as they are.
  virtual void SetRecompression(const std::optional<Compressor>& compressor) = 0;
  /// Whether cold neighbours are sent as bundles (bundle.h). Bundles on servers are read in any
  /// case. Fails with a message if memory cannot be allocated.
  virtual Outcome SetPacking(bool on) = 0;
  /// At most pool_bytes_max. The shrinker works until the pool is that small.
  virtual Outcome SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) = 0;

  // --- Observability

  /// Where a slot's page is, for `slot explain`. Reads the page (also a remote one) to verify it.
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
  virtual Explanation Explain(SlotIndex slot) = 0;

  virtual TierStats Stats() const = 0;

  // --- Proactive writeback

  /// Starts to write back the coldest pages, whatever the pool holds. False: the job before has not
  /// finished.
  virtual bool StartManualWriteback(const WritebackJob& job) = 0;
  virtual void CancelManualWriteback() = 0;
  struct ManualWriteback {
    std::uint64_t target_bytes;
    std::uint64_t written_bytes;  // of pages, acknowledged
    std::uint64_t sent_bytes;     // the same as compressed
    bool finished;
    const char* stopped_because;  // "" when the target was reached
  };
  virtual ManualWriteback ManualWritebackProgress() const = 0;

  /// Lets the shrinker examine `pages` of a cgroup's own coldest pages, and write back those that
  /// are so old and were not read since they were stored or last spared, after all more urgent
  /// work. Replaces the rest of an earlier request.
  virtual void WriteBackProactively(CgroupId id, std::uint64_t pages,
                                    std::uint32_t older_than_s) = 0;

  /// Ends writeback: stores that find no room fail at once. Waits until the RemoteStore has given
  /// back every PutBatch. Idempotent; the destructor calls it.
  virtual void StopWriteback() = 0;
};

}  // namespace farswap::tier
