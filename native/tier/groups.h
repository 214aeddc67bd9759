// Groups: the cgroups as the tier knows them, each with an LRU, limits and counters.
//
//   root group             the pool is its limit; its pages are those of no known cgroup
//   ├── A    (index 1)     LRU  hot ◀─▶ entry ◀─▶ entry ◀─▶ cold      own: A's pages alone
//   │   └── B    (index 2)                                         tree_*: those of A and B
//   └── C    (index 3)     a cgroup that has pages, or was configured, but not placed
//
//   cgroup id ── CgroupMap ──▶ index ◀── group of a slot record
//                                │
//                                └── reparented_to: the index itself; once B is removed, A
//
// A group gets its index at the first store of its cgroup, or when it is placed or configured. When
// its cgroup is removed, its parent takes its LRU, charges and counters, and reparented_to leads
// there. The index is used again after every slot record that holds it was rewritten. An index is
// looked up and used under one slot's lock, and the rewriting takes every slot's lock after the id
// stopped leading to the group: no thread still uses the old index by then.
//
// Lock order: a slot's lock, then a group's, then the pool's; the tree's mutex comes before a
// group's and is never taken with a group's held. Charges go up the tree under the mutex of the
// group where they begin; a change of that group's parent takes it, too.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "tier/cgroup_map.h"
#include "tier/config.h"
#include "tier/lru.h"
#include "tier/pool.h"
#include "tier/slot_table.h"

namespace farswap::tier {

/// What changes with a page that the limits count. Signed differences.
struct Charge {
  std::int64_t pool_bytes = 0;     // entry bytes, also of entries being written back
  std::int64_t writing_bytes = 0;  // of these, the ones being written back
  std::int64_t remote_pages = 0;   // being written back, remote or clean

  Charge operator-(const Charge& other) const {
    return {pool_bytes - other.pool_bytes, writing_bytes - other.writing_bytes,
            remote_pages - other.remote_pages};
  }
};

/// Loads by the time they took.
class LatencyHistogram {
 public:
  void Add(std::chrono::nanoseconds took);
  LatencyStats Read() const;
  void MoveTo(LatencyHistogram* other);

 private:
  std::array<std::atomic<std::uint64_t>, LatencyStats::kBuckets> buckets_{};
  std::atomic<std::uint64_t> sum_ns_{0};
};

struct Group {
  /// Guards `lru`, `own` and, against charges, `parent`.
  std::mutex mutex;
  Lru lru;

  std::atomic<CgroupId> id{kUnknownCgroup};
  std::atomic<GroupIndex> parent{kRootGroup};
  /// The group itself while it is in use.
  std::atomic<GroupIndex> reparented_to{kRootGroup};

  Charge own;
  /// With descendants; of the root group, unused. Sequentially consistent for stores that wait at
  /// the limit: see StoreQueue.
  std::atomic<std::int64_t> tree_pool_bytes{0};
  std::atomic<std::int64_t> tree_writing_bytes{0};
  std::atomic<std::int64_t> tree_remote_pages{0};

  // What is in force, with what ancestors say.
  std::atomic<std::uint64_t> pool_limit_bytes{kNoLimit};
  std::atomic<std::uint64_t> remote_pages_max{kNoLimit};
  std::atomic<bool> may_write_back{true};
  std::atomic<std::uint32_t> compressor{0};  // PackCompressor()

  // Progress of writeback in the tree below, for stores that wait at its limit.
  std::atomic<std::uint64_t> progress{0};
  std::atomic<std::int64_t> last_progress_ns{0};

  // See Tier::WriteBackProactively().
  std::atomic<std::uint64_t> proactive_pages{0};
  std::atomic<std::uint32_t> proactive_older_than_s{0};

  std::array<std::atomic<std::uint64_t>, kSlotStates> pages_by_state{};
  std::atomic<std::uint64_t> raw_pages{0};
  std::array<std::atomic<std::uint64_t>, kCounterCount> counters{};
  LatencyHistogram local_latency;
  LatencyHistogram remote_latency;

  // Guarded by the tree's mutex.
  GroupSettings settings;
  bool in_use = false;
  bool placed = false;

  void Count(Counter counter, std::uint64_t by = 1) {
    counters[static_cast<std::size_t>(counter)].fetch_add(by, std::memory_order_relaxed);
  }
  PageCounts Pages() const;
};

class Groups {
 public:
  static constexpr std::size_t kGroupsMax = 4096;
  static constexpr GroupIndex kNoGroup = CgroupMap::kNone;
  using Time = std::chrono::steady_clock::time_point;

  /// `ids`, which are all kUnknownCgroup of a new device, outlive the process: the cgroup that each
  /// index stands for in slot records.
  Groups(Pool* pool, std::span<std::atomic<CgroupId>, kGroupsMax> ids);

  // --- After a death, before any other call

  /// Groups of the ids; Resolve() leads each index to one from here on.
  void BeginRecovery();
  /// No slot record holds an index that leads to another.
  void EndRecovery();

