// The one implementation of Tier. tier.cc holds the page operations, fetch.cc reads of remote
// pages, shrinker.cc what moves cold entries to the memory servers.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "tier/groups.h"
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
  std::uint64_t slots() const override { return table_->slots(); }

  void UseSlotWords(const std::atomic<SlotWord>* words) override;
  bool OnSlotFree(SlotIndex slot) override;
  void SetLabel(CgroupId id) override { label_.store(id, std::memory_order_relaxed); }
  void SlotOwners(SlotIndex first, std::span<CgroupId> owners) override;
  bool PlaceCgroup(CgroupId id, CgroupId parent) override;
  void RemoveCgroup(CgroupId id) override;
  bool ConfigureCgroup(CgroupId id, const GroupSettings& settings) override;
  std::vector<GroupStats> Groups() const override { return groups_.Stats(); }

  void SetCompressor(const Compressor& compressor) override;
  void SetRecompression(const std::optional<Compressor>& compressor) override;
  Outcome SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) override;

  Explanation Explain(SlotIndex slot) override;
  TierStats Stats() const override;

  bool StartManualWriteback(const WritebackJob& job) override;
  void CancelManualWriteback() override;
  ManualWriteback ManualWritebackProgress() const override;
  void ShrinkAhead(CgroupId id, std::uint64_t pages, std::uint32_t older_than_s) override;
  void StopWriteback() override;

 private:
  friend class PageFetch;
  friend class Shrinker;

  // The group that pages of the slot are attributed to now, for decisions that bind nobody: which
  // compressor to use, whether to wait at a limit.
  GroupIndex GroupHint(SlotIndex slot);
  // Sets group and sequence of a record that is about to replace `old`. False: nobody said whom the
  // page belongs to. The slot's lock is held.
  bool Attribute(SlotIndex slot, const SlotRecord& old, SlotRecord* next);

  // Pages of one kind, exact whenever no operation is under way. The slot's lock is held.
  void CountState(const SlotRecord& record, int by);

  IoStatus StoreImpl(SlotIndex slot, const std::byte* page, const Version* expected);
  // Compresses the page into a new entry, as the record that is to hold it. False: no room.
  bool MakeEntry(SlotIndex slot, const std::byte* page, SlotRecord* next);
  EntryRef AllocateOrWait(GroupIndex group, std::size_t object_bytes);
  bool WaitForGroup(GroupIndex group, std::size_t entry_bytes);
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

  enum class Damage : std::uint8_t { kNone, kChecksum, kNoPage };
  // Turns an object into its page.
  static Damage Verify(const PageObject& object, std::byte* out);
  static void CountDamage(Damage damage, Group* group);

  // Called by PageFetch.
  void ContinueFetch(PageFetch* fetch);
  bool AcceptFetched(PageFetch* fetch, std::size_t index, GetResult result,
                     const PageObject& object, bool* again);
  void CountWait(const PageFetch& fetch);

  const TierConfig config_;
  RemoteStore* const remote_;
  const std::unique_ptr<SlotTable> table_;
  const std::unique_ptr<Pool> pool_;
  tier::Groups groups_;
  std::atomic<const std::atomic<SlotWord>*> words_{nullptr};
  std::atomic<CgroupId> label_{kUnknownCgroup};
  std::atomic<std::uint64_t> payload_bytes_{0};
  Shrinker shrinker_;  // last: its thread uses all of the above
};

}  // namespace farswap::tier
