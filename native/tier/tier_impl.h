// The one implementation of Tier. tier.cc holds the page operations, fetch.cc reads of remote
// pages, shrinker.cc what moves cold entries to the memory servers.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "tier/lru.h"
#include "tier/pool.h"
#include "tier/shrinker.h"
#include "tier/slot_table.h"
#include "tier/tier.h"

namespace farswap::tier {

class TierImpl final : public Tier {
 public:
  TierImpl(const TierConfig& config, RemoteStore* remote, std::unique_ptr<SlotTable> table,
           std::unique_ptr<Pool> pool, std::unique_ptr<LockedMapping> arenas);
  ~TierImpl() override;

  IoStatus Store(SlotIndex slot, const std::byte* page) override;
  IoStatus StoreIf(SlotIndex slot, const std::byte* page, Version expected) override;
  LoadResult Load(SlotIndex slot, std::byte* out) override;
  void Fetch(PageFetch* fetch) override;
  IoStatus LoadWait(SlotIndex slot, std::byte* out, Version* version) override;
  void Invalidate(SlotIndex first, std::uint64_t count) override;
  Explanation Explain(SlotIndex slot) override;
  bool StartManualWriteback(std::uint64_t bytes) override;
  void CancelManualWriteback() override;
  ManualWriteback ManualWritebackProgress() const override;
  void StopWriteback() override;
  TierStats Stats() const override;
  std::uint64_t slots() const override { return table_->slots(); }

 private:
  friend class PageFetch;
  friend class Shrinker;

  void Count(Counter counter, std::uint64_t by = 1) {
    counters_[static_cast<std::size_t>(counter)].fetch_add(by, std::memory_order_relaxed);
  }

  // Pages of one kind, exact whenever no operation is under way.
  void CountState(const SlotRecord& record, int by);

  IoStatus StoreImpl(SlotIndex slot, const std::byte* page, const Version* expected);
  EntryRef AllocateOrWait(std::size_t object_bytes);
  void ForgetStale(SlotIndex slot);
  // Replaces the slot's record and lets go of what the old one held. The slot's lock is held.
  void Replace(SlotIndex slot, SlotRecord next);
  // Drops a record's entry, if it has one, from the LRU and the pool. The slot's lock is held.
  void DropEntry(const SlotRecord& record);

  // Empties one slab into others. False: no class has that much room to spare.
  bool CompactOneSlab(Pool::Drain* drain);
  bool MoveEntry(EntryRef from);

  // Load() that also tells the version it read, or that is to be fetched.
  LoadResult LoadVersion(SlotIndex slot, std::byte* out, Version* version);
  bool Verify(const PageObject& object, std::byte* out);

  // Called by PageFetch.
  void ContinueFetch(PageFetch* fetch);
  bool AcceptFetched(SlotIndex slot, Version wanted, GetResult result, const PageObject& object,
                     std::byte* out, bool* again);

  const TierConfig config_;
  RemoteStore* const remote_;
  const std::unique_ptr<SlotTable> table_;
  const std::unique_ptr<Pool> pool_;
  Lru lru_;
  std::array<std::atomic<std::uint64_t>, kCounterCount> counters_{};
  std::array<std::atomic<std::uint64_t>, kSlotStates> pages_by_state_{};
  std::atomic<std::uint64_t> payload_bytes_{0};
  std::atomic<std::uint64_t> pages_raw_{0};
  Shrinker shrinker_;  // last: its thread uses all of the above
};

/// Seconds since the epoch, cheaply.
std::uint32_t UnixSeconds();

}  // namespace farswap::tier