  // --- For the data path

  /// The group of a cgroup, made if need be; kRootGroup for kUnknownCgroup and when there is no
  /// room. The slot's lock is held as long as the index is used.
  GroupIndex Find(CgroupId id) {
    if (id == kUnknownCgroup) return kRootGroup;
    const GroupIndex index = Lookup(id);
    return index != kNoGroup ? index : Add(id);
  }

  /// The group that an index stands for now.
  GroupIndex Resolve(GroupIndex index) const {
    GroupIndex next = groups_[index].reparented_to.load(std::memory_order_acquire);
    while (next != index) {
      index = next;
      next = groups_[index].reparented_to.load(std::memory_order_acquire);
    }
    return index;
  }
  Group& At(GroupIndex index) { return groups_[index]; }
  const Group& At(GroupIndex index) const { return groups_[index]; }
  Group& Of(const SlotRecord& record) { return groups_[Resolve(record.group)]; }

  /// A group with its mutex held.
  class Locked {
   public:
    Locked(Group* group, std::unique_lock<std::mutex> lock)
        : group_(group), lock_(std::move(lock)) {}
    Group* operator->() const { return group_; }
    Group& operator*() const { return *group_; }

   private:
    Group* group_;
    std::unique_lock<std::mutex> lock_;
  };
  /// Locks the group that an index stands for: the one whose LRU its entries are on.
  Locked Lock(GroupIndex index);
  /// Adds to the group and to all above it.
  void Add(const Locked& group, const Charge& charge);

  /// The group at or above `index` that `more_bytes` would put over its limit in percent; kNoGroup:
  /// none. Only a hint unless a slot's lock is held.
  GroupIndex OverLimit(GroupIndex index, std::uint64_t more_bytes, std::uint32_t percent) const;
  /// Whether entries of the group may be sent to servers: none at or above it forbids that or is at
  /// its quota.
  bool MayWriteBack(GroupIndex index) const;
  /// Whether anything below a group can leave the pool at all.
  bool MayMakeRoom(GroupIndex group) const;
  bool IsWithin(GroupIndex index, GroupIndex ancestor) const;
  /// Something of the group left the pool by writeback.
  void ReportProgress(GroupIndex index, Time now);

  Compressor CompressorOf(GroupIndex index) const;

  // --- The tree. Any thread, one at a time.

  bool Place(CgroupId id, CgroupId parent);
  bool Configure(CgroupId id, const GroupSettings& settings);
  void SetRootCompressor(const Compressor& compressor);
  /// True: slot records are to be rewritten.
  bool Remove(CgroupId id);
  /// kNoGroup: none yet. The group of an ancestor, if the cgroup was removed.
  GroupIndex Lookup(CgroupId id) const { return by_id_.Find(id); }
  /// The cgroup's own group, or kNoGroup.
  GroupIndex IndexOf(CgroupId id) const;

  std::vector<GroupStats> Stats() const;
  /// Pages and counters of all groups.
  void Total(PageCounts* pages, CounterValues* counters) const;

  /// Groups have indexes below this one.
  std::size_t end() const { return end_.load(std::memory_order_acquire); }
  bool any_limited() const { return limited_.load(std::memory_order_relaxed) > 0; }

  // --- For the thread that rewrites slot records

  /// Sets the removed groups whose indexes slot records may hold. Allocates nothing in a vector
  /// that has room for kGroupsMax.
  void Reparenting(std::vector<GroupIndex>* removed);
  /// No slot record holds these any more.
  void Reparented(const std::vector<GroupIndex>& removed);

 private:
  // Ids of removed cgroups that still lead to an ancestor: the kernel may swap out pages charged to
  // them.
  static constexpr std::size_t kRemovedIdsMax = 1024;

  GroupIndex Add(CgroupId id);
  GroupIndex AddLocked(CgroupId id);
  void Begin(GroupIndex index, CgroupId id);
  bool RemoveLocked(CgroupId id);
  void ReparentId(CgroupId id, GroupIndex from, GroupIndex to);
  void Refresh();
  std::size_t InUse() const { return kGroupsMax - free_.size() - reparenting_.size(); }
  GroupStats StatsOf(const Group& group) const;

  Pool* const pool_;
  const std::span<std::atomic<CgroupId>, kGroupsMax> ids_;
  const std::unique_ptr<Group[]> groups_;
  CgroupMap by_id_;  // changed under mutex_
  std::atomic<std::size_t> end_{1};
  std::atomic<std::size_t> limited_{0};

  mutable std::mutex mutex_;  // the tree's: guards all below, and which group is a parent
  std::vector<GroupIndex> free_;
  std::vector<GroupIndex> reparenting_;
  std::vector<CgroupId> removed_ids_;  // a ring, the oldest at next_removed_id_
  std::size_t next_removed_id_ = 0;
};

}  // namespace farswap::tier
