// The one implementation of Tier. A store is TryStore() in tier.cc; what it uses, from the bottom:
//
//   StaleObjects   objects on servers that no slot needs
//   Pages          slot table, pool and groups: every change of a slot's record
//   SlotOwners     whose page a slot holds, and whether the kernel freed it
//   Fetches        loads and reads of remote pages
//   StoreQueue     stores that wait for room
//   Packer         makes batches smaller
//   Writeback      sends batches of cold entries
//   Shrinker       decides when, how many and which
#pragma once

#include <memory>
#include <optional>

#include "tier/fetches.h"
#include "tier/manual_job.h"
#include "tier/owner.h"
#include "tier/packer.h"
#include "tier/pages.h"
#include "tier/shrinker.h"
#include "tier/stale.h"
#include "tier/store_queue.h"
#include "tier/tier.h"
#include "tier/writeback.h"

namespace farswap::tier {

class TierImpl final : public Tier {
 public:
  TierImpl(const TierConfig& config, RemoteStore* remote, std::unique_ptr<SlotTable> table,
           std::unique_ptr<Pool> pool, std::unique_ptr<LockedMapping> arenas);
  ~TierImpl() override;

  IoStatus TryStore(SlotIndex slot, const std::byte* page, PendingStore* store) override;
  bool CancelStore(PendingStore* store) override { return stores_.Cancel(store); }
  LoadResult Load(SlotIndex slot, std::byte* out) override {
    return fetches_.Load(slot, out, nullptr);
  }
  void Fetch(PageFetch* fetch) override { fetches_.Start(fetch); }
  void Invalidate(SlotIndex first, std::uint64_t count) override;
  std::uint64_t slots() const override { return pages_.slots(); }

  void UseSlotWords(const std::atomic<SlotWord>* words) override { owners_.UseWords(words); }
  bool OnSlotFree(SlotIndex slot) override;
  void SetLabel(CgroupId id) override { owners_.SetLabel(id); }
  void OwnersOf(SlotIndex first, std::span<CgroupId> owners) override;
  bool PlaceCgroup(CgroupId id, CgroupId parent) override;
  void RemoveCgroup(CgroupId id) override;
  bool ConfigureCgroup(CgroupId id, const GroupSettings& settings) override;
  std::vector<GroupStats> CgroupStats() const override { return pages_.groups().Stats(); }

  void SetCompressor(const Compressor& compressor) override;
  void SetRecompression(const std::optional<Compressor>& compressor) override {
    packer_.SetRecompression(compressor);
  }
  Outcome SetPacking(bool on) override { return packer_.SetPacking(on); }
  Outcome SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) override;

  Explanation Explain(SlotIndex slot) override { return fetches_.Explain(slot); }
  TierStats Stats() const override;

  bool StartManualWriteback(const WritebackJob& job) override;
  void CancelManualWriteback() override { manual_.Cancel(); }
  ManualWriteback ManualWritebackProgress() const override { return manual_.Progress(); }
  void WriteBackProactively(CgroupId id, std::uint64_t pages, std::uint32_t older_than_s) override;
  void StopWriteback() override;

 private:
  // The group of the slot's next page; advisory, since the slot's lock is released again.
  GroupIndex GroupHint(SlotIndex slot);

  void LimitsChanged();

  const TierConfig config_;
  StaleObjects stale_;
  Pages pages_;
  SlotOwners owners_;
  Fetches fetches_;
  StoreQueue stores_;  // its thread wakes the shrinker while stores wait
  Packer packer_;
  Writeback writeback_;
  ManualJob manual_;
  Shrinker shrinker_;  // last: its thread uses all of the above
};

}  // namespace farswap::tier
