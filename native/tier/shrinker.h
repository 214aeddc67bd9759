// The shrinker: one thread that keeps the pool, and each cgroup that has a limit, under that limit
// by moving the coldest entries to the RemoteStore; that does so ahead of need when it is asked to;
// and that tells the RemoteStore which remote pages are garbage.
//
// Hysteresis: it starts when entries pass the high mark (half-way between the accept threshold and
// the limit) or a store waits for room, and goes on until they are under the accept threshold. At
// the pool's limit it goes round the groups and takes from each in proportion to its size; at a
// cgroup's limit it takes from that cgroup and its descendants alone. Before a store waits, room
// is also made by compaction. Entries travel as batches of copies, so that an entry being written
// can be read, overwritten and moved at any time; the acknowledgement only counts if the slot still
// is in state writing with the version that was sent.
//
// Lock order: a slot's lock comes before `mutex_`; the thread takes no slot's lock while it holds
// `mutex_`, and holds no lock at all when it calls the RemoteStore.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/locked_mapping.h"
#include "tier/bundle.h"
#include "tier/pages.h"
#include "tier/remote_store.h"
#include "tier/stale.h"
#include "tier/store_queue.h"
#include "tier/tier.h"

namespace farswap::tier {

class Shrinker final : public RoomMaker {
 public:
  /// Memory that every batch's copies fit into, for the constructor.
  static Result<std::unique_ptr<LockedMapping>> CreateArenas();

  /// All outlive it.
  Shrinker(const TierConfig& config, RemoteStore* remote, Pages* pages, StaleObjects* stale,
           StoreQueue* stores, std::unique_ptr<LockedMapping> arenas);
  ~Shrinker() { Stop(); }

  /// Ends the thread, then waits until the RemoteStore has given back every batch. Idempotent.
  void Stop();

  /// Wakes the thread if the pool, or a cgroup at or above this one, has passed its high mark.
  /// Called after every allocation.
  void AfterAllocation(GroupIndex group) override;
  /// Makes the thread look around: a limit may have changed.
  void Wake() override;

  void SetAcceptThreshold(std::uint32_t percent);
  std::uint32_t accept_threshold_percent() const {
    return accept_percent_.load(std::memory_order_relaxed);
  }
  void SetRecompression(const std::optional<Compressor>& compressor);
  Outcome SetPacking(bool on);

  bool StartManual(const WritebackJob& job);
  void CancelManual();
  Tier::ManualWriteback ManualProgress() const;

