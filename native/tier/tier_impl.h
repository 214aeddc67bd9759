// The one implementation of Tier, over Pages. tier.cc holds the page operations, fetch.cc reads of
// remote pages, prefetch.cc what comes with them, shrinker.cc what moves cold entries to the memory
// servers.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "tier/bundle.h"
#include "tier/owner.h"
#include "tier/packer.h"
#include "tier/pages.h"
#include "tier/shrinker.h"
#include "tier/store_queue.h"
#include "tier/tier.h"

namespace farswap::tier {

class TierImpl final : public Tier {
 public:
  TierImpl(const TierConfig& config, RemoteStore* remote, std::unique_ptr<SlotTable> table,
           std::unique_ptr<Pool> pool, std::unique_ptr<LockedMapping> arenas);
  ~TierImpl() override;

  IoStatus TryStore(SlotIndex slot, const std::byte* page, std::optional<Version> expected,
                    PendingStore* store) override;
  bool CancelStore(PendingStore* store) override { return stores_.Cancel(store); }
  LoadResult Load(SlotIndex slot, std::byte* out) override;
  void Fetch(PageFetch* fetch) override;
  IoStatus LoadWait(SlotIndex slot, std::byte* out, Version* version) override;
  void Invalidate(SlotIndex first, std::uint64_t count) override;
  std::uint64_t slots() const override { return pages_.slots(); }

  void UseSlotWords(const std::atomic<SlotWord>* words) override { owners_.UseWords(words); }
  bool OnSlotFree(SlotIndex slot) override;
  void SetLabel(CgroupId id) override { owners_.SetLabel(id); }
  void OwnersOf(SlotIndex first, std::span<CgroupId> owners) override;
  bool PlaceCgroup(CgroupId id, CgroupId parent) override;
  void RemoveCgroup(CgroupId id) override;
  bool ConfigureCgroup(CgroupId id, const GroupSettings& settings) override;
  std::vector<GroupStats> Groups() const override { return pages_.groups().Stats(); }

  void SetCompressor(const Compressor& compressor) override;
  void SetRecompression(const std::optional<Compressor>& compressor) override {
    packer_.SetRecompression(compressor);
  }
  Outcome SetPacking(bool on) override { return packer_.SetPacking(on); }
  Outcome SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent) override;

  Explanation Explain(SlotIndex slot) override;
  TierStats Stats() const override;

  bool StartManualWriteback(const WritebackJob& job) override;
  void CancelManualWriteback() override { manual_.Cancel(); }
  ManualWriteback ManualWritebackProgress() const override { return manual_.Progress(); }
  void ShrinkAhead(CgroupId id, std::uint64_t pages, std::uint32_t older_than_s) override;
  void StopWriteback() override;

  // For PageFetch: reads the pages of fetch->again_ that are here, and asks for the others.
  void ContinueFetch(PageFetch* fetch);
  void AcceptFetched(PageFetch* fetch, std::size_t index, GetResult result,
                     const PageObject& object);

 private:
  // The group of the slot's next page; advisory, since the slot's lock is released again.
  GroupIndex GroupHint(SlotIndex slot);

  void LimitsChanged();

  // Load() that also tells the record of what it read, or of what is to be fetched.
  LoadResult LoadRecord(SlotIndex slot, std::byte* out, SlotRecord* seen);
  // What it comes to when the entry of the record seen is damaged. The slot's lock is held.
  LoadResult LoadDamaged(SlotIndex slot, SlotRecord* seen);

  enum class Damage : std::uint8_t { kNone, kChecksum, kNoPage };
  // Turns an object into its page.
  static Damage Verify(const PageObject& object, std::byte* out);
  static void CountDamage(Damage damage, Group* group);

  void AskFor(PageFetch* fetch, std::size_t page, const SlotRecord& record);
  void SettlePage(PageFetch* fetch, std::size_t page, GetResult result, bool intact, Damage damage);
  void CountWait(const PageFetch& fetch);

  // A bundle as a server sent it; its pages are in memory of the thread, until its next bundle.
  struct FetchedBundle {
    bool Has(std::size_t member, Version version) const {
      return pages && view.Has(member) && view.versions[member] == version;
    }
    BundleView view;
    std::optional<BundlePages> pages;
    Damage damage = Damage::kNone;
  };
  static FetchedBundle OpenBundle(const PageObject& object);

  // prefetch.cc: what a thread puts off until the fetch that it answers is over.
  struct Prefetch {
    TierImpl* tier;
    SlotIndex first;  // of the bundle
    FetchedBundle bundle;
    BundleMembers taken;  // by the fetch: not to be kept
    std::uint32_t stored_boot_s;
  };
  static thread_local std::optional<Prefetch> put_off_;
  void PrefetchLater(const PageObject& object, const FetchedBundle& bundle, BundleMembers taken);
  static void PrefetchNow();
  void PrefetchBundle(const Prefetch& prefetch);
  bool PrefetchPage(SlotIndex slot, Version version, const std::byte* page,
                    std::uint32_t stored_boot_s);
  bool MayPrefetch(GroupIndex group) const;
  void WaitForPrefetches();

  const TierConfig config_;
  RemoteStore* const remote_;
  StaleObjects stale_;
  Pages pages_;
  SlotOwners owners_;
  std::mutex prefetch_mutex_;  // taken with no other lock held; guards the next two
  std::condition_variable prefetches_done_;
  std::size_t prefetches_ = 0;  // put off or under way
  StoreQueue stores_;           // its thread wakes the shrinker while stores wait
  Packer packer_;
  Writeback writeback_;
  ManualJob manual_;
  Shrinker shrinker_;  // last: its thread uses all of the above
};

}  // namespace farswap::tier
