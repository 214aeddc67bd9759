// The shrinker: one thread that decides when entries leave the pool, how many, and of which groups.
// It does, most urgent first:
//
//   pool limit     keeps the pool's entries under its limit, taking from each group in proportion
//                  to its size; makes room also by compaction
//   group limits   the same for each cgroup that has a limit, from it and its descendants alone
//   manual job     what an operator started
//   reparenting    rewrites slot records that name a removed cgroup's group
//   proactive      what the host daemon asked for because of memory pressure or age
//
// and then sends discards of stale objects. How entries get to the servers is in writeback.h.
//
// Hysteresis: at a limit it starts when entries pass the high mark (half-way between the accept
// threshold and the limit) or a store waits for room, and goes on until they are under the accept
// threshold.
//
// Lock order: mutex_ comes after every other lock; the thread holds none while it works.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "tier/config.h"
#include "tier/manual_job.h"
#include "tier/pages.h"
#include "tier/stale.h"
#include "tier/store_queue.h"
#include "tier/writeback.h"

namespace farswap::tier {

class Shrinker final : public RoomMaker, public Writeback::Listener {
 public:
  /// All outlive it.
  Shrinker(const TierConfig& config, Pages* pages, StaleObjects* stale, StoreQueue* stores,
           Writeback* writeback, ManualJob* manual);
  ~Shrinker() { Stop(); }

  /// Ends the thread, then waits until the RemoteStore has given back every batch. Idempotent.
  void Stop();

  /// Wakes the thread if the pool, or a cgroup at or above this one, has passed its high mark.
  /// Called after every allocation.
  void AfterAllocation(GroupIndex group) override;
  /// Wakes the thread: a limit may have changed, or there is something new to do.
  void Wake() override;
  void OnAnswered(const Writeback::Answer& answer) override;

  bool shrinking() const { return shrinking_.load(std::memory_order_relaxed); }

 private:
  using Request = Writeback::Request;

  // A group that entries can be taken from.
  struct Source {
    GroupIndex group;
    std::uint64_t entries;
  };

  void Run();
  WorkResult WorkOnce();
  WorkResult ShrinkPool();
  bool CompactSlab();
  WorkResult ShrinkLimitedGroups();
  WorkResult ShrinkGroup(GroupIndex index);
  WorkResult DoManualJob();
  WorkResult ReparentSlots();
  WorkResult ShrinkProactively();
  WorkResult WriteBack(const Request& request);

  std::uint64_t FindSources(const Request& request);
  void Collect(Writeback::Batch* batch);

  std::uint64_t HighBytes(std::uint64_t limit) const {
    return limit * (100 + pages_.accept_threshold_percent()) / 200;
  }
  std::uint64_t AcceptBytes(std::uint64_t limit) const {
    return limit * pages_.accept_threshold_percent() / 100;
  }
  std::uint32_t ReserveSlabs() const;
  bool OverHighMark(std::uint64_t bytes) const;

  const TierConfig& config_;
  Pages& pages_;
  Groups& groups_;
  StaleObjects& stale_;
  StoreQueue& stores_;
  Writeback& writeback_;
  ManualJob& manual_;
  std::atomic<bool> shrinking_{false};
  std::atomic<bool> wake_wanted_{false};

  // Of the thread:
  Pool::Drain drain_;
  std::vector<Source> sources_;
  std::uint64_t source_entries_ = 0;
  // Deficit round robin: entries that a group still has to give, in fractions.
  static constexpr unsigned kDeficitBits = 16;
  static constexpr std::uint64_t kDeficitMax = std::uint64_t{PutBatch::kObjectsMax} << kDeficitBits;
  std::vector<std::uint64_t> deficits_;
  GroupIndex last_source_ = kRootGroup;
  GroupIndex last_limited_ = kRootGroup;
  std::vector<bool> group_shrinking_;
  std::vector<GroupIndex> reparenting_;  // groups whose slot records are being rewritten
  std::uint64_t reparent_slot_ = 0;

  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;  // last
};

}  // namespace farswap::tier
