// The local tier: a userspace zswap. TryStore() compresses a page into a locked pool, Load() and
// Fetch() read it, Invalidate() drops it; the shrinker moves the coldest pages to the RemoteStore.
//
// Every page belongs to a group: that of the cgroup that it was charged to, if known, else the root
// group. A group has an LRU, limits and counters of its own.
//
// No method of the store path allocates memory, blocks in a system call under a lock, or logs.
//
// A store is TryStore() in tier.cc. What the tier consists of, from the bottom:
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

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "tier/config.h"
#include "tier/fetches.h"
#include "tier/manual_job.h"
#include "tier/owner.h"
#include "tier/packer.h"
#include "tier/page_device.h"
#include "tier/pages.h"
#include "tier/shrinker.h"
#include "tier/slot_words.h"
#include "tier/stale.h"
#include "tier/store_queue.h"
#include "tier/writeback.h"

namespace farswap::tier {

class Tier final : public PageDevice {
 public:
  /// `remote` must outlive the tier. Without a state it makes one, which ends with the process.
  /// Fails if memory is short, the config is out of range or an adopted state is damaged.
  static Result<std::unique_ptr<Tier>> Create(const TierConfig& config, RemoteStore* remote,
                                              std::shared_ptr<State> state = nullptr);
  ~Tier() override { StopWriteback(); }

  // --- PageDevice

  IoStatus TryStore(SlotIndex slot, const std::byte* page, PendingStore* store) override;
  bool CancelStore(PendingStore* store) override { return stores_.Cancel(store); }
  LoadResult Load(SlotIndex slot, std::byte* out) override {
    return fetches_.Load(slot, out, nullptr);
  }
  void Fetch(PageFetch* fetch) override { fetches_.Start(fetch); }
  void Invalidate(SlotIndex first, std::uint64_t count) override;
  std::uint64_t slots() const override { return pages_.slots(); }

  // --- Attribution and slot frees

  /// Attributes pages by these words from now on, one a slot; nullptr: not any more. Pages stored
  /// before this call are dropped only if freed after it. Returns when no thread reads the earlier
  /// array.
  void UseSlotWords(const std::atomic<SlotWord>* words) { owners_.UseWords(words); }

  /// Notice of a slot that the kernel freed: drops its page if the slot's word is FREE now and has
  /// changed since the page was stored. True: a page was dropped.
  bool OnSlotFree(SlotIndex slot);

  /// The cgroup of pages that no slot word attributes; kUnknownCgroup: the root group.
  void SetLabel(CgroupId id) { owners_.SetLabel(id); }

  /// The cgroup's id of each slot's page; kUnknownCgroup for empty slots and the root group.
  void OwnersOf(SlotIndex first, std::span<CgroupId> owners);

  /// Places a cgroup below a placed one; parent kUnknownCgroup: below the root group. False: the
  /// parent was not placed, the cgroup is elsewhere already, or there is no room for another group.
  bool PlaceCgroup(CgroupId id, CgroupId parent);

  /// The cgroup was removed: its pages, and those still to come, belong to its parent.
  void RemoveCgroup(CgroupId id);

  /// False: there is no room for another group.
  bool ConfigureCgroup(CgroupId id, const GroupSettings& settings);

  /// Every group that has pages or was placed or configured, the root group first.
  std::vector<GroupStats> CgroupStats() const { return pages_.groups().Stats(); }

  // --- Settings that change at run time

  /// Of later stores, unless a cgroup has its own.
  void SetCompressor(const Compressor& compressor) {
    pages_.groups().SetRootCompressor(compressor);
  }
  /// Compressor of entries that are sent; none: they are sent as they are.
  void SetRecompression(const std::optional<Compressor>& compressor) {
    packer_.SetRecompression(compressor);
  }
  /// Whether cold neighbours are sent as bundles (bundle.h). Bundles on servers are read in any
  /// case. Fails with a message if memory cannot be allocated.
  Outcome SetPacking(bool on) { return packer_.SetPacking(on); }
  /// At most pool_bytes_max. The shrinker works until the pool is that small.
  Outcome SetLimits(std::uint64_t pool_bytes, std::uint32_t accept_threshold_percent);

  // --- Observability

  /// Reads the slot's page, also a remote one, to verify it.
  Explanation Explain(SlotIndex slot) { return fetches_.Explain(slot); }

  TierStats Stats() const;

  /// See Pages.
  Outcome Check() { return pages_.Check(); }

  State& state() const { return pages_.state(); }
  /// For comparisons with servers.
  StoredObjects* stored_objects() { return &pages_; }

  // --- Proactive writeback

  /// Starts to write back the coldest pages, whatever the pool holds. False: the job before has not
  /// finished.
  bool StartManualWriteback(const WritebackJob& job);
  void CancelManualWriteback() { manual_.Cancel(); }
  ManualWriteback ManualWritebackProgress() const { return manual_.Progress(); }

  /// Lets the shrinker examine `pages` of a cgroup's own coldest pages, and write back those that
  /// are so old and were not read since they were stored or last spared, after all more urgent
  /// work. Replaces the rest of an earlier request.
  void WriteBackProactively(CgroupId id, std::uint64_t pages, std::uint32_t older_than_s);

  /// Ends writeback: stores that find no room fail at once. Waits until the RemoteStore has given
  /// back every PutBatch. Idempotent; the destructor calls it.
  void StopWriteback();

 private:
  Tier(const TierConfig& config, RemoteStore* remote, std::shared_ptr<State> state,
       std::unique_ptr<Memory> arenas);

  // The group of the slot's next page; advisory, since the slot's lock is released again.
  GroupIndex GroupHint(SlotIndex slot);

  void LimitsChanged();

  const TierConfig config_;
  StaleObjects stale_;
  Pages pages_;
  const Outcome recovered_;  // before any thread starts
  SlotOwners owners_;
  Fetches fetches_;
  StoreQueue stores_;  // its thread wakes the shrinker while stores wait
  Packer packer_;
  Writeback writeback_;
  ManualJob manual_;
  Shrinker shrinker_;  // last: its thread uses all of the above
};

}  // namespace farswap::tier
