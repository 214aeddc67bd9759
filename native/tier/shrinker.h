// The shrinker: one thread that keeps the pool under its limit by moving the coldest entries to the
// RemoteStore, and that tells it which remote pages are garbage.
//
// Hysteresis: it starts when the entries pass the high mark (half-way between the accept threshold
// and the pool's capacity) or a store found no room, and goes on until they are under the accept
// threshold. Before a store waits, room is also made by compaction. Entries travel as batches of
// copies, so that an entry being written can be read, overwritten and moved at any time; the
// acknowledgement only counts if the slot still is in state writing with the version that was sent.
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
#include <thread>
#include <vector>

#include "base/locked_mapping.h"
#include "tier/page.h"
#include "tier/pool.h"
#include "tier/remote_store.h"
#include "tier/tier.h"

namespace farswap::tier {

class TierImpl;

class Shrinker {
 public:
  /// Memory that every batch's copies fit into, for the constructor.
  static Result<std::unique_ptr<LockedMapping>> CreateArenas();

  Shrinker(TierImpl* tier, std::unique_ptr<LockedMapping> arenas);
  ~Shrinker() { Stop(); }

  /// Ends the thread, then waits until the RemoteStore has given back every batch. Idempotent.
  void Stop();

  /// Wakes the thread if the pool has passed the high mark. Called after every allocation.
  void AfterAllocation();

  /// A store that found no room. While one waits, the thread makes room whatever the marks say.
  class Waiter {
   public:
    explicit Waiter(Shrinker* shrinker);
    /// Waits until something was freed since this was made or last returned. False: nothing was for
    /// TierConfig::store_wait, or the shrinker stops.
    bool WaitForRoom();

   private:
    Shrinker* const shrinker_;
    std::uint64_t seen_progress_;
  };

  /// The slot's remote page is stale. Never fails; the slot's lock may be held.
  void DiscardLater(SlotIndex slot);

  bool StartManual(std::uint64_t bytes);
  void CancelManual();
  Tier::ManualWriteback ManualProgress() const;

  bool shrinking() const { return shrinking_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Cause : std::uint8_t { kLimit, kManual };
  enum class Step : std::uint8_t { kWorked, kBlocked, kNothingToDo };

  class Batch final : public PutBatch {
   public:
    void OnPutDone() override { shrinker->FinishBatch(this); }
    Shrinker* shrinker = nullptr;
    std::byte* arena = nullptr;
    std::uint64_t entry_bytes = 0;
    Cause cause = Cause::kLimit;
  };
  static constexpr std::size_t kBatches = 4;

  void Run();
  Step ShrinkStep();
  Step ManualStep();
  Step WriteBatch(Cause cause, std::size_t pages_max, std::uint64_t bytes_max);
  bool Collect(Batch* batch, std::size_t pages_max, std::uint64_t bytes_max);
  bool Isolate(Batch* batch, SlotIndex slot, EntryRef entry);
  void FinishBatch(Batch* batch);
  bool FinishPage(const PageObject& page, PutResult result);
  void ReportProgress();
  void FlushDiscards();
  std::uint64_t PendingEntryBytes() const;
  void EndManual(const char* reason);

  TierImpl* const tier_;
  const std::uint64_t high_bytes_;
  const std::uint64_t accept_bytes_;
  const std::uint32_t reserve_slabs_;

  std::vector<std::atomic<std::uint64_t>> discards_;  // one bit a slot
  std::atomic<bool> discards_pending_{false};
  std::atomic<bool> shrinking_{false};
  std::atomic<bool> wake_wanted_{false};
  std::atomic<std::uint64_t> in_flight_bytes_{0};  // entry bytes that acknowledgements will free

  Pool::Drain drain_;  // of the thread
  const std::unique_ptr<LockedMapping> arenas_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::condition_variable room_;
  std::array<Batch, kBatches> batches_;
  std::vector<Batch*> free_batches_;
  std::uint64_t waiting_ = 0;  // waiters that sleep and were not woken yet
  std::uint64_t progress_ = 0;
  Clock::time_point last_progress_{};
  Clock::time_point last_full_{};   // a store last found no room
  Clock::time_point full_since_{};  // start of the present run of such stores
  Clock::time_point retry_at_{};    // no Put before, after a failed one
  std::chrono::milliseconds backoff_{0};
  Tier::ManualWriteback manual_{0, 0, 0, true, ""};
  std::uint64_t manual_sent_pages_ = 0;  // started, not finished or failed
  bool stopping_ = false;
  std::thread thread_;  // last
};

}  // namespace farswap::tier