  bool shrinking() const { return shrinking_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Cause : std::uint8_t { kLimit, kGroupLimit, kShrinker, kAge, kManual };
  enum class Step : std::uint8_t { kWorked, kBlocked, kNothingToDo };

  class Batch final : public PutBatch {
   public:
    void OnPutDone() override { shrinker->FinishBatch(this); }
    Shrinker* shrinker = nullptr;
    std::byte* arena = nullptr;
    std::size_t page_count = 0;       // in `count` objects
    std::size_t spared = 0;           // of a request that counts them
    std::uint64_t entry_bytes = 0;    // that acknowledgements will free
    std::uint64_t dropped_bytes = 0;  // of clean entries, that were freed on the way
    std::size_t looked_at() const { return count + spared; }
    std::uint64_t freed_bytes() const { return entry_bytes + dropped_bytes; }
    Cause cause = Cause::kLimit;
    // Runs of neighbours among the pages, which may become bundles.
    struct Run {
      std::size_t first;
      std::size_t count;
    };
    std::array<Run, kPagesMax / 2> runs;
    std::size_t run_count = 0;
  };
  static constexpr std::size_t kBatches = 4;
  // After a batch that failed, nothing is sent for this long, twice as long each time.
  static constexpr std::chrono::milliseconds kBackoffMin{20};
  static constexpr std::chrono::milliseconds kBackoffMax{500};

  // What entries to send.
  struct Request {
    Cause cause = Cause::kLimit;
    GroupIndex group = kRootGroup;
    bool descendants = true;  // of the group as well
    std::uint32_t older_than_s = 0;
    std::size_t pages_max = PutBatch::kPagesMax;
    bool spares_count = false;                    // pages that are spared count, too
    std::uint64_t bytes_max = ~std::uint64_t{0};  // of the pool, about
  };

  // A group that entries can be taken from, and its share of a batch.
  struct Source {
    GroupIndex group;
    std::uint64_t entries;
  };

  void Run();
  Step WorkOnce();
  Step ShrinkStep();
  bool CompactSlab();
  Step GroupLimitStep();
  Step ShrinkGroup(GroupIndex index);
  Step AheadStep();
  Step ManualStep();
  Step SweepStep();
  Step WriteBatch(const Request& request);

  void Collect(Batch* batch, const Request& request);
  void FindSources(const Request& request);
  std::uint64_t EntriesWanted(const Request& request) const;
  bool IsSource(GroupIndex index, const Request& request) const;
  void TakeShare(Batch* batch, const Request& request, GroupIndex group, std::size_t pages);
  enum class Taken : std::uint8_t { kYes, kNotThis, kNoMore };
  Taken Isolate(Batch* batch, const Request& request, SlotIndex slot, EntryRef entry);
  void Take(Batch* batch, const Request& request, SlotIndex slot);
  void PrepareBatch(Batch* batch);
  void RecompressPage(Batch* batch, std::size_t index);

  // packing.cc
  void TakeWithNeighbours(Batch* batch, const Request& request, SlotIndex slot);
  bool PackRun(Batch* batch, const Batch::Run& run, PageObject* bundle);

  void FinishBatch(Batch* batch);
  void ReportProgress(GroupIndex group);
  void FlushDiscards();
  std::uint64_t PendingEntryBytes() const;
  std::uint64_t HighBytes(std::uint64_t limit) const {
    return limit * (100 + accept_threshold_percent()) / 200;
  }
  std::uint64_t AcceptBytes(std::uint64_t limit) const {
    return limit * accept_threshold_percent() / 100;
  }
  std::uint32_t ReserveSlabs() const;
  static Counter StartedCounter(Cause cause);
  void EndManual(const char* reason);

  const TierConfig& config_;
  RemoteStore& remote_;
  Pages& pages_;
  Groups& groups_;
  StaleObjects& stale_;
  StoreQueue& stores_;
  std::atomic<std::uint32_t> accept_percent_;
  std::atomic<int> recompress_level_{0};  // of zstd; 0: off
  std::atomic<bool> packing_{false};

  std::atomic<bool> shrinking_{false};
  std::atomic<bool> wake_wanted_{false};
  std::atomic<std::uint64_t> in_flight_bytes_{0};  // entry bytes that acknowledgements will free

  // Of the thread:
  bool may_recompress_ = false;
  Pool::Drain drain_;
  std::vector<Source> sources_;
  std::uint64_t source_entries_ = 0;
  // Entries that each group owes, in fractions: what came to less than one before.
  static constexpr unsigned kDeficitBits = 16;
  static constexpr std::uint64_t kDeficitMax = std::uint64_t{PutBatch::kPagesMax} << kDeficitBits;
  std::vector<std::uint64_t> deficits_;
  GroupIndex last_source_ = kRootGroup;
  GroupIndex last_limited_ = kRootGroup;
  std::vector<bool> group_shrinking_;
  std::vector<DiscardItem> discards_;  // collected, not sent yet
  std::vector<GroupIndex> sweeping_;
  std::uint64_t sweep_slot_ = 0;
  const std::unique_ptr<LockedMapping> arenas_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::array<Batch, kBatches> batches_;
  std::vector<Batch*> free_batches_;
  Clock::time_point retry_at_{};  // no Put before, after a failed one
  std::chrono::milliseconds backoff_{0};
  std::unique_ptr<BundleWriter> bundle_writer_;  // made once, then of the thread
  Tier::ManualWriteback manual_{0, 0, 0, true, ""};
  WritebackJob manual_job_;
  std::uint64_t manual_sent_pages_ = 0;  // started, not finished or failed
  bool stopping_ = false;
  std::thread thread_;  // last
};

}  // namespace farswap::tier
